//! The end: running requests finish, and no client can hold the server.
use super::server::{Plan, refusal, request, within};
use super::validation::Raw;
use prost::Message;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, sync::Notify};
use tokio_stream::StreamExt;
use tonic::Code;

/// Far beyond what a drain of an idle server takes, far below the drain deadline.
const SOON: Duration = Duration::from_secs(10);

fn short_grace(settings: &mut newshound::serve::settings::ServeSettings) {
    settings.shutdown.idle_grace = Duration::from_millis(50);
}

#[tokio::test]
async fn an_idle_server_ends_at_once() {
    let mut server = Plan::new().start().await;
    let begun = Instant::now();
    server.signal();
    server.ended().await.unwrap();
    assert!(begun.elapsed() < SOON);
}

#[tokio::test]
async fn silent_and_half_open_clients_do_not_hold_the_server() {
    let mut server = Plan::new().with(short_grace).start().await;
    let mut silent = TcpStream::connect(server.grpc).await.unwrap();
    let mut half = TcpStream::connect(server.grpc).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut deaf = TcpStream::connect(server.grpc).await.unwrap();
    // A whole preface and empty settings, and never an answer to a ping.
    deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    server.until("newshound_connections_open", 3.0).await;
    let begun = Instant::now();
    server.signal();
    server.ended().await.unwrap();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    for stream in [&mut silent, &mut half, &mut deaf] {
        let mut rest = Vec::new();
        // Reset or closed: either way the connection is gone.
        let _ = within(stream.read_to_end(&mut rest)).await;
    }
}

#[tokio::test]
async fn a_running_request_finishes_and_new_ones_are_turned_away() {
    let mut server = Plan::new().gated().with(short_grace).start().await;
    let channel = server.channel().await;
    let mut client = super::server::Client::new(channel.clone());
    let running = tokio::spawn(async move { client.generate_queries(request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    server.signal();
    server.until("newshound_draining", 1.0).await;
    assert_eq!(server.get("/healthz").await.0, 503);
    assert_eq!(server.metric("newshound_ready").await, Some(0.0));
    let refused =
        within(super::server::Client::new(channel).generate_queries(request("late"))).await.unwrap_err();
    // The client may have seen the GOAWAY first; then it cannot even ask, and the words are those of its library.
    assert!(matches!(refused.code(), Code::Unavailable | Code::Cancelled), "{refused:?}");
    server.gate.open();
    within(running).await.unwrap().unwrap();
    server.ended().await.unwrap();
}

#[tokio::test]
async fn a_request_whose_message_comes_after_the_signal_is_told_why_it_is_refused() {
    let mut server = Plan::new().gated().with(short_grace).start().await;
    let channel = server.channel().await;
    let (opened, drains) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (of_body, held) = (Arc::clone(&opened), Arc::clone(&drains));
    let body = tokio_stream::once(request("late").encode_to_vec()).then(move |message| {
        let (opened, drains) = (Arc::clone(&of_body), Arc::clone(&held));
        async move {
            opened.notify_one();
            drains.notified().await;
            message
        }
    });
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    let late = tokio::spawn(async move {
        grpc.ready().await.unwrap();
        let path = "/newshound.v1.QueryGenerationService/GenerateQueries".parse().unwrap();
        grpc.client_streaming(tonic::Request::new(body), path, Raw).await
    });
    // The message is asked for once the call is open. This one follows on the same connection, so the server sees it later.
    within(opened.notified()).await;
    let mut client = super::server::Client::new(channel);
    let running = tokio::spawn(async move { client.generate_queries(request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    server.signal();
    server.until("newshound_draining", 1.0).await;
    drains.notify_one();
    let details = refusal(&within(late).await.unwrap().unwrap_err(), Code::Unavailable, "DRAINING");
    assert!(details.retry_info().is_some_and(|info| info.retry_delay.is_some()));
    server.gate.open();
    within(running).await.unwrap().unwrap();
    server.ended().await.unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_at_the_deadline() {
    let mut server = Plan::new()
        .gated()
        .with(|settings| settings.shutdown.drain_deadline = Duration::from_millis(100))
        .start()
        .await;
    let mut client = server.client().await;
    let running = tokio::spawn(async move { client.generate_queries(request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    server.signal();
    within(running).await.unwrap().unwrap_err();
    // The step does not end; the server does.
    server.ended().await.unwrap();
}

#[tokio::test]
async fn a_connection_without_a_preface_is_closed_after_the_timeout() {
    let timeout = Duration::from_millis(50);
    let server = Plan::new().with(|settings| settings.connections.handshake_timeout = timeout).start().await;
    let mut silent = TcpStream::connect(server.grpc).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(silent.read_to_end(&mut rest)).await;
    server.until("newshound_connections_open", 0.0).await;
    assert_eq!(server.metric("newshound_connections_refused_total{reason=\"handshake\"}").await, Some(1.0));
}

#[tokio::test]
async fn connections_beyond_the_limit_of_a_peer_are_closed_and_one_at_the_limit_is_served() {
    let server = Plan::new().with(|settings| settings.connections.per_peer_max = 2).start().await;
    let (mut first, mut served) = (server.client().await, server.client().await);
    for client in [&mut first, &mut served] {
        within(client.generate_queries(request("reader"))).await.unwrap();
    }
    let mut third = TcpStream::connect(server.grpc).await.unwrap();
    let mut rest = Vec::new();
    assert_eq!(within(third.read_to_end(&mut rest)).await.unwrap_or(0), 0);
    server.until("newshound_connections_refused_total{reason=\"per_peer\"}", 1.0).await;
    drop(first);
    server.until("newshound_connections_open", 1.0).await;
}

#[tokio::test]
async fn a_connection_without_a_call_is_closed_and_one_whose_call_lasts_is_not() {
    let idle = Duration::from_millis(500);
    let server = Plan::new().gated().with(|settings| settings.connections.idle_timeout = idle).start().await;
    let mut calling = server.client().await;
    let call = tokio::spawn(async move { calling.generate_queries(request("reader")).await });
    server.until("newshound_running_rows", 4.0).await;
    let before = server.metric("newshound_connections_idled_total").await.unwrap();
    let silent = server.channel().await;
    server.until("newshound_connections_idled_total", before + 1.0).await;
    server.until("newshound_connections_open", 1.0).await;
    drop(silent);
    server.gate.open();
    within(call).await.unwrap().unwrap();
    server.until("newshound_connections_open", 0.0).await;
}
