//! A reader's queries by the client for other programs: her key comes in as a line, `answered` or what was refused goes out as one.
//! tests/deploy/affinity.py runs it behind proxies whose servers end.
use newshound::client::{Client, policy::Policy, proto, reach::Reach};
use std::{
    env,
    error::Error,
    io::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

/// When the reader searched, in seconds of Unix: always then, so that she finds her answer in the cache.
const SEARCHED_S: u64 = 1_700_000_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [addr, timeout_s] = arguments.as_slice() else { return Err("usage: caller ADDR TIMEOUT_S".into()) };
    let policy = Policy { timeout: Duration::from_secs(timeout_s.parse()?), ..Policy::STANDARD };
    let client = Client::lazy(&Reach::plain(addr), policy)?;
    let mut out = io::stdout();
    for reader in io::stdin().lines() {
        let said = match client.generate(question(reader?)).await {
            Ok(_) => "answered".to_owned(),
            Err(refusal) => refusal.to_string().replace('\n', ";"),
        };
        writeln!(out, "{said}")?;
    }
    Ok(())
}

fn question(reader: String) -> proto::GenerateQueriesRequest {
    let signal = proto::Signal {
        stream: proto::Stream::Search.into(),
        text: format!("rain jacket {reader}"),
        event_time: Some((UNIX_EPOCH + Duration::from_secs(SEARCHED_S)).into()),
        ..Default::default()
    };
    proto::GenerateQueriesRequest {
        user: Some(proto::UserRef { key: reader }),
        signals: vec![signal],
        options: Some(proto::GenerationOptions {
            candidate_count: Some(3),
            seed: Some(1),
            ..Default::default()
        }),
        ..Default::default()
    }
}
