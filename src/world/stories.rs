//! What happens: stories born in bursts per interest, each told by a few articles.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "seconds of 21 days and counts of articles are far below 2^53"
)]
use super::lexicon::{Interest, Language, Lexicon, Side};
use super::phrases::{EVENT_NOUNS, EVENT_VERBS, SUMMARIES, TITLES, TOPICS};
use super::streams::{pick, stream};
use super::{CUTOFF_UNIX_S, DAY_S, START_UNIX_S};
use crate::news::article::Article;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, LogNormal};

/// Stories start this long before the first signal, so that the first day is not empty.
const WARM_UP_S: i64 = 2 * DAY_S;
/// Births per day of an interest without any excitement.
const BASE_RATE: f64 = 1.4;
/// Each birth causes this many more on average, within hours (a Hawkes process).
const BRANCHING: f64 = 0.4;
const EXCITEMENT_DAYS: f64 = 0.4;
/// More living stories of one interest than this would leave the choice within an interest to luck.
pub(super) const LIVE_STORIES_MAX: usize = 5;
const LIFETIME_MEAN_DAYS: f64 = 1.07;
const LIFETIME_MIN_DAYS: f64 = 0.2;
const COINED_SHARE: f64 = 0.05;
const ENGLISH_SHARE: f64 = 0.7;

/// What the platform's policy and the truth know of an article, beyond the article.
#[derive(Debug)]
pub(super) struct Telling {
    pub(super) interest: usize,
    pub(super) language: Language,
    pub(super) popularity: f64,
}

/// One story of the truth.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) id: String,
    pub(super) interest: usize,
    pub(super) born_unix_s: i64,
    pub(super) expires_unix_s: i64,
    pub(super) entities: Vec<String>,
    pub(super) aspects: Vec<usize>,
    /// Whether the last entity was coined for this story.
    pub(super) coined: bool,
    popularity: f64,
}

/// All articles by time of publication, with their tellings and stories.
#[derive(Debug)]
pub(super) struct Newsroom {
    pub(super) stories: Vec<Story>,
    pub(super) articles: Vec<Article>,
    pub(super) tellings: Vec<Telling>,
}

impl Newsroom {
    /// Lets 21 days (and the warm-up before) happen.
    pub(super) fn generate(seed: u64, lexicon: &mut Lexicon) -> Self {
        let mut stories = Vec::new();
        for interest in 0..lexicon.interests.len() {
            let mut rng = stream(seed, "stories", interest as u64);
            for (born, expires) in lifetimes(&mut rng) {
                let mut story = story(&mut rng, &lexicon.interests[interest]);
                story.interest = interest;
                story.born_unix_s = born;
                story.expires_unix_s = expires;
                if rng.random_bool(COINED_SHARE) {
                    story.coined = true;
                    story.entities.push(lexicon.words.make(&mut rng, Language::English, Side::News));
                }
                stories.push(story);
            }
        }
        stories.sort_by_key(|story| (story.born_unix_s, story.interest));
        let mut told = Vec::new();
        for (story_idx, story) in stories.iter_mut().enumerate() {
            story.id = format!("s{story_idx:06}");
            let mut rng = stream(seed, "articles", story_idx as u64);
            told.extend(tell(&mut rng, story, &lexicon.interests[story.interest]));
        }
        told.sort_by(|left, right| {
            let key = |article: &Article| (article.published_unix_s, article.story_id.clone());
            key(&left.0).cmp(&key(&right.0))
        });
        let (mut articles, mut tellings) = (Vec::with_capacity(told.len()), Vec::with_capacity(told.len()));
        for (article_idx, (mut article, telling)) in told.into_iter().enumerate() {
            article.id = format!("a{article_idx:06}");
            articles.push(article);
            tellings.push(telling);
        }
        Self { stories, articles, tellings }
    }
}

