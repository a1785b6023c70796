//! The truth of a world read back: for gates; of what trains, the signal cleaner alone reads it, and of it the tags of noise alone.
pub use super::signals::Tag;
use super::{
    WorldError,
    users::{Care, Concern, interests_at},
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

/// What only the world knows.
#[derive(Debug)]
pub struct Known {
    entities: Vec<Vec<String>>,
    concerns: HashMap<String, Vec<Concern>>,
    tags: HashMap<String, Vec<Tag>>,
    interest_of_story: HashMap<String, usize>,
}

#[derive(Deserialize)]
struct InterestLine {
    entities: Vec<String>,
}

#[derive(Deserialize)]
struct ConcernLine {
    user_key: String,
    care: Care,
    interest: usize,
    weight: f64,
    known_to_platform: bool,
    from_unix_s: i64,
    until_unix_s: Option<i64>,
}

#[derive(Deserialize)]
struct StoryLine {
    story_id: String,
    interest: usize,
}

#[derive(Deserialize)]
struct TagLine {
    user_key: String,
    tag: Tag,
}

impl Known {
    /// Reads the truth files of a world folder.
    ///
    /// # Errors
    /// If one is missing, or a line is broken.
    pub fn read(world: &Path) -> Result<Self, WorldError> {
        let truth = world.join("truth");
        let mut entities = Vec::new();
        for_each_line(&truth.join("interests.jsonl"), |line: InterestLine| entities.push(line.entities))?;
        let mut concerns: HashMap<String, Vec<Concern>> = HashMap::new();
        for_each_line(&truth.join("users.jsonl"), |line: ConcernLine| {
            concerns.entry(line.user_key).or_default().push(Concern {
                care: line.care,
                interest: line.interest,
                weight: line.weight,
                known_to_platform: line.known_to_platform,
                from_unix_s: line.from_unix_s,
                until_unix_s: line.until_unix_s.unwrap_or(i64::MAX),
            });
        })?;
        let mut tags: HashMap<String, Vec<Tag>> = HashMap::new();
        for_each_line(&truth.join("events_truth.jsonl"), |line: TagLine| {
            tags.entry(line.user_key).or_default().push(line.tag);
        })?;
        let mut interest_of_story = HashMap::new();
        for_each_line(&truth.join("stories.jsonl"), |line: StoryLine| {
            interest_of_story.insert(line.story_id, line.interest);
        })?;
        Ok(Self { entities, concerns, tags, interest_of_story })
    }

    /// The names in the news of each of a reader's own interests at a moment, the strongest interest first.
    pub fn interests(&self, user_key: &str, time_unix_s: i64) -> Vec<&[String]> {
        let concerns = self.concerns.get(user_key).map_or(&[][..], Vec::as_slice);
        let mut interests = interests_at(concerns, time_unix_s, false);
        interests.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        interests
            .into_iter()
            .filter_map(|(interest, _)| self.entities.get(interest))
            .map(Vec::as_slice)
            .collect()
    }

    /// How much a reader truly cares for a story at a moment, from 0 to 1; interests that are only implied are left out.
    pub fn care(&self, user_key: &str, story_id: &str, time_unix_s: i64) -> f64 {
        let concerns = self.concerns.get(user_key).map_or(&[][..], Vec::as_slice);
        let interest = self.interest_of_story.get(story_id);
        let own = interests_at(concerns, time_unix_s, false);
        own.iter().find(|(known, _)| Some(known) == interest).map_or(0.0, |&(_, weight)| weight)
    }

    /// The names in the news of every interest.
    pub fn all_interests(&self) -> Vec<&[String]> {
        self.entities.iter().map(Vec::as_slice).collect()
    }

    /// What each of a reader's events truly is, in the order of the file.
    pub fn tags(&self, user_key: &str) -> &[Tag] {
        self.tags.get(user_key).map_or(&[], Vec::as_slice)
    }
}

fn for_each_line<T: DeserializeOwned>(path: &Path, mut each: impl FnMut(T)) -> Result<(), WorldError> {
    let file = File::open(path).map_err(|error| WorldError::read(path, error))?;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| WorldError::read(path, error))?;
        each(serde_json::from_str(&line).map_err(|error| WorldError::read(path, error.into()))?);
    }
    Ok(())
}
