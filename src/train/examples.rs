//! What fine-tuning learns from: a training reader's signals until a moment, and a list to be written after them.
//!
//! Three kinds of lists ([`Targets`]): those that the judge of the rewards would write after the same signals, those that would
//! have found the news clicked soon after, and those of somebody else. Three kinds of prompts: a cut reads everything a reader did until a
//! moment, which is what a server is asked; a session reads the searches and pages of one visit; a single signal tells at the
//! lowest cost which words of a search mean which words of the news.
use super::{
    error::TrainError,
    events::{self, Event, Reader, World},
    expansion::Expansions,
    packing::Example,
    rewards::{
        meaning::Meaning,
        subjects::Subjects,
        wishes::{QUERIES_PER_INTEREST, QUERY_WORDS, queries_each, wishes},
    },
    settings::{SftSettings, Targets},
};
use crate::{
    bundle::manifest::sha256_hex,
    cleaner::Verdict,
    lexicon::{
        interests::{Interests, Said},
        unit::Unit,
    },
    queries::{QUERIES_MAX, QueryList},
    signals::Stream,
    text::{parse, prompt, tokens::Tokens},
};
use rayon::prelude::*;
use std::collections::HashSet;

/// One reader in this many is kept out of fine-tuning, for the reward head: it must judge lists of readers
/// whose clicks the student has not seen.
const HEAD_SHARE: u64 = 10;
/// Subjects of a list: more would leave some of them with one query.
const SUBJECTS_MAX: usize = QUERIES_MAX / QUERIES_PER_INTEREST;
/// Signals that subjects are found among: forty for each of a thousand.
const SUBJECT_SIGNALS_MAX: usize = 40_000;
/// Cuts start this long after a reader's first trace: before it there is nothing to read.
const EARLIEST_CUT_S: i64 = 24 * 3600;

/// Whether a training reader belongs to the reward head. Decided by a digest of the key, so by nothing the reader did.
pub fn belongs_to_head(key: &str) -> bool {
    digest(key).is_multiple_of(HEAD_SHARE)
}

/// The examples of a world by the phases of fine-tuning.
#[derive(Debug, Default)]
pub struct Examples {
    /// Of single signals: what is learned first. None where the lists are of later clicks.
    pub singles: Vec<Example>,
    /// Of cuts and sessions.
    pub whole: Vec<Example>,
}

/// Makes every example of a world: training readers only, every completion checked by the one parser.
/// # Errors
/// If not a single example of cuts and sessions can be made.
pub fn build(world: &World, tokens: &Tokens, settings: &SftSettings) -> Result<Examples, TrainError> {
    let readers: Vec<&Reader> =
        world.training_readers().filter(|reader| !belongs_to_head(&reader.key)).collect();
    let examples = match settings.targets {
        Targets::Judge => {
            let meaning = Meaning::of(world, readers.iter().copied());
            let subjects = subjects(&readers, &meaning, settings);
            let names = names(&subjects, &meaning, tokens);
            let judged = Judged { meaning: &meaning, subjects: &subjects, names: &names, tokens, settings };
            let of_reader = |reader: &&Reader| judged.examples(reader, world.cutoff_unix_s);
            let add = |mut all: Examples, more: Examples| {
                all.singles.extend(more.singles);
                all.whole.extend(more.whole);
                all
            };
            let parts: Vec<Examples> = readers.par_iter().map(of_reader).collect();
            parts.into_iter().fold(Examples::default(), add)
        }
        Targets::LaterClicks => later_clicks(world, &readers, tokens, settings)?,
        Targets::Form => of_others(later_clicks(world, &readers, tokens, settings)?),
    };
    if examples.whole.is_empty() {
        return Err(TrainError::TooLittleData {
            reason: "no training reader has signals that a list can be made for".to_owned(),
        });
    }
    Ok(examples)
}

