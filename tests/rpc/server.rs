//! A server in this process, on ports of its own, and requests to it.
use super::script::{Gate, HIDDEN, LIST, Log, Mishap, Script, Text, tokens};
use crate::support::goldens;
use candle_core::{Device, Tensor};
use newshound::{
    bundle::manifest::{BundleId, Manifest},
    cleaner::Cleaner,
    lexicon::Lexicon,
    model::{reward_head::RewardHead, weights::Parameters},
    serve::{
        self, Listeners, Parts, RunError,
        models::{
            facts::Origin,
            workshop::{LoadError, Loaded, Loader},
        },
        rpc::proto::{self, query_generation_service_client::QueryGenerationServiceClient},
        settings::ServeSettings,
    },
};
use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{Status, transport::Channel};
use tonic_types::{ErrorDetails, StatusExt};

pub type Client = QueryGenerationServiceClient<Channel>;

/// Longer than anything here takes on a slow machine; only a test that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a test may choose.
pub struct Plan {
    pub settings: ServeSettings,
    pub text: Text,
    pub mishap: Mishap,
    pub head: bool,
    /// What a head reads, which judges by that alone.
    pub lexicon: Option<Lexicon>,
    /// Whether signals are cleaned, by the rules and by the golden classifier.
    pub cleaner: bool,
    /// Whether steps pass without the test allowing them.
    pub gate_open: bool,
}

impl Plan {
    /// Every row writes the same valid list, without a head.
    pub fn new() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = ServeSettings { grpc_addr: any, http_addr: any, ..ServeSettings::demo() };
        // All that fit: most tests want to see several requests side by side.
        settings.engine.rows_enough = usize::MAX;
        Self {
            settings,
            text: Arc::new(|_, _| LIST.to_owned()),
            mishap: Mishap::None,
            head: false,
            lexicon: None,
            cleaner: false,
            gate_open: true,
        }
    }

    /// Its steps wait for the gate, however long.
    pub fn gated(self) -> Self {
        let patient = self.with(|settings| settings.engine.step_max = Duration::from_secs(3600));
        Self { gate_open: false, ..patient }
    }

    pub fn with_head(self) -> Self {
        Self { head: true, ..self }
    }

    pub fn with_lexicon(self, lexicon: Lexicon) -> Self {
        Self { lexicon: Some(lexicon), ..self }
    }

    pub fn with_cleaner(self) -> Self {
        Self { cleaner: true, ..self }
    }

    pub fn writing(self, text: impl Fn(usize, u64) -> String + Send + Sync + 'static) -> Self {
        Self { text: Arc::new(text), ..self }
    }

    pub fn with(mut self, change: impl FnOnce(&mut ServeSettings)) -> Self {
        change(&mut self.settings);
        self
    }

    pub async fn start(self) -> Server {
        let Self { settings, text, mishap, head, lexicon, cleaner, gate_open } = self;
        let (gate, log) = (Arc::new(Gate::default()), Arc::new(Log::default()));
        if gate_open {
            gate.open();
        }
        let script = (Arc::clone(&gate), Arc::clone(&log));
        let make = move || Script::new(text, script.0, script.1, mishap);
        let folder = goldens::root().join("models/roberta-classifier");
        let cleaner = cleaner.then(|| Cleaner::open(&folder).unwrap());
        let mut parts = Parts { cleaner, ..parts(head) };
        if mishap == Mishap::Head {
            let mut parameters = Parameters::fresh(3, &Device::Cpu);
            parts.head = Some(RewardHead::load(&mut parameters, HIDDEN + 1, false).unwrap());
        }
        if let Some(lexicon) = lexicon {
            (parts.head, parts.lexicon) = (Some(by_affinity()), Some(Arc::new(lexicon)));
        }
        Server::start(settings, parts, make, gate, log).await
    }
}

/// A head whose score of a list grows with how far it asks for what the signals ask for, and with nothing else.
fn by_affinity() -> RewardHead {
    let mut parameters = Parameters::fresh(3, &Device::Cpu);
    RewardHead::load(&mut parameters, HIDDEN, true).unwrap();
    let set = |name: &str, at: usize| {
        let var = &parameters.vars()[name];
        let mut values = vec![0.0_f32; var.elem_count()];
        values[at] = 1.0;
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap()).unwrap();
    };
    set("list.hidden.weight", 5);
    set("list.output.weight", 0);
    RewardHead::load(&mut parameters, HIDDEN, true).unwrap()
}

pub fn parts(head: bool) -> Parts {
    let manifest = Manifest {
        format_version: 1,
        name: "scripted".to_owned(),
        version: "7".to_owned(),
        prompt_version: newshound::text::prompt::PROMPT_VERSION,
        prompt_tokens_max: 1024,
        files: Default::default(),
        commands: Vec::new(),
        seeds: Default::default(),
        training: Default::default(),
    };
    let head =
        head.then(|| RewardHead::load(&mut Parameters::fresh(3, &Device::Cpu), HIDDEN, false).unwrap());
    Parts {
        id: BundleId("0123456789abcdef".to_owned()),
        manifest,
        tokens: tokens(),
        head,
        lexicon: None,
        cleaner: None,
        max_positions: 4096,
    }
}

