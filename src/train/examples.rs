//! What fine-tuning learns from: a training reader's signals until a moment, and the news clicked soon after it.
use super::{
    error::TrainError,
    events::{Event, Reader, World},
    packing::Example,
    salient::Salience,
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
    let salience = Salience::of(world.published());
    let examples: Vec<Example> = world
        .training_readers()
        .filter(|reader| !belongs_to_head(&reader.key))
        .flat_map(|reader| {
            cuts(reader, world.cutoff_unix_s, settings.cuts_per_reader)
                .into_iter()
                .filter_map(|cut| {
                    let list = target(world, &salience, reader, cut..=cut + settings.later_hours * 3600)?;
                    let prompt =
                        prompt::build(&reader.signals_until(cut)?, tokens, settings.prompt_tokens).ids;
                    Some(Example { prompt, completion: completion_ids(&list, tokens) })
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
/// Where fewer than three stories were clicked, the reader's newest stories before the window fill the list.
pub fn target(
    world: &World,
    salience: &Salience,
    reader: &Reader,
    window: std::ops::RangeInclusive<i64>,
) -> Option<QueryList> {
    let (start, end) = (*window.start(), (*window.end()).min(world.cutoff_unix_s));
    let mut stories = HashSet::new();
    let mut texts = HashSet::new();
    let mut queries = Vec::new();
    let mut take = |event: &Event| {
        let article = &world.articles[event.article_idx?];
        let query = salience.query(&article.title)?;
        (stories.insert(article.story_id.clone()) && texts.insert(parse::comparable(&query)))
            .then(|| queries.push(query))
    };
    let n_later = reader.clicks_between(start, end).filter_map(&mut take).take(QUERIES_MAX).count();
    if n_later == 0 {
        return None;
    }
    let before = reader.clicks_between(i64::MIN, start).rev();
    let _n_filled = before.filter_map(&mut take).take(QUERIES_MIN.saturating_sub(n_later)).count();
    parse::parse(&queries.join("\n")).ok()
}

/// The list as the student is to write it: one query a line, each after a space, then the stop token.
///
/// Words of signals stand after spaces too, so a word that is copied has the same token in both places.
fn completion_ids(list: &QueryList, tokens: &Tokens) -> Vec<u32> {
    let lines: Vec<String> = list.as_slice().iter().map(|query| format!(" {}", query.as_str())).collect();
    let mut ids = tokens.encode_text(&lines.join("\n"));
    ids.push(tokens.im_end());
    ids
}

fn digest(key: &str) -> u64 {
    u64::from_str_radix(&sha256_hex(key.as_bytes())[..15], 16).unwrap_or(0)
}
