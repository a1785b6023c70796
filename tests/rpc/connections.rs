//! How connections begin, age and end, on the port of gRPC and on that of operators.
use super::{
    frames, http,
    server::{Client, PATIENCE, Plan, Server, ask, request, within},
};
use newshound::{
    client::{self, policy::Policy, reach::Reach},
    serve::settings::ConnectionSettings,
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const REFUSED: &str = "newshound_connections_refused_total";

async fn serving(change: impl FnOnce(&mut ConnectionSettings)) -> Server {
    Plan::new().with(|settings| change(&mut settings.connections)).start().await
}

async fn sockets(addr: SocketAddr, n_sockets: usize) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for _ in 0..n_sockets {
        sockets.push(within(TcpStream::connect(addr)).await.unwrap());
    }
    sockets
}

/// All that comes until the connection ends, by whatever way.
async fn rest(wire: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = within(wire.read_to_end(&mut bytes)).await;
    bytes
}

async fn healthz(server: &Server) -> u16 {
    http::send(server.http, &http::text("GET", "/healthz", &[], b"")).await.status
}

#[tokio::test]
async fn who_says_nothing_is_cut_on_either_port() {
    let server = serving(|settings| settings.handshake_timeout = Duration::from_millis(300)).await;
    for (addr, n_cut) in [(server.grpc, 1.0), (server.http, 2.0)] {
        let mut silent = sockets(addr, 1).await;
        assert_eq!(rest(&mut silent[0]).await, b"");
        server.until(&format!("{REFUSED}{{reason=\"handshake\"}}"), n_cut).await;
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_and_one_in_two_pieces_is_answered() {
    let server = serving(|settings| settings.handshake_timeout = Duration::from_millis(500)).await;
    for addr in [server.grpc, server.http] {
        let (mut reading, mut writing) = within(TcpStream::connect(addr)).await.unwrap().into_split();
        let trickle = tokio::spawn(async move {
            let _ = writing.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\nslow: ").await;
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            while writing.write_all(b"a").await.is_ok() {
                ticks.tick().await;
            }
        });
        assert_eq!(rest(&mut reading).await, b"", "nobody is answered who has not asked");
        trickle.abort();
    }
    let whole = http::text("GET", "/healthz", &[], b"");
    let (first, second) = whole.split_at(whole.len() / 2);
    let mut wire = sockets(server.http, 1).await.remove(0);
    wire.write_all(first).await.unwrap();
    assert_eq!(http::exchange(wire, second).await.status, 200);
}

#[tokio::test]
async fn ports_full_of_silent_sockets_answer_whoever_speaks() {
    for limit in [
        |settings: &mut ConnectionSettings| settings.total_max = 8,
        |settings: &mut ConnectionSettings| settings.per_peer_max = 8,
    ] {
        // None of them ends by itself while the test lasts.
        let server = serving(|settings| {
            settings.handshake_timeout = PATIENCE;
            limit(settings);
        })
        .await;
        let mut silent = sockets(server.grpc, 8).await;
        silent.extend(sockets(server.http, 8).await);
        assert_eq!(healthz(&server).await, 200);
        let (status, metrics) = server.get("/metrics").await;
        assert_eq!(status, 200);
        assert!(metrics.contains("newshound_connections_open"));
        ask(&mut server.client().await, request("reader")).await;
        assert_eq!(rest(&mut silent[0]).await, b"", "the oldest has given its place");
        assert_eq!(rest(&mut silent[8]).await, b"");
    }
}

#[tokio::test]
async fn a_port_full_of_clients_turns_away_one_more_and_keeps_them() {
    let server = serving(|settings| settings.total_max = 2).await;
    let (mut first, mut second) = (server.client().await, server.client().await);
    for client in [&mut first, &mut second] {
        ask(client, request("reader")).await;
    }
    let mut third = sockets(server.grpc, 1).await;
    assert_eq!(rest(&mut third[0]).await, b"");
    server.until(&format!("{REFUSED}{{reason=\"total\"}}"), 1.0).await;
    ask(&mut first, request("reader")).await;
    drop(second);
    server.until("newshound_connections_open", 1.0).await;
    ask(&mut server.client().await, request("another")).await;
}

#[tokio::test]
async fn connections_that_grow_old_are_told_to_go_and_no_call_is_lost() {
    let server = serving(|settings| settings.age_max = Duration::from_secs(1)).await;
    let policy = Policy { timeout: PATIENCE, ..Policy::STANDARD };
    let (begun, mut clients) = (Instant::now(), JoinSet::new());
    for number in 0..4 {
        let reach = Reach::plain(&server.grpc.to_string());
        let client = client::Client::connect(&reach, policy).await.unwrap();
        clients.spawn(async move {
            let mut n_answered = 0;
            // Two ages and more.
            while begun.elapsed() < Duration::from_millis(2500) {
                within(client.generate(request(&format!("reader{number}")))).await.unwrap();
                n_answered += 1;
            }
            n_answered
        });
    }
    let mut old = frames::open(&server).await;
    frames::write(&mut old, frames::BEGIN).await;
    let mut told = None;
    while told.is_none() {
        told = frames::next(&mut old).await.unwrap().reason();
    }
    assert_eq!(told, Some(0), "it has done nothing wrong");
    let n_answered: u32 = clients.join_all().await.into_iter().sum();
    let series = "newshound_rpc_requests_total{method=\"GenerateQueries\",code=";
    assert_eq!(server.metric(&format!("{series}\"OK\"}}")).await, Some(f64::from(n_answered)));
    assert_eq!(server.metric(&format!("{series}\"CANCELLED\"}}")).await.unwrap_or(0.0), 0.0);
}

#[tokio::test]
async fn a_call_is_finished_after_its_connection_grew_old_and_a_watch_that_outlives_the_grace_is_cut() {
    let plan = Plan::new().gated().with(|settings| {
        settings.connections.age_max = Duration::from_secs(1);
        settings.connections.age_grace = Duration::from_secs(5);
    });
    let server = plan.start().await;
    let channel = server.channel().await;
    let mut health = HealthClient::new(channel.clone());
    let mut watch = within(health.watch(HealthCheckRequest::default())).await.unwrap().into_inner();
    within(watch.message()).await.unwrap().unwrap();
    let mut client = Client::new(channel);
    let call = tokio::spawn(async move { client.generate_queries(request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    // Ages stray by a tenth: once two were told that came after it, and one after the other, it was.
    for _ in 0..2 {
        let mut old = frames::open(&server).await;
        frames::write(&mut old, frames::BEGIN).await;
        while frames::next(&mut old).await.unwrap().reason().is_none() {}
    }
    server.gate.open();
    within(call).await.unwrap().unwrap();
    assert!(!matches!(within(watch.message()).await, Ok(Some(_))), "the watch ends");
    server.until("newshound_connections_open", 0.0).await;
}
