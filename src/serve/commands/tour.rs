//! No command: the demo answers for its readers on the terminal, then keeps serving.
use super::{CommandError, serve::Addresses, signals::until_signalled};
use crate::{
    client::reach::Reach,
    model::device,
    serve::{
        Listeners,
        demo::{self, DemoUser, Shelf, rfc3339},
        experiments::enrolment::Entrant,
        models::facts::Origin,
        playground,
        rpc::client::{Ask, Client, Reply, ReplyCost},
        run,
        settings::ServeSettings,
    },
    settings::Override,
    signals::Stream,
};
use std::{fmt::Write as _, io::Write, net::SocketAddr, time::Duration};
use tokio_util::sync::CancellationToken;

/// Signals shown per reader.
const SIGNALS_SHOWN: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(60);
/// What the demo has beyond the defaults: it runs where people look at it.
const SETTINGS: &str = "[doors]\nplayground = true";
/// How long a server that failed may take to say so.
const LAST_WORD_MAX: Duration = Duration::from_secs(1);

/// Runs the demo until SIGTERM or SIGINT. `program`: how this program was called, for calls to copy.
///
/// # Errors
/// If the demo is absent, an address cannot be used, or the server fails.
pub async fn tour(
    program: &str,
    addresses: Addresses,
    overrides: &[Override],
    out: &mut (dyn Write + Send),
) -> Result<(), CommandError> {
    let settings = ServeSettings::read(SETTINGS, "environment", &addresses.over(overrides))?;
    until_signalled(|asked| show_and_run(program, settings, out, asked)).await
}

async fn show_and_run(
    program: &str,
    settings: ServeSettings,
    out: &mut (dyn Write + Send),
    asked: CancellationToken,
) -> Result<(), CommandError> {
    let listeners = Listeners::of(&settings).await?;
    let (grpc, http) = listeners.addresses()?;
    let (device, precision) = (settings.device, settings.precision);
    let loading = tokio::task::spawn_blocking(move || {
        Ok::<_, CommandError>((demo::bundle_in(precision, &device.open()?)?, Shelf::load()?))
    });
    let loaded = tokio::select! {
        loaded = loading => loaded,
        () = asked.cancelled() => return Ok(()),
    };
    let (bundle, shelf) = loaded.map_err(|_| CommandError::Panicked)??;
    writeln!(
        out,
        "newshound demo: model {} ({}) on {}, {} articles, {} readers. Their world is generated, and its words are invented.\n",
        bundle.manifest.name,
        bundle.id.0,
        device::name(bundle.model.device()),
        shelf.articles.len(),
        shelf.users.len()
    )?;
    let last_words = how_to_call(program, grpc, http, shelf.users.first());
    let stop = asked.clone().cancelled_owned();
    let mut serving = tokio::spawn(run(settings, bundle, Origin::BuiltIn, listeners, stop));
    let shown = tokio::select! {
        // First: once the server drains, the demo's own requests fail, and that is no failure of the demo.
        biased;
        () = asked.cancelled() => Ok(()),
        ended = &mut serving => return Ok(ended.map_err(|_| CommandError::Panicked)??),
        shown = show(&shelf, &last_words, grpc, out) => shown,
    };
    if let Err(error) = shown {
        // A server that did not start cuts its client off before it says why, and that says more.
        if let Ok(ended) = tokio::time::timeout(LAST_WORD_MAX, &mut serving).await {
            ended.map_err(|_| CommandError::Panicked)??;
        }
        return Err(error);
    }
    Ok(serving.await.map_err(|_| CommandError::Panicked)??)
}

async fn show(
    shelf: &Shelf,
    last_words: &str,
    grpc: SocketAddr,
    out: &mut (dyn Write + Send),
) -> Result<(), CommandError> {
    let client = Client::connect(&Reach::plain(&grpc.to_string())).await?;
    for user in &shelf.users {
        let ask = Ask {
            user_key: user.user_key.clone(),
            signals: user.signals.clone(),
            n_candidates: None,
            seed: Some(1),
            bypass_cache: false,
            all_candidates: true,
            lowest_rung: None,
            entrant: Entrant::default(),
            timeout: TIMEOUT,
        };
        writeln!(out, "reader {}\n{}", user.user_key, signals(user))?;
        match client.ask(ask).await {
            Ok(reply) => {
                writeln!(out, "{}", lists(&reply))?;
                writeln!(out, "  finds in the catalogue")?;
                let queries = reply.best.queries.iter().map(|(query, _)| query.as_str());
                for article in shelf.retrieved(queries, Some(user))? {
                    writeln!(out, "    - {}", article.title)?;
                }
                writeln!(out)?;
            }
            // One reader without a list does not end the demo.
            Err(error) => writeln!(out, "  no list: {error}\n")?,
        }
    }
    write!(out, "{last_words}")?;
    Ok(out.flush()?)
}

