//! Who may come in: tokens that stand for tenants, certificates, and files of both that change while the server runs.
pub mod authority;

use super::server::{Plan, Server, cache_status, refusal, request, within};
use super::swap::admin;
pub use authority::Authority;
use newshound::client::reach::{Reach, ReachError};
use newshound::serve::{
    RunError,
    door::{AccessError, bearers},
    rpc::{
        client::{Ask, Client, ClientError},
        proto::{CacheStatus, GenerateQueriesRequest, admin::ListModelsRequest},
    },
    settings::access::TlsSettings,
};
use newshound::signals::{self, SignalDraft};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tonic::{Code, Request};

pub const OFTEN: Duration = Duration::from_millis(5);

/// A file with these tokens' lines.
pub fn tokens(dir: &TempDir, name: &str, issued: &[&bearers::Issued]) -> PathBuf {
    let path = dir.path().join(name);
    let lines: Vec<&str> = issued.iter().map(|issued| issued.line.as_str()).collect();
    // Renamed into place, as every tool does that replaces a file while somebody reads it.
    let staged = dir.path().join("staged");
    std::fs::write(&staged, lines.join("\n")).unwrap();
    std::fs::rename(staged, &path).unwrap();
    path
}

fn showing(
    token: Option<&str>,
    tenant: Option<&'static str>,
    message: GenerateQueriesRequest,
) -> Request<GenerateQueriesRequest> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    if let Some(tenant) = tenant {
        request.metadata_mut().insert("x-newshound-tenant", tenant.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_token_stands_for_its_tenant_whatever_its_bearer_says() {
    let dir = tempfile::tempdir().unwrap();
    let (daily, weekly) = (bearers::issue("daily").unwrap(), bearers::issue("weekly").unwrap());
    let file = tokens(&dir, "tokens", &[&daily, &weekly]);
    let server = Plan::new().with(|settings| settings.access.tokens = Some(file)).start().await;
    let mut client = server.client().await;
    let status = client.generate_queries(showing(None, Some("daily"), request("reader"))).await.unwrap_err();
    refusal(&status, Code::Unauthenticated, "TOKEN_MISSING");
    let digest = daily.line.split(' ').next_back().unwrap();
    let status = client.generate_queries(showing(Some(digest), None, request("reader"))).await.unwrap_err();
    refusal(&status, Code::Unauthenticated, "TOKEN_UNKNOWN");
    let mut asked = async |token: &str, tenant| {
        let request = showing(Some(token), tenant, request("reader"));
        cache_status(&within(client.generate_queries(request)).await.unwrap().into_inner())
    };
    assert_eq!(asked(&daily.token, None).await, CacheStatus::Miss);
    assert_eq!(asked(&daily.token, Some("weekly")).await, CacheStatus::Hit, "it is daily's reader");
    assert_eq!(asked(&weekly.token, Some("daily")).await, CacheStatus::Miss, "and this is not");
    for (reason, expected) in [("missing", 1.0), ("unknown", 1.0)] {
        let series = format!("newshound_access_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(server.metric(&series).await, Some(expected));
    }
    // Probes and load balancers have no token.
    let probe = Client::connect(&Reach::plain(&server.grpc.to_string())).await.unwrap();
    assert!(probe.is_serving().await.unwrap());
}

#[tokio::test]
async fn a_token_that_is_taken_away_is_refused_and_a_broken_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (bearers::issue("daily").unwrap(), bearers::issue("daily").unwrap());
    let file = tokens(&dir, "tokens", &[&old]);
    let server = Plan::new()
        .with(|settings| {
            settings.access.tokens = Some(file);
            settings.access.check_interval = OFTEN;
        })
        .start()
        .await;
    let mut client = server.client().await;
    let mut passes = async |issued: &bearers::Issued| {
        within(client.generate_queries(showing(Some(&issued.token), None, request("reader")))).await.is_ok()
    };
    assert!(passes(&old).await && !passes(&new).await);
    let broken = bearers::Issued { line: "daily".to_owned(), ..new.clone() };
    tokens(&dir, "tokens", &[&new, &broken]);
    let reads = |result| format!("newshound_access_reads_total{{file=\"tokens\",result=\"{result}\"}}");
    server.until(&reads("refused"), 1.0).await;
    assert!(passes(&old).await && !passes(&new).await);
    tokens(&dir, "tokens", &[&new]);
    server.until(&reads("loaded"), 1.0).await;
    assert!(!passes(&old).await && passes(&new).await);
}

#[tokio::test]
async fn operators_have_tokens_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, operator) = (bearers::issue("daily").unwrap(), bearers::issue("ops").unwrap());
    let (readers, operators) = (tokens(&dir, "readers", &[&reader]), tokens(&dir, "operators", &[&operator]));
    let server = Plan::new()
        .with(|settings| {
            settings.admin.addr = Some(([127, 0, 0, 1], 0).into());
            settings.access.tokens = Some(readers);
            settings.access.admin_tokens = Some(operators);
        })
        .start()
        .await;
    let mut client = admin::connect(&server).await;
    let mut listed = async |token: Option<&str>| {
        let mut request = Request::new(ListModelsRequest {});
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        within(client.list_models(request)).await.map(|_| ())
    };
    refusal(&listed(None).await.unwrap_err(), Code::Unauthenticated, "TOKEN_MISSING");
    refusal(&listed(Some(&reader.token)).await.unwrap_err(), Code::Unauthenticated, "TOKEN_UNKNOWN");
    listed(Some(&operator.token)).await.unwrap();
}

