//! Sequence models over articles: each learns a rule that can be learned, looks back only, and is the same for a seed.
use candle_core::{Device, Tensor};
use newshound::{
    cleaner::Verdict,
    model::weights::{Parameters, TensorSource},
    news::article::Article,
    signals::Stream,
    train::{
        baselines::{
            Recommender, SequenceModel, WIDTH,
            gru4rec::Gru4Rec,
            hstu::Hstu,
            nrhub::Nrhub,
            pinsage::CoClicks,
            report::{BaselineRow, BaselineTable},
            roles::NamedBundle,
            sasrec::SasRec,
            table::{self, Inputs},
            training::Trained,
        },
        evaluate::EvaluateSettings,
        events::{Event, Reader, Split, World},
        pack_bundle::{self, Parts, Provenance},
        statistics::Estimate,
    },
    world::{self, Size, WorldSettings},
};
use std::{collections::BTreeMap, path::Path};

const N_ARTICLES: usize = 12;
const CUTOFF: i64 = 1_000;

fn article(idx: usize) -> Article {
    Article {
        id: format!("a{idx}"),
        story_id: format!("s{idx}"),
        title: format!("title {idx}"),
        summary: String::new(),
        category: String::new(),
        language: "en".to_owned(),
        published_unix_s: 0,
        expires_unix_s: 2 * CUTOFF,
    }
}

/// A reader who clicks one article after the next, around the circle.
fn reader(start: usize, n_clicks: usize) -> Reader {
    let click = |nth: usize| Event {
        stream: Stream::Click,
        text: "title".to_owned(),
        time_unix_s: nth as i64,
        category: None,
        article_idx: Some((start + nth) % N_ARTICLES),
        verdict: Verdict::Keep,
    };
    Reader {
        key: format!("r{start}-{n_clicks}"),
        split: Split::Train,
        events: (0..n_clicks).map(click).collect(),
        held_out: vec![],
    }
}

/// Readers around the circle.
fn circle() -> World {
    World {
        name: "circle".to_owned(),
        digest: String::new(),
        seed: 0,
        cutoff_unix_s: CUTOFF,
        articles: (0..N_ARTICLES).map(article).collect(),
        readers: (0..600).map(|idx| reader(idx % N_ARTICLES, 3 + idx % 5)).collect(),
    }
}

