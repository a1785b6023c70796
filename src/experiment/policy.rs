//! What an arm changes: the bundle that answers, a few of the things a request may say, and how long its answers are kept.
use super::{flags::is_name, notes::Notes};
use serde_json::Value;
use std::{collections::BTreeSet, ops::RangeInclusive, str::FromStr, sync::Arc, time::Duration};

/// How lists are compared, as an arm may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rerank {
    /// By the reward that the head predicts.
    RewardHead,
    /// By how far the other lists agree.
    Consensus,
    /// By the mean log-probability.
    LogProb,
    /// Not at all.
    None,
    /// Not lists but queries: the best of all lists make one.
    Stitch,
}

impl Rerank {
    const ALL: [Self; 5] = [Self::RewardHead, Self::Consensus, Self::LogProb, Self::None, Self::Stitch];

    fn word(self) -> &'static str {
        match self {
            Self::RewardHead => "reward_head",
            Self::Consensus => "consensus",
            Self::LogProb => "logprob",
            Self::None => "none",
            Self::Stitch => "stitch",
        }
    }
}

/// Whether candidates that cannot become the best are ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// All are written to their end.
    Off,
    /// Where that is all but sure.
    Safe,
    /// Where it is likely.
    Aggressive,
}

impl EarlyStopping {
    const ALL: [Self; 3] = [Self::Off, Self::Safe, Self::Aggressive];

    fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Safe => "safe",
            Self::Aggressive => "aggressive",
        }
    }
}

impl FromStr for EarlyStopping {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let mode = Self::ALL.into_iter().find(|mode| mode.word() == word);
        mode.ok_or_else(|| format!("should be one of {}", Self::ALL.map(Self::word).join(", ")))
    }
}

/// Which candidates are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// As many as are asked for.
    All,
    /// A few, and the others where those disagree and nobody waits for their room.
    AsNeeded,
}

impl Draw {
    const ALL: [Self; 2] = [Self::All, Self::AsNeeded];

    fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::AsNeeded => "as_needed",
        }
    }
}

impl FromStr for Draw {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let draw = Self::ALL.into_iter().find(|draw| draw.word() == word);
        draw.ok_or_else(|| format!("should be one of {}", Self::ALL.map(Self::word).join(", ")))
    }
}

/// How far an answer may fall short of what was asked, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Not at all.
    Full,
    /// It is the best of half the candidates.
    Fewer,
    /// It is the one list that the model finds likeliest.
    Greedy,
    /// It is a stored one that is too old.
    Stale,
    /// It is the list of everybody of the reader's locale.
    Cohort,
}

impl Rung {
    const ALL: [Self; 5] = [Self::Full, Self::Fewer, Self::Greedy, Self::Stale, Self::Cohort];

    /// Its word in files, metrics and records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Fewer => "fewer",
            Self::Greedy => "greedy",
            Self::Stale => "stale",
            Self::Cohort => "cohort",
        }
    }

    /// The rung of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rung| rung.word() == word)
    }

    /// All words with commas between.
    pub fn words() -> String {
        Self::ALL.map(Self::word).join(", ")
    }
}

/// One thing that a policy may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The bundle that answers.
    Bundle,
    /// Number of candidates.
    CandidateCount,
    /// Most queries of the chosen list.
    QueryCount,
    /// Temperature of sampling.
    Temperature,
    /// Nucleus of sampling.
    TopP,
    /// How the best list is found.
    Rerank,
    /// How long an answer is used.
    CacheTtl,
    /// How long after that, while a newer one is generated.
    CacheStale,
    /// Whether weak candidates are ended early.
    EarlyStopping,
    /// Whether all candidates are written.
    Draw,
    /// How far an answer may fall short where there is no time or room for all of it.
    LowestRung,
}

impl Field {
    const ALL: [Self; 11] = [
        Self::Bundle,
        Self::CandidateCount,
        Self::QueryCount,
        Self::Temperature,
        Self::TopP,
        Self::Rerank,
        Self::CacheTtl,
        Self::CacheStale,
        Self::EarlyStopping,
        Self::Draw,
        Self::LowestRung,
    ];

    /// Its name in files and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::CandidateCount => "candidate_count",
            Self::QueryCount => "query_count",
            Self::Temperature => "temperature",
            Self::TopP => "top_p",
            Self::Rerank => "rerank",
            Self::CacheTtl => "cache_ttl_ms",
            Self::CacheStale => "cache_stale_ms",
            Self::EarlyStopping => "early_stopping",
            Self::Draw => "draw",
            Self::LowestRung => "lowest_rung",
        }
    }
}