/// A server that shows a certificate of the authority.
async fn shown(authority: &Authority, dir: &Path, clients: Option<&Authority>) -> Server {
    let tls = authority.write(dir);
    let client_ca = clients.map(|clients| {
        let path = dir.join("clients.pem");
        std::fs::write(&path, clients.pem()).unwrap();
        path
    });
    let plan = Plan::new().with(|settings| {
        settings.access.tls = Some(TlsSettings { client_ca, ..tls });
        settings.access.check_interval = OFTEN;
        settings.connections.handshake_timeout = Duration::from_secs(1);
        settings.shutdown.idle_grace = Duration::from_millis(50);
    });
    plan.start().await
}

fn asked() -> Ask {
    let draft = SignalDraft {
        stream: signals::Stream::Search,
        text: "running shoes".to_owned(),
        time_unix_s: 1_700_000_000,
        category: None,
        source: None,
        dwell_ms: None,
        weight: None,
    };
    Ask {
        user_key: "reader".to_owned(),
        signals: vec![draft],
        n_candidates: Some(2),
        seed: None,
        bypass_cache: true,
        all_candidates: true,
        lowest_rung: None,
        entrant: Default::default(),
        timeout: super::server::PATIENCE,
    }
}

#[tokio::test]
async fn a_certificate_is_shown_to_clients_who_trust_its_authority_and_plain_ones_are_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    let mut server = shown(&authority, dir.path(), None).await;
    let addr = server.grpc.to_string();
    let client = Client::connect(&authority.reach(&addr, None)).await.unwrap();
    assert!(client.is_serving().await.unwrap());
    assert_eq!(within(client.ask(asked())).await.unwrap().best.queries.len(), 3);
    let distrusts = Client::connect(&other.reach(&addr, None)).await.unwrap_err();
    assert!(matches!(distrusts, ClientError::Reach(ReachError::Unreachable { .. })), "{distrusts}");
    let plain = async { Client::connect(&Reach::plain(&addr)).await?.is_serving().await };
    assert!(within(plain).await.is_err());
    server.until("newshound_connections_refused_total{reason=\"tls\"}", 2.0).await;

    // Whoever connects and says nothing is closed after a while, and holds nobody up.
    let mut silent = TcpStream::connect(server.grpc).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(silent.read_to_end(&mut rest)).await;
    assert_eq!(server.metric("newshound_connections_refused_total{reason=\"handshake\"}").await, Some(1.0));
    let _silent = TcpStream::connect(server.grpc).await.unwrap();
    let begun = Instant::now();
    server.signal();
    server.ended().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn clients_show_certificates_where_they_must() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let server = shown(&authority, dir.path(), Some(&clients)).await;
    let addr = server.grpc.to_string();
    let answers = async |reach: Reach| {
        // In TLS 1.3 a client believes that it is connected before the server has seen its certificate.
        match Client::connect(&reach).await {
            Ok(client) => within(client.ask(asked())).await.is_ok(),
            Err(_) => false,
        }
    };
    assert!(answers(authority.reach(&addr, Some(&clients))).await);
    assert!(!answers(authority.reach(&addr, None)).await);
    assert!(!answers(authority.reach(&addr, Some(&strangers))).await);
}

#[tokio::test]
async fn new_certificates_are_shown_without_a_restart_and_broken_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let server = shown(&old, dir.path(), None).await;
    let addr = server.grpc.to_string();
    let connected = Client::connect(&old.reach(&addr, None)).await.unwrap();
    assert!(connected.is_serving().await.unwrap());
    std::fs::write(dir.path().join("cert.pem"), "no certificate").unwrap();
    let reads = |result| format!("newshound_access_reads_total{{file=\"certificates\",result=\"{result}\"}}");
    server.until(&reads("refused"), 1.0).await;
    assert!(Client::connect(&old.reach(&addr, None)).await.unwrap().is_serving().await.unwrap());
    new.write(dir.path());
    server.until(&reads("loaded"), 1.0).await;
    assert!(Client::connect(&new.reach(&addr, None)).await.unwrap().is_serving().await.unwrap());
    assert!(Client::connect(&old.reach(&addr, None)).await.is_err());
    assert!(connected.is_serving().await.unwrap(), "who was connected stays so");
}

#[tokio::test]
async fn a_server_does_not_start_more_open_than_it_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let ended = async |change: &dyn Fn(&mut newshound::serve::settings::ServeSettings)| {
        Plan::new().with(change).start().await.ended().await.unwrap_err()
    };
    let absent = dir.path().join("absent");
    let error = ended(&|settings| settings.access.tokens = Some(absent.clone())).await;
    assert!(matches!(error, RunError::Access(AccessError::File { .. })), "{error}");
    let (authority, other) = (Authority::new(), Authority::new());
    let tls = authority.write(dir.path());
    let elsewhere = tempfile::tempdir().unwrap();
    let of_other = other.write(elsewhere.path());
    let mixed = TlsSettings { key: of_other.key, ..tls };
    let error = ended(&|settings| settings.access.tls = Some(mixed.clone())).await;
    assert!(matches!(error, RunError::Access(AccessError::Tls(_))), "{error}");
}
