//! Limits of HTTP/2, against clients that keep to none of them.
use super::{
    frames::{self, ENHANCE_YOUR_CALM, Frame},
    server::{Plan, Server, ask, few_or, request},
};

/// `:status: 200` of the table that all have. Source: RFC 7541, appendix A.
const STATUS_200: u8 = 0x88;
/// Streams, at most, that a server begins for a client which takes every one back. Most come in one read, before anything is looked at.
const STREAMS_BEGUN_MAX: u32 = 150;

async fn serving() -> Server {
    Plan::new().start().await
}

/// The head of the answer to the only request.
async fn answered(server: &Server, bytes: &[u8]) -> Frame {
    let mut wire = frames::open(server).await;
    frames::write(&mut wire, &[frames::BEGIN, bytes].concat()).await;
    loop {
        let frame = frames::next(&mut wire).await.expect("the connection stays open");
        assert_eq!(frame.reason(), None, "{frame:?}");
        if frame.is_head() {
            return frame;
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_back_what_it_asks_is_sent_away_and_others_are_served() {
    let server = serving().await;
    let mut client = server.client().await;
    let (mut reading, mut writing) = frames::open(&server).await.into_split();
    let flood = tokio::spawn(async move {
        frames::write(&mut writing, frames::BEGIN).await;
        for number in 0..few_or(20_000, 100_000) {
            let stream = 2 * u32::try_from(number).unwrap() + 1;
            frames::write(&mut writing, &[frames::head(stream, &[]), frames::reset(stream)].concat()).await;
        }
    });
    ask(&mut client, request("reader")).await;
    let (came, reason) = frames::rest(&mut reading).await;
    assert_eq!(reason, Some(ENHANCE_YOUR_CALM));
    let last = came.iter().rev().find_map(Frame::last_stream).unwrap();
    assert!(last < 2 * STREAMS_BEGUN_MAX, "{last}");
    ask(&mut client, request("reader")).await;
    flood.abort();
}

#[tokio::test]
async fn heads_up_to_the_limit_are_answered_and_longer_ones_refused() {
    let server = serving().await;
    let long = |n_bytes: usize| frames::head(1, &frames::field("long", &"a".repeat(n_bytes)));
    assert_eq!(answered(&server, &long(7 << 10)).await.payload[0], STATUS_200);
    assert_ne!(answered(&server, &long(8 << 10)).await.payload[0], STATUS_200);
}

#[tokio::test]
async fn a_head_without_an_end_closes_the_connection() {
    let server = serving().await;
    let (mut reading, mut writing) = frames::open(&server).await.into_split();
    let flood = tokio::spawn(async move {
        frames::write(&mut writing, frames::BEGIN).await;
        for bytes in frames::endless(1, 1 << 20) {
            frames::write(&mut writing, &bytes).await;
        }
    });
    assert_eq!(frames::rest(&mut reading).await.1, Some(ENHANCE_YOUR_CALM));
    ask(&mut server.client().await, request("reader")).await;
    flood.abort();
}