fn check<M: SequenceModel>() {
    let world = circle();
    let candidates: Vec<usize> = (0..N_ARTICLES).collect();
    let trained = Trained::<M>::fit_passes(&world, 1, 30).unwrap();
    for start in 0..N_ARTICLES {
        let ranking = trained.ranking(&reader(start, 4), CUTOFF, &candidates).unwrap().unwrap();
        assert_eq!(ranking[0], (start + 4) % N_ARTICLES, "{} after {start}: {ranking:?}", M::NAME);
        assert_eq!(ranking.len(), N_ARTICLES);
    }
    assert!(trained.ranking(&reader(0, 0), CUTOFF, &candidates).unwrap().is_none());
    let ranked = |seed| {
        let trained = Trained::<M>::fit_passes(&world, seed, 1).unwrap();
        trained.ranking(&reader(2, 3), CUTOFF, &candidates).unwrap()
    };
    assert_eq!(ranked(5), ranked(5));

    let mut parameters = Parameters::fresh(3, &Device::Cpu);
    let articles = parameters.tensor("articles.weight", &[N_ARTICLES, WIDTH]).unwrap();
    let model = M::load(&articles, &mut parameters).unwrap();
    let clicks = Tensor::randn(0.0_f32, 1.0, (2, 6, WIDTH), &Device::Cpu).unwrap();
    let whole = model.hidden(&clicks).unwrap();
    assert_eq!(whole.dims(), [2, 6, WIDTH]);
    let prefix = model.hidden(&clicks.narrow(1, 0, 4).unwrap()).unwrap();
    let other = Tensor::cat(
        &[
            clicks.narrow(1, 0, 4).unwrap(),
            Tensor::ones((2, 2, WIDTH), clicks.dtype(), &Device::Cpu).unwrap(),
        ],
        1,
    )
    .unwrap();
    let before = |hidden: &Tensor| -> Vec<f32> {
        hidden.narrow(1, 0, 4).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    assert_eq!(before(&whole), before(&model.hidden(&other).unwrap()), "{} looks ahead", M::NAME);
    let close = before(&whole).iter().zip(before(&prefix)).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(close, "{} reads a prefix in another way than the whole", M::NAME);
}

#[test]
fn gru4rec_learns_what_follows_and_looks_back_only() {
    check::<Gru4Rec>();
}

#[test]
fn sasrec_learns_what_follows_and_looks_back_only() {
    check::<SasRec>();
}

#[test]
fn hstu_learns_what_follows_and_looks_back_only() {
    check::<Hstu>();
}

/// Readers of two clubs: each club clicks its half of the articles, and no article of the other.
fn clubs() -> World {
    let half = N_ARTICLES / 2;
    let mut world = circle();
    for (idx, reader) in world.readers.iter_mut().enumerate() {
        let club = idx % 2;
        for (nth, event) in reader.events.iter_mut().enumerate() {
            event.article_idx = Some(club * half + (idx / 2 + nth * nth) % half);
        }
    }
    world
}

#[test]
fn walks_stay_among_the_clicks_of_readers_alike() {
    let world = clubs();
    let candidates: Vec<usize> = (0..N_ARTICLES).collect();
    let walk = CoClicks::fit(&world, 1).unwrap();
    for reader in &world.readers[..8] {
        let ranking = walk.ranking(reader, CUTOFF, &candidates).unwrap().unwrap();
        let own_half = reader.events[0].article_idx.unwrap() / (N_ARTICLES / 2);
        assert!(
            ranking.len() > 1 && ranking.iter().all(|idx| idx / (N_ARTICLES / 2) == own_half),
            "{ranking:?}"
        );
        assert_eq!(
            Some(ranking),
            CoClicks::fit(&world, 1).unwrap().ranking(reader, CUTOFF, &candidates).unwrap()
        );
    }
    assert!(walk.ranking(&reader(0, 0), CUTOFF, &candidates).unwrap().is_none());
}

#[test]
fn nrhub_learns_what_a_search_means_and_reads_nothing_after_the_moment() {
    // Who types one word clicks titles with another.
    let pairs =
        ["kite wind", "stove soup", "chess king", "canoe river"].map(|pair| pair.split_once(' ').unwrap());
    let mut world = circle();
    for (idx, article) in world.articles.iter_mut().enumerate() {
        article.title = format!("{} story {idx}", pairs[idx % pairs.len()].1);
    }
    let searched = |word: &str, time_unix_s: i64| Event {
        stream: Stream::Search,
        text: format!("buy {word}"),
        time_unix_s,
        category: None,
        article_idx: None,
        verdict: Verdict::Keep,
    };
    world.readers = (0..400)
        .map(|idx| {
            let mut reader = reader(idx % N_ARTICLES, 1);
            let word = pairs[idx % N_ARTICLES % pairs.len()].0;
            reader.events[0].time_unix_s = 10;
            reader.events[0].text = format!("{} story", pairs[idx % N_ARTICLES % pairs.len()].1);
            reader.events.insert(0, searched(word, 5));
            reader
        })
        .collect();
    let candidates: Vec<usize> = (0..N_ARTICLES).collect();
    let trained = Nrhub::fit_passes(&world, 1, 20).unwrap();
    for (idx, (word, _)) in pairs.iter().enumerate() {
        let mut asker = reader(0, 0);
        asker.events = vec![searched(word, 5), searched(pairs[(idx + 1) % pairs.len()].0, 50)];
        let ranking = trained.ranking(&asker, 20, &candidates).unwrap().unwrap();
        let first: Vec<usize> = ranking[..3].iter().map(|found| found % pairs.len()).collect();
        assert_eq!(first, [idx; 3], "{word}: {ranking:?}");
    }
    assert!(trained.ranking(&reader(0, 0), CUTOFF, &candidates).unwrap().is_none());
    let once = |seed| Nrhub::fit_passes(&world, seed, 1).unwrap().ranking(&world.readers[0], 20, &candidates);
    assert_eq!(once(3).unwrap(), once(3).unwrap());
}

/// A tiny world, and what asks 30 of its test readers under two seeds.
fn tiny() -> (tempfile::TempDir, EvaluateSettings) {
    let dir = tempfile::tempdir().unwrap();
    world::generate(&WorldSettings::of(Size::Tiny, 2), &dir.path().join("world"), &mut |_, _| ()).unwrap();
    let settings =
        EvaluateSettings { split: Split::Test, n_users: 30, n_lists: 2, seed: 1, n_seeds: 2, stream: None };
    (dir, settings)
}

fn made(
    dir: &Path,
    settings: EvaluateSettings,
    only: &[&str],
) -> Result<BaselineTable, newshound::train::error::TrainError> {
    let only: Vec<String> = only.iter().map(|word| (*word).to_owned()).collect();
    let bundles = [NamedBundle { name: "demo's student".to_owned(), folder: "deploy/demo".into() }];
    let (world, kept) = (dir.join("world"), dir.join("kept"));
    let inputs = Inputs {
        world: &world,
        cleaner: None,
        bundles: &bundles,
        device: &Device::Cpu,
        only: &only,
        kept: Some(&kept),
    };
    table::run(inputs, settings)
}

#[test]
fn the_table_has_every_baseline_with_its_seeds() {
    let (dir, settings) = tiny();
    let got = made(dir.path(), settings, &[]).unwrap();
    let text = got.markdown();
    let drawn = [
        "PinSage",
        "GRU4Rec",
        "SASRec",
        "HSTU",
        "NRHUB",
        "student, one list",
        "student, best of 2 by reward head",
        "student, best of 2 by the rewards' judge",
        "chosen by",
    ];
    let known = ["popularity", "copy the last", "mean vector", "judge", "true interests"];
    for name in drawn.into_iter().chain(known) {
        let row = got.rows.iter().find(|row| row.name.contains(name)).unwrap();
        assert_eq!(
            (row.measures.len(), row.seeds.len()),
            (11, if drawn.contains(&name) { 2 } else { 1 }),
            "{name}"
        );
        assert_eq!(row.tiers.len(), got.tiers.iter().filter(|(_, n)| *n > 0).count(), "{name}");
        assert!(text.contains(name));
    }
    assert_eq!(got.rows.len(), 14);
    assert_eq!(got.tiers.iter().map(|(_, n)| n).sum::<usize>(), 30);
    let row = |name: &str| got.rows.iter().find(|row| row.name.contains(name)).unwrap();
    let recall = |name: &str| row(name).measures["Recall@10"].mean;
    assert!(recall("true interests") > recall("popularity"), "true interests find more than what is popular");
    assert!(recall("chosen by") >= recall("student, one list"), "clicks choose no worse than chance");
    let less = row("true interests").over_popularity.unwrap().mean;
    assert!((less - (recall("true interests") - recall("popularity"))).abs() < 1e-9);
    // A model of clicks knows nothing of who searched alone, and shows her what is popular; popularity reads nothing.
    let streams = |name: &str| row(name).streams.iter().map(|(_, found)| found.mean).collect::<Vec<_>>();
    assert_eq!(streams("popularity"), [recall("popularity"); 3]);
    assert_eq!(streams("SASRec")[..2], streams("popularity")[..2]);
    assert_eq!(streams("SASRec")[2], row("SASRec").seeds[0], "clicks are all that it reads");
    assert!(streams("true interests").is_empty());
    let page = got.html().unwrap();
    assert_eq!(page.matches("<svg").count(), 1);
    assert!(page.contains("<td>true interests as queries (oracle)</td>"), "{page}");
    assert_eq!(got.gates.len(), 3);
    for gate in &got.gates {
        assert!(text.contains(&format!("| {} |", gate.name)), "{text}");
    }
}

#[test]
fn rows_made_one_by_one_are_those_of_the_table_and_what_is_kept_is_not_made_again() {
    let (dir, settings) = tiny();
    let settings = EvaluateSettings { n_users: 8, ..settings };
    let words = ["popularity", "pinsage", "demo's student"];
    // JSON gives numbers back to their last bit but one.
    let is_same = |one: &BaselineRow, other: &BaselineRow| {
        let close = |(one, other): (&Estimate, &Estimate)| {
            (one.mean - other.mean).abs() + (one.low - other.low).abs() + (one.high - other.high).abs()
                < 1e-12
        };
        let streams = |row: &BaselineRow| row.streams.iter().map(|(_, found)| *found).collect::<Vec<_>>();
        one.name == other.name
            && one.measures.values().zip(other.measures.values()).all(close)
            && streams(one).iter().zip(&streams(other)).all(close)
    };
    let alone = made(dir.path(), settings, &["pinsage"]).unwrap();
    assert_eq!(alone.rows.len(), 1);
    let kept = |seed: u64| dir.path().join(format!("kept/pinsage.{seed}.json"));
    let by_one = std::fs::metadata(kept(1)).unwrap().modified().unwrap();
    let together = made(dir.path(), settings, &words).unwrap();
    assert_eq!(std::fs::metadata(kept(1)).unwrap().modified().unwrap(), by_one);
    assert!(is_same(&together.rows[1], &alone.rows[0]) && together.rows.len() == 6);
    // What lies there is taken, whatever it says.
    std::fs::copy(kept(1), kept(2)).unwrap();
    let again = made(dir.path(), settings, &words).unwrap();
    assert_eq!(again.rows[1].seeds[0], again.rows[1].seeds[1]);
    for idx in [0, 2, 3, 4, 5] {
        assert!(is_same(&again.rows[idx], &together.rows[idx]), "{:?}", again.rows[idx]);
    }
    // Of another world it says nothing, be it for one trace or one later click, nor of other readers.
    for (file, name) in [("events.jsonl", "text"), ("held_out.jsonl", "article_id")] {
        let path = dir.path().join("world").join(file);
        let before = std::fs::read_to_string(&path).unwrap();
        let mut rows: Vec<serde_json::Value> =
            before.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // What the platform's own policy showed is not read.
        let at = rows.iter().position(|row| row["policy"] != "logged").unwrap();
        rows[at][name] = rows.iter().find(|row| row[name] != rows[at][name]).unwrap()[name].clone();
        let after: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(&path, after).unwrap();
        let error = made(dir.path(), settings, &["pinsage"]).unwrap_err();
        assert!(error.to_string().contains("keep these in another folder"), "{file}: {error}");
        std::fs::write(&path, before).unwrap();
    }
    made(dir.path(), settings, &["pinsage"]).unwrap();
    let error = made(dir.path(), EvaluateSettings { n_users: 7, ..settings }, &["pinsage"]).unwrap_err();
    assert!(error.to_string().contains("keep these in another folder"), "{error}");
    let error = made(dir.path(), settings, &["hstu2"]).unwrap_err().to_string();
    assert!(error.contains("no row hstu2") && error.contains("interests"), "{error}");
}

/// Nothing could choose among more.
#[test]
fn of_a_bundle_without_a_head_one_list_is_sampled() {
    let (dir, settings) = tiny();
    let (demo, folder) = (Path::new("deploy/demo"), dir.path().join("headless"));
    let parts = Parts {
        model: demo.to_owned(),
        tokenizer: demo.to_owned(),
        head: None,
        cleaner: None,
        others: Vec::new(),
        figures: Vec::new(),
        bytes_max: None,
    };
    let provenance = Provenance {
        name: "headless".to_owned(),
        version: "1".to_owned(),
        prompt_tokens_max: 256,
        commands: Vec::new(),
        seeds: BTreeMap::new(),
        training: BTreeMap::new(),
    };
    pack_bundle::run(parts, provenance, &folder).unwrap();
    let inputs = Inputs {
        world: &dir.path().join("world"),
        cleaner: None,
        bundles: &[NamedBundle { name: "headless".to_owned(), folder }],
        device: &Device::Cpu,
        only: &["headless".to_owned()],
        kept: None,
    };
    let table = table::run(inputs, EvaluateSettings { n_users: 8, n_seeds: 1, ..settings }).unwrap();
    let names: Vec<&str> = table.rows.iter().map(|row| row.name.as_str()).collect();
    let expected = ["headless, one list", "headless, queries of one list chosen by held-out clicks (oracle)"];
    assert_eq!(names, expected);
}

#[test]
fn the_best_of_a_platform_is_judged_by_all_that_a_platform_has() {
    let (dir, settings) = tiny();
    let table = made(dir.path(), settings, &["popularity", "copy", "vector", "interests"]).unwrap();
    assert_eq!(table.rows.len(), 4);
    assert!(table.gates.is_empty(), "{:?}", table.gates);
}

#[test]
fn a_world_whose_readers_clicked_nothing_trains_no_sequence_model() {
    let mut world = circle();
    world.readers.iter_mut().for_each(|reader| reader.events.truncate(1));
    let error = Trained::<SasRec>::fit(&world, 1).unwrap_err();
    assert!(error.to_string().contains("two clicks"), "{error}");
}
