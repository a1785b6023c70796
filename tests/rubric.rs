//! Lists made worse, and the rubric that learns to tell them from whole ones.
use crate::{
    support::stages::STAGES,
    teacher::{lines, optional, start},
};
use candle_core::Device;
use newshound::{
    queries::QueryList,
    text::parse::parse,
    train::{
        corrupted::{Between, Corrupter, Corruption},
        rewards::{
            Judge,
            rubric::{Look, RULES, Rubric, rules},
            view::View,
            wishes::wishes,
        },
        rubric,
        settings::{
            RubricSettings, TeacherSettings,
            rewards::{RewardSettings, RewardWeights},
        },
        teacher,
    },
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{LazyLock, OnceLock},
};

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

/// Where the stage has written a rubric.
static RUBRIC: LazyLock<PathBuf> = LazyLock::new(|| {
    let out = DIR.path().join("rubric.safetensors");
    run(&out);
    out
});

fn run(out: &Path) -> rubric::RubricReport {
    let settings = RubricSettings { prompt_tokens: 96, cuts_per_reader: 4, ..RubricSettings::demo() };
    rubric::run(&STAGES.training, &STAGES.tokenizer, &settings, out).unwrap()
}

fn judge() -> &'static Judge<'static> {
    static JUDGE: OnceLock<Judge<'static>> = OnceLock::new();
    let world = &STAGES.training;
    JUDGE.get_or_init(|| Judge::of(world, world.training_readers(), world.cutoff_unix_s).unwrap())
}

/// Training readers as the judge sees them, with its lists for them.
fn readers() -> Vec<(View, QueryList)> {
    let view = |reader| judge().view(reader);
    let list = |view: View| wishes(&view.interests, &judge().meaning).map(|list| (view, list));
    STAGES.training.training_readers().map(view).filter_map(list).collect()
}

fn kept(list: &QueryList, view: &View) -> [bool; RULES.len()] {
    let asked = judge().all_asked(list).unwrap();
    rules(judge(), Look { list, asked: &asked, view })
}

#[test]
fn each_corruption_makes_what_it_says_worse() {
    let corrupter = Corrupter::of(&STAGES.training, &judge().meaning);
    let all = readers();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for how in Corruption::ALL {
        let (mut before, mut after, mut n) = (0.0, 0.0, 0);
        for (idx, (view, list)) in all.iter().enumerate() {
            let other = &all[(idx + all.len() / 2) % all.len()].1;
            let between = Between { interests: &view.interests, other: Some(other) };
            let Some(worse) = corrupter.corrupted(list, how, between, &mut rng) else { continue };
            assert_ne!(&worse, list);
            let of = |list: &QueryList| {
                let rewards = judge().rewards(Some(list), view).unwrap();
                // Two queries of the same words cover no less, where each interest has two.
                if how == Corruption::Repeated { rewards.structure } else { rewards.coverage }
            };
            (before, after, n) = (before + of(list), after + of(&worse), n + 1);
        }
        assert!(n > 20, "{n} lists were {}", how.name());
        assert!(after < 0.95 * before, "{}: {before} became {after}", how.name());
    }
}

#[test]
fn whole_lists_keep_rules_that_broken_ones_break() {
    let all = readers();
    let share = |rule: &str| {
        let place = RULES.iter().position(|name| *name == rule).unwrap();
        let n_kept = all.iter().filter(|(view, list)| kept(list, view)[place]).count();
        n_kept as f64 / all.len() as f64
    };
    for rule in ["telling", "distinct", "form"] {
        assert!(share(rule) > 0.9, "{rule}: {}", share(rule));
    }
    let (view, list) = &all[0];
    let queries: Vec<&str> = list.as_slice().iter().map(|query| query.as_str()).collect();
    let with = |query: &str| {
        let queries: Vec<&str> = queries[..2].iter().copied().chain([query]).collect();
        kept(&parse(&queries.join("\n")).unwrap(), view)
    };
    let junk = with("qqzzx wwyyk");
    assert!(!junk[1] && !junk[2] && !junk[4], "it is about nothing, finds nothing and tells nothing");
    let mut words: Vec<&str> = queries[0].split(' ').collect();
    words.rotate_left(1);
    let again = with(&words.join(" "));
    assert!(!again[3] && !again[5], "the same words ask for the same");
}

