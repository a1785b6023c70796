//! A client of our own service, for the commands: words in, words out, nothing of the wire.
use super::{decode::TENANT_HEADER, encode, proto};
use crate::{
    client::{
        self,
        policy::Policy,
        reach::{Reach, ReachError},
        refusal::Refusal,
    },
    experiment::policy::Rung,
    serve::experiments::enrolment::Entrant,
    signals::{SignalDraft, Stream},
};
use prost_types::{Duration as ProtoDuration, Timestamp};
use std::{io, net::SocketAddr, time::Duration};
use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Why a call gave nothing.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is no connection.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// Nobody answers there, on the way of measurements.
    #[error("no server answers at {addr}")]
    NotReached {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A tenant's name does not fit into metadata.
    #[error("a tenant is told in visible ASCII characters")]
    Tenant,
    /// The server refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What to ask.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Key of the reader.
    pub user_key: String,
    /// What is known of the reader.
    pub signals: Vec<SignalDraft>,
    /// N; the server's default if absent.
    pub n_candidates: Option<u32>,
    /// Seed; a fresh one if absent.
    pub seed: Option<u64>,
    /// Whether the cache is left alone.
    pub bypass_cache: bool,
    /// Whether every candidate comes back, and not only the best list.
    pub all_candidates: bool,
    /// How far the answer may fall short; as the server has it if absent.
    pub lowest_rung: Option<Rung>,
    /// What experiments may know.
    pub entrant: Entrant,
    /// Until when to wait.
    pub timeout: Duration,
}

/// One list of a reply.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplyList {
    /// Number of the candidate.
    pub index: u32,
    /// Whether it is a list at all.
    pub valid: bool,
    /// Predicted reward.
    pub list_score: Option<f32>,
    /// Mean log-probability per token.
    pub mean_logprob: f32,
    /// Mean share of the other valid lists that hold a token of this one, if there are any.
    pub consensus: Option<f32>,
    /// Queries, each with its predicted reward.
    pub queries: Vec<(String, Option<f32>)>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The chosen list.
    pub best: ReplyList,
    /// Every candidate, if they were asked for.
    pub candidates: Vec<ReplyList>,
    /// HIT, STALE, MISS, COALESCED or BYPASS.
    pub cache: &'static str,
    /// How the best list was found.
    pub rerank: &'static str,
    /// The reader's arms, such as `best-of=sixteen by HASH`, and the bundles that they were to have and had not.
    pub arms: Vec<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of all candidates.
    pub output_tokens: u32,
    /// The server's own time.
    pub total: Duration,
    /// What the request costs, where the server has a price.
    pub cost: Option<ReplyCost>,
    /// The model that wrote the lists.
    pub model: ReplyModel,
}

/// What a request costs.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplyCost {
    /// Billionths of the currency's unit.
    pub nanos: u64,
    /// Code of the currency.
    pub currency: String,
    /// DEVICE_TIME, CACHED or COALESCED.
    pub basis: &'static str,
    /// Time of the device that the generation took, whoever pays for it.
    pub device_time: Duration,
}

/// A model, as a server names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyModel {
    /// Its number in that server.
    pub generation: u64,
    /// Name and version.
    pub name: String,
    /// Id of its bundle.
    pub bundle_id: String,
}

/// A connection to a server, whose words are shown as they are: nothing is sent again.
#[derive(Clone, Debug)]
pub struct Client(client::Client);

impl Client {
    /// Connects within five seconds.
    ///
    /// # Errors
    /// If the address is none, or nobody answers there.
    pub async fn connect(to: &Reach) -> Result<Self, ClientError> {
        Ok(Self(client::Client::connect(to, Policy::ONCE).await?))
    }

    /// Asks for queries.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn ask(&self, ask: Ask) -> Result<Reply, ClientError> {
        let mut client = self.0.within(ask.timeout);
        if let Some(tenant) = ask.entrant.tenant.clone() {
            MetadataValue::<Ascii>::try_from(&tenant).map_err(|_| ClientError::Tenant)?;
            client = client.carrying(move |carried| {
                carried.insert(TENANT_HEADER.to_owned(), tenant.clone());
            });
        }
        Ok(reply(client.generate(message(&ask)).await?))
    }

    /// Whether the server says that it serves. Waits as long as the caller does.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn is_serving(&self) -> Result<bool, ClientError> {
        let request = HealthCheckRequest { service: String::new() };
        let response = HealthClient::new(self.0.wire()).check(request).await;
        let response = response.map_err(|status| Refusal::of(&status))?;
        Ok(response.into_inner().status() == ServingStatus::Serving)
    }
}

