//! `serve-reward`: our composite over OpenRLHF's wire, and the Python that puts it behind trl and verl.
use crate::support::stages::{FINE_TUNED, STAGES};
use newshound::{
    text::parse,
    train::{
        rewards::{Rewards, composite::Composite},
        serve_reward,
        settings::{
            TeacherSettings,
            rewards::{RewardSettings, RewardWeights},
        },
        teacher::{self, Asks},
    },
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::mpsc,
};
use tokio::sync::oneshot;

const LIST: &str = "rain jacket reviews\ncoast hiking routes\nweekend storm warning";

fn settings() -> TeacherSettings {
    let weights = RewardWeights { hit: 0.5, ..RewardWeights::usual() };
    let rewards = RewardSettings { weights, rubric: String::new() };
    TeacherSettings { prompt_tokens: 96, cuts_per_reader: 1, rewards, ..TeacherSettings::demo() }
}

/// Calls `with` with the address of the service while it runs.
fn served(with: impl FnOnce(SocketAddr)) {
    let (address, heard) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let service = scope.spawn(move || {
            let askers = teacher::prompts(&STAGES.watched, &FINE_TUNED, &settings()).unwrap().askers;
            let judge = teacher::judge(&STAGES.watched).unwrap();
            let until = async {
                // Dropped by a test that fails, which is the end too.
                let _ = stopped.await;
            };
            let any = "127.0.0.1:0".parse().unwrap();
            let composite = Composite::of(&STAGES.watched, &judge, &settings().rewards).unwrap();
            serve_reward::run(&composite, &askers, any, until, |addr| address.send(addr).unwrap()).unwrap();
        });
        with(heard.recv().unwrap());
        drop(stop);
        service.join().unwrap();
    });
}

fn ask(addr: SocketAddr, body: &Value) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut response = agent.post(format!("http://{addr}/get_reward")).send_json(body).unwrap();
    (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
}

#[test]
fn lists_are_worth_over_http_what_the_judge_says() {
    let Asks { prompts, askers, tokens } =
        teacher::prompts(&STAGES.watched, &FINE_TUNED, &settings()).unwrap();
    let judge = teacher::judge(&STAGES.watched).unwrap();
    let composite = Composite::of(&STAGES.watched, &judge, &settings().rewards).unwrap();
    let prompt = tokens.decode(&prompts[1]);
    let labels = [askers[0].label(), askers[1].label(), askers[0].label()];
    served(|addr| {
        let body = json!({
            "query": [LIST, format!("{prompt}{LIST}<|im_end|>"), "one line only"],
            "prompts": [prompt, prompt, ""],
            "labels": labels,
        });
        let (status, text) = ask(addr, &body);
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let list = parse::parse(LIST).unwrap();
        for (idx, list) in [Some(&list), Some(&list), None].into_iter().enumerate() {
            let asker = &askers[[0, 1, 0][idx]];
            let (rewards, further, composite) = composite.rewards(list, asker).unwrap();
            let close = |got: &Value, expected: f64| assert!((got.as_f64().unwrap() - expected).abs() < 1e-9);
            close(&answer["rewards"][idx], composite);
            close(&answer["scores"][idx], composite);
            for (name, part) in Rewards::NAMES.iter().zip(rewards.parts()) {
                close(&answer["extra_logs"][name][idx], part);
            }
            assert_eq!(answer["extra_logs"]["hit"][idx].as_f64(), further[0]);
        }
        let refused = |body: Value, said: &str| {
            let (status, text) = ask(addr, &body);
            assert!(status == 400 && text.contains(said), "{status}: {text}");
        };
        refused(json!({"query": [LIST], "prompts": [], "labels": ["nobody@0"]}), "nobody@0");
        let other = format!("other {prompt}{LIST}");
        refused(json!({"query": [other], "prompts": [prompt], "labels": [labels[1]]}), "its prompt");
        refused(
            json!({"query": [LIST], "prompts": [], "labels": []}),
            "1 queries came with 0 prompts and 0 labels",
        );
        assert!(ask(addr, &json!({"query": LIST})).0 >= 400);
    });
}

/// Where there is no Python the wire is still tested above.
#[test]
fn the_python_client_gives_trl_and_verl_the_same_rewards() {
    let has_python =
        Command::new("python3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_python.is_ok_and(|status| status.success()) {
        return;
    }
    let askers = teacher::prompts(&STAGES.watched, &FINE_TUNED, &settings()).unwrap().askers;
    served(|addr| {
        let script = "import json, sys, reward_client as c\n\
            text, label = sys.argv[1:]\n\
            trl = c.reward_func(completions=[text, [{'role': 'assistant', 'content': text}]], label=[label, label])\n\
            verl = c.compute_score('newshound', text, label)\n\
            try: c.reward_func(completions=[text], label=['nobody'])\n\
            except RuntimeError as error: refused = str(error)\n\
            print(json.dumps([trl, verl, refused]))";
        let output = Command::new("python3")
            .args(["-c", script, LIST, &askers[0].label()])
            .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/rewards"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("NEWSHOUND_REWARD_URL", format!("http://{addr}/get_reward"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let got: Value = serde_json::from_slice(&output.stdout).unwrap();
        let body = json!({"query": [LIST], "prompts": [], "labels": [askers[0].label()]});
        let answer: Value = serde_json::from_str(&ask(addr, &body).1).unwrap();
        let reward = &answer["rewards"][0];
        assert_eq!((&got[0][0], &got[0][1], &got[1]["score"]), (reward, reward, reward));
        assert_eq!(got[1]["coverage"], answer["extra_logs"]["coverage"][0]);
        assert!(got[2].as_str().unwrap().contains("nobody"));
    });
}
