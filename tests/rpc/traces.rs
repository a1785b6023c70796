//! Traces as a collector gets them: a real one, of which every byte that it was sent is kept.
use super::server::{Plan, Server, ask, options, request, within};
use newshound::serve::{
    rpc::proto::{GenerateQueriesRequest, GenerateQueriesResponse},
    settings::ServeSettings,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport};

/// A word that stands nowhere else.
const CANARY: &str = "zanzibarquux";
/// A caller's trace and span.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

#[derive(Clone, Default)]
struct Taken {
    spans: Arc<Mutex<Vec<Span>>>,
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Whether messages are taken and never answered.
    is_silent: bool,
}

#[tonic::async_trait]
impl TraceService for Taken {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes =
            request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.spans.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        if self.is_silent {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

pub struct Collector {
    addr: SocketAddr,
    taken: Taken,
    _tasks: JoinSet<()>,
}

impl Collector {
    pub async fn start(is_silent: bool) -> Self {
        let taken = Taken { is_silent, ..Taken::default() };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (behind, before) = (TcpListener::bind(any).await.unwrap(), TcpListener::bind(any).await.unwrap());
        let (hidden, addr) = (behind.local_addr().unwrap(), before.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        let service = TraceServiceServer::new(taken.clone());
        tasks.spawn(async move {
            let serving = transport::Server::builder().add_service(service);
            serving.serve_with_incoming(TcpListenerStream::new(behind)).await.unwrap();
        });
        let bytes = Arc::clone(&taken.bytes);
        tasks.spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((client, _)) = before.accept().await {
                relays.spawn(relay(client, hidden, Arc::clone(&bytes)));
            }
        });
        Self { addr, taken, _tasks: tasks }
    }

    pub fn plan(&self, plan: Plan) -> Plan {
        plan.with(|settings| name(settings, self.addr))
    }

    /// What has come, by name of the span, of one trace.
    fn of(&self, trace_id: &str) -> BTreeMap<String, Vec<Span>> {
        let mut by_name = BTreeMap::<String, Vec<Span>>::new();
        for span in self.taken.spans.lock().unwrap().iter().filter(|span| hex(&span.trace_id) == trace_id) {
            by_name.entry(span.name.clone()).or_default().push(span.clone());
        }
        by_name
    }

    /// All that has come, once the server has ended.
    async fn after(&self, mut server: Server) -> usize {
        server.signal();
        server.ended().await.unwrap();
        self.taken.spans.lock().unwrap().len()
    }

    pub fn has_got(&self, text: &str) -> bool {
        self.taken.bytes.lock().unwrap().windows(text.len()).any(|bytes| bytes == text.as_bytes())
    }
}

fn name(settings: &mut ServeSettings, addr: SocketAddr) {
    settings.telemetry.otlp_endpoint = Some(format!("http://{addr}").parse().unwrap());
}

/// Passes everything on, and keeps what the client sends.
async fn relay(client: TcpStream, to: SocketAddr, bytes: Arc<Mutex<Vec<u8>>>) {
    let server = TcpStream::connect(to).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let back = copy(&mut from_server, &mut to_client);
    let there = async {
        let mut buffer = [0; 4096];
        while let Ok(n_bytes) = from_client.read(&mut buffer).await
            && n_bytes > 0
        {
            bytes.lock().unwrap().extend_from_slice(&buffer[..n_bytes]);
            to_server.write_all(&buffer[..n_bytes]).await.unwrap();
        }
    };
    tokio::select! {
        _ = back => {}
        () = there => {}
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A request as a caller with this trace makes it.
fn traced(request: GenerateQueriesRequest, trace_id: &str, flags: &str) -> Request<GenerateQueriesRequest> {
    let mut request = Request::new(request);
    let parent = format!("00-{trace_id}-{SPAN}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request.metadata_mut().insert("tracestate", "vendor=opaque".parse().unwrap());
    request
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

fn names(spans: &BTreeMap<String, Vec<Span>>) -> Vec<&str> {
    spans.keys().map(String::as_str).collect()
}

/// The canary in everything that a reader and her platform may write, and in everything that the model does.
fn marked() -> GenerateQueriesRequest {
    let mut request = request(&format!("{CANARY}-reader"));
    request.correlation_id = CANARY.to_owned();
    for signal in &mut request.signals {
        signal.text = format!("{CANARY} {}", signal.text);
        (signal.category, signal.source) = (Some(CANARY.to_owned()), Some(CANARY.to_owned()));
    }
    request
}

/// The span of a call says what its response does.
fn tells(root: &Span, generated: &GenerateQueriesResponse) {
    let usage = generated.usage.as_ref().unwrap();
    let arm = format!("x={}", generated.arms[0].arm_id());
    for (key, expected) in [
        ("rpc.method", "GenerateQueries"),
        ("rpc.response.status_code", "OK"),
        ("gen_ai.request.model", "scripted"),
        ("gen_ai.response.id", &generated.response_id),
        ("gen_ai.request.choice.count", "4"),
        ("gen_ai.usage.input_tokens", &usage.prompt_tokens.to_string()),
        ("gen_ai.usage.output_tokens", &usage.output_tokens.to_string()),
        ("newshound.outcome", "ok"),
        ("newshound.cache.status", "miss"),
    ] {
        assert_eq!(attribute(root, key).as_deref(), Some(expected), "{key}");
    }
    assert!(attribute(root, "newshound.arms").unwrap().contains(&arm));
}

#[tokio::test]
async fn a_request_is_one_trace_of_its_stages_and_holds_no_word_of_a_reader() {
    let collector = Collector::start(false).await;
    let (_dir, path) = super::experiments::file(&super::experiments::flags());
    let plan = collector.plan(Plan::new()).with(|settings| settings.experiments.file = Some(path));
    let text = |_, _| format!("{CANARY} storm tonight\n{CANARY} strike talks\n{CANARY} council vote");
    let server = plan.writing(text).start().await;
    let mut client = server.client().await;
    let generated =
        within(client.generate_queries(traced(marked(), TRACE, "01"))).await.unwrap().into_inner();
    let stored = "11111111111111111111111111111111";
    within(client.generate_queries(traced(marked(), stored, "01"))).await.unwrap();
    let mut broken = marked();
    broken.signals[0].stream = 0;
    let refused = "22222222222222222222222222222222";
    within(client.generate_queries(traced(broken, refused, "01"))).await.unwrap_err();
    drop(client);
    collector.after(server).await;

    let spans = collector.of(TRACE);
    assert_eq!(
        names(&spans),
        ["GenerateQueries", "clean", "decode", "prefill", "queue", "rerank", "tokenize"]
    );
    let root = &spans["GenerateQueries"][0];
    assert_eq!((hex(&root.parent_span_id).as_str(), root.kind), (SPAN, SpanKind::Server as i32));
    assert_eq!(root.trace_state, "vendor=opaque");
    for stage in spans.iter().filter(|(name, _)| *name != "GenerateQueries").flat_map(|(_, spans)| spans) {
        assert_eq!(stage.parent_span_id, root.span_id, "{}", stage.name);
        assert!(root.start_time_unix_nano <= stage.start_time_unix_nano, "{}", stage.name);
        assert!(stage.start_time_unix_nano <= stage.end_time_unix_nano, "{}", stage.name);
    }
    let order =
        ["clean", "tokenize", "queue", "prefill", "decode"].map(|name| spans[name][0].start_time_unix_nano);
    assert!(order.is_sorted(), "{order:?}");
    tells(root, &generated);

    let spans = collector.of(stored);
    assert_eq!(names(&spans), ["GenerateQueries", "cache"]);
    let root = &spans["GenerateQueries"][0];
    assert_eq!(attribute(root, "newshound.cache.status").as_deref(), Some("hit"));
    assert_eq!(attribute(root, "gen_ai.usage.output_tokens"), None, "they were written for another request");
    let spans = collector.of(refused);
    assert_eq!(names(&spans), ["GenerateQueries"]);
    let root = &spans["GenerateQueries"][0];
    assert_eq!(attribute(root, "error.type").as_deref(), Some("INVALID_ARGUMENT"));
    assert_eq!(root.status.as_ref().unwrap().code(), StatusCode::Unset, "the caller is at fault");

    assert!(collector.has_got("newshound.cache.status"), "bytes are kept as they are sent");
    assert!(!collector.has_got(CANARY), "no span holds what a reader or the model wrote");
}

#[tokio::test]
async fn who_joins_points_to_the_trace_of_who_began_and_who_leaves_ends_hers() {
    let collector = Collector::start(false).await;
    let server = collector.plan(Plan::new().gated()).start().await;
    let asking = |trace_id: &'static str, mut client: super::server::Client| {
        tokio::spawn(async move { client.generate_queries(traced(request("reader"), trace_id, "01")).await })
    };
    let leader = asking(TRACE, server.client().await);
    server.until("newshound_running_rows", 4.0).await;
    let joining = "33333333333333333333333333333333";
    let follower = asking(joining, server.client().await);
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 2.0).await;
    server.until("newshound_cache_requests_total{status=\"coalesced\"}", 1.0).await;
    leader.abort();
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 1.0).await;
    server.gate.open();
    within(follower).await.unwrap().unwrap();
    collector.after(server).await;

    let left = collector.of(TRACE);
    assert_eq!(attribute(&left["GenerateQueries"][0], "newshound.outcome").as_deref(), Some("cancelled"));
    assert!(left.contains_key("decode"), "the generation went on in the trace that began it");
    let joined = collector.of(joining);
    assert_eq!(names(&joined), ["GenerateQueries", "coalesced"]);
    let links: BTreeSet<String> =
        joined["coalesced"].iter().flat_map(|span| &span.links).map(|link| hex(&link.trace_id)).collect();
    assert_eq!(links, BTreeSet::from([TRACE.to_owned()]));
    assert_eq!(attribute(&joined["GenerateQueries"][0], "newshound.outcome").as_deref(), Some("coalesced"));
}

#[tokio::test]
async fn callers_decide_for_their_traces_and_the_ratio_for_all_others() {
    for (ratio, n_roots) in [(0.0, 0), (1.0, 3)] {
        let collector = Collector::start(false).await;
        let plan = collector.plan(Plan::new()).with(|settings| settings.telemetry.trace_ratio = ratio);
        let server = plan.start().await;
        let mut client = server.client().await;
        for reader in ["one", "two", "three"] {
            ask(&mut client, request(reader)).await;
        }
        for (trace_id, flags) in [(TRACE, "01"), ("44444444444444444444444444444444", "00")] {
            within(client.generate_queries(traced(request(trace_id), trace_id, flags))).await.unwrap();
        }
        drop(client);
        let exported = server.metric("newshound_trace_spans_total{result=\"dropped\"}").await;
        collector.after(server).await;
        assert_eq!(exported, Some(0.0));
        assert!(!collector.of(TRACE).is_empty(), "its caller wants it");
        assert!(collector.of("44444444444444444444444444444444").is_empty(), "its caller does not");
        let spans = collector.taken.spans.lock().unwrap();
        let roots = spans.iter().filter(|span| span.parent_span_id.is_empty());
        assert_eq!(roots.count(), n_roots, "{ratio}");
    }
}

#[tokio::test]
async fn a_collector_that_is_silent_or_not_there_holds_neither_requests_nor_the_end() {
    let silent = Collector::start(true).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for addr in [silent.addr, nobody] {
        let mut server = Plan::new().with(|settings| name(settings, addr)).start().await;
        let mut client = server.client().await;
        for number in 0..20 {
            let mut request = request(&format!("reader{number}"));
            options(&mut request).candidate_count = Some(1);
            ask(&mut client, request).await;
        }
        drop(client);
        server.signal();
        server.ended().await.unwrap();
    }
    assert!(!silent.taken.spans.lock().unwrap().is_empty(), "the silent one was spoken to");
}