/// What the bundle's reward head can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Head {
    /// There is none.
    Absent,
    /// It scores lists that have ended.
    Scores,
    /// It also foresees what a list will be worth, as early stopping needs.
    Foresees,
}

/// What an arm may ask for: what the server that reads the file can do.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// Numbers of candidates.
    pub candidate_counts: RangeInclusive<u64>,
    /// Lengths of a list.
    pub query_counts: RangeInclusive<u64>,
    /// Temperatures.
    pub temperatures: RangeInclusive<f32>,
    /// How long answers may be kept, in milliseconds.
    pub cache_ttls_ms: RangeInclusive<u64>,
    /// How long they may be used after that, in milliseconds.
    pub cache_stales_ms: RangeInclusive<u64>,
    /// How far lists can be scored, by every model that answers: a reader may have arms of several experiments.
    pub head: Head,
    /// Names under which bundles may answer beside the default one.
    pub bundles: BTreeSet<String>,
}

/// What an arm sets; what it leaves out stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Name of the bundle that answers, instead of the default one.
    pub bundle: Option<Arc<str>>,
    /// N.
    pub candidate_count: Option<usize>,
    /// Most queries of the chosen list.
    pub query_count: Option<usize>,
    /// Temperature of sampling.
    pub temperature: Option<f32>,
    /// Nucleus of sampling: above 0, to 1.
    pub top_p: Option<f32>,
    /// How the best list is found.
    pub rerank: Option<Rerank>,
    /// How long an answer is used.
    pub cache_ttl: Option<Duration>,
    /// How long it is used after that, while a newer one is generated.
    pub cache_stale: Option<Duration>,
    /// Whether weak candidates are ended early.
    pub early_stopping: Option<EarlyStopping>,
    /// Whether all candidates are written.
    pub draw: Option<Draw>,
    /// How far an answer may fall short where there is no time or room for all of it.
    pub lowest_rung: Option<Rung>,
}