/// Draws birth and end of each story of one interest, by thinning (Ogata 1981).
fn lifetimes(rng: &mut ChaCha8Rng) -> Vec<(i64, i64)> {
    let first = START_UNIX_S - WARM_UP_S;
    let last_day = (CUTOFF_UNIX_S + DAY_S - first) as f64 / DAY_S as f64;
    let (mut day, mut excitement) = (0.0_f64, 0.0_f64);
    let mut stories: Vec<(i64, i64)> = Vec::new();
    loop {
        let bound = BASE_RATE + excitement;
        let wait = Distribution::<f64>::sample(&Exp1, rng) / bound;
        day += wait;
        if day >= last_day {
            return stories;
        }
        excitement *= (-wait / EXCITEMENT_DAYS).exp();
        if rng.random::<f64>() * bound > BASE_RATE + excitement {
            continue;
        }
        let born = first + (day * DAY_S as f64) as i64;
        if stories.iter().filter(|&&(_, expires)| born < expires).count() >= LIVE_STORIES_MAX {
            continue;
        }
        excitement += BRANCHING / EXCITEMENT_DAYS;
        let drawn: f64 = Exp1.sample(rng);
        let days = LIFETIME_MIN_DAYS + (LIFETIME_MEAN_DAYS - LIFETIME_MIN_DAYS) * drawn;
        stories.push((born, born + (days * DAY_S as f64) as i64));
    }
}

fn story(rng: &mut ChaCha8Rng, interest: &Interest) -> Story {
    let mut entities = interest.entities.clone();
    entities.shuffle(rng);
    entities.truncate(rng.random_range(1..=2));
    let mut aspects: Vec<usize> = (0..interest.aspects[0].len()).collect();
    aspects.shuffle(rng);
    aspects.truncate(rng.random_range(2..=3));
    let popularity = LogNormal::new(0.0, 1.2).map_or(1.0, |heavy| heavy.sample(rng));
    Story {
        id: String::new(),
        interest: 0,
        born_unix_s: 0,
        expires_unix_s: 0,
        entities,
        aspects,
        coined: false,
        popularity,
    }
}

/// Writes the 1 to 6 articles of a story; the first at its birth, the others in the first half of its life.
fn tell(rng: &mut ChaCha8Rng, story: &Story, interest: &Interest) -> Vec<(Article, Telling)> {
    let mut n_articles = 1;
    while n_articles < 6 && rng.random_bool(0.52) {
        n_articles += 1;
    }
    let mut told = Vec::with_capacity(n_articles);
    for article_idx in 0..n_articles {
        let delay = if article_idx == 0 { 0.0 } else { 0.5 * rng.random::<f64>() };
        let lifetime = story.expires_unix_s - story.born_unix_s;
        let language = if rng.random_bool(ENGLISH_SHARE) { Language::English } else { Language::Spanish };
        let article = Article {
            id: String::new(),
            story_id: story.id.clone(),
            title: written(rng, TITLES[language.idx()], (story, interest, language)),
            summary: written(rng, SUMMARIES[language.idx()], (story, interest, language)),
            category: TOPICS[interest.topic][0].to_owned(),
            language: language.code().to_owned(),
            published_unix_s: story.born_unix_s + (delay * lifetime as f64) as i64,
            expires_unix_s: story.expires_unix_s,
        };
        let popularity = story.popularity * rng.random_range(0.7..1.4);
        told.push((article, Telling { interest: story.interest, language, popularity }));
    }
    told
}

/// Fills a random template with the story's words in random order.
fn written(
    rng: &mut ChaCha8Rng,
    templates: &[&str],
    (story, interest, language): (&Story, &Interest, Language),
) -> String {
    let template = *pick(rng, templates);
    let mut entities = story.entities.clone();
    entities.shuffle(rng);
    let mut aspects = story.aspects.clone();
    aspects.shuffle(rng);
    let all_aspects = &interest.aspects[language.idx()];
    let noun = |rng: &mut ChaCha8Rng| (*pick(rng, EVENT_NOUNS[language.idx()])).to_owned();
    let mut text = String::new();
    for piece in template.split_whitespace() {
        let slot = piece.trim_end_matches(['.', ':', ',']);
        let aspect = |nth: usize| aspects.get(nth).map(|&at| all_aspects[at].clone());
        let word = match slot {
            "E" => entities[0].clone(),
            "F" => entities.get(1).cloned().unwrap_or_else(|| noun(rng)),
            "A" => aspect(0).unwrap_or_else(|| noun(rng)),
            "B" => aspect(1).unwrap_or_else(|| noun(rng)),
            "C" => aspect(2).unwrap_or_else(|| noun(rng)),
            "D" | "H" => pick(rng, all_aspects).clone(),
            "G" => pick(rng, &interest.entities).clone(),
            "T" => TOPICS[interest.topic][language.idx()].to_owned(),
            "V" => (*pick(rng, EVENT_VERBS[language.idx()])).to_owned(),
            "N" => noun(rng),
            plain => plain.to_owned(),
        };
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&word);
        text.push_str(&piece[slot.len()..]);
    }
    text
}
