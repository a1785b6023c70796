//! What fine-tuning learns from.
use crate::support::stages::{STAGES, tokens};
use newshound::{
    cleaner::Verdict,
    signals::Stream,
    train::{
        events::{Event, Reader, Split, World},
        examples,
        expansion::Expansions,
        packing::Example,
        settings::{SftSettings, Targets},
    },
};
use std::sync::OnceLock;

#[test]
fn every_example_is_a_valid_list_after_a_prompt_within_the_budget() {
    let (tokens, _json) = tokens();
    for targets in [Targets::Judge, Targets::LaterClicks, Targets::Form] {
        let settings = SftSettings { prompt_tokens: 96, targets, subjects: 40, ..SftSettings::demo() };
        let made = examples::build(&STAGES.training, &tokens, &settings).unwrap();
        assert!(made.whole.len() > 50, "{}", made.whole.len());
        assert_eq!(made.singles.is_empty(), targets != Targets::Judge);
        let n_notes = made.whole.iter().map(|example| example.notes.len()).sum::<usize>();
        assert!(
            if targets == Targets::Judge { n_notes > made.whole.len() } else { n_notes == 0 },
            "{n_notes}"
        );
        for example in made.singles.iter().chain(&made.whole) {
            assert!(example.prompt.len() <= 96 && example.completion.last() == Some(&tokens.im_end()));
            // Notes stand where a signal ends, and say one token of a word of the news.
            for &(place, id) in &example.notes {
                assert!(
                    tokens.decode(&example.prompt[..=place]).ends_with('\n')
                        && !tokens.decode(&[id]).is_empty()
                );
            }
            assert!(newshound::text::parse::parse(&tokens.decode(&example.completion)).is_ok());
        }
    }
}

#[test]
fn the_form_is_learned_from_the_lists_of_others() {
    let (tokens, _json) = tokens();
    let made = |targets| {
        let settings = SftSettings { prompt_tokens: 96, targets, ..SftSettings::demo() };
        examples::build(&STAGES.training, &tokens, &settings).unwrap().whole
    };
    let (own, form) = (made(Targets::LaterClicks), made(Targets::Form));
    assert!(own.iter().map(|example| &example.prompt).eq(form.iter().map(|example| &example.prompt)));
    let lists = |of: &[Example]| {
        let mut lists: Vec<Vec<u32>> = of.iter().map(|example| example.completion.clone()).collect();
        lists.sort_unstable();
        lists
    };
    assert_eq!(lists(&own), lists(&form));
    let n_alike = own.iter().zip(&form).filter(|(own, form)| own.completion == form.completion).count();
    assert!(n_alike * 20 < own.len(), "{n_alike} of {}", own.len());
}

#[test]
fn single_signals_are_as_many_as_asked_for_and_their_prompts_hold_one_line() {
    let (tokens, _json) = tokens();
    let n_singles = |singles_per_reader: usize| {
        let settings = SftSettings { singles_per_reader, subjects: 40, ..SftSettings::demo() };
        let made = examples::build(&STAGES.training, &tokens, &settings).unwrap();
        for example in &made.singles {
            let prompt = tokens.decode(&example.prompt);
            let n_signals =
                prompt.lines().filter(|line| line.contains("search: ") || line.contains("page: ")).count();
            assert_eq!(n_signals, 1, "{prompt}");
        }
        made.singles.len()
    };
    let (none, one, three) = (n_singles(0), n_singles(1), n_singles(3));
    assert!(none == 0 && one > 20 && one < three && three <= 3 * one, "{none}, {one}, {three}");
}

#[test]
fn visits_end_with_a_pause_and_hold_every_trace_once() {
    for reader in STAGES.training.training_readers() {
        let visits: Vec<_> = reader.sessions(1800).collect();
        assert_eq!(
            visits.iter().cloned().flatten().collect::<Vec<_>>(),
            (0..reader.events.len()).collect::<Vec<_>>()
        );
        let time = |idx: usize| reader.events[idx].time_unix_s;
        assert!(visits.windows(2).all(|pair| time(pair[1].start) - time(pair[0].end - 1) > 1800));
        assert!(
            visits
                .iter()
                .flat_map(|visit| visit.clone().skip(1))
                .all(|idx| time(idx) - time(idx - 1) <= 1800)
        );
    }
}