#[test]
fn each_rule_is_kept_by_some_lists_and_broken_by_others() {
    let corrupter = Corrupter::of(&STAGES.training, &judge().meaning);
    let all = readers();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (mut n_kept, mut n_lists) = ([0; RULES.len()], 0);
    for (view, list) in &all {
        let between = Between { interests: &view.interests, other: Some(&all[0].1) };
        let worse = Corruption::ALL.map(|how| corrupter.corrupted(list, how, between, &mut rng));
        for list in worse.iter().flatten().chain([list]) {
            n_kept.iter_mut().zip(kept(list, view)).for_each(|(n, kept)| *n += usize::from(kept));
            n_lists += 1;
        }
    }
    for (rule, n_kept) in RULES.iter().zip(n_kept) {
        assert!((n_lists / 20..19 * n_lists / 20).contains(&n_kept), "{rule}: {n_kept} of {n_lists}");
    }
    // Of one list: without what is asked about her heaviest interest, that one is not met.
    let met = all.iter().filter(|(view, list)| kept(list, view)[0] && list.as_slice().len() > 3);
    let without = met.filter_map(|(view, list)| {
        let centre = &view.interests.clusters[0].0;
        let far = list.as_slice().iter().map(|query| query.as_str()).filter(|query| {
            judge()
                .meaning
                .text(query)
                .is_none_or(|unit| unit.cosine(centre) < newshound::lexicon::asked::MET)
        });
        Some(kept(&parse(&far.collect::<Vec<_>>().join("\n")).ok()?, view)[0])
    });
    let without: Vec<bool> = without.collect();
    assert!(without.len() > 3 && !without.contains(&true), "{without:?}");
}

#[test]
fn a_rubric_tells_whole_lists_from_corrupted_ones() {
    let beside = RUBRIC.with_extension("json");
    let report = run(&RUBRIC);
    let marked = rubric::RubricReport { n_lists: 1, ..report.clone() };
    fs::write(&beside, serde_json::to_vec(&marked).unwrap()).unwrap();
    assert_eq!(run(&RUBRIC).n_lists, 1, "it stands there and is not fitted again");
    fs::write(&beside, serde_json::to_vec(&report).unwrap()).unwrap();
    for how in Corruption::ALL {
        let told = report.corruptions[how.name()];
        assert!(told.readers > 5 && told.seen > 0.6, "{}: {told:?}", how.name());
    }
    assert!(report.rules["telling"][0] > report.rules["telling"][2], "{:?}", report.rules);
    let rubric = Rubric::open(&RUBRIC).unwrap();
    let all = readers();
    let reward = |list: &QueryList, view: &View| {
        let asked = judge().all_asked(list).unwrap();
        rubric.reward(judge(), Look { list, asked: &asked, view }).unwrap()
    };
    let sum = |shift: usize| -> f64 {
        let of = |idx: usize| reward(&all[(idx + shift) % all.len()].1, &all[idx].0);
        (0..all.len()).map(of).inspect(|reward| assert!((0.0..=1.0).contains(reward))).sum()
    };
    assert!(sum(0) > 1.2 * sum(all.len() / 2), "own lists are worth more than others'");
    assert!(Rubric::open(&DIR.path().join("none.safetensors")).is_err());
}

#[test]
fn a_rubric_is_a_reward_where_it_counts_and_another_file_is_another_run() {
    let of = |file: &Path| {
        let weights = RewardWeights { rubric: 0.3, ..RewardWeights::usual() };
        let rewards = RewardSettings { weights, rubric: file.display().to_string() };
        TeacherSettings { rewards, ..optional(1) }
    };
    let (out, file) = (DIR.path().join("teacher"), DIR.path().join("copy.safetensors"));
    for end in ["safetensors", "json"] {
        fs::copy(RUBRIC.with_extension(end), file.with_extension(end)).unwrap();
    }
    let run = || teacher::run(&STAGES.watched, start(), &of(&file), &out, &Device::Cpu);
    run().unwrap();
    run().unwrap();
    let line = &lines(&out)[0];
    let figure = |name: &str| line[format!("rewards/rubric/{name}")].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&figure("mean")) && figure("std") > 0.0 && figure("seconds") > 0.0);
    assert_eq!(figure("missing_ratio"), 0.0);
    let sample = fs::read_to_string(out.join("samples.jsonl")).unwrap();
    assert!(sample.contains("\"rubric\""), "{sample}");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = run().unwrap_err().to_string();
    assert!(error.contains("other settings"), "it stands there by another rubric: {error}");
}
