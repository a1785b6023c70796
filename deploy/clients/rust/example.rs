use newshound::client::{Client, policy::Policy, proto, reach::Reach};
use std::{error::Error, time::SystemTime};

/// The queries for a reader who searched and clicked a moment ago.
pub async fn queries(addr: &str) -> Result<Vec<String>, Box<dyn Error>> {
    // One for the whole program: clones share the connection.
    let client = Client::lazy(&Reach::plain(addr), Policy::STANDARD)?;
    let signal = |stream: proto::Stream, text: &str| proto::Signal {
        stream: stream.into(),
        text: text.to_owned(),
        event_time: Some(SystemTime::now().into()),
        ..Default::default()
    };
    let request = proto::GenerateQueriesRequest {
        user: Some(proto::UserRef { key: "reader-1".to_owned() }),
        signals: vec![
            signal(proto::Stream::Search, "rain jacket"),
            signal(proto::Stream::Click, "storm reaches the coast"),
        ],
        ..Default::default()
    };
    let best = client.generate(request).await?.best.unwrap_or_default();
    Ok(best.queries.into_iter().map(|query| query.text).collect())
}
