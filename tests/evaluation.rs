//! `eval`: which readers it asks, what it counts, and what its table shows.
use candle_core::Device;
use newshound::{
    model::{ops::Numerics, precision::Precision, transformer::Transformer, weights::Parameters},
    signals::Stream,
    train::{
        baselines::{self, roles::NamedBundle},
        evaluate::{self, EvaluateSettings, Inputs, table::Evaluation, trec},
        events::{Scope, Split, World},
        ranking::{Grades, recall},
        rollout::Sampled,
        settings::NetworkShape,
        tokenizer,
    },
    world::{self, Size, WorldSettings},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

const N_USERS: usize = 6;
const N_LISTS: usize = 2;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo")
}

fn inputs(trec: Option<&Path>) -> Inputs<'_> {
    static DEMO: OnceLock<PathBuf> = OnceLock::new();
    Inputs {
        world: world_at(),
        bundle: DEMO.get_or_init(demo),
        embedder: None,
        device: &Device::Cpu,
        precision: Precision::F32,
        trec,
    }
}

/// A small world of other words than those of the demo's student.
fn world_at() -> &'static Path {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        world::generate(&WorldSettings::of(Size::Tiny, 9), dir.path(), &mut |_, _| ()).unwrap();
        dir
    });
    dir.path()
}

fn evaluated(split: Split, n_users: usize) -> Evaluation {
    let settings = EvaluateSettings { split, n_users, n_lists: N_LISTS, seed: 1, n_seeds: 1, stream: None };
    evaluate::run(inputs(None), settings).unwrap()
}