/// Cuts, each with the list that would have found what was clicked after it.
fn later_clicks(
    world: &World,
    readers: &[&Reader],
    tokens: &Tokens,
    settings: &SftSettings,
) -> Result<Examples, TrainError> {
    let events = world.training_readers().flat_map(|reader| &reader.events);
    let expansions = Expansions::of(world, events.filter_map(|event| event.article_idx).collect())?;
    let of_cut = |reader: &Reader, cut: i64| {
        let list = target(world, &expansions, reader, cut..=cut + settings.later_hours * 3600)?;
        let prompt = prompt::build(&reader.signals_until(cut)?, tokens, settings.prompt_tokens).ids;
        Some(Example { prompt, completion: prompt::completion_ids(&list, tokens), notes: Vec::new() })
    };
    let of_reader = |reader: &&Reader| {
        let cuts = cuts(reader, world.cutoff_unix_s, settings.cuts_per_reader).into_iter();
        cuts.filter_map(|cut| of_cut(reader, cut)).collect::<Vec<_>>()
    };
    Ok(Examples { singles: Vec::new(), whole: readers.par_iter().flat_map_iter(of_reader).collect() })
}

/// The same prompts and the same lists, each list after the prompt of somebody else: half of all examples lie between them, and one
/// reader's stand together.
fn of_others(examples: Examples) -> Examples {
    let Examples { singles, whole } = examples;
    let apart = whole.len() / 2;
    let (prompts, mut lists): (Vec<_>, Vec<_>) =
        whole.into_iter().map(|example| (example.prompt, example.completion)).unzip();
    lists.rotate_left(apart);
    let example = |(prompt, completion)| Example { prompt, completion, notes: Vec::new() };
    Examples { singles, whole: prompts.into_iter().zip(lists).map(example).collect() }
}

/// Signals and the list that the judge would write after them.
struct Judged<'a> {
    meaning: &'a Meaning,
    subjects: &'a Subjects,
    /// The first token of the word nearest to each subject.
    names: &'a [Option<u32>],
    tokens: &'a Tokens,
    settings: &'a SftSettings,
}

impl Judged<'_> {
    fn examples(&self, reader: &Reader, cutoff_unix_s: i64) -> Examples {
        let said: Vec<Option<About>> = reader.events.iter().map(|event| self.about(event)).collect();
        let cuts = cuts(reader, cutoff_unix_s, self.settings.cuts_per_reader).into_iter();
        let past = cuts.map(|cut| (0..reader.events_until(cut).len()).collect::<Vec<_>>());
        let sessions = reader.sessions(self.settings.session_gap_minutes * 60);
        let searches_and_pages = |session: std::ops::Range<usize>| {
            session.filter(|&idx| reader.events[idx].stream != Stream::Click).collect()
        };
        let idxs_of_whole = past.chain(sessions.map(searches_and_pages));
        let example = |idxs: &[usize]| self.example(reader, &said, idxs);
        Examples {
            singles: self.singles(reader, &said).into_iter().filter_map(|idx| example(&[idx])).collect(),
            whole: idxs_of_whole.filter_map(|idxs: Vec<usize>| example(&idxs)).collect(),
        }
    }

    /// What a signal says, by its subject.
    fn about(&self, event: &Event) -> Option<About> {
        let said = self.meaning.signal(event)?;
        Some(match self.subjects.place(&said.unit) {
            Some(place) => About {
                said: Said { unit: self.subjects.centres()[place].clone(), ..said },
                name: self.names[place],
            },
            None => About { said, name: None },
        })
    }

    /// Searches and pages that say something, none twice, spread evenly over the reader's time.
    fn singles(&self, reader: &Reader, said: &[Option<About>]) -> Vec<usize> {
        let mut texts = HashSet::new();
        let telling: Vec<usize> = (0..reader.events.len())
            .filter(|&idx| {
                let event = &reader.events[idx];
                let tells =
                    event.stream != Stream::Click && event.verdict == Verdict::Keep && said[idx].is_some();
                tells && texts.insert(&event.text)
            })
            .collect();
        let n_taken = telling.len().min(self.settings.singles_per_reader);
        (0..n_taken).map(|rank| telling[rank * telling.len() / n_taken]).collect()
    }

    /// `idxs`: which of the reader's traces may be read. The judge reads those that the prompt shows.
    fn example(&self, reader: &Reader, said: &[Option<About>], idxs: &[usize]) -> Option<Example> {
        let idxs = reader.readable(idxs);
        let signals = events::signals(idxs.iter().map(|&idx| &reader.events[idx]))?;
        let prompt = prompt::build(&signals, self.tokens, self.settings.prompt_tokens);
        // The oldest are left out where the prompt has no room.
        let read = &idxs[idxs.len().saturating_sub(prompt.signal_ends.len())..];
        let read_said = read.iter().filter_map(|&idx| said[idx].as_ref().map(|about| &about.said));
        let interests = Interests::of(read_said, reader.events[*read.last()?].time_unix_s);
        let list = wishes(&interests, self.meaning)?;
        let noted = read.iter().zip(&prompt.signal_ends);
        let noted = noted.filter_map(|(&idx, &end)| Some((end, said[idx].as_ref()?.name?)));
        let notes = if self.settings.notes { noted.collect() } else { Vec::new() };
        let completion = prompt::completion_ids(&list, self.tokens);
        Some(Example { prompt: prompt.ids, completion, notes })
    }
}