impl Policy {
    /// The fields that it sets.
    pub fn fields(&self) -> impl Iterator<Item = Field> + '_ {
        Field::ALL.into_iter().filter(|field| match field {
            Field::Bundle => self.bundle.is_some(),
            Field::CandidateCount => self.candidate_count.is_some(),
            Field::QueryCount => self.query_count.is_some(),
            Field::Temperature => self.temperature.is_some(),
            Field::TopP => self.top_p.is_some(),
            Field::Rerank => self.rerank.is_some(),
            Field::CacheTtl => self.cache_ttl.is_some(),
            Field::CacheStale => self.cache_stale.is_some(),
            Field::EarlyStopping => self.early_stopping.is_some(),
            Field::Draw => self.draw.is_some(),
            Field::LowestRung => self.lowest_rung.is_some(),
        })
    }

    /// Both together; no field is set by both (`flags` sees to that).
    pub fn and(self, other: Self) -> Self {
        Self {
            bundle: self.bundle.or(other.bundle),
            candidate_count: self.candidate_count.or(other.candidate_count),
            query_count: self.query_count.or(other.query_count),
            temperature: self.temperature.or(other.temperature),
            top_p: self.top_p.or(other.top_p),
            rerank: self.rerank.or(other.rerank),
            cache_ttl: self.cache_ttl.or(other.cache_ttl),
            cache_stale: self.cache_stale.or(other.cache_stale),
            early_stopping: self.early_stopping.or(other.early_stopping),
            draw: self.draw.or(other.draw),
            lowest_rung: self.lowest_rung.or(other.lowest_rung),
        }
    }

    /// Reads a variant; every mistake is noted, and what is wrong is left out.
    pub(super) fn read(value: &Value, path: &str, bounds: &Bounds, notes: &mut Notes) -> Self {
        let mut policy = Self::default();
        let Some(settings) = value.as_object() else {
            notes.add(path, "should be an object such as {\"candidate_count\": 16}");
            return policy;
        };
        for (key, value) in settings {
            let path = format!("{path}.{key}");
            let Some(field) = Field::ALL.into_iter().find(|field| field.word() == key) else {
                let known = Field::ALL.map(Field::word).join(", ");
                notes.add(&path, &format!("is nothing that an arm can set; there are {known}"));
                continue;
            };
            policy.set(field, (value, &path), bounds, notes);
        }
        // Without the head's choice nothing is stopped, and an arm that does nothing would be compared all the same.
        let chooses = policy.rerank.is_none_or(|rerank| rerank == Rerank::RewardHead);
        if policy.stops() && !chooses {
            notes.add(&format!("{path}.early_stopping"), "works only where rerank is reward_head");
        }
        policy
    }

    /// What it asks of a reward head.
    pub(super) fn head_needed(&self) -> Head {
        match self.rerank {
            _ if self.stops() => Head::Foresees,
            Some(Rerank::RewardHead) => Head::Scores,
            Some(Rerank::Consensus | Rerank::LogProb | Rerank::None | Rerank::Stitch) | None => Head::Absent,
        }
    }

    /// Whether it asks for candidates to be ended early.
    fn stops(&self) -> bool {
        matches!(self.early_stopping, Some(EarlyStopping::Safe | EarlyStopping::Aggressive))
    }

    fn set(&mut self, field: Field, (value, path): (&Value, &str), bounds: &Bounds, notes: &mut Notes) {
        match field {
            Field::Bundle => {
                self.bundle = value.as_str().filter(|name| is_name(name)).map(Arc::from);
                if self.bundle.is_none() {
                    notes.add(path, "should be the name of a resident bundle");
                }
            }
            Field::CandidateCount => {
                self.candidate_count =
                    whole(value, path, &bounds.candidate_counts, notes).and_then(|n| n.try_into().ok());
            }
            Field::QueryCount => {
                self.query_count =
                    whole(value, path, &bounds.query_counts, notes).and_then(|n| n.try_into().ok());
            }
            Field::Temperature => self.temperature = number(value, path, &bounds.temperatures, notes),
            Field::TopP => self.top_p = number(value, path, &(f32::MIN_POSITIVE..=1.0), notes),
            Field::CacheTtl => {
                self.cache_ttl = whole(value, path, &bounds.cache_ttls_ms, notes).map(Duration::from_millis);
            }
            Field::CacheStale => {
                self.cache_stale =
                    whole(value, path, &bounds.cache_stales_ms, notes).map(Duration::from_millis);
            }
            Field::EarlyStopping => {
                self.early_stopping = one_of(EarlyStopping::ALL, EarlyStopping::word, (value, path), notes);
                if self.stops() && bounds.head < Head::Foresees {
                    notes.add(path, "needs a reward head that foresees, and not every bundle has one");
                }
            }
            Field::Draw => self.draw = one_of(Draw::ALL, Draw::word, (value, path), notes),
            Field::LowestRung => self.lowest_rung = one_of(Rung::ALL, Rung::word, (value, path), notes),
            Field::Rerank => {
                self.rerank = one_of(Rerank::ALL, Rerank::word, (value, path), notes);
                if self.rerank == Some(Rerank::RewardHead) && bounds.head == Head::Absent {
                    notes.add(path, "asks for the reward head, and not every bundle has one");
                }
            }
        }
    }
}

fn one_of<T: Copy, const N: usize>(
    all: [T; N],
    word: fn(T) -> &'static str,
    (value, path): (&Value, &str),
    notes: &mut Notes,
) -> Option<T> {
    let found = all.into_iter().find(|one| value.as_str() == Some(word(*one)));
    if found.is_none() {
        notes.add(path, &format!("should be one of {}", all.map(word).join(", ")));
    }
    found
}

fn whole(value: &Value, path: &str, range: &RangeInclusive<u64>, notes: &mut Notes) -> Option<u64> {
    let whole = value.as_u64().filter(|whole| range.contains(whole));
    if whole.is_none() {
        notes.add(path, &format!("should be a whole number from {} to {}", range.start(), range.end()));
    }
    whole
}

