//! The playground: a page that asks the JSON door of the server that it came from, and shows how an answer comes about.
//!
//! It is one file without anything from elsewhere. Where the server runs its demo, the page also has the demo's readers and catalogue; they
//! are generated, so whoever sees the page may see them.
use crate::{
    news::article::Article,
    queries::QUERIES_MAX,
    serve::demo::{DemoUser, Shelf, rfc3339},
    signals::{SignalDraft, Stream},
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{
        HeaderName, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Redirect},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::{Arc, LazyLock};
use tracing::warn;

const PAGE: &str = include_str!("playground/page.html");

/// Where the page is.
pub const PATH: &str = "/playground";

/// Largest request for articles: a list of the longest queries is a tenth of it.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// What the page may do: run its own script and style, which are known by their digests, and ask the server that it came from.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (script, style) = (digest("script"), digest("style"));
    format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// The digest of what the page has in an element. Source: Content Security Policy Level 3, section 2.3.1.
fn digest(element: &str) -> String {
    let (_, rest) = PAGE.split_once(&format!("<{element}>")).expect("the page has one");
    let (inside, _) = rest.split_once(&format!("</{element}>")).expect("and it ends");
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(inside)))
}

/// The page, and what it asks for beside the JSON door. `shelf`: the demo's, where the server runs it.
pub fn routes(shelf: Option<Arc<Shelf>>) -> Router {
    Router::new()
        .route("/", get(async || Redirect::temporary(PATH)))
        .route(PATH, get(page))
        .route("/playground/readers", get(readers))
        .route("/playground/articles", post(articles))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(shelf)
}

async fn page() -> impl IntoResponse {
    const HEADERS: [(HeaderName, &str); 4] = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-cache"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (HEADERS, [(CONTENT_SECURITY_POLICY, POLICY.as_str())], PAGE)
}

/// The demo's readers, their signals as the JSON door takes them.
#[derive(Serialize)]
struct Readers {
    readers: Vec<ReaderShown>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReaderShown {
    key: String,
    as_of: String,
    signals: Vec<SignalShown>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SignalShown {
    stream: &'static str,
    text: String,
    event_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dwell: Option<String>,
}

async fn readers(State(shelf): State<Option<Arc<Shelf>>>) -> Json<Readers> {
    let readers = shelf.iter().flat_map(|shelf| &shelf.users).map(reader).collect();
    Json(Readers { readers })
}

fn reader(user: &DemoUser) -> ReaderShown {
    ReaderShown {
        key: user.user_key.clone(),
        as_of: rfc3339(user.as_of_unix_s),
        signals: user.signals.iter().map(signal).collect(),
    }
}

fn signal(draft: &SignalDraft) -> SignalShown {
    SignalShown {
        stream: match draft.stream {
            Stream::Search => "STREAM_SEARCH",
            Stream::Page => "STREAM_PAGE",
            Stream::Click => "STREAM_CLICK",
        },
        text: draft.text.clone(),
        event_time: rfc3339(draft.time_unix_s),
        category: draft.category.clone(),
        source: draft.source.clone(),
        dwell: draft.dwell_ms.map(|dwell_ms| format!("{}.{:03}s", dwell_ms / 1000, dwell_ms % 1000)),
    }
}

/// What to look up.
#[derive(Deserialize)]
struct Wanted {
    queries: Vec<String>,
    /// Key of a reader of the demo: what she clicked is not shown, nor what was not out yet when she asked.
    reader: Option<String>,
}

#[derive(Serialize)]
struct Articles {
    articles: Vec<ArticleShown>,
}

#[derive(Serialize)]
struct ArticleShown {
    title: String,
    category: String,
    published: String,
}

async fn articles(
    State(shelf): State<Option<Arc<Shelf>>>,
    Json(wanted): Json<Wanted>,
) -> Result<Json<Articles>, StatusCode> {
    let shelf = shelf.ok_or(StatusCode::NOT_FOUND)?;
    if wanted.queries.len() > QUERIES_MAX {
        return Err(StatusCode::BAD_REQUEST);
    }
    let looking = tokio::task::spawn_blocking(move || look_up(&shelf, &wanted));
    looking.await.unwrap_or(Err(StatusCode::INTERNAL_SERVER_ERROR)).map(Json)
}

fn look_up(shelf: &Shelf, wanted: &Wanted) -> Result<Articles, StatusCode> {
    let user = shelf.users.iter().find(|user| wanted.reader.as_deref() == Some(&user.user_key));
    let found = shelf.retrieved(wanted.queries.iter().map(String::as_str), user);
    let found = found.map_err(|error| {
        warn!(%error, "the demo's catalogue cannot be searched");
        StatusCode::INTERNAL_SERVER_ERROR
    })?;
    Ok(Articles { articles: found.into_iter().map(article).collect() })
}

fn article(article: &Article) -> ArticleShown {
    ArticleShown {
        title: article.title.clone(),
        category: article.category.clone(),
        published: rfc3339(article.published_unix_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script or a style that is not in the one element, or an address, would need more than the policy allows.
    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        for once in ["<script", "<style"] {
            assert_eq!(PAGE.matches(once).count(), 1, "{once}");
        }
        for forbidden in ["http://", "https://", " style=", " onclick=", "innerHTML", "eval("] {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert!(!POLICY.contains("unsafe"), "{}", *POLICY);
    }
}
