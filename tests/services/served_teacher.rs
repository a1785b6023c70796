//! A student of a teacher that is served elsewhere, in both formats: servers here answer with what a real network says.
use crate::support::{
    http::Service,
    logs::logged,
    stages::{FINE_TUNED, SMALL, STAGES, fit, tokens},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use candle_core::{Device, Tensor};
use newshound::{
    model::{
        ops::{Numerics, token_logprobs},
        transformer::Transformer,
    },
    train::{
        checkpoint,
        error::TrainError,
        remote::teacher::{Protocol, RemoteTeacher},
        settings::{Distillation, StudentSettings, remote::CallSettings},
        student::{self, Pair, TeacherAt},
        watch::WatchSettings,
    },
};
use serde_json::{Map, Value, json};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

static TEACHER: LazyLock<Arc<Transformer>> = LazyLock::new(|| {
    let (config, mut parameters) =
        checkpoint::open_model(&checkpoint::resolve(&FINE_TUNED).unwrap(), &Device::Cpu).unwrap();
    Arc::new(Transformer::load(&config, &mut parameters, Numerics::Serve).unwrap())
});

fn ids_of(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// Log-probabilities of every token but the first.
fn logprobs(ids: &[u32]) -> Vec<f32> {
    let row = Tensor::new(&ids[..ids.len() - 1], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let logits = TEACHER.logits(&TEACHER.hidden(&row, None).unwrap()).unwrap().squeeze(0).unwrap();
    token_logprobs(&logits, &Tensor::new(&ids[1..], &Device::Cpu).unwrap(), 1.0).unwrap().to_vec1().unwrap()
}

/// vLLM's server, as far as it is asked: a list of models, tokens of a text, and log-probabilities of a prompt's own tokens.
fn vllm(path: &str, body: &Value) -> (u16, Value) {
    match path {
        "/v1/models" => (200, json!({"object": "list", "data": [{"id": "the-teacher"}]})),
        "/tokenize" => (200, json!({"tokens": tokens().0.encode_text(body["prompt"].as_str().unwrap())})),
        "/v1/completions" => {
            assert_eq!(
                (&body["model"], &body["max_tokens"], &body["prompt_logprobs"]),
                (&json!("the-teacher"), &json!(1), &json!(0))
            );
            let ids = ids_of(&body["prompt"]);
            let entry = |(id, logprob): (&u32, f32)| {
                let said = json!({"logprob": logprob, "rank": 1, "decoded_token": ""});
                Value::Object(Map::from_iter([(id.to_string(), said)]))
            };
            let entries = ids[1..].iter().zip(logprobs(&ids)).map(entry);
            let positions: Vec<Value> = std::iter::once(Value::Null).chain(entries).collect();
            (200, json!({"choices": [{"index": 0, "text": "", "prompt_logprobs": positions}]}))
        }
        _ => (404, json!("no such call")),
    }
}

/// trl's server: what it says of completions, padded to the longest.
fn trl(path: &str, body: &Value) -> (u16, Value) {
    assert_eq!((path, &body["response_format"]), ("/get_sequence_logprobs/", &json!("binary")));
    let rows: Vec<Vec<u32>> = body["sequences"].as_array().unwrap().iter().map(ids_of).collect();
    let n_prompt: Vec<usize> =
        ids_of(&body["prompt_lengths"]).iter().map(|length| *length as usize).collect();
    let lengths: Vec<usize> =
        rows.iter().zip(&n_prompt).map(|(row, n_prompt)| row.len() - n_prompt).collect();
    let width = lengths.iter().copied().max().unwrap();
    let (mut values, mut ids) = (Vec::<u8>::new(), Vec::<u8>::new());
    for (row, &n_prompt) in rows.iter().zip(&n_prompt) {
        let mut said: Vec<f32> = logprobs(row)[n_prompt - 1..].to_vec();
        let mut own: Vec<u32> = row[n_prompt..].to_vec();
        said.resize(width, f32::NEG_INFINITY);
        own.resize(width, 0);
        values.extend(said.iter().flat_map(|value| value.to_le_bytes()));
        ids.extend(own.iter().flat_map(|id| id.to_le_bytes()));
    }
    let (values, ids) = (BASE64_STANDARD.encode(values), BASE64_STANDARD.encode(ids));
    let answer = json!({
        "actual_logprobs_b64": values, "actual_token_ids_b64": ids, "logprobs_b64": values, "token_ids_b64": ids,
        "shape": [rows.len(), width, 1], "completion_lengths": lengths,
    });
    (200, answer)
}

fn settings(steps: u64) -> StudentSettings {
    StudentSettings {
        prompt_tokens: 96,
        cuts_per_reader: 1,
        watch: WatchSettings { every: 0, readers: 0, lists: 1 },
        fit: fit(steps, 4),
        ..StudentSettings::demo()
    }
}

fn run(
    student: &Path,
    at: TeacherAt<'_>,
    settings: &StudentSettings,
    name: &str,
) -> Result<PathBuf, TrainError> {
    let pair = Pair { student, teacher: at };
    student::run(&STAGES.watched, pair, settings, &DIR.path().join(name), &Device::Cpu)
}

fn divergences(name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(DIR.path().join(name).join("metrics.jsonl")).unwrap();
    let of = |line: &str| serde_json::from_str::<Value>(line).unwrap()["teacher_kl"].as_f64().unwrap();
    text.lines().map(of).collect()
}

#[test]
fn a_student_comes_nearer_to_a_teacher_behind_vllm() {
    let service = Service::start(|path, body| vllm(path, &body));
    let at = TeacherAt::Served(Protocol::Vllm, &service.url());
    run(&SMALL, at, &settings(24), "vllm").unwrap();
    let got = divergences("vllm");
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    // One number per token teaches less than the whole distribution does: 0.88 becomes 0.79.
    assert!(mean(&got[18..]) < mean(&got[..4]) - 0.05, "{got:?}");
}

#[test]
fn both_servers_say_of_a_students_tokens_what_the_network_says() {
    let (rows, calls) =
        ([(&[1_u32, 2, 3][..], &[4_u32, 5][..]), (&[6, 7], &[8, 9, 10, 11])], CallSettings::usual());
    let tokens = tokens().0;
    let vllm = Service::start(|path, body| vllm(path, &body));
    let trl = Service::start(|path, body| trl(path, &body));
    for (protocol, service) in [(Protocol::Vllm, &vllm), (Protocol::TrlServer, &trl)] {
        let teacher = RemoteTeacher::open(protocol, &service.url(), &tokens, calls).unwrap();
        // Two teachers must not be one run.
        let known = if protocol == Protocol::Vllm { "the-teacher".to_owned() } else { service.url() };
        assert_eq!(teacher.name(), format!("{protocol:?} {known}"));
        let got = teacher.logprobs(&rows).unwrap();
        for ((prompt, completion), got) in rows.iter().zip(&got) {
            let expected = logprobs(&[*prompt, completion].concat())[prompt.len() - 1..].to_vec();
            assert_eq!(got.len(), completion.len());
            let close = got.iter().zip(&expected).all(|(got, expected)| (got - expected).abs() < 1e-6);
            assert!(close, "{protocol:?}: {got:?}, expected {expected:?}");
        }
    }
}

#[test]
fn a_student_that_is_its_served_teacher_has_nothing_to_learn() {
    let service = Service::start(|path, body| trl(path, &body));
    run(&FINE_TUNED, TeacherAt::Served(Protocol::TrlServer, &service.url()), &settings(1), "same").unwrap();
    assert!(divergences("same")[0].abs() < 1e-4, "{:?}", divergences("same"));
}

#[test]
fn servers_that_read_other_tokens_or_answer_something_else_are_refused() {
    let (tokens, calls) = (tokens().0, CallSettings { tries: 1, ..CallSettings::usual() });
    let other = Service::start(|path, body| match path {
        "/tokenize" => (200, json!({"tokens": [1, 2, 3]})),
        _ => vllm(path, &body),
    });
    let error = RemoteTeacher::open(Protocol::Vllm, &other.url(), &tokens, calls).unwrap_err();
    assert!(error.to_string().contains("another tokenizer"), "{error}");
    // It does not tell its tokens, and its answers show that they are others.
    let silent = Service::start(|path, body| match path {
        "/tokenize" => (404, json!("no such call")),
        "/v1/completions" => {
            let n_ids = body["prompt"].as_array().unwrap().len();
            let position = json!({"999999": {"logprob": -1.0}});
            (200, json!({"choices": [{"prompt_logprobs": vec![position; n_ids]}]}))
        }
        _ => vllm(path, &body),
    });
    let teacher = RemoteTeacher::open(Protocol::Vllm, &silent.url(), &tokens, calls).unwrap();
    let error = teacher.logprobs(&[(&[1, 2], &[3])]).unwrap_err();
    assert!(error.to_string().contains("no log-probability of id 3"), "{error}");
    // Whether its tokens are others is not known.
    let busy = Service::start(|path, body| match path {
        "/tokenize" => (500, json!("out of memory")),
        _ => vllm(path, &body),
    });
    let error = RemoteTeacher::open(Protocol::Vllm, &busy.url(), &tokens, calls).unwrap_err().to_string();
    assert!(error.contains("500") && !error.contains("out of memory"), "{error}");
    for shape in [json!([1, u64::MAX, 1]), json!([2, 1, 1])] {
        let wide = Service::start(move |_, _| {
            let none = BASE64_STANDARD.encode([0_u8; 4]);
            let answer =
                json!({"actual_logprobs_b64": none, "actual_token_ids_b64": none, "shape": shape.clone()});
            (200, answer)
        });
        let teacher = RemoteTeacher::open(Protocol::TrlServer, &wide.url(), &tokens, calls).unwrap();
        let error = teacher.logprobs(&[(&[1, 2], &[0])]).unwrap_err();
        assert!(error.to_string().contains("do not fit their shape"), "{error}");
    }
    let gone = Service::start(|_, _| (500, json!("out of memory")));
    let error = RemoteTeacher::open(Protocol::Vllm, &gone.url(), &tokens, calls).unwrap_err();
    assert!(error.to_string().contains("out of memory"), "{error}");
    let settings = StudentSettings { mode: Distillation::ForwardKl, ..settings(1) };
    let error = run(&SMALL, TeacherAt::Served(Protocol::Vllm, &other.url()), &settings, "mode").unwrap_err();
    assert!(error.to_string().contains("reverse_kl"), "{error}");
}

#[test]
fn a_server_that_says_nothing_of_its_tokens_is_taken_with_a_warning() {
    let opened =
        || RemoteTeacher::open(Protocol::TrlServer, "http://127.0.0.1:9", &tokens().0, CallSettings::usual());
    let (teacher, log) = logged(opened);
    teacher.unwrap();
    assert!(log.contains("WARN") && log.contains("unchecked"), "{log}");
}
