//! The five rewards on a tiny world: what they pay for, what they do not, and what they never look at.
use newshound::{
    queries::QueryList,
    text::parse::parse,
    train::{
        events::{Reader, Scope, Split, World},
        rewards::{Aggregation, Judge, Rewards, hit::Hits, view::View, wishes::wishes},
    },
    world::{self, Size, WorldSettings},
};
use std::{
    collections::BTreeSet,
    sync::{LazyLock, OnceLock},
};

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    world::generate(&WorldSettings::of(Size::Tiny, 5), dir.path(), &mut |_, _| ()).unwrap();
    World::read(dir.path(), Scope::Evaluation).unwrap()
});

fn judge() -> &'static Judge<'static> {
    static JUDGE: OnceLock<Judge<'static>> = OnceLock::new();
    JUDGE.get_or_init(|| Judge::of(&WORLD, WORLD.training_readers(), WORLD.cutoff_unix_s).unwrap())
}

/// Test readers with a list of the judge's own.
fn readers() -> Vec<(&'static Reader, View, QueryList)> {
    let test = WORLD.readers.iter().filter(|reader| reader.split == Split::Test);
    let with_list = test.filter_map(|reader| {
        let view = judge().view(reader);
        let list = wishes(&view.interests, &judge().meaning)?;
        Some((reader, view, list))
    });
    with_list.collect()
}

fn rewards(text: &str, view: &View) -> Rewards {
    judge().rewards(parse(text).ok().as_ref(), view).unwrap()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn every_reward_is_a_share_and_a_text_that_is_no_list_gets_none() {
    for (_, view, list) in readers() {
        let rewards = judge().rewards(Some(&list), &view).unwrap();
        assert!(rewards.parts().iter().all(|part| (0.0..=1.0).contains(part)), "{rewards:?}");
        for (aggregation, _) in Aggregation::ALL {
            assert!((0.0..=1.0).contains(&rewards.composite(aggregation)), "{rewards:?}");
        }
    }
    let (_, view, _) = &readers()[0];
    assert_eq!(rewards("only one query", view), Rewards::default());
}

#[test]
fn a_list_covers_its_own_reader_more_than_the_next() {
    let all = readers();
    assert!(all.len() > 40, "{}", all.len());
    let coverage = |list: &QueryList, view: &View| judge().rewards(Some(list), view).unwrap().coverage;
    let own = mean(all.iter().map(|(_, view, list)| coverage(list, view)));
    let next = mean((0..all.len()).map(|idx| coverage(&all[idx].2, &all[(idx + 1) % all.len()].1)));
    assert!(own > 0.6 && own > next + 0.3, "{own} {next}");
}

#[test]
fn words_that_nobody_prints_are_aligned_with_nothing_and_tell_nothing() {
    let all = readers();
    let junk = rewards("qqzzx wwyyk\nzzkkw xxqqj\njjwwq kkzzy", &all[0].1);
    assert_eq!((junk.alignment, junk.coverage, junk.specificity, junk.diversity), (0.0, 0.0, 0.0, 0.0));
    let good: Vec<Rewards> =
        all.iter().map(|(_, view, list)| judge().rewards(Some(list), view).unwrap()).collect();
    let (aligned, told) = (mean(good.iter().map(|r| r.alignment)), mean(good.iter().map(|r| r.specificity)));
    assert!(aligned > 0.15 && told > 0.1, "{aligned} {told}");
}

#[test]
fn paraphrases_are_less_diverse_than_subjects_and_copies_break_the_form() {
    let all = readers();
    let (_, view, list) = all.iter().find(|(_, view, _)| view.interests.clusters.len() > 2).unwrap();
    let first = list.as_slice()[0].as_str();
    let mut words: Vec<&str> = first.split(' ').collect();
    let mut turned = || {
        words.rotate_left(1);
        words.join(" ")
    };
    let paraphrases = rewards(&[turned(), turned(), turned()].join("\n"), view);
    let subjects = judge().rewards(Some(list), view).unwrap();
    assert!(paraphrases.diversity < 0.05 && subjects.diversity > 0.3, "{paraphrases:?} {subjects:?}");
    assert!(paraphrases.structure < 0.5 && subjects.structure == 1.0, "{paraphrases:?} {subjects:?}");
}

#[test]
fn words_of_every_title_tell_less_than_names() {
    let (_, view, list) = &readers()[0];
    let empty = rewards("today after talks\nnew record deal\nreport before vote", view);
    let names = judge().rewards(Some(list), view).unwrap();
    assert!(empty.specificity < names.specificity / 2.0, "{empty:?} {names:?}");
}

#[test]
fn held_out_clicks_change_no_reward() {
    let mut blind = WORLD.clone();
    blind.readers.iter_mut().for_each(|reader| reader.held_out.clear());
    let blind_judge = Judge::of(&blind, blind.training_readers(), blind.cutoff_unix_s).unwrap();
    for (reader, view, list) in readers().into_iter().take(10) {
        let blind_reader = blind.readers.iter().find(|other| other.key == reader.key).unwrap();
        let blind_view = blind_judge.view(blind_reader);
        assert_eq!(blind_view.interests, view.interests);
        let seen = judge().rewards(Some(&list), &view).unwrap();
        assert_eq!(blind_judge.rewards(Some(&list), &blind_view).unwrap(), seen);
    }
}

#[test]
fn no_word_stands_twice_in_the_judges_own_list() {
    for (reader, _, list) in readers() {
        let words: Vec<&str> = list.as_slice().iter().flat_map(|query| query.as_str().split(' ')).collect();
        assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len(), "{} {words:?}", reader.key);
    }
}

#[test]
fn a_query_hits_what_a_training_reader_clicked_within_a_day_and_nobody_else_is_looked_at() {
    let hits = Hits::of(&WORLD).unwrap();
    let clicks = WORLD.training_readers().flat_map(|reader| {
        let clicks = reader.clicks_between(i64::MIN, WORLD.cutoff_unix_s);
        clicks.map(move |click| (reader, &WORLD.articles[click.article_idx.unwrap()], click.time_unix_s - 1))
    });
    let (reader, article, before) = { clicks }.find(|(_, article, at)| article.is_alive_at(*at)).unwrap();
    let words: Vec<&str> = article.title.split_whitespace().take(6).collect();
    let list = parse(&format!("zzxq vvkj\n{}\nqqzz xxjv", words.join(" "))).unwrap();
    let clicked = hits.clicked(reader, before).unwrap();
    assert_eq!(hits.of_queries(&list, &clicked).unwrap(), [0.0, 1.0, 0.0]);
    // All her clicks are older than that, or she may not be learned from.
    assert!(hits.clicked(reader, WORLD.cutoff_unix_s).is_none());
    let valid = Reader { split: Split::Valid, ..reader.clone() };
    assert!(hits.clicked(&valid, before).is_none());
}