/// Articles of stories that share none of the words of their first two queries, and what they are about.
fn subjects() -> &'static (Vec<usize>, Expansions) {
    static SUBJECTS: OnceLock<(Vec<usize>, Expansions)> = OnceLock::new();
    SUBJECTS.get_or_init(|| {
        let world = &STAGES.training;
        let all: std::collections::BTreeSet<usize> = (0..world.published().count()).collect();
        let expansions = Expansions::of(world, all.clone()).unwrap();
        let mut used = std::collections::HashSet::new();
        let apart = |&idx: &usize| {
            let words = expansions.words(idx).get(..8).unwrap_or_default();
            let is_apart = words.len() == 8 && words.iter().all(|word| !used.contains(word));
            if is_apart {
                used.extend(words.to_vec());
            }
            is_apart
        };
        let chosen = all.into_iter().filter(apart).collect();
        (chosen, expansions)
    })
}

/// A reader with one click an hour, each on a story of its own.
fn reader_of(world: &World, n_clicks: usize) -> Reader {
    let (chosen, _) = subjects();
    let event = |idx: usize| Event {
        stream: Stream::Click,
        text: world.articles[chosen[idx]].title.clone(),
        time_unix_s: i64::try_from(idx).unwrap() * 3600,
        category: None,
        article_idx: Some(chosen[idx]),
        verdict: Verdict::Keep,
    };
    Reader {
        key: "r".to_owned(),
        split: Split::Train,
        events: (0..n_clicks).map(event).collect(),
        held_out: vec![],
    }
}

/// Checks a target: two queries about each subject. `expected`: numbers of the clicks.
fn check_target(n_clicks: usize, window: std::ops::RangeInclusive<i64>, expected: &[usize]) {
    let world = &STAGES.training;
    let (chosen, expansions) = subjects();
    let list = examples::target(world, expansions, &reader_of(world, n_clicks), window).unwrap();
    let got: Vec<&str> = list.as_slice().iter().map(|query| query.as_str()).collect();
    let query = |pass: usize, idx: &usize| expansions.words(chosen[*idx])[4 * pass..4 * pass + 4].join(" ");
    let all = expected.iter().flat_map(|idx| [query(0, idx), query(1, idx)]);
    assert_eq!(got, all.collect::<Vec<_>>());
}

#[test]
fn click_at_the_cut_is_past_and_click_a_second_later_is_future() {
    check_target(7, 2 * 3600..=6 * 3600, &[3, 4, 5, 6]);
    check_target(7, 2 * 3600 - 1..=6 * 3600 - 1, &[2, 3, 4, 5]);
}

#[test]
fn list_short_of_later_clicks_is_filled_from_the_newest_past_and_none_is_made_without_any() {
    let world = &STAGES.training;
    check_target(7, 5 * 3600..=99 * 3600, &[6, 5, 4, 3]);
    assert!(examples::target(world, &subjects().1, &reader_of(world, 7), 6 * 3600..=99 * 3600).is_none());
}

#[test]
fn one_story_alone_still_makes_a_valid_list() {
    let world = &STAGES.training;
    let list = examples::target(world, &subjects().1, &reader_of(world, 1), -1..=3600).unwrap();
    assert_eq!(list.as_slice().len(), 3);
}

#[test]
fn cuts_leave_a_day_of_past_and_lie_before_the_cutoff() {
    let world = &STAGES.training;
    for reader in world.training_readers() {
        let first = reader.events[0].time_unix_s;
        for cut in examples::cuts(reader, world.cutoff_unix_s, 4) {
            assert!(cut >= first + 24 * 3600 && cut < world.cutoff_unix_s);
        }
    }
}

#[test]
fn head_readers_are_a_tenth_and_not_in_fine_tuning() {
    let n_head = (0..10_000).filter(|n| examples::belongs_to_head(&format!("u{n:06}"))).count();
    assert!((800..1200).contains(&n_head), "{n_head}");
}
