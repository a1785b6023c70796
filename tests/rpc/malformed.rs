//! Whatever bytes come, there is a clear answer, and everybody else is served.
use super::crowd::nobody_is_in;
use super::server::{Plan, Server, ask, few_or, options, request, within};
use super::validation::Raw;
use newshound::serve::commands::bench::malformed::{mutated, noise};
use prost::Message;
use rand::{SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, client::Grpc, transport::Channel};

const METHODS: [&str; 6] = [
    "/newshound.v1.QueryGenerationService/GenerateQueries",
    "/newshound.v1.QueryGenerationService/StreamGenerateQueries",
    "/newshound.v1.QueryGenerationService/ExplainAssignment",
    "/newshound.v1.FeedbackService/ReportOutcome",
    "/newshound.v1.ReaderService/ForgetUser",
    "/newshound.v1.QueryGenerationService/NoSuchMethod",
];

/// Codes that say what is wrong with a message, and that of one in which nothing is.
const CLEAR: [Code; 7] = [
    Code::Ok,
    Code::InvalidArgument,
    Code::ResourceExhausted,
    Code::OutOfRange,
    Code::NotFound,
    Code::FailedPrecondition,
    Code::Unimplemented,
];

/// A message with everything that a request may have.
fn whole() -> Vec<u8> {
    let mut request = request("reader");
    request.correlation_id = "correlation".to_owned();
    request.experiment = Some(Default::default());
    request.cache = Some(Default::default());
    let options = options(&mut request);
    (options.temperature, options.top_p, options.seed) = (Some(0.5), Some(0.9), Some(7));
    request.encode_to_vec()
}

async fn code(grpc: &mut Grpc<Channel>, bytes: Vec<u8>, method: &'static str) -> Code {
    within(grpc.ready()).await.unwrap();
    let request = Request::new(bytes);
    let answered = match method.contains("Stream") {
        false => within(grpc.unary(request, method.parse().unwrap(), Raw)).await.map(|_| ()),
        true => match within(grpc.server_streaming(request, method.parse().unwrap(), Raw)).await {
            Ok(stream) => {
                let mut events = stream.into_inner();
                loop {
                    match within(events.message()).await {
                        Ok(Some(())) => {}
                        Ok(None) => break Ok(()),
                        Err(status) => break Err(status),
                    }
                }
            }
            Err(status) => Err(status),
        },
    };
    answered.err().map_or(Code::Ok, |status| status.code())
}

/// Sends these messages, and between them what is right; each has an answer that says what is wrong with it, if anything is.
async fn check(seed: u64, message: fn(&mut ChaCha8Rng) -> Vec<u8>) -> Server {
    let server = Plan::new().start().await;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut grpc, mut client) = (Grpc::new(server.channel().await), server.client().await);
    let n_messages = few_or(400, 10_000);
    let mut n_refused = 0;
    for number in 0..n_messages {
        let bytes = message(&mut random);
        // Most are of the method whose messages they were.
        let method = if number % 4 == 0 { METHODS.choose(&mut random).unwrap() } else { METHODS[0] };
        let code = code(&mut grpc, bytes.clone(), method).await;
        assert!(CLEAR.contains(&code), "{method} {code:?} {bytes:02x?}");
        n_refused += usize::from(code != Code::Ok);
        if number % 16 == 0 {
            ask(&mut client, request(&format!("reader{number}"))).await;
        }
    }
    assert!(n_refused > n_messages / 4, "{n_refused} of {n_messages} were refused");
    server
}

async fn is_quiet(server: &Server) {
    nobody_is_in(server).await;
    server.until("newshound_running_rows", 0.0).await;
    server.until("newshound_queue_depth", 0.0).await;
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"failed\"}").await, Some(0.0));
    ask(&mut server.client().await, request("another")).await;
}

#[tokio::test]
async fn mutated_messages_have_clear_answers_and_others_are_served() {
    is_quiet(&check(1, |random| mutated(whole(), random)).await).await;
}

#[tokio::test]
async fn random_bytes_as_messages_have_clear_answers_and_others_are_served() {
    is_quiet(&check(2, noise).await).await;
}

#[tokio::test]
async fn random_bytes_as_connections_are_closed_and_others_are_served() {
    let timeout = std::time::Duration::from_millis(200);
    let server = Plan::new().with(|settings| settings.connections.handshake_timeout = timeout).start().await;
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for number in 0..few_or(40, 1000) {
        let mut stream = within(TcpStream::connect(server.grpc)).await.unwrap();
        let mut bytes = noise(&mut random);
        if number % 2 == 0 {
            bytes.splice(0..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        }
        // The server may have closed before all of it was written.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = within(stream.read_to_end(&mut rest)).await;
        if number % 8 == 0 {
            ask(&mut server.client().await, request(&format!("reader{number}"))).await;
        }
    }
    server.until("newshound_connections_open", 0.0).await;
    is_quiet(&server).await;
}
