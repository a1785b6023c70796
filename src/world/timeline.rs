//! One reader's events: sessions in which one interest goes through searches, pages and clicks.
use super::clicks::{Click, Clicker, Platform, Policy, Reader, draw_interest, draw_language};
use super::lexicon::Lexicon;
use super::phrases::{PAGE_SOURCES, TOPICS};
use super::signals::{Tag, about, noise};
use super::stories::Newsroom;
use super::streams::{pick, stream};
use super::users::User;
use super::write::{EventRow, EventTruthRow, HeldOutRow};
use super::{CUTOFF_UNIX_S, START_UNIX_S, Split};
use crate::signals::Stream;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Chance that the next event of a session keeps the session's interest.
const STAYS: f64 = 0.6;
/// How much more a reader cares, within a session, for the interest of the session.
const SESSION_BOOST: f64 = 3.0;
const SESSION_EVENTS_MAX: usize = 5;

/// What one reader leaves behind.
#[derive(Debug, Default)]
pub(super) struct Traces {
    pub(super) events: Vec<EventRow>,
    pub(super) truth: Vec<EventTruthRow>,
    pub(super) held_out: Vec<HeldOutRow>,
}

/// Everything that readers live in.
#[derive(Debug)]
pub(super) struct Surroundings<'world> {
    pub(super) seed: u64,
    pub(super) lexicon: &'world Lexicon,
    pub(super) newsroom: &'world Newsroom,
    pub(super) platform: &'world Platform<'world>,
}

impl Surroundings<'_> {
    /// Lets one reader live until the cutoff, and valid and test readers one day longer.
    pub(super) fn live(&self, user_idx: u64, user: &User) -> Traces {
        let mut rng = stream(self.seed, "events", user_idx);
        let mut traces = Traces::default();
        let mut clicked = Vec::new();
        let moments = moments(&mut rng, user);
        let mut session = None;
        for (time_unix_s, stream, opens_session) in moments {
            let interests = user.interests_at(time_unix_s, false);
            session = session.filter(|_| !opens_session && rng.random_bool(STAYS));
            let interest = match session.or_else(|| draw_interest(&mut rng, &interests)) {
                Some(interest) => interest,
                None => continue,
            };
            session = Some(interest);
            let tag = Tag::draw(&mut rng, stream, user.has_household());
            let moment = Moment { time_unix_s, stream, tag, interest };
            let Some((event, truth)) = self.event(&mut rng, user, (&moment, &mut clicked)) else { continue };
            traces.events.push(event);
            traces.truth.push(truth);
        }
        if traces.events.is_empty() {
            self.at_least_one(&mut rng, user, &mut traces);
        }
        if user.split != Split::Train {
            self.hold_out(user_idx, user, (&clicked, &mut traces));
        }
        traces
    }

    fn event(
        &self,
        rng: &mut ChaCha8Rng,
        user: &User,
        (moment, clicked): (&Moment, &mut Vec<(usize, i64)>),
    ) -> Option<(EventRow, EventTruthRow)> {
        let household = moment.tag == Tag::Household;
        let interest = if household {
            draw_interest(rng, &user.interests_at(moment.time_unix_s, true))?
        } else {
            moment.interest
        };
        if moment.stream == Stream::Click {
            let mut interests = user.interests_at(moment.time_unix_s, household);
            let mut known = user.known_at(moment.time_unix_s, household);
            boost(&mut interests, interest);
            boost(&mut known, interest);
            let reader = Reader { languages: &user.languages, interests: &interests, known: &known, clicked };
            let clicker = if moment.tag == Tag::Bot { Clicker::Bot } else { Clicker::Reader };
            let click = self.platform.click(rng, &reader, (clicker, moment.time_unix_s))?;
            clicked.push((click.article_idx, moment.time_unix_s));
            return Some(self.click_rows(rng, user, (moment, click)));
        }
        let text = match moment.tag {
            Tag::Interest | Tag::Household => {
                let language = draw_language(rng, &user.languages);
                about(rng, moment.stream, &self.lexicon.interests[interest], language)
            }
            Tag::Navigational | Tag::Malformed | Tag::Bot => noise(rng, moment.tag),
        };
        let mut event = EventRow::new(user, moment.stream, text, moment.time_unix_s);
        if moment.stream == Stream::Page {
            event.source = (*pick(rng, PAGE_SOURCES)).to_owned();
            event.dwell_ms = Some(rng.random_range(1_000..180_000));
        }
        let of_interest = matches!(moment.tag, Tag::Interest | Tag::Household).then_some(interest);
        Some((event, EventTruthRow::new(user, moment.tag, of_interest)))
    }

    fn click_rows(
        &self,
        rng: &mut ChaCha8Rng,
        user: &User,
        (moment, click): (&Moment, Click),
    ) -> (EventRow, EventTruthRow) {
        let article = &self.newsroom.articles[click.article_idx];
        let interest = self.newsroom.tellings[click.article_idx].interest;
        let mut event = EventRow::new(user, Stream::Click, article.title.clone(), moment.time_unix_s);
        event.category = Some(TOPICS[self.lexicon.interests[interest].topic][0].to_owned());
        event.dwell_ms = Some(rng.random_range(2_000..240_000));
        event.article_id = Some(article.id.clone());
        event.position = click.position;
        event.propensity = Some(rounded(click.propensity));
        (event, EventTruthRow::new(user, moment.tag, Some(interest)))
    }

    /// A reader without any signal could not even be asked about: they have searched once.
    fn at_least_one(&self, rng: &mut ChaCha8Rng, user: &User, traces: &mut Traces) {
        let time_unix_s = rng.random_range(START_UNIX_S..CUTOFF_UNIX_S);
        let text = noise(rng, Tag::Navigational);
        traces.events.push(EventRow::new(user, Stream::Search, text, time_unix_s));
        traces.truth.push(EventTruthRow::new(user, Tag::Navigational, None));
    }

    /// The uniform slice is what is measured by; the logged one shows whether inverse propensities mend a policy's bias.
    fn hold_out(&self, user_idx: u64, user: &User, (clicked, traces): (&[(usize, i64)], &mut Traces)) {
        let interests = user.interests_at(CUTOFF_UNIX_S, false);
        let known = user.known_at(CUTOFF_UNIX_S, false);
        let reader = Reader { languages: &user.languages, interests: &interests, known: &known, clicked };
        for (policy, name) in [(Policy::Uniform, "uniform"), (Policy::Logged, "logged")] {
            let mut rng = stream(self.seed, &format!("held-out {name}"), user_idx);
            for click in self.platform.held_out(&mut rng, &reader, policy) {
                traces.held_out.push(HeldOutRow {
                    user_key: user.key.clone(),
                    split: user.split.name(),
                    article_id: self.newsroom.articles[click.article_idx].id.clone(),
                    time_unix_s: click.time_unix_s,
                    policy: name,
                    propensity: rounded(click.propensity),
                });
            }
        }
    }
}