/// The newest signals of a reader, oldest first.
fn signals(user: &DemoUser) -> String {
    let mut drafts: Vec<_> = user.signals.iter().collect();
    drafts.sort_by_key(|draft| draft.time_unix_s);
    let n_left_out = drafts.len().saturating_sub(SIGNALS_SHOWN);
    let mut text = String::new();
    if n_left_out > 0 {
        let _ = writeln!(text, "  ... {n_left_out} older signals");
    }
    for draft in &drafts[n_left_out..] {
        let word = match draft.stream {
            Stream::Search => "searched",
            Stream::Page => "visited ",
            Stream::Click => "clicked ",
        };
        let hours = (user.as_of_unix_s - draft.time_unix_s).max(0) / 3600;
        let _ = writeln!(text, "  {hours:>4} h ago {word} {}", draft.text);
    }
    text
}

/// The candidates with their scores, and the chosen one in full.
pub(super) fn lists(reply: &Reply) -> String {
    let mut text = format!(
        "  {} candidates by {}, {} prompt tokens, {} tokens written, {} in {:.0} ms\n",
        reply.candidates.len(),
        reply.rerank,
        reply.prompt_tokens,
        reply.output_tokens,
        reply.cache,
        reply.total.as_secs_f64() * 1000.0
    );
    if let Some(ReplyCost { nanos, currency, basis, device_time }) = &reply.cost {
        let took_ms = device_time.as_secs_f64() * 1000.0;
        let amount = amount(*nanos);
        let _ = writeln!(text, "  costs {amount} {currency} by {basis}; {took_ms:.1} ms of the device");
    }
    if !reply.arms.is_empty() {
        let _ = writeln!(text, "  arms {}", reply.arms.join(", "));
    }
    for list in &reply.candidates {
        let mark = if list.index == reply.best.index { '*' } else { ' ' };
        let queries: Vec<&str> = list.queries.iter().map(|(query, _)| query.as_str()).collect();
        let shown = if list.valid { queries.join(" | ") } else { "(no valid list)".to_owned() };
        let (score, consensus) = (number(list.list_score), number(list.consensus));
        let logprob = list.mean_logprob;
        let _ =
            writeln!(text, "  {mark} score {score}  consensus {consensus}  log-prob {logprob:6.2}  {shown}");
    }
    text.push_str("  chosen\n");
    for (query, score) in &reply.best.queries {
        let score = score.map_or_else(String::new, |score| format!("  {score:.3}"));
        let _ = writeln!(text, "    {query}{score}");
    }
    text.pop();
    text
}

/// An amount of money with all its digits.
pub(super) fn amount(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// A score in three decimals, or a dash of the same width.
fn number(score: Option<f32>) -> String {
    score.map_or_else(|| "    -".to_owned(), |score| format!("{score:5.3}"))
}

/// A word of a shell command: in quotes unless it is safe without.
fn shell_word(word: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_-./:@".contains(c);
    if !word.is_empty() && word.chars().all(is_safe) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Calls that run as they are printed; those of Python are made from the root of the repository.
fn how_to_call(program: &str, grpc: SocketAddr, http: SocketAddr, user: Option<&DemoUser>) -> String {
    let (program, key) = (shell_word(program), shell_word(user.map_or("reader-1", |user| &user.user_key)));
    let (time, page) = (rfc3339(user.map_or(0, |user| user.as_of_unix_s)), playground::PATH);
    format!(
        r#"serving gRPC on {grpc}, metrics on http://{http}/metrics; stop with Ctrl-C

  a page to try it on: http://{grpc}{page}

  {program} ask --addr {grpc} --user {key}

  buf curl --http2-prior-knowledge --protocol grpc http://{grpc}/newshound.v1.QueryGenerationService/GenerateQueries \
    -d '{{"user": {{"key": "me"}}, "signals": [{{"stream": "STREAM_SEARCH", "text": "rain jacket", "event_time": "{time}"}}]}}'

  curl http://{grpc}/v1/queries:generate -H 'content-type: application/json' \
    -d '{{"user": {{"key": "me"}}, "signals": [{{"stream": "STREAM_SEARCH", "text": "rain jacket", "eventTime": "{time}"}}]}}'

  pip install grpcio grpcio-tools
  python3 -m grpc_tools.protoc -I proto --python_out=/tmp --grpc_python_out=/tmp newshound/v1/types.proto newshound/v1/query_generation.proto
  PYTHONPATH=/tmp python3 tests/clients/python/example.py --addr {grpc}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell_are_quoted_where_they_must_be() {
        let check = |word: &str, expected: &str| assert_eq!(shell_word(word), expected);
        check("target/release/newshound-server", "target/release/newshound-server");
        check("/home/me/my projects/server", "'/home/me/my projects/server'");
        check("it's", r"'it'\''s'");
        check("$(reboot)", "'$(reboot)'");
        check("", "''");
    }
}