/// Rows of a file of TREC: words between spaces.
fn words(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

#[test]
fn files_in_the_formats_of_trec_hold_what_the_table_says() {
    let dir = tempfile::tempdir().unwrap();
    let settings = EvaluateSettings {
        split: Split::Valid,
        n_users: N_USERS,
        n_lists: N_LISTS,
        seed: 1,
        n_seeds: 1,
        stream: None,
    };
    let got = evaluate::run(inputs(Some(dir.path())), settings).unwrap();
    let mut clicked: BTreeMap<String, Grades<String>> = BTreeMap::new();
    for row in words(&dir.path().join("qrels.txt")) {
        clicked.entry(row[0].clone()).or_default().insert(row[2].clone(), row[3].parse().unwrap());
    }
    assert_eq!(clicked.len(), N_USERS);
    for (file, way) in [("popularity.run", "popularity"), ("copy.run", "copy")] {
        let mut shown: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in words(&dir.path().join(file)) {
            let ranking = shown.entry(row[0].clone()).or_default();
            ranking.push(row[2].clone());
            assert_eq!(row[3], ranking.len().to_string());
        }
        let found = |(user, clicked): (&String, &Grades<String>)| {
            shown.get(user).map_or(0.0, |ranking| recall(ranking, clicked, 10))
        };
        let mean = clicked.iter().map(found).sum::<f64>() / N_USERS as f64;
        let row = got.rows.iter().find(|row| row.name.starts_with(way)).unwrap();
        assert!((row.recall.mean - mean).abs() < 1e-9, "{way}: {mean}, {:?}", row.recall);
    }
    assert!(!dir.path().join("random.run").exists());
    // What is written is read back and measured as it was.
    let table = trec::measure(&dir.path().join("qrels.txt"), &dir.path().join("copy.run")).unwrap();
    let copy = got.rows.iter().find(|row| row.name.starts_with("copy")).unwrap();
    for (measure, figure) in &copy.measures {
        let line = table.lines().find(|line| line.contains(&format!(" {measure} "))).unwrap();
        assert!(line.contains(&format!("| {:.4} |", figure.mean)), "{line} {figure:?}");
    }
}

#[test]
fn a_file_that_is_not_of_trec_is_refused_by_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let (qrels, run) = (dir.path().join("qrels.txt"), dir.path().join("a.run"));
    let measured = |clicks: &str, ranking: &str| {
        std::fs::write(&qrels, clicks).unwrap();
        std::fs::write(&run, ranking).unwrap();
        trec::measure(&qrels, &run).map_err(|error| newshound::telemetry::Chain(&error).to_string())
    };
    assert!(measured("u 0 a 1\n", "u Q0 b 1 0.5 x\nu Q0 a 2 0.7 x\n").unwrap().contains("| MRR | 1.0000 |"));
    for (clicks, ranking, expected) in [
        ("u 0 a\n", "", "line 1"),
        ("u 0 a 1\n\nu 0 b high\n", "", "line 3"),
        ("u 0 a 1\n", "u Q0 a 1 best x\n", "score best is no number"),
        ("u 0 a 1\n", "u Q0 a 1 NaN x\n", "score NaN is no number"),
        ("u 0 a 1\n", "u Q0 a 1 2 x\nu Q0 a 2 1 x\n", "stands twice"),
        ("\n", "", "holds no click"),
    ] {
        let error = measured(clicks, ranking).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn popularity_shows_everybody_the_same_and_copying_does_not() {
    let got = evaluated(Split::Valid, N_USERS);
    let trait_of = |way: &str, name: &str| {
        let row = got.traits.iter().find(|row| row.name.starts_with(way)).unwrap();
        row.traits.get(name).map(|estimate| estimate.mean)
    };
    assert_eq!(trait_of("popularity", "overlap"), Some(1.0));
    assert_eq!((trait_of("popularity", "no supply"), trait_of("popularity", "distance")), (None, None));
    assert_eq!(trait_of("popularity", "exclusive recall@10"), Some(0.0), "it is what is excluded");
    assert!(trait_of("copy", "overlap").unwrap() < 0.5);
    assert!(trait_of("copy", "no supply").unwrap() > 0.0, "off-news words find nothing");
    let judged = trait_of("list of the rewards' judge", "own part").unwrap();
    assert!(judged > trait_of("popularity", "own part").unwrap(), "{judged}");
    assert!(got.markdown().contains("| means, first seed | story recall@10 |"));
}

#[test]
fn one_stream_alone_leaves_out_readers_without_it_and_is_named() {
    let ask = |stream| {
        let (split, n_users) = (Split::Valid, 40);
        let settings = EvaluateSettings { split, n_users, n_lists: 1, seed: 1, n_seeds: 1, stream };
        evaluate::run(inputs(None), settings).unwrap()
    };
    let (all, clicks, pages) = (ask(None), ask(Some(Stream::Click)), ask(Some(Stream::Page)));
    assert!(
        clicks.n_users < all.n_users && pages.n_users <= all.n_users,
        "{} {}",
        clicks.n_users,
        all.n_users
    );
    let recall = |of: &Evaluation, name: &str| {
        of.rows.iter().find(|row| row.name.starts_with(name)).map(|row| row.recall.mean).unwrap()
    };
    // A vector of pages has no word of the news to go by, one of clicks has nothing else.
    assert!(recall(&pages, "mean vector") < recall(&clicks, "mean vector"));
    assert!(pages.markdown().contains("stream `page`") && !all.markdown().contains("stream `"));
}

#[test]
fn vectors_of_another_embedder_change_the_mean_vector_and_no_list() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/goldens/models/bert-embedder");
    let settings =
        EvaluateSettings { split: Split::Valid, n_users: 40, n_lists: 1, seed: 1, n_seeds: 1, stream: None };
    let own = evaluate::run(inputs(None), settings).unwrap();
    let other = evaluate::run(Inputs { embedder: Some(&folder), ..inputs(None) }, settings).unwrap();
    for (own, other) in own.rows.iter().zip(&other.rows) {
        let is_vector = own.name.starts_with("mean vector");
        assert_eq!(own.recall.mean == other.recall.mean, !is_vector, "{}", own.name);
    }
}

#[test]
fn several_seeds_sample_anew_and_the_table_shows_each() {
    let settings = EvaluateSettings {
        split: Split::Valid,
        n_users: N_USERS,
        n_lists: N_LISTS,
        seed: 1,
        n_seeds: 2,
        stream: None,
    };
    let got = evaluate::run(inputs(None), settings).unwrap();
    for (name, means) in &got.seeds {
        let row = got.rows.iter().find(|row| row.name == *name).unwrap();
        assert_eq!(means.len(), 2);
        assert!((means.iter().sum::<f64>() / 2.0 - row.recall.mean).abs() < 1e-9, "{name}");
    }
    assert_eq!(got.seeds.len(), got.rows.len());
    let page = got.html().unwrap();
    assert_eq!(page.matches("<svg").count(), 2);
    assert!(page.contains("<th>seed 2</th>") && page.contains("best of N=2 by consensus"));
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
    assert!(of_student.clone().count() >= 6 && names.len() >= 10);
    assert!(of_student.clone().all(|row| row.recall.mean <= upper));
    for row in got.rows.iter().chain(&got.differences) {
        assert_eq!(row.measures.len(), 7, "{}", row.name);
        assert_eq!(row.measures["Recall@10"], row.recall);
        let mean = |measure: &str| row.measures[measure].mean;
        let is_difference = row.name.contains(" - ");
        assert!(
            is_difference || mean("Recall@5") <= mean("Recall@10") && mean("Recall@10") <= mean("Recall@50")
        );
    }
    assert_eq!(got.tiers.iter().map(|row| row.n_users).sum::<usize>(), N_USERS);
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
    let shape = NetworkShape {
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

/// The table asked the head without what it reads of signals, and it chose worse than chance.
#[test]
fn a_bundle_finds_among_the_baselines_what_it_finds_alone() {
    // Some readers of the demo's own world, whose words its head knows.
    let dir = tempfile::tempdir().unwrap();
    let own = WorldSettings { n_readers: Some(150), ..WorldSettings::of(Size::Full, 7) };
    world::generate(&own, dir.path(), &mut |_, _| ()).unwrap();
    let settings =
        EvaluateSettings { split: Split::Test, n_users: 30, n_lists: 8, seed: 1, n_seeds: 1, stream: None };
    let evaluation = evaluate::run(Inputs { world: dir.path(), ..inputs(None) }, settings).unwrap();
    let among = baselines::table::Inputs {
        world: dir.path(),
        cleaner: None,
        bundles: &[NamedBundle { name: "student".to_owned(), folder: demo() }],
        device: &Device::Cpu,
        only: &["student".to_owned()],
        kept: None,
    };
    let table = baselines::table::run(among, settings).unwrap();
    for (in_table, alone) in [
        ("student, one list", "student, N=1"),
        ("student, best of 8 by reward head", "student, best of N=8 by head"),
        ("student, best of 8 by the rewards' judge", "student, best of N=8 by the rewards' judge"),
    ] {
        let row = table.rows.iter().find(|row| row.name == in_table).unwrap();
        let expected = evaluation.rows.iter().find(|row| row.name == alone).unwrap();
        let (got, expected) = (row.measures["Recall@10"].mean, expected.recall.mean);
        assert!((got - expected).abs() < 1e-9 && got > 0.0, "{in_table}: {got}, not {expected}");
    }
}
