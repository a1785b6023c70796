//! A client of our own service, for the commands: words in, words out, nothing of the wire.
use super::proto::{self, query_generation_service_client::QueryGenerationServiceClient};
use crate::{
    experiment::policy::Rung,
    serve::{
        experiments::enrolment::Entrant,
        rpc::{
            decode::TENANT_HEADER,
            encode,
            reach::{Reach, Wire},
            status,
        },
    },
    signals::{SignalDraft, Stream},
};
use prost_types::{Duration as ProtoDuration, Timestamp};
use std::{io, net::SocketAddr, time::Duration};
use thiserror::Error;
use tonic::metadata::MetadataValue;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;

/// Where proxies look for the key of the reader, to keep her with one server: see deploy/proxy. The server does not read it.
pub(super) const USER_KEY: &str = "x-user-key";

/// Why a call gave nothing.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The address is none.
    #[error("{addr} is no address such as 127.0.0.1:50051")]
    Address {
        /// What was given.
        addr: String,
    },
    /// Nobody answers there.
    #[error("no server answers at {addr}")]
    Unreachable {
        /// The address.
        addr: String,
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
    /// Nobody answers there, on the way of measurements.
    #[error("no server answers at {addr}")]
    NotReached {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Certificates that were given cannot be used.
    #[error("certificates cannot be used")]
    Tls {
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
    /// A token does not fit into metadata.
    #[error("a token is of visible ASCII characters")]
    Token,
    /// A tenant's name does not fit into metadata.
    #[error("a tenant is told in visible ASCII characters")]
    Tenant,
    /// The server refused.
    #[error("{code}: {message}{details}")]
    Refused {
        /// Name of the gRPC code.
        code: &'static str,
        /// What the server says.
        message: String,
        /// Reason and broken fields, if the server named any.
        details: String,
    },
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
    /// The reader's arms, such as `best-of=sixteen by HASH`.
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

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Client {
    wire: Wire,
}

impl Client {
    /// Connects within five seconds.
    ///
    /// # Errors
    /// If the address is none, or nobody answers there.
    pub async fn connect(to: &Reach) -> Result<Self, ClientError> {
        Ok(Self { wire: to.connect().await? })
    }

    /// Asks for queries.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn ask(&self, ask: Ask) -> Result<Reply, ClientError> {
        let mut request = tonic::Request::new(message(&ask));
        request.set_timeout(ask.timeout);
        // A key that no header can hold finds a server too, only not always the same.
        if let Ok(key) = MetadataValue::try_from(&ask.user_key) {
            request.metadata_mut().insert(USER_KEY, key);
        }
        if let Some(tenant) = &ask.entrant.tenant {
            let tenant = tenant.parse().map_err(|_| ClientError::Tenant)?;
            request.metadata_mut().insert(TENANT_HEADER, tenant);
        }
        let mut client = QueryGenerationServiceClient::new(self.wire.clone());
        let response = client.generate_queries(request).await.map_err(|status| refused(&status))?;
        Ok(reply(response.into_inner()))
    }

    /// Whether the server says that it serves. Waits as long as the caller does.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn is_serving(&self) -> Result<bool, ClientError> {
        let request = HealthCheckRequest { service: String::new() };
        let mut client = HealthClient::new(self.wire.clone());
        let response = client.check(request).await.map_err(|status| refused(&status))?;
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
        format!("{}={} by {by}", arm.experiment_id, arm.arm_id())
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

pub(super) fn refused(status: &tonic::Status) -> ClientError {
    let found = status.get_error_details();
    let mut details = String::new();
    if let Some(info) = found.error_info() {
        details.push_str(&format!(" ({})", info.reason));
    }
    for violation in found.bad_request().into_iter().flat_map(|bad| &bad.field_violations) {
        details.push_str(&format!("\n  {} {}", violation.field, violation.description));
    }
    let code = status::code_word(status.code());
    ClientError::Refused { code, message: status.message().to_owned(), details }
}