/// One event before it is written.
#[derive(Debug)]
struct Moment {
    time_unix_s: i64,
    stream: Stream,
    tag: Tag,
    interest: usize,
}

/// Draws when each event happens and in which stream, in order of time; `true` opens a session.
fn moments(rng: &mut ChaCha8Rng, user: &User) -> Vec<(i64, Stream, bool)> {
    let counts =
        [(Stream::Search, user.n_searches), (Stream::Page, user.n_pages), (Stream::Click, user.n_clicks)];
    let mut streams: Vec<Stream> =
        counts.iter().flat_map(|&(stream, count)| std::iter::repeat_n(stream, count)).collect();
    streams.shuffle(rng);
    let mut sessions = Vec::new();
    let mut left = streams.len();
    while left > 0 {
        let n_events = rng.random_range(1..=SESSION_EVENTS_MAX).min(left);
        // A session never reaches the cutoff: its events are at most 10 minutes apart.
        sessions.push((rng.random_range(START_UNIX_S..CUTOFF_UNIX_S - 3600), n_events));
        left -= n_events;
    }
    sessions.sort_unstable();
    let mut moments = Vec::with_capacity(streams.len());
    for (start, n_events) in sessions {
        let mut time_unix_s = start;
        for event_idx in 0..n_events {
            let Some(stream) = streams.pop() else { break };
            moments.push((time_unix_s, stream, event_idx == 0));
            time_unix_s += rng.random_range(15..600);
        }
    }
    moments.sort_by_key(|&(time_unix_s, _, _)| time_unix_s);
    moments
}

fn boost(interests: &mut [(usize, f64)], session: usize) {
    for (interest, weight) in interests {
        if *interest == session {
            *weight *= SESSION_BOOST;
        }
    }
}

/// Six significant digits, so that files stay small and read back as they were written.
fn rounded(propensity: f64) -> f64 {
    format!("{propensity:.5e}").parse().unwrap_or(propensity)
}
