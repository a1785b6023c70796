//! A client of newshound-server for programs that recommend news: `newshound = { .., default-features = false, features = ["client"] }`.
//! deploy/clients/README.md has an example.
//!
//! Calls change nothing, or count once however often they arrive, so those that reached no server, or lost it, are repeated within their
//! deadline (`Policy`). Errors are those of gRPC, with what a program can read of them (`Refusal`).
mod attempts;
pub mod policy;
pub mod proto;
pub mod reach;
pub mod refusal;

pub use tonic::Code;

use attempts::Throttle;
use policy::Policy;
use proto::{
    feedback_service_client::FeedbackServiceClient,
    query_generation_service_client::QueryGenerationServiceClient,
    reader_service_client::ReaderServiceClient,
};
use reach::{Reach, ReachError, Wire};
use refusal::Refusal;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};
use tonic::{
    Streaming,
    metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue},
};

/// Where proxies look for the reader, to keep her with the server that has her answers in its cache. Servers do not read it.
pub const USER_KEY: &str = "x-user-key";

/// Writes what a call carries.
type Carrier = Arc<dyn Fn(&mut HashMap<String, String>) + Send + Sync>;

/// A connection to a server or to the proxy before several. Clones share it, and what it has learned of the server.
#[derive(Clone)]
pub struct Client {
    wire: Wire,
    policy: Policy,
    throttle: Arc<Throttle>,
    carrier: Carrier,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects within five seconds. A connection that is lost later is made again.
    ///
    /// # Errors
    /// If the server cannot be spoken to in this way, or does not answer.
    pub async fn connect(to: &Reach, policy: Policy) -> Result<Self, ReachError> {
        Ok(Self::new(to.connect().await?, policy))
    }

    /// Connects with the first call, which fails with UNAVAILABLE where nobody answers. Needs a runtime of Tokio around it.
    ///
    /// # Errors
    /// If the server cannot be spoken to in this way.
    pub fn lazy(to: &Reach, policy: Policy) -> Result<Self, ReachError> {
        Ok(Self::new(to.wire()?, policy))
    }

    fn new(wire: Wire, policy: Policy) -> Self {
        Self { wire, policy, throttle: Arc::default(), carrier: Arc::new(|_| {}) }
    }

    /// The same client, whose calls may take as long as this.
    #[must_use]
    pub fn within(&self, timeout: Duration) -> Self {
        Self { policy: Policy { timeout, ..self.policy }, ..self.clone() }
    }

    /// The same client, whose calls also carry what `carrier` writes, such as the `traceparent` of the caller. It is asked at each call, by
    /// the task that calls, and what no metadata can hold is left out. With OpenTelemetry, the context that is current there:
    ///
    /// `client.carrying(|carrier| global::get_text_map_propagator(|propagator| propagator.inject(carrier)))`
    #[must_use]
    pub fn carrying(&self, carrier: impl Fn(&mut HashMap<String, String>) + Send + Sync + 'static) -> Self {
        let before = Arc::clone(&self.carrier);
        let carrier: Carrier = Arc::new(move |carried| {
            before(carried);
            carrier(carried);
        });
        Self { carrier, ..self.clone() }
    }

    /// Waits for the best list.
    ///
    /// # Errors
    /// If the server refuses, or the time is over.
    pub async fn generate(
        &self,
        request: proto::GenerateQueriesRequest,
    ) -> Result<proto::GenerateQueriesResponse, Refusal> {
        let metadata = self.metadata(request.user.as_ref());
        let send =
            async |wire, request| QueryGenerationServiceClient::new(wire).generate_queries(request).await;
        self.hedged(request, metadata, send).await
    }

    /// Hears of candidates as they end; the last event is `done`. A stream that has begun is not repeated.
    ///
    /// # Errors
    /// If the server refuses, or the time is over.
    pub async fn stream(
        &self,
        request: proto::GenerateQueriesRequest,
    ) -> Result<Events<proto::GenerateQueriesEvent>, Refusal> {
        let metadata = self.metadata(request.user.as_ref());
        self.streamed(request, metadata, async |wire, request| {
            QueryGenerationServiceClient::new(wire).stream_generate_queries(request).await
        })
        .await
    }

