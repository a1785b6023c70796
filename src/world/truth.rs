//! The truth about interests and stories, for tests and for judging; nothing that trains may read it.
use super::WorldError;
use super::lexicon::Lexicon;
use super::phrases::TOPICS;
use super::stories::Newsroom;
use super::write::Lines;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct InterestLine<'world> {
    interest: usize,
    topic: &'static str,
    entities: &'world [String],
    aspects_en: &'world [String],
    aspects_es: &'world [String],
    off_news_en: &'world [String],
    off_news_es: &'world [String],
    rival: usize,
    implied: Vec<(usize, f64)>,
}

#[derive(Serialize)]
struct StoryLine<'world> {
    story_id: &'world str,
    interest: usize,
    entities: &'world [String],
    coined: bool,
    born_unix_s: i64,
    expires_unix_s: i64,
}

pub(super) fn write_interests(path: &Path, lexicon: &Lexicon) -> Result<(), WorldError> {
    let mut lines = Lines::create(path)?;
    for (idx, interest) in lexicon.interests.iter().enumerate() {
        lines.push(&InterestLine {
            interest: idx,
            topic: TOPICS[interest.topic][0],
            entities: &interest.entities,
            aspects_en: &interest.aspects[0],
            aspects_es: &interest.aspects[1],
            off_news_en: &interest.off_news[0],
            off_news_es: &interest.off_news[1],
            rival: interest.rival,
            implied: interest.implied.iter().map(|&(target, p)| (target, (p * 1e4).round() / 1e4)).collect(),
        })?;
    }
    lines.close()
}

pub(super) fn write_stories(path: &Path, newsroom: &Newsroom) -> Result<(), WorldError> {
    let mut lines = Lines::create(path)?;
    for story in &newsroom.stories {
        lines.push(&StoryLine {
            story_id: &story.id,
            interest: story.interest,
            entities: &story.entities,
            coined: story.coined,
            born_unix_s: story.born_unix_s,
            expires_unix_s: story.expires_unix_s,
        })?;
    }
    lines.close()
}