pub(super) fn message(ask: &Ask) -> proto::GenerateQueriesRequest {
    let mode = if ask.bypass_cache { proto::CacheMode::Bypass } else { proto::CacheMode::Default };
    proto::GenerateQueriesRequest {
        user: Some(proto::UserRef { key: ask.user_key.clone() }),
        signals: ask.signals.iter().map(signal).collect(),
        options: Some(proto::GenerationOptions {
            candidate_count: ask.n_candidates,
            seed: ask.seed,
            return_candidates: ask.all_candidates,
            lowest_rung: ask.lowest_rung.map_or(proto::Rung::Unspecified, encode::rung).into(),
            ..Default::default()
        }),
        cache: Some(proto::CachePolicy { mode: mode.into() }),
        correlation_id: String::new(),
        experiment: Some(experiment(&ask.entrant)),
        priority: proto::Priority::Unspecified.into(),
    }
}

fn experiment(entrant: &Entrant) -> proto::ExperimentContext {
    let forced = entrant
        .forced
        .iter()
        .map(|(experiment, arm)| proto::ForcedArm { experiment_id: experiment.clone(), arm_id: arm.clone() });
    proto::ExperimentContext {
        locale: entrant.locale.clone().unwrap_or_default(),
        tier: entrant.tier.clone().unwrap_or_default(),
        forced_arms: forced.collect(),
    }
}

fn signal(draft: &SignalDraft) -> proto::Signal {
    let stream = match draft.stream {
        Stream::Search => proto::Stream::Search,
        Stream::Page => proto::Stream::Page,
        Stream::Click => proto::Stream::Click,
    };
    let dwell = draft.dwell_ms.map(|dwell_ms| Duration::from_millis(u64::from(dwell_ms)));
    proto::Signal {
        stream: stream.into(),
        text: draft.text.clone(),
        event_time: Some(Timestamp { seconds: draft.time_unix_s, nanos: 0 }),
        category: draft.category.clone(),
        source: draft.source.clone(),
        dwell: dwell.and_then(|dwell| ProtoDuration::try_from(dwell).ok()),
        weight: draft.weight,
    }
}

pub(super) fn reply(response: proto::GenerateQueriesResponse) -> Reply {
    let cache = response.cache.unwrap_or_default().status();
    let rerank = response.rerank();
    let usage = response.usage.unwrap_or_default();
    let arm = |arm: &proto::ArmAssignment| {
        let by = arm.assigned_by().as_str_name().trim_start_matches("ASSIGNED_BY_");
        let absent = arm.absent_bundle.as_ref().map_or(String::new(), |name| format!(" without {name}"));
        format!("{}={} by {by}{absent}", arm.experiment_id, arm.arm_id())
    };
    let arms = response.arms.iter().map(arm).collect();
    let device_time = usage.device_time.unwrap_or_default().try_into().unwrap_or_default();
    let cost = response.cost.map(|cost| ReplyCost {
        nanos: cost.amount_nanos,
        basis: cost.basis().as_str_name().trim_start_matches("COST_BASIS_"),
        currency: cost.currency_code,
        device_time,
    });
    let total = response.timing.and_then(|timing| timing.total).unwrap_or_default();
    Reply {
        best: list(response.best.unwrap_or_default()),
        candidates: response.candidates.into_iter().map(list).collect(),
        cache: cache.as_str_name().trim_start_matches("CACHE_STATUS_"),
        rerank: rerank.as_str_name().trim_start_matches("RERANK_METHOD_"),
        arms,
        prompt_tokens: usage.prompt_tokens,
        output_tokens: usage.output_tokens,
        total: total.try_into().unwrap_or_default(),
        cost,
        model: model(response.model.unwrap_or_default()),
    }
}

/// A model in our words.
pub(super) fn model(model: proto::ModelRef) -> ReplyModel {
    let proto::ModelRef { generation, name, version, bundle_id, .. } = model;
    ReplyModel { generation, name: format!("{name} {version}"), bundle_id }
}

fn list(list: proto::QueryList) -> ReplyList {
    ReplyList {
        index: list.index,
        valid: list.valid,
        list_score: list.list_score,
        mean_logprob: list.mean_logprob,
        consensus: list.consensus,
        queries: list.queries.into_iter().map(|query| (query.text, query.score)).collect(),
    }
}
