//! A judge of OpenAI's format as a reward: what it says, what is kept, and what becomes of a call that fails.
use crate::support::{
    http::Service,
    stages::{FINE_TUNED, STAGES, fit},
};
use candle_core::Device;
use newshound::{
    bundle::load::WEIGHTS_FILE,
    train::{
        remote::judge::{HttpJudge, Question},
        settings::{
            TeacherSettings,
            remote::{CallSettings, HttpJudgeSettings},
        },
        teacher::{self, Start},
        watch::WatchSettings,
    },
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

fn settings(service: &Service, calls: CallSettings) -> HttpJudgeSettings {
    HttpJudgeSettings { url: service.url(), model: "judge".to_owned(), calls, ..HttpJudgeSettings::none() }
}

fn calls() -> CallSettings {
    CallSettings { timeout_ms: 5_000, tries: 3, ..CallSettings::usual() }
}

fn said(text: &str) -> Value {
    json!({"choices": [{"message": {"role": "assistant", "content": text}}]})
}

fn questions(lists: &[&str]) -> Vec<Question> {
    let question =
        |list: &&str| Question { signals: vec!["search: rain".to_owned()], list: (*list).to_owned() };
    lists.iter().map(question).collect()
}

/// The list that a call is about: the last line of what the user says.
fn list_of(body: &Value) -> String {
    let text = body["messages"][1]["content"].as_str().unwrap();
    text.lines().last().unwrap().to_owned()
}

fn rated(settings: &HttpJudgeSettings, folder: &Path, lists: &[&str]) -> Vec<Option<f64>> {
    HttpJudge::open(settings, folder).unwrap().rate(&questions(lists)).unwrap()
}

#[test]
fn ratings_are_shares_of_ten_and_what_was_said_once_is_not_asked_again() {
    let (dir, n_calls) = (tempfile::tempdir().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = n_calls.clone();
    let service = Service::start(move |path, body| {
        assert_eq!(
            (path, &body["model"], &body["temperature"]),
            ("/v1/chat/completions", &json!("judge"), &json!(0))
        );
        counted.fetch_add(1, Ordering::SeqCst);
        (200, said(if list_of(&body) == "good list" { "8" } else { "2.5" }))
    });
    let settings = settings(&service, calls());
    let lists = ["good list", "poor list", "good list"];
    let expected = [Some(0.8), Some(0.25), Some(0.8)];
    assert_eq!(rated(&settings, dir.path(), &lists), expected);
    assert_eq!(n_calls.load(Ordering::SeqCst), 2, "a list that stands twice is asked about once");
    // As if the process had been killed while it wrote.
    let cache = dir.path().join("judge.jsonl");
    let text = fs::read_to_string(&cache).unwrap() + "{\"key\":\"ab";
    fs::write(&cache, text).unwrap();
    assert_eq!(rated(&settings, dir.path(), &lists), expected);
    assert_eq!(n_calls.load(Ordering::SeqCst), 2);
    assert_eq!(rated(&settings, dir.path(), &["another list"]), [Some(0.25)]);
    assert_eq!(rated(&settings, dir.path(), &["another list"]), [Some(0.25)]);
    assert_eq!(n_calls.load(Ordering::SeqCst), 3);
}

#[test]
fn a_call_that_fails_gives_no_value_and_passing_failures_are_tried_again() {
    let tries = Arc::new(Mutex::new(Vec::<String>::new()));
    let seen = tries.clone();
    let service = Service::start(move |_, body| {
        let list = list_of(&body);
        let n_tries = {
            let mut seen = seen.lock().unwrap();
            seen.push(list.clone());
            seen.iter().filter(|other| **other == list).count()
        };
        match list.as_str() {
            "busy twice" if n_tries < 3 => (503, json!("busy")),
            "busy twice" => (200, said("6")),
            "always busy" => (429, json!("slow down")),
            "slow" => {
                thread::sleep(Duration::from_millis(900));
                (200, said("9"))
            }
            "talks" => (200, said("I cannot rate this.")),
            _ => (200, json!({"object": "error"})),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&service, CallSettings { timeout_ms: 300, ..calls() });
    let lists = ["busy twice", "always busy", "slow", "talks", "strange"];
    let ratings = rated(&settings, dir.path(), &lists);
    assert_eq!(ratings, [Some(0.6), None, None, None, None]);
    let seen = tries.lock().unwrap();
    let n_tries = lists.map(|list| seen.iter().filter(|other| *other == list).count());
    assert_eq!(n_tries, [3, 3, 3, 1, 1]);
    // Nothing of it is remembered: it is asked again the next time.
    assert_eq!(fs::read_to_string(dir.path().join("judge.jsonl")).unwrap().lines().count(), 1);
}

/// A wrong key gave no rating, list after list, and a run without a judge passed for one with it.
#[test]
fn a_judge_that_refuses_every_call_is_an_error_that_does_not_say_what_it_was_sent() {
    for status in [401, 403, 404] {
        let service = Service::start(move |_, body| match list_of(&body).as_str() {
            "a list" => (status, body),
            _ => (200, said("4")),
        });
        let dir = tempfile::tempdir().unwrap();
        let mut judge = HttpJudge::open(&settings(&service, calls()), dir.path()).unwrap();
        let error = judge.rate(&questions(&["first", "a list", "last"])).unwrap_err().to_string();
        assert!(error.contains(&status.to_string()) && error.contains("/v1/chat/completions"), "{error}");
        assert!(!error.contains("rain") && !error.contains("a list"), "{error}");
        // What was paid for is not asked again.
        let kept = fs::read_to_string(dir.path().join("judge.jsonl")).unwrap();
        assert_eq!(kept.lines().count(), 2, "{kept}");
    }
}

/// One list that a content filter refused had ended a run of hours.
#[test]
fn a_judge_that_refuses_one_list_leaves_that_one_without_a_rating() {
    for status in [400, 413, 422] {
        let service = Service::start(move |_, body| match list_of(&body).as_str() {
            "a list" => (status, body),
            _ => (200, said("4")),
        });
        let dir = tempfile::tempdir().unwrap();
        let lists = ["first", "a list", "last"];
        assert_eq!(rated(&settings(&service, calls()), dir.path(), &lists), [Some(0.4), None, Some(0.4)]);
    }
}

#[test]
fn calls_at_once_and_calls_a_minute_are_limited() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (now.clone(), most.clone());
    let service = Service::start(move |_, _| {
        highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(30));
        counted.fetch_sub(1, Ordering::SeqCst);
        (200, said("5"))
    });
    let names: Vec<String> = (0..9).map(|n| format!("list {n}")).collect();
    let lists: Vec<&str> = names.iter().map(String::as_str).collect();
    let dir = tempfile::tempdir().unwrap();
    rated(&settings(&service, CallSettings { concurrency: 3, ..calls() }), &dir.path().join("a"), &lists);
    assert!((2..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
    let began = Instant::now();
    // One every 40 ms: the ninth begins after 320.
    rated(&settings(&service, CallSettings { per_minute: 1_500, ..calls() }), &dir.path().join("b"), &lists);
    assert!(began.elapsed() >= Duration::from_millis(320), "{:?}", began.elapsed());
}

#[test]
fn settings_that_cannot_be_called_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plain = HttpJudgeSettings { url: "http://127.0.0.1:9".to_owned(), ..HttpJudgeSettings::none() };
    let refused = |settings: HttpJudgeSettings, said: &str| {
        let error = HttpJudge::open(&settings, dir.path()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    refused(HttpJudgeSettings { url: "https://example.org".to_owned(), ..plain.clone() }, "http://");
    refused(HttpJudgeSettings { weight: 0.0, ..plain.clone() }, "weight");
    refused(HttpJudgeSettings { calls: CallSettings { tries: 0, ..calls() }, ..plain.clone() }, "tries");
    let key_file = dir.path().join("none").display().to_string();
    assert!(HttpJudge::open(&HttpJudgeSettings { key_file, ..plain }, dir.path()).is_err());
}

fn taught(http_judge: HttpJudgeSettings, out: PathBuf) -> (Vec<u8>, Vec<Value>) {
    let settings = TeacherSettings {
        prompt_tokens: 96,
        cuts_per_reader: 1,
        lists_per_prompt: 4,
        http_judge,
        watch: WatchSettings { every: 0, readers: 0, lists: 1 },
        fit: fit(2, 3),
        ..TeacherSettings::demo()
    };
    let start = Start { init: &FINE_TUNED, rollouts: None };
    let folder = teacher::run(&STAGES.watched, start, &settings, &out, &Device::Cpu).unwrap();
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let weights = fs::read(folder.join(WEIGHTS_FILE)).unwrap();
    (weights, metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn a_teacher_learns_what_the_judge_says_and_one_that_says_nothing_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // It likes long lists.
    let service = Service::start(|_, body| {
        let text = body["messages"][1]["content"].as_str().unwrap().to_owned();
        let n_queries = text.split("Queries:\n").nth(1).unwrap().lines().count();
        (200, said(&n_queries.to_string()))
    });
    let (without, _) = taught(HttpJudgeSettings::none(), dir.path().join("none"));
    let (with, lines) = taught(settings(&service, calls()), dir.path().join("judged"));
    for line in lines {
        assert!((0.0..=0.8).contains(&line["rewards/http_judge/mean"].as_f64().unwrap()));
        assert_eq!(line["rewards/http_judge/missing_ratio"], 0.0);
    }
    assert!(with != without);
    let silent = Service::start(|_, _| (200, said("I cannot rate this.")));
    let (unheard, lines) = taught(settings(&silent, calls()), dir.path().join("silent"));
    assert!(unheard == without);
    // Of the lists alone: a step may have none.
    let missing: Vec<f64> =
        lines.iter().map(|line| line["rewards/http_judge/missing_ratio"].as_f64().unwrap()).collect();
    assert!(missing.contains(&1.0), "{missing:?}");
}