/// A running server. Dropping it stops it without waiting.
pub struct Server {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// Where models are changed, if the settings say so.
    pub admin: Option<SocketAddr>,
    pub gate: Arc<Gate>,
    pub log: Arc<Log>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), RunError>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // The model thread may be waiting at the gate, and a runtime does not end before its blocking tasks.
        self.gate.open();
        self.running.abort();
    }
}

impl Server {
    /// A server whose model is never changed.
    pub async fn start<G: serve::engine::Generator + 'static>(
        settings: ServeSettings,
        parts: Parts,
        make: impl FnOnce() -> G + Send + 'static,
        gate: Arc<Gate>,
        log: Arc<Log>,
    ) -> Self {
        let loader: Loader = Arc::new(|_| Err(LoadError::Panicked));
        let first = Loaded::new(parts, Origin::BuiltIn, make);
        Self::start_with(settings, first, loader, gate, log).await
    }

    pub async fn start_with(
        settings: ServeSettings,
        first: Loaded,
        loader: Loader,
        gate: Arc<Gate>,
        log: Arc<Log>,
    ) -> Self {
        let listeners = Listeners::of(&settings).await.unwrap();
        let (grpc, http) = (listeners.grpc.local_addr().unwrap(), listeners.http.local_addr().unwrap());
        let admin = listeners.admin.as_ref().map(|admin| admin.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let running = tokio::spawn(serve::run_with(settings, first, loader, listeners, shutdown));
        Self { grpc, http, admin, gate, log, stop: Some(stop), running }
    }

    pub async fn client(&self) -> Client {
        Client::new(self.channel().await)
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    /// What a SIGTERM does.
    pub fn signal(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> Result<(), RunError> {
        within(&mut self.running).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let status = response.split(' ').nth(1).unwrap().parse().unwrap();
        let body = response.split_once("\r\n\r\n").unwrap().1.to_owned();
        (status, body)
    }

    /// Asks for something else until a time is over that answers are kept for.
    pub async fn outlast(&self, ttl: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < 2 * ttl {
            self.get("/healthz").await;
        }
    }

    /// The value of a series, as `name` or `name{labels}`; none where it does not exist.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next().unwrap().parse().ok()
    }

    /// Waits until a series has a value.
    pub async fn until(&self, series: &str, expected: f64) {
        within(async {
            while self.metric(series).await != Some(expected) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// A number for every day, or that of the promise where slow tests are asked for.
pub fn few_or(few: usize, promised: usize) -> usize {
    if std::env::vars().any(|(name, value)| name == "NEWSHOUND_SLOW" && value == "1") {
        promised
    } else {
        few
    }
}

/// Fails a test that would wait for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this should not take so long")
}

pub fn signal(stream: proto::Stream, text: &str, time_unix_s: i64) -> proto::Signal {
    proto::Signal {
        stream: stream.into(),
        text: text.to_owned(),
        event_time: Some(prost_types::Timestamp { seconds: time_unix_s, nanos: 0 }),
        ..Default::default()
    }
}

/// A request that is right in every field.
pub fn request(user: &str) -> proto::GenerateQueriesRequest {
    proto::GenerateQueriesRequest {
        user: Some(proto::UserRef { key: user.to_owned() }),
        signals: vec![
            signal(proto::Stream::Search, "running shoes for winter", 1_700_000_000),
            signal(proto::Stream::Click, "marathon route announced", 1_700_000_100),
        ],
        options: Some(proto::GenerationOptions { candidate_count: Some(4), ..Default::default() }),
        ..Default::default()
    }
}

pub fn with_mode(
    mode: proto::CacheMode,
    request: proto::GenerateQueriesRequest,
) -> proto::GenerateQueriesRequest {
    proto::GenerateQueriesRequest { cache: Some(proto::CachePolicy { mode: mode.into() }), ..request }
}

pub fn options(request: &mut proto::GenerateQueriesRequest) -> &mut proto::GenerationOptions {
    request.options.get_or_insert_default()
}

pub async fn ask(
    client: &mut Client,
    request: proto::GenerateQueriesRequest,
) -> proto::GenerateQueriesResponse {
    within(client.generate_queries(request)).await.unwrap().into_inner()
}

pub fn cache_status(response: &proto::GenerateQueriesResponse) -> proto::CacheStatus {
    response.cache.as_ref().unwrap().status()
}

pub fn texts(list: &proto::QueryList) -> Vec<&str> {
    list.queries.iter().map(|query| query.text.as_str()).collect()
}

/// The details of a refusal, checked for its code and reason.
pub fn refusal(status: &Status, code: tonic::Code, reason: &str) -> ErrorDetails {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{status:?} has no ErrorInfo"));
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "newshound.v1"));
    details
}