fn number(value: &Value, path: &str, range: &RangeInclusive<f32>, notes: &mut Notes) -> Option<f32> {
    #[allow(clippy::cast_possible_truncation, reason = "a policy needs no more digits than the sampler has")]
    let number = value.as_f64().map(|number| number as f32).filter(|number| range.contains(number));
    if number.is_none() {
        let start = if *range.start() > 0.0 { "above 0".to_owned() } else { "from 0".to_owned() };
        notes.add(path, &format!("should be a number {start} to {}", range.end()));
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(variant: Value, head: Head) -> Result<Policy, Vec<String>> {
        let bounds = Bounds {
            candidate_counts: 1..=32,
            query_counts: 3..=8,
            temperatures: 0.0..=2.0,
            cache_ttls_ms: 1..=1000,
            cache_stales_ms: 0..=1000,
            head,
            bundles: BTreeSet::new(),
        };
        let mut notes = Notes::default();
        let policy = Policy::read(&variant, "arm", &bounds, &mut notes);
        let sentences = notes.into_sentences();
        if sentences.is_empty() { Ok(policy) } else { Err(sentences) }
    }

    #[test]
    fn every_field_is_read_and_listed() {
        let all = json!({"bundle": "student-2", "candidate_count": 16, "query_count": 5, "temperature": 0.5, "top_p": 0.9,
            "rerank": "reward_head", "cache_ttl_ms": 250, "cache_stale_ms": 0, "early_stopping": "safe",
            "draw": "as_needed", "lowest_rung": "greedy"});
        let expected = Policy {
            bundle: Some("student-2".into()),
            candidate_count: Some(16),
            query_count: Some(5),
            temperature: Some(0.5),
            top_p: Some(0.9),
            rerank: Some(Rerank::RewardHead),
            cache_ttl: Some(Duration::from_millis(250)),
            cache_stale: Some(Duration::ZERO),
            early_stopping: Some(EarlyStopping::Safe),
            draw: Some(Draw::AsNeeded),
            lowest_rung: Some(Rung::Greedy),
        };
        assert_eq!(expected.fields().collect::<Vec<_>>(), Field::ALL);
        assert_eq!(check(all, Head::Foresees), Ok(expected));
        assert_eq!(check(json!({}), Head::Absent), Ok(Policy::default()));
        assert_eq!(Policy::default().fields().count(), 0);
    }

    #[test]
    fn both_sides_of_every_limit() {
        for (field, inside, outside) in [
            ("bundle", json!(["v1.2_b-3"]), json!(["", "a b", "../b", 1, null])),
            ("candidate_count", json!([1, 32]), json!([0, 33, 1.5, -1, "8", null])),
            ("query_count", json!([3, 8]), json!([2, 9])),
            ("temperature", json!([0, 2.0]), json!([-0.1, 2.1, "hot"])),
            ("top_p", json!([0.01, 1]), json!([0, 1.1])),
            ("cache_ttl_ms", json!([1, 1000]), json!([0, 1001])),
            ("cache_stale_ms", json!([0, 1000]), json!([-1, 1001])),
            ("early_stopping", json!(["off"]), json!(["on", true, "safe", "aggressive"])),
            ("draw", json!(["all", "as_needed"]), json!(["off", true, 2])),
            ("lowest_rung", json!(["full", "fewer", "greedy", "stale", "cohort"]), json!(["refused", 1])),
            ("rerank", json!(["consensus", "none"]), json!(["auto", 1, "reward_head"])),
        ] {
            for value in inside.as_array().unwrap() {
                assert!(check(json!({field: value}), Head::Absent).is_ok(), "{field} {value}");
            }
            for value in outside.as_array().unwrap() {
                let mistakes = check(json!({field: value}), Head::Absent).unwrap_err();
                assert!(mistakes[0].starts_with(&format!("arm.{field} ")), "{mistakes:?}");
            }
        }
    }

    #[test]
    fn the_head_can_be_asked_for_where_there_is_one() {
        assert!(check(json!({"rerank": "reward_head"}), Head::Scores).is_ok());
    }

    /// An arm that stopped nothing was once answered, logged and compared like one that does.
    #[test]
    fn lists_are_stopped_only_by_a_head_that_foresees_and_chooses() {
        for mode in ["safe", "aggressive"] {
            let arm = json!({"early_stopping": mode});
            assert!(check(arm.clone(), Head::Scores).is_err());
            assert!(check(arm, Head::Foresees).is_ok());
            let with =
                |rerank: &str| check(json!({"early_stopping": mode, "rerank": rerank}), Head::Foresees);
            assert!(with("reward_head").is_ok());
            for other in ["consensus", "logprob", "none", "stitch"] {
                let mistakes = with(other).unwrap_err();
                assert_eq!(mistakes, ["arm.early_stopping works only where rerank is reward_head"]);
            }
        }
        assert!(check(json!({"early_stopping": "off", "rerank": "none"}), Head::Absent).is_ok());
    }

    #[test]
    fn unknown_fields_and_other_kinds_of_variants_are_refused() {
        assert_eq!(check(json!({"beam": 1, "width": "b"}), Head::Foresees).unwrap_err().len(), 2);
        assert_eq!(check(json!(true), Head::Foresees).unwrap_err().len(), 1);
    }

    #[test]
    fn policies_add_up() {
        let (one, other) = (
            Policy { temperature: Some(0.5), ..Policy::default() },
            Policy { top_p: Some(0.9), ..Policy::default() },
        );
        assert_eq!(one.and(other), Policy { temperature: Some(0.5), top_p: Some(0.9), ..Policy::default() });
    }
}
