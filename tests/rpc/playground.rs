//! The playground: there where it is wanted, with all that it needs, and shut in. What it looks like, tests/deploy/playground.py sees in a browser.
use super::http::{self, post, send};
use super::server::{Plan, Server};
use serde_json::{Value, json};

const PAGE: &str = "/playground";

async fn open() -> Server {
    Plan::new().with(|settings| settings.doors.playground = true).start().await
}

async fn get(server: &Server, path: &str) -> http::Answer {
    send(server.grpc, &http::text("GET", path, &[], b"")).await
}

#[tokio::test]
async fn the_page_is_there_where_it_is_wanted_and_may_load_nothing_from_elsewhere() {
    let server = open().await;
    let answer = get(&server, PAGE).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert_eq!(get(&server, "/").await.header("location"), Some(PAGE));
    let shut = Plan::new().start().await;
    for path in [PAGE, "/playground/readers", "/"] {
        assert_eq!(get(&shut, path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_demos_readers_can_be_asked_for_as_they_are_given() {
    let server = open().await;
    let readers = get(&server, "/playground/readers").await.json().await;
    let readers = readers["readers"].as_array().unwrap();
    assert_eq!(readers.len(), 3);
    for reader in readers {
        let question = json!({"user": {"key": reader["key"]}, "signals": reader["signals"]});
        let answer = post(server.grpc, "/v1/queries:generate", &[], &question.to_string()).await;
        assert_eq!(answer.status, 200, "{question}");
    }
}

#[tokio::test]
async fn articles_are_looked_up_for_a_reader_or_for_nobody() {
    let server = open().await;
    let found = async |queries: &[&str], reader: &Value| {
        let wanted = json!({"queries": queries, "reader": reader});
        let answer = post(server.grpc, "/playground/articles", &[], &wanted.to_string()).await;
        assert_eq!(answer.status, 200);
        answer.json().await["articles"].as_array().unwrap().clone()
    };
    let has = |articles: &[Value], title: &str| articles.iter().any(|article| article["title"] == *title);
    let readers = get(&server, "/playground/readers").await.json().await;
    let mut n_left_out = 0;
    for reader in readers["readers"].as_array().unwrap() {
        let signals = reader["signals"].as_array().unwrap().iter();
        for click in signals.filter(|signal| signal["stream"] == "STREAM_CLICK") {
            let title = click["text"].as_str().unwrap();
            let is_in_catalogue = has(&found(&[title], &Value::Null).await, title);
            n_left_out += usize::from(is_in_catalogue);
            assert!(!has(&found(&[title], &reader["key"]).await, title), "she has read {title}");
        }
    }
    assert!(n_left_out > 0, "nothing that a reader clicked is in the catalogue");
    let many = json!({"queries": vec!["storm"; 9], "reader": null});
    assert_eq!(post(server.grpc, "/playground/articles", &[], &many.to_string()).await.status, 400);
}