    /// Hears what became of many requests, as they end. `timeout`: for all of them, since a batch takes as long as it is large. Of an item's
    /// error `Refusal::from` says whether to ask for it again.
    ///
    /// # Errors
    /// If the server refuses them all, or the time is over.
    pub async fn batch(
        &self,
        requests: Vec<proto::GenerateQueriesRequest>,
        timeout: Duration,
    ) -> Result<Events<proto::BatchGenerateQueriesItem>, Refusal> {
        let message = proto::BatchGenerateQueriesRequest { requests };
        self.within(timeout)
            .streamed(message, self.metadata(None), async |wire, request| {
                QueryGenerationServiceClient::new(wire).batch_generate_queries(request).await
            })
            .await
    }

    /// Asks which arms a reader has.
    ///
    /// # Errors
    /// If the server refuses, or the time is over.
    pub async fn explain(
        &self,
        request: proto::ExplainAssignmentRequest,
    ) -> Result<proto::ExplainAssignmentResponse, Refusal> {
        let metadata = self.metadata(request.user.as_ref());
        let send =
            async |wire, request| QueryGenerationServiceClient::new(wire).explain_assignment(request).await;
        self.tried(&request, &metadata, self.deadline(), &send).await
    }

    /// Asks which model answers, and which limits hold.
    ///
    /// # Errors
    /// If the server does not answer in time.
    pub async fn server_info(&self) -> Result<proto::GetServerInfoResponse, Refusal> {
        let request = proto::GetServerInfoRequest {};
        let send =
            async |wire, request| QueryGenerationServiceClient::new(wire).get_server_info(request).await;
        self.tried(&request, &self.metadata(None), self.deadline(), &send).await
    }

    /// Reports what came of an answer. Its `request_id` makes repetitions harmless, here and by the caller.
    ///
    /// # Errors
    /// If the server refuses, or the time is over.
    pub async fn report(
        &self,
        request: proto::ReportOutcomeRequest,
    ) -> Result<proto::ReportOutcomeResponse, Refusal> {
        let send = async |wire, request| FeedbackServiceClient::new(wire).report_outcome(request).await;
        self.tried(&request, &self.metadata(None), self.deadline(), &send).await
    }

    /// Ends the use of a reader's stored answers, at this server and where servers share them: see `reader.proto`.
    ///
    /// # Errors
    /// If the server refuses, or the time is over.
    pub async fn invalidate(&self, user: proto::UserRef) -> Result<(), Refusal> {
        let (metadata, user) = (self.metadata(Some(&user)), Some(user));
        let send = async |wire, request| ReaderServiceClient::new(wire).invalidate_user(request).await;
        let request = proto::InvalidateUserRequest { user };
        self.tried(&request, &metadata, self.deadline(), &send).await.map(drop)
    }

    /// The same, and what was stored is removed.
    ///
    /// # Errors
    /// If the server refuses, or the time is over.
    pub async fn forget(&self, user: proto::UserRef) -> Result<(), Refusal> {
        let (metadata, user) = (self.metadata(Some(&user)), Some(user));
        let send = async |wire, request| ReaderServiceClient::new(wire).forget_user(request).await;
        let request = proto::ForgetUserRequest { user };
        self.tried(&request, &metadata, self.deadline(), &send).await.map(drop)
    }

    /// For clients of other services of the same server.
    #[cfg(feature = "serve")]
    pub(crate) fn wire(&self) -> Wire {
        self.wire.clone()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.policy.timeout.min(policy::TIMEOUT_MAX)
    }

    /// What a call carries; of its reader a digest, since keys may be anything and proxies need no more.
    fn metadata(&self, user: Option<&proto::UserRef>) -> MetadataMap {
        let mut carried = HashMap::new();
        (self.carrier)(&mut carried);
        if let Some(user) = user {
            let digest = Sha256::digest(&user.key);
            carried.insert(USER_KEY.to_owned(), digest.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        let header = |(name, value): (String, String)| {
            Some((name.parse::<MetadataKey<Ascii>>().ok()?, MetadataValue::try_from(value).ok()?))
        };
        let mut metadata = MetadataMap::new();
        for (name, value) in carried.into_iter().filter_map(header) {
            metadata.insert(name, value);
        }
        metadata
    }
}

/// What comes of a call, piece by piece. Dropping it ends the call.
#[derive(Debug)]
pub struct Events<T> {
    stream: Streaming<T>,
    deadline: Instant,
}

impl<T> Events<T> {
    /// Waits for the next one; none once all have come.
    ///
    /// # Errors
    /// If the server ends the call early, or the time is over.
    pub async fn message(&mut self) -> Result<Option<T>, Refusal> {
        match timeout_at(self.deadline, self.stream.message()).await {
            Ok(came) => came.map_err(|status| Refusal::of(&status)),
            Err(_) => Err(Refusal::late()),
        }
    }
}
