//! Services elsewhere, over plain HTTP: a judge that speaks OpenAI's format, and teachers that are served. TLS ends at a proxy.
pub mod judge;
pub mod teacher;

use super::{error::TrainError, settings::remote::CallSettings};
use serde_json::Value;
use std::{
    fmt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Largest answer that is read: log-probabilities of a thousand tokens with their neighbours are far smaller.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Pause before the second try; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// What an error quotes of an answer.
const QUOTED_CHARS: usize = 200;

/// A service that is called with a limit on everything: calls at once, calls a minute, seconds and tries of each.
#[derive(Debug)]
pub struct Service {
    agent: ureq::Agent,
    url: String,
    /// `Bearer` and the key, where there is one.
    authorization: Option<Key>,
    calls: CallSettings,
    /// When the next call may begin.
    next: Mutex<Instant>,
}

/// A secret that is never shown.
struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Why one call gave nothing.
struct Failure {
    reason: String,
    /// Another try may succeed: nobody answered, or the service was busy.
    is_passing: bool,
    /// The status by which the service refused the call for good.
    refused: Option<u16>,
}

impl Failure {
    fn passing(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), is_passing: true, refused: None }
    }
}

/// Whether an error may quote what a service said: it may say again what it was sent, and that must not reach a log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoted {
    Yes,
    No,
}

impl Service {
    /// A service at `http://host:port`, perhaps with a path before those of its calls. `key_file`: holds the key that is sent.
    /// # Errors
    /// If the address is no `http://` one, the key cannot be read, or a limit is 0.
    pub fn new(url: &str, key_file: Option<&Path>, calls: CallSettings) -> Result<Self, TrainError> {
        let wrong = |reason: String| TrainError::Settings { reason };
        if !url.starts_with("http://") {
            return Err(wrong(format!("{url} must start with http://; TLS ends at a proxy")));
        }
        calls.check()?;
        let authorization = match key_file {
            Some(path) => {
                let key = std::fs::read_to_string(path).map_err(TrainError::disk(path, "read"))?;
                Some(Key(format!("Bearer {}", key.trim())))
            }
            None => None,
        };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_millis(calls.timeout_ms)))
            .http_status_as_error(false)
            // What the environment says of proxies is not for services that get readers' signals.
            .proxy(None)
            .build()
            .into();
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { agent, url, authorization, calls, next: Mutex::new(Instant::now()) })
    }

    /// Gets what stands at a path.
    /// # Errors
    /// What the last try said.
    pub fn get(&self, path: &str) -> Result<Value, TrainError> {
        self.called(path, Quoted::Yes, || {
            let mut request = self.agent.get(format!("{}{path}", self.url));
            if let Some(authorization) = &self.authorization {
                request = request.header("authorization", &authorization.0);
            }
            request.call()
        })
    }

    /// Sends JSON to a path and reads what comes back.
    /// # Errors
    /// What the last try said.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, TrainError> {
        self.called(path, Quoted::No, || {
            let mut request = self.agent.post(format!("{}{path}", self.url));
            if let Some(authorization) = &self.authorization {
                request = request.header("authorization", &authorization.0);
            }
            request.send_json(body)
        })
    }

    /// Calls `of` for every item, as many at once as the settings allow; results in the order of the items.
    pub fn of_all<I: Sync, R: Send>(&self, items: &[I], of: impl Fn(&I) -> R + Sync) -> Vec<R> {
        let (next, of) = (&AtomicUsize::new(0), &of);
        let worker = move || {
            let mut done = Vec::new();
            loop {
                let idx = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(idx) else { return done };
                done.push((idx, of(item)));
            }
        };
        let n_workers = self.calls.concurrency.min(items.len());
        let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..n_workers).map(|_| scope.spawn(worker)).collect();
            let joined = running.into_iter().map(|worker| worker.join());
            joined.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        results.sort_by_key(|(idx, _)| *idx);
        results.into_iter().map(|(_, result)| result).collect()
    }

    fn called(
        &self,
        path: &str,
        quoted: Quoted,
        call: impl Fn() -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, TrainError> {
        let mut pause = FIRST_PAUSE;
        let mut n_tries = 1;
        loop {
            self.wait_for_turn();
            let Failure { reason, is_passing, refused } = match answer(call(), quoted) {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if !is_passing || n_tries >= self.calls.tries {
                return Err(TrainError::Remote {
                    url: format!("{}{path}", self.url),
                    n_tries,
                    reason,
                    refused,
                });
            }
            std::thread::sleep(pause);
            (pause, n_tries) = ((pause * 2).min(PAUSE_MAX), n_tries + 1);
        }
    }

    /// Waits until the rate allows another call. Each caller takes its own moment first, so that the lock is held by nobody who waits.
    fn wait_for_turn(&self) {
        let Some(interval) = self.calls.interval() else { return };
        let moment = {
            let mut next = self.next.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let moment = (*next).max(Instant::now());
            *next = moment + interval;
            moment
        };
        std::thread::sleep(moment.saturating_duration_since(Instant::now()));
    }
}

/// The JSON of an answer.
fn answer(
    got: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    quoted: Quoted,
) -> Result<Value, Failure> {
    let mut response = got.map_err(Failure::passing)?;
    let status = response.status();
    let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
    let text = text.map_err(Failure::passing)?;
    if !status.is_success() {
        let reason = match quoted {
            Quoted::Yes => format!("{status}: {}", text.chars().take(QUOTED_CHARS).collect::<String>()),
            Quoted::No => status.to_string(),
        };
        let is_passing = status.is_server_error() || status.as_u16() == 429 || status.as_u16() == 408;
        let refused = (!is_passing).then_some(status.as_u16());
        return Err(Failure { reason, is_passing, refused });
    }
    serde_json::from_str(&text).map_err(|error| Failure {
        reason: format!("not JSON: {error}"),
        is_passing: false,
        refused: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_does_not_show_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "sesame\n").unwrap();
        let service = Service::new("http://127.0.0.1:9", Some(&file), CallSettings::usual()).unwrap();
        assert_eq!(service.authorization.as_ref().unwrap().0, "Bearer sesame");
        assert!(!format!("{service:?}").contains("sesame"));
    }
}
