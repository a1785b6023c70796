//! Every broken field is refused, all of them at once, and nothing reaches the model.
use super::server::{Plan, ask, options, refusal, request, signal};
use newshound::{serve::rpc::proto, signals::DRAFTS_MAX};
use tonic::Code;

/// The fields named in the refusal of a request.
async fn violations(request: proto::GenerateQueriesRequest) -> Vec<String> {
    let server = Plan::new().start().await;
    let status = server.client().await.generate_queries(request).await.unwrap_err();
    let details = refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
    assert_eq!(server.log.prefills(), 0);
    details.bad_request().unwrap().field_violations.iter().map(|violation| violation.field.clone()).collect()
}

async fn refused(change: impl FnOnce(&mut proto::GenerateQueriesRequest), field: &str) {
    let mut request = request("reader");
    change(&mut request);
    assert_eq!(violations(request).await, [field]);
}

#[tokio::test]
async fn each_broken_field_is_named() {
    refused(|request| request.user = None, "user.key").await;
    refused(|request| request.user = Some(proto::UserRef { key: "k".repeat(129) }), "user.key").await;
    refused(|request| request.signals.clear(), "signals").await;
    refused(|request| request.signals[1].stream = 0, "signals[1].stream").await;
    refused(|request| request.signals[1].stream = 99, "signals[1].stream").await;
    refused(|request| request.signals[0].text.clear(), "signals[0].text").await;
    refused(|request| request.signals[0].text = "\u{200b}\n".to_owned(), "signals[0].text").await;
    refused(|request| request.signals[0].event_time = None, "signals[0].event_time").await;
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    refused(|request| request.signals[0].event_time = time(-1, 0), "signals[0].event_time").await;
    refused(|request| request.signals[0].event_time = time(1, -1), "signals[0].event_time").await;
    refused(|request| request.signals[0].weight = Some(f32::NAN), "signals[0].weight").await;
    let dwell = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    refused(|request| request.signals[0].dwell = dwell(-1), "signals[0].dwell").await;
    refused(|request| request.signals[0].dwell = dwell(i64::MAX), "signals[0].dwell").await;
    for (seconds, nanos) in [(0, 1_000_000_000), (1, -1), (-1, 1_500_000_000), (0, -1)] {
        let broken = Some(prost_types::Duration { seconds, nanos });
        refused(|request| request.signals[0].dwell = broken, "signals[0].dwell").await;
    }
    refused(|request| request.correlation_id = "c".repeat(129), "correlation_id").await;
    refused(|request| request.cache = Some(proto::CachePolicy { mode: 77 }), "cache.mode").await;
}

#[tokio::test]
async fn what_experiments_may_know_is_short_and_printable() {
    let context = async |change: fn(&mut proto::ExperimentContext), field: &str| {
        refused(|request| change(request.experiment.get_or_insert_default()), field).await;
    };
    context(|context| context.locale = "e\u{7}n".to_owned(), "experiment.locale").await;
    context(|context| context.tier = "t".repeat(65), "experiment.tier").await;
    let forced = |experiment: &str, arm: &str| proto::ForcedArm {
        experiment_id: experiment.to_owned(),
        arm_id: arm.to_owned(),
    };
    let arms = [vec![forced("a", "")], vec![forced(&"a".repeat(65), "b")], vec![forced("a", "b"); 2]];
    for arms in arms.into_iter().chain([(0..9).map(|id| forced(&id.to_string(), "b")).collect()]) {
        let change = |request: &mut proto::GenerateQueriesRequest| {
            request.experiment.get_or_insert_default().forced_arms = arms;
        };
        refused(change, "experiment.forced_arms").await;
    }
}

#[tokio::test]
async fn each_option_out_of_range_is_named() {
    let option = async |change: fn(&mut proto::GenerationOptions), field: &str| {
        refused(|request| change(options(request)), &format!("options.{field}")).await;
    };
    option(|options| options.candidate_count = Some(0), "candidate_count").await;
    option(|options| options.candidate_count = Some(33), "candidate_count").await;
    option(|options| options.query_count = Some(2), "query_count").await;
    option(|options| options.query_count = Some(9), "query_count").await;
    option(|options| options.max_output_tokens = Some(0), "max_output_tokens").await;
    option(|options| options.max_output_tokens = Some(97), "max_output_tokens").await;
    option(|options| options.temperature = Some(-0.1), "temperature").await;
    option(|options| options.temperature = Some(2.1), "temperature").await;
    option(|options| options.temperature = Some(f32::NAN), "temperature").await;
    option(|options| options.temperature = Some(f32::INFINITY), "temperature").await;
    option(|options| options.top_p = Some(0.0), "top_p").await;
    option(|options| options.top_p = Some(1.1), "top_p").await;
    option(|options| options.top_k = Some(1001), "top_k").await;
    option(|options| options.min_p = Some(f32::NAN), "min_p").await;
    option(|options| options.min_p = Some(1.1), "min_p").await;
    option(|options| options.rerank = 42, "rerank").await;
}

