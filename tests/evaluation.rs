//! `eval`: which readers it asks, what it counts, and what its table shows.
use candle_core::Device;
use newshound::{
    model::{ops::Numerics, transformer::Transformer, weights::Parameters},
    train::{
        evaluate::{self, EvaluateSettings, Evaluation},
        events::{Scope, Split, World},
        rollout::Sampled,
        settings::StudentShape,
        tokenizer,
    },
    world::{self, Size, WorldSettings},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

const N_USERS: usize = 6;
const N_LISTS: usize = 2;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo")
}

/// A small world of other words than those of the demo's student.
fn world_at() -> &'static Path {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        world::generate(&WorldSettings { size: Size::Tiny, seed: 9 }, dir.path(), &mut |_, _| ()).unwrap();
        dir
    });
    dir.path()
}

fn evaluated(split: Split, n_users: usize) -> Evaluation {
    let settings = EvaluateSettings { split, n_users, n_lists: N_LISTS, seed: 1 };
    evaluate::run(world_at(), &demo(), settings).unwrap()
}

#[test]
fn an_evaluation_has_every_way_to_serve_once_and_is_the_same_twice() {
    let got = evaluated(Split::Valid, N_USERS);
    assert_eq!((got.n_users, got.n_lists, got.split), (N_USERS, N_LISTS, Split::Valid));
    let mut names: Vec<&str> = got.rows.iter().map(|row| row.name.as_str()).collect();
    let text = got.markdown();
    for name in ["popularity", "copy", "N=1", "log-probability", "consensus", "by head", "upper bound"] {
        assert!(names.iter().any(|row| row.contains(name)), "{name} is missing in {names:?}");
        assert!(text.contains(name), "{name} is missing in\n{text}");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), got.rows.len());
    let upper = got.rows.last().unwrap().recall.mean;
    let of_student = got.rows.iter().filter(|row| row.name.starts_with("student"));
    assert!(of_student.clone().count() >= 6);
    assert!(of_student.clone().all(|row| row.recall.mean <= upper));
    let n_invalid: usize = got.invalid.values().sum();
    let expected = 1.0 - n_invalid as f64 / (N_USERS * N_LISTS) as f64;
    assert!((got.validity.mean - expected).abs() < 1e-9, "{:?} {:?}", got.validity, got.invalid);
    let json = |evaluation: &Evaluation| serde_json::to_string(evaluation).unwrap();
    assert_eq!(json(&got), json(&evaluated(Split::Valid, N_USERS)));
}

#[test]
fn readers_of_the_split_with_held_out_clicks_are_asked_and_no_others() {
    let world = World::read(world_at(), Scope::Evaluation).unwrap();
    let n_able = world
        .readers
        .iter()
        .filter(|reader| reader.split == Split::Valid && !reader.held_out.is_empty())
        .count();
    assert!(n_able > N_USERS && n_able < 40);
    let got = evaluated(Split::Valid, 1000);
    assert_eq!(got.n_users, n_able);
    // Copying finds something in a world whose readers also name what they want; the demo's student knows none of its words.
    assert!(got.rows.iter().any(|row| row.name.starts_with("copy") && row.recall.mean > 0.0));
}

#[test]
fn a_list_that_is_cut_off_by_its_length_is_no_list() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::read(world_at(), Scope::Training).unwrap();
    tokenizer::run(&world, 512, dir.path()).unwrap();
    let (tokens, _) = tokenizer::read(dir.path()).unwrap();
    let shape = StudentShape {
        hidden_size: 16,
        intermediate_size: 16,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        max_positions: 512,
    };
    let config = shape.config(tokens.n_tokens(), tokens.im_end());
    let mut parameters = Parameters::fresh(3, &Device::Cpu);
    let model = Arc::new(Transformer::load(&config, &mut parameters, Numerics::Serve).unwrap());
    let prompt = vec![tokens.im_start(), 5, 6];
    let samples = Sampled { model, tokens }.lists(&[prompt], 8, 1, &|| ()).unwrap();
    let reasons: Vec<&str> = samples[0].iter().map(|sample| *sample.as_ref().err().unwrap()).collect();
    assert_eq!(reasons.len(), 8);
    assert!(reasons.contains(&"unfinished"), "{reasons:?}");
}
