//! The composite reward as a service, for trainers elsewhere: OpenRLHF's wire, which a few lines of Python put behind trl or verl
//! (`deploy/rewards/reward_client.py`).
//!
//! `POST /get_reward` takes `query` (whole texts, or completions alone), `prompts` and `labels`, one each per list. A label says whose
//! signals the list is judged by; `newshound-trainer prompts` writes prompts with their labels. The answer has `rewards` and `scores`,
//! the weighted composite from 0 to 1, and each reward by name in `extra_logs`, null where it is not known. `GET /health` answers when the judge is ready.
//! Source: `openrlhf/cli/serve_rm.py`.
use super::{
    askers::Asker,
    error::TrainError,
    rewards::{
        Rewards,
        composite::{Composite, FURTHER, Further},
    },
};
use crate::text::{
    parse,
    tokens::{END_OF_TEXT, IM_END},
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::{get, post},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::Path,
    sync::mpsc,
};
use tokio::{net::TcpListener, sync::oneshot};

/// Largest request: a thousand lists with their prompts; a larger one is refused.
const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Requests that wait for the judge; more are refused, and every client of this wire tries again.
const WAITING_MAX: usize = 8;

/// Lists to be rewarded.
#[derive(Debug, Deserialize)]
pub struct RewardRequest {
    /// Prompt and list, or the list alone.
    query: Vec<String>,
    /// Prompts; where `query` begins with its prompt, the list is the rest.
    #[serde(default)]
    prompts: Vec<String>,
    /// Whose signals count.
    labels: Vec<String>,
}

/// What lists are worth.
#[derive(Debug, Serialize)]
pub struct RewardAnswer {
    rewards: Vec<f64>,
    scores: Vec<f64>,
    extra_logs: BTreeMap<&'static str, Vec<Option<f64>>>,
}

/// A request and where its answer goes.
struct Asked {
    request: RewardRequest,
    reply: oneshot::Sender<Result<RewardAnswer, String>>,
}

/// Answers until `stop` ends. `listening` hears the address when requests are taken.
///
/// The judge belongs to the calling thread, and requests come to it one after the other: each uses all cores.
/// # Errors
/// If the address cannot be listened on.
pub fn run(
    judge: &Composite<'_>,
    askers: &[Asker<'_>],
    addr: SocketAddr,
    stop: impl Future<Output = ()> + Send + 'static,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), TrainError> {
    let by_label: HashMap<String, &Asker<'_>> = askers.iter().map(|asker| (asker.label(), asker)).collect();
    let (sender, receiver) = mpsc::sync_channel::<Asked>(WAITING_MAX);
    let failed = |error: std::io::Error| TrainError::disk(Path::new(&addr.to_string()), "listen on")(error);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(failed)?;
    let listener = runtime.block_on(TcpListener::bind(addr)).map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    let app = Router::new()
        .route("/get_reward", post(get_reward))
        .route("/health", get(|| async { "ok" }))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(sender);
    let serving = runtime.spawn(async move { axum::serve(listener, app).with_graceful_shutdown(stop).await });
    listening(at);
    // The channel closes when the server has answered its last request and dropped its sender.
    for Asked { request, reply } in receiver {
        // Whoever has gone away costs nothing, or gets no answer.
        if reply.is_closed() {
            continue;
        }
        let _ = reply.send(rewards(judge, &by_label, &request));
    }
    runtime
        .block_on(serving)
        .map_err(|error| TrainError::file(Path::new(&at.to_string()), error))?
        .map_err(failed)
}

async fn get_reward(
    State(judge): State<mpsc::SyncSender<Asked>>,
    Json(request): Json<RewardRequest>,
) -> Result<Json<RewardAnswer>, (StatusCode, String)> {
    let (reply, answer) = oneshot::channel();
    judge.try_send(Asked { request, reply }).map_err(|refused| match refused {
        mpsc::TrySendError::Full(_) => {
            (StatusCode::TOO_MANY_REQUESTS, format!("{WAITING_MAX} requests wait already"))
        }
        mpsc::TrySendError::Disconnected(_) => gone(),
    })?;
    match answer.await {
        Ok(Ok(answer)) => Ok(Json(answer)),
        Ok(Err(reason)) => Err((StatusCode::BAD_REQUEST, reason)),
        Err(_) => Err(gone()),
    }
}

fn gone() -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, "the judge has gone".to_owned())
}

fn rewards(
    judge: &Composite<'_>,
    by_label: &HashMap<String, &Asker<'_>>,
    request: &RewardRequest,
) -> Result<RewardAnswer, String> {
    let RewardRequest { query, prompts, labels } = request;
    if labels.len() != query.len() || !(prompts.is_empty() || prompts.len() == query.len()) {
        return Err(format!(
            "{} queries came with {} prompts and {} labels",
            query.len(),
            prompts.len(),
            labels.len()
        ));
    }
    let rewarded = (0..query.len())
        .into_par_iter()
        .map(|idx| {
            let asker = by_label.get(&labels[idx]).ok_or_else(|| {
                format!("label {:?} at {idx} is of no prompt of this world and these settings", labels[idx])
            })?;
            let text = completion(&query[idx], prompts.get(idx).map_or("", String::as_str))
                .ok_or_else(|| format!("query {idx} is neither a list alone nor begins with its prompt"))?;
            // What is no list is worth nothing; that is known, and no missing value.
            let list = parse::parse(text).ok();
            judge.rewards(list.as_ref(), asker).map_err(|error| error.to_string())
        })
        .collect::<Result<Vec<(Rewards, Further, f64)>, String>>()?;
    let composites: Vec<f64> = rewarded.iter().map(|(_, _, composite)| *composite).collect();
    let column = |part: usize| rewarded.iter().map(|(rewards, _, _)| Some(rewards.parts()[part])).collect();
    let five = Rewards::NAMES.into_iter().enumerate().map(|(part, name)| (name, column(part)));
    let beside = FURTHER.into_iter().enumerate().filter(|(idx, _)| judge.weights.of_further()[*idx] > 0.0);
    let beside =
        beside.map(|(idx, name)| (name, rewarded.iter().map(|(_, further, _)| further[idx]).collect()));
    let extra_logs = five.chain(beside).collect();
    Ok(RewardAnswer { rewards: composites.clone(), scores: composites, extra_logs })
}

/// The list within a whole text: without its prompt, and without the control tokens that end it. None of a text that does not begin
/// with its prompt and is too long for a list alone: read with the prompt it would be no list, and every reward 0 for it.
fn completion<'t>(text: &'t str, prompt: &str) -> Option<&'t str> {
    let mut text = match text.strip_prefix(prompt) {
        Some(rest) => rest,
        None if text.len() < prompt.len() => text,
        None => return None,
    }
    .trim_start();
    while let Some(rest) =
        [IM_END, END_OF_TEXT].iter().find_map(|control| text.trim_end().strip_suffix(control))
    {
        text = rest;
    }
    Some(text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_a_whole_text_is_what_follows_its_prompt_without_control_tokens() {
        assert_eq!(completion("ask\na b\nc d<|im_end|>\n<|endoftext|>", "ask\n"), Some("a b\nc d"));
        assert_eq!(completion("a b\nc d", "another prompt"), Some("a b\nc d"));
        assert_eq!(completion("asked\na b", "ask\n"), None);
        assert_eq!(completion("", ""), Some(""));
    }
}