/// What a signal is about.
struct About {
    /// With the meaning of its subject.
    said: Said,
    /// The first token of the subject's nearest word.
    name: Option<u32>,
}

/// The first token of the word nearest to each subject, as completions write it.
fn names(subjects: &Subjects, meaning: &Meaning, tokens: &Tokens) -> Vec<Option<u32>> {
    let name = |centre: &Unit| {
        let nearest = *meaning.nearest_words(centre, 1, &HashSet::new()).first()?;
        tokens.encode_text(&format!(" {}", meaning.word(nearest))).first().copied()
    };
    subjects.centres().par_iter().map(name).collect()
}

/// The subjects of readers' searches and pages.
fn subjects(readers: &[&Reader], meaning: &Meaning, settings: &SftSettings) -> Subjects {
    let of_reader = |reader: &&Reader| {
        let typed = reader.events.iter().filter(|event| event.stream != Stream::Click);
        let kept = typed.filter(|event| event.verdict == Verdict::Keep);
        kept.filter_map(|event| Some(meaning.signal(event)?.unit)).collect::<Vec<Unit>>()
    };
    let units: Vec<Unit> = readers.par_iter().flat_map_iter(of_reader).collect();
    let stride = units.len().div_ceil(SUBJECT_SIGNALS_MAX).max(1);
    let units: Vec<Unit> = units.into_iter().step_by(stride).collect();
    Subjects::of(&units, settings.subjects, settings.fit.seed)
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
    let mut told = Told { expansions, told: HashSet::new(), chosen: Vec::new() };
    reader.clicks_between(start, end).for_each(|click| told.add(click));
    if told.chosen.is_empty() {
        return None;
    }
    reader.clicks_between(i64::MIN, start).rev().for_each(|click| told.add(click));
    parse::parse(&told.queries().join("\n")).ok()
}

/// What a list is to be about.
struct Told<'a> {
    expansions: &'a Expansions,
    /// Words of the queries about those chosen.
    told: HashSet<&'a str>,
    chosen: Vec<&'a [String]>,
}

impl Told<'_> {
    /// Takes the subject of a click in, unless there are enough or it is one of them: half of its query is told already.
    fn add(&mut self, click: &Event) {
        let words = click.article_idx.map_or(&[][..], |idx| self.expansions.words(idx));
        let Some(query) = words.get(..QUERY_WORDS) else { return };
        let n_told = query.iter().filter(|word| self.told.contains(word.as_str())).count();
        if self.chosen.len() < SUBJECTS_MAX && 2 * n_told < QUERY_WORDS {
            self.told.extend(words.iter().take(QUERIES_PER_INTEREST * QUERY_WORDS).map(String::as_str));
            self.chosen.push(words);
        }
    }

    /// Queries of a subject stand together, so that what follows is told by what stands just before.
    fn queries(&self) -> Vec<String> {
        let n_each = queries_each(self.chosen.len());
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