#[tokio::test]
async fn the_ends_of_every_range_are_accepted() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    let low = proto::GenerationOptions {
        candidate_count: Some(1),
        query_count: Some(3),
        temperature: Some(0.0),
        top_p: Some(0.01),
        top_k: Some(0),
        min_p: Some(0.0),
        seed: Some(0),
        ..Default::default()
    };
    let high = proto::GenerationOptions {
        candidate_count: Some(32),
        query_count: Some(8),
        max_output_tokens: Some(96),
        temperature: Some(2.0),
        top_p: Some(1.0),
        top_k: Some(1000),
        min_p: Some(1.0),
        seed: Some(u64::MAX),
        ..Default::default()
    };
    for options in [low, high] {
        ask(&mut client, proto::GenerateQueriesRequest { options: Some(options), ..request("reader") }).await;
    }
    let long_key =
        proto::GenerateQueriesRequest { correlation_id: "c".repeat(128), ..request(&"k".repeat(128)) };
    ask(&mut client, long_key).await;
}

#[tokio::test]
async fn all_broken_fields_are_named_together() {
    let request = proto::GenerateQueriesRequest {
        user: None,
        signals: vec![signal(proto::Stream::Unspecified, "", -5), signal(proto::Stream::Page, "fine", 5)],
        options: Some(proto::GenerationOptions {
            candidate_count: Some(99),
            temperature: Some(f32::NAN),
            lowest_rung: 9,
            draw: 9,
            ..Default::default()
        }),
        cache: Some(proto::CachePolicy { mode: -1 }),
        correlation_id: "c".repeat(200),
        experiment: Some(proto::ExperimentContext { locale: "l".repeat(36), ..Default::default() }),
        priority: 9,
    };
    let mut fields = violations(request).await;
    fields.sort();
    let expected = [
        "cache.mode",
        "correlation_id",
        "experiment.locale",
        "options.candidate_count",
        "options.draw",
        "options.lowest_rung",
        "options.temperature",
        "priority",
        "signals[0].event_time",
        "signals[0].stream",
        "signals[0].text",
        "user.key",
    ];
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn of_too_many_signals_none_is_looked_at_and_the_most_allowed_are_all_checked() {
    let empty = |n_signals| proto::GenerateQueriesRequest {
        signals: vec![proto::Signal::default(); n_signals],
        ..request("reader")
    };
    assert_eq!(violations(empty(DRAFTS_MAX + 1)).await, ["signals"]);
    let server = Plan::new().start().await;
    let status = server.client().await.generate_queries(empty(DRAFTS_MAX)).await.unwrap_err();
    let details = refusal(&status, Code::InvalidArgument, "FIELD_INVALID");
    // Each lacks its stream, its time and its text.
    assert_eq!(details.error_info().unwrap().metadata["violations"], (3 * DRAFTS_MAX).to_string());
}

#[tokio::test]
async fn a_refusal_never_repeats_what_the_user_wrote() {
    let server = Plan::new().start().await;
    let mut request = request("secret-reader\u{7}");
    request.signals[0].text = "secret-text".to_owned();
    request.signals[0].stream = 0;
    let status = server.client().await.generate_queries(request).await.unwrap_err();
    let shown = format!("{status:?} {}", String::from_utf8_lossy(status.details()));
    assert!(!shown.contains("secret"), "{shown}");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_one_below_it_is_read() {
    let server = Plan::new().with(|settings| settings.connections.message_bytes_max = 4096).start().await;
    let mut client = server.client().await;
    let of_size = |n_bytes: usize| {
        let mut request = request("reader");
        request.signals[0].text = "w ".repeat(n_bytes / 2);
        request
    };
    let status = client.generate_queries(of_size(5000)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    ask(&mut client, of_size(3000)).await;
}

#[tokio::test]
async fn the_head_cannot_be_asked_for_where_there_is_none() {
    let server = Plan::new().start().await;
    let mut request = request("reader");
    options(&mut request).rerank = proto::RerankMethod::RewardHead.into();
    let status = server.client().await.generate_queries(request).await.unwrap_err();
    refusal(&status, Code::FailedPrecondition, "NO_REWARD_HEAD");
}

/// Sends bytes as they are.
#[derive(Clone, Default)]
pub struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(
        &mut self,
        item: Vec<u8>,
        buffer: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), tonic::Status> {
        prost::bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, bytes: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        // What is left is read as the next message.
        prost::bytes::Buf::advance(bytes, prost::bytes::Buf::remaining(bytes));
        Ok(Some(()))
    }
}

#[tokio::test]
async fn bytes_that_are_no_message_are_an_invalid_argument() {
    let server = Plan::new().start().await;
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    for bytes in [vec![0xff; 40], vec![0x0a, 0x7f], vec![0x12, 0x02, 0xc3, 0x28]] {
        grpc.ready().await.unwrap();
        let path = "/newshound.v1.QueryGenerationService/GenerateQueries".parse().unwrap();
        let status = grpc.unary(tonic::Request::new(bytes), path, Raw).await.unwrap_err();
        refusal(&status, Code::InvalidArgument, "MESSAGE_MALFORMED");
    }
    ask(&mut server.client().await, request("reader")).await;
}
