//! What fine-tuning learns from: a training reader's signals until a moment, and the news clicked soon after it.
use super::{
    error::TrainError,
    events::{Event, Reader, World},
    expansion::Expansions,
    packing::Example,
    settings::SftSettings,
};
use crate::{
    bundle::manifest::sha256_hex,
    queries::QueryList,
    text::{
        parse::{self, QUERIES_MAX, QUERIES_MIN},
        prompt,
        tokens::Tokens,
    },
};
use std::collections::HashSet;

/// One reader in this many is kept out of fine-tuning, for the reward head: it must judge lists of readers
/// whose clicks the student has not seen.
const HEAD_SHARE: u64 = 10;
/// Subjects of a list: more would leave some of them with one query.
const SUBJECTS_MAX: usize = QUERIES_MAX / QUERIES_PER_SUBJECT;
/// Queries about each of them, as far as its words reach.
const QUERIES_PER_SUBJECT: usize = 2;
/// Words of a query: what people type.
const QUERY_WORDS: usize = 4;
/// Cuts start this long after a reader's first trace: before it there is nothing to read.
const EARLIEST_CUT_S: i64 = 24 * 3600;

/// Whether a training reader belongs to the reward head. Decided by a digest of the key, so by nothing the reader did.
pub fn belongs_to_head(key: &str) -> bool {
    digest(key).is_multiple_of(HEAD_SHARE)
}

/// Makes every example of a world: training readers only, every completion checked by the one parser.
/// # Errors
/// If not a single example can be made.
pub fn build(world: &World, tokens: &Tokens, settings: &SftSettings) -> Result<Vec<Example>, TrainError> {
    let events = world.training_readers().flat_map(|reader| &reader.events);
    let expansions = Expansions::of(world, events.filter_map(|event| event.article_idx).collect())?;
    let examples: Vec<Example> = world
        .training_readers()
        .filter(|reader| !belongs_to_head(&reader.key))
        .flat_map(|reader| {
            cuts(reader, world.cutoff_unix_s, settings.cuts_per_reader)
                .into_iter()
                .filter_map(|cut| {
                    let list = target(world, &expansions, reader, cut..=cut + settings.later_hours * 3600)?;
                    let prompt =
                        prompt::build(&reader.signals_until(cut)?, tokens, settings.prompt_tokens).ids;
                    Some(Example { prompt, completion: prompt::completion_ids(&list, tokens) })
                })
                .collect::<Vec<_>>()
        })
        .collect();
    if examples.is_empty() {
        return Err(TrainError::TooLittleData {
            reason: "no training reader has signals and later clicks".to_owned(),
        });
    }
    Ok(examples)
}

/// Moments at which a reader's past is cut from the future: evenly spread, shifted by the reader's own digest.
pub fn cuts(reader: &Reader, cutoff_unix_s: i64, n_cuts: usize) -> Vec<i64> {
    let Some(first) = reader.events.first() else { return Vec::new() };
    let (start, end) = (first.time_unix_s + EARLIEST_CUT_S, cutoff_unix_s);
    let n_cuts = i64::try_from(n_cuts).unwrap_or(i64::MAX).max(1);
    let stride = (end - start) / n_cuts;
    if stride <= 0 {
        return Vec::new();
    }
    let shift = i64::try_from(digest(&reader.key) % stride.unsigned_abs()).unwrap_or(0);
    (0..n_cuts).map(|idx| start + idx * stride + shift).collect()
}

/// The list that would have found the news clicked in `window` (its start excluded); at least one click must lie there.
///
/// Its subjects are those of the stories clicked there, then those of the reader's newest stories before. Each gives a
/// query of its most telling words and another of the next: a word stands once in a list, so every query finds something
/// else.
pub fn target(
    world: &World,
    expansions: &Expansions,
    reader: &Reader,
    window: std::ops::RangeInclusive<i64>,
) -> Option<QueryList> {
    let (start, end) = (*window.start(), (*window.end()).min(world.cutoff_unix_s));
    let mut subjects = Subjects { expansions, told: HashSet::new(), chosen: Vec::new() };
    reader.clicks_between(start, end).for_each(|click| subjects.add(click));
    if subjects.chosen.is_empty() {
        return None;
    }
    reader.clicks_between(i64::MIN, start).rev().for_each(|click| subjects.add(click));
    parse::parse(&subjects.queries().join("\n")).ok()
}

/// What a list is to be about.
struct Subjects<'a> {
    expansions: &'a Expansions,
    /// Words of the queries about those chosen.
    told: HashSet<&'a str>,
    chosen: Vec<&'a [String]>,
}

impl Subjects<'_> {
    /// Takes the subject of a click in, unless there are enough or it is one of them: half of its query is told already.
    fn add(&mut self, click: &Event) {
        let words = click.article_idx.map_or(&[][..], |idx| self.expansions.words(idx));
        let Some(query) = words.get(..QUERY_WORDS) else { return };
        let n_told = query.iter().filter(|word| self.told.contains(word.as_str())).count();
        if self.chosen.len() < SUBJECTS_MAX && 2 * n_told < QUERY_WORDS {
            self.told.extend(words.iter().take(QUERIES_PER_SUBJECT * QUERY_WORDS).map(String::as_str));
            self.chosen.push(words);
        }
    }

    /// Queries of a subject stand together, so that what follows is told by what stands just before.
    ///
    /// Where two of each make no list, each gives more.
    fn queries(&self) -> Vec<String> {
        let n_each = QUERIES_PER_SUBJECT.max(QUERIES_MIN.div_ceil(self.chosen.len().max(1)));
        let mut used = HashSet::new();
        let mut queries = Vec::new();
        for words in &self.chosen {
            let mut fresh = words.iter().map(String::as_str).filter(|word| !used.contains(word));
            let query = |_| Some(fresh.by_ref().take(QUERY_WORDS).collect::<Vec<_>>());
            let of_subject: Vec<Vec<&str>> = (0..n_each).map_while(query).collect();
            for query in of_subject.into_iter().filter(|query| query.len() == QUERY_WORDS) {
                queries.push(query.join(" "));
                used.extend(query);
            }
        }
        queries.truncate(QUERIES_MAX);
        queries
    }
}

pub(super) fn digest(key: &str) -> u64 {
    u64::from_str_radix(&sha256_hex(key.as_bytes())[..15], 16).unwrap_or(0)
}
