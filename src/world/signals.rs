//! What readers type and visit: off-news words of their interests, and four kinds of noise.
use super::lexicon::{Interest, Language};
use super::phrases::{
    BOT_TEXTS, ENTITY_PAGES, ENTITY_SEARCHES, MALFORMED, NAVIGATION, PAGES, SEARCHES, SITES,
};
use super::streams::pick;
use crate::signals::Stream;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

/// Share of searches and pages that name an entity of the news; the others never meet the news by words.
const NAMES_ENTITY: f64 = 0.04;

/// What an event truly is. Only the truth files know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tag {
    /// Of the reader's own interests; every other one is noise.
    Interest,
    /// On the way to a site.
    Navigational,
    /// Broken input.
    Malformed,
    /// Of somebody else on the same account.
    Household,
    /// Of an automaton.
    Bot,
}

impl Tag {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Interest => "interest",
            Self::Navigational => "navigational",
            Self::Malformed => "malformed",
            Self::Household => "household",
            Self::Bot => "bot",
        }
    }

    /// Draws the tag of an event: about a quarter is noise, over all streams.
    pub(super) fn draw(rng: &mut ChaCha8Rng, stream: Stream, has_household: bool) -> Self {
        let drawn: f64 = rng.random();
        let limits = match (stream, has_household) {
            // Nobody clicks an article by a broken address: clicks are noise less often.
            (Stream::Click, true) => [(0.16, Self::Household), (0.20, Self::Bot), (0.0, Self::Bot)],
            (Stream::Click, false) => [(0.12, Self::Bot), (0.0, Self::Bot), (0.0, Self::Bot)],
            (Stream::Search | Stream::Page, true) => {
                [(0.16, Self::Household), (0.24, Self::Navigational), (0.29, Self::Malformed)]
            }
            (Stream::Search | Stream::Page, false) => {
                [(0.18, Self::Navigational), (0.26, Self::Malformed), (0.30, Self::Bot)]
            }
        };
        limits.iter().find(|(limit, _)| drawn < *limit).map_or(Self::Interest, |&(_, tag)| tag)
    }
}

/// Writes a search or page title about an interest.
pub(super) fn about(rng: &mut ChaCha8Rng, stream: Stream, interest: &Interest, language: Language) -> String {
    let names_entity = rng.random_bool(NAMES_ENTITY);
    let templates = match (stream, names_entity) {
        (Stream::Page, false) => PAGES,
        (Stream::Page, true) => ENTITY_PAGES,
        (Stream::Search | Stream::Click, false) => SEARCHES,
        (Stream::Search | Stream::Click, true) => ENTITY_SEARCHES,
    };
    let off_news = &interest.off_news[language.idx()];
    let mut order: Vec<usize> = (0..off_news.len()).collect();
    order.shuffle(rng);
    let entity = pick(rng, &interest.entities);
    let pieces = pick(rng, templates[language.idx()]).split_whitespace().map(|piece| match piece {
        "X" => off_news[order[0]].as_str(),
        "Y" => off_news[order[1]].as_str(),
        "Z" => off_news[order[2]].as_str(),
        "C" => interest.context(order[0], language),
        "E" => entity.as_str(),
        plain => plain,
    });
    pieces.collect::<Vec<_>>().join(" ")
}

/// Writes what says nothing about anybody's interests.
pub(super) fn noise(rng: &mut ChaCha8Rng, tag: Tag) -> String {
    let (template, filler) = match tag {
        Tag::Malformed => (*pick(rng, MALFORMED), rng.random_range(10..10_000_u32).to_string()),
        Tag::Bot => (*pick(rng, BOT_TEXTS), rng.random_range(10..10_000_u32).to_string()),
        Tag::Navigational | Tag::Household | Tag::Interest => {
            (*pick(rng, NAVIGATION), (*pick(rng, SITES)).to_owned())
        }
    };
    let slot = if template.contains('#') { '#' } else { 'S' };
    if tag == Tag::Malformed && slot == 'S' {
        return template.to_owned();
    }
    template.replace(slot, &filler)
}
