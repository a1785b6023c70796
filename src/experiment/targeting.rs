//! Whom an experiment is for: the part of flagd's targeting that can be read here.
//!
//! A rule is `null`, the name of a variant, or one of
//! - `{"if": [condition, rule, condition, rule, ..., rule]}`: the first condition that holds decides, else the last rule, if any;
//! - `{"fractional": [bucketing, [variant, weight], ...]}`: readers are spread by weight, a whole number that is 1 where it is left
//!   out. `bucketing` may be left out and is then flag key and reader's key, as in flagd; otherwise it is a text, a variable, or
//!   `{"cat": [text or variable, ...]}`. It is only for `hash_version` 1. Where the reader's key is no part of it, readers go
//!   together, all of a tenant or all there are: their arms are by rule, and nothing compares them.
//!
//! A condition is one of `{"==": [variable, text]}`, `{"!=": [variable, text]}`, `{"in": [variable, [text, ...]]}`,
//! `{"!": condition}`, `{"and": [condition, ...]}`, `{"or": [condition, ...]}`. A variable is `{"var": "locale"}`, `"tier"`,
//! `"tenant"`, `"targetingKey"` (the reader's key) or `"$flagd.flagKey"`; texts are compared byte by byte, and one that a request
//! leaves out equals no text.
//! Source of the syntax: JSON Logic (<https://jsonlogic.com/operations.html>) and flagd's custom operations.
use super::{
    hash::{self, Draw, HashVersion},
    notes::Notes,
};
use serde_json::{Map, Value};
use std::{collections::BTreeSet, sync::Arc};

/// Who asks, as far as experiments may know. An absent text equals none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// Key of the reader.
    pub key: &'a str,
    /// Locale, such as `en-US`.
    pub locale: Option<&'a str>,
    /// Tier, as the platform calls it.
    pub tier: Option<&'a str>,
    /// Tenant.
    pub tenant: Option<&'a str>,
}

/// Arms by position, with the weights by which readers are spread over them.
pub type Split = Arc<[(usize, u32)]>;

/// How a flag spreads readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Key of the flag.
    pub flag_key: String,
    /// How a place is found.
    pub version: HashVersion,
    /// What rendezvous hashing reads beside the reader's key.
    pub salt: String,
    /// Which phase the experiment is in.
    pub phase: String,
}

/// A checked rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Says nothing.
    Absent,
    /// An arm, by position.
    Arm(usize),
    /// The first condition that holds, or else.
    If(Vec<(Condition, Rule)>, Box<Rule>),
    /// By weight.
    Fractional(Option<Vec<Text>>, Split),
}

/// What a rule says of somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Absent,
    /// This arm, by name or by a hash of something that readers share.
    Arm(usize),
    /// This arm, by a hash of the reader's key.
    Spread(usize, Split),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Is(Variable, String),
    In(Variable, BTreeSet<String>),
    Not(Box<Condition>),
    All(Vec<Condition>),
    Any(Vec<Condition>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Locale,
    Tier,
    Tenant,
    Key,
    FlagKey,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Literal(String),
    Of(Variable),
}

impl Variable {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Locale, "locale"),
        (Self::Tier, "tier"),
        (Self::Tenant, "tenant"),
        (Self::Key, "targetingKey"),
        (Self::FlagKey, "$flagd.flagKey"),
    ];

    fn of<'a>(self, subject: &Subject<'a>, flag_key: &'a str) -> Option<&'a str> {
        match self {
            Self::Locale => subject.locale,
            Self::Tier => subject.tier,
            Self::Tenant => subject.tenant,
            Self::Key => Some(subject.key),
            Self::FlagKey => Some(flag_key),
        }
    }
}

impl Condition {
    fn holds(&self, subject: &Subject<'_>, flag_key: &str) -> bool {
        match self {
            Self::Is(variable, text) => variable.of(subject, flag_key) == Some(text),
            Self::In(variable, texts) => {
                variable.of(subject, flag_key).is_some_and(|text| texts.contains(text))
            }
            Self::Not(condition) => !condition.holds(subject, flag_key),
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(subject, flag_key)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(subject, flag_key)),
        }
    }
}

impl Rule {
    /// What the rule says of somebody; `names` are those of the arms.
    pub(super) fn verdict(&self, subject: &Subject<'_>, spread: &Spread, names: &[&str]) -> Verdict {
        match self {
            Self::Absent => Verdict::Absent,
            Self::Arm(arm_idx) => Verdict::Arm(*arm_idx),
            Self::If(branches, otherwise) => branches
                .iter()
                .find(|(condition, _)| condition.holds(subject, &spread.flag_key))
                .map_or(&**otherwise, |(_, rule)| rule)
                .verdict(subject, spread, names),
            Self::Fractional(bucketing, split) => {
                let place = match spread.version {
                    HashVersion::Flagd => {
                        let weights: Vec<u32> = split.iter().map(|(_, weight)| *weight).collect();
                        hash::flagd(bucketed(bucketing.as_deref(), subject, spread).as_bytes(), &weights)
                    }
                    HashVersion::Rendezvous => {
                        let draw = Draw::new(&[&spread.salt, &spread.phase], subject.key);
                        draw.arm(split.iter().map(|&(arm_idx, weight)| (names[arm_idx], weight)))
                    }
                };
                match place.map(|place| split[place].0) {
                    None => Verdict::Absent,
                    // Who shares what is hashed shares the arm: such readers are no independent draws of the weights.
                    Some(arm_idx) if !reads_key(bucketing.as_deref()) => Verdict::Arm(arm_idx),
                    Some(arm_idx) => Verdict::Spread(arm_idx, Arc::clone(split)),
                }
            }
        }
    }
}

/// Whether each reader is hashed for herself.
fn reads_key(bucketing: Option<&[Text]>) -> bool {
    bucketing.is_none_or(|texts| texts.contains(&Text::Of(Variable::Key)))
}

/// The text that flagd hashes.
fn bucketed(bucketing: Option<&[Text]>, subject: &Subject<'_>, spread: &Spread) -> String {
    match bucketing {
        None => format!("{}{}", spread.flag_key, subject.key),
        Some(texts) => texts
            .iter()
            .map(|text| match text {
                Text::Literal(text) => text,
                Text::Of(variable) => variable.of(subject, &spread.flag_key).unwrap_or_default(),
            })
            .collect(),
    }
}

/// Reads the targeting of one flag.
pub(super) struct TargetingReader<'a> {
    /// Names of its arms.
    pub(super) names: &'a [&'a str],
    /// How it spreads readers.
    pub(super) version: HashVersion,
    /// Where mistakes go.
    pub(super) notes: &'a mut Notes,
}

const RULES: &str = "should be null, the name of a variant, {\"if\": [...]} or {\"fractional\": [...]}";
const CONDITIONS: &str = "should be a condition: one of ==, !=, in, !, and, or, alone in its object";

impl TargetingReader<'_> {
    /// Reads a rule; what is wrong in it is noted, and says nothing.
    pub(super) fn rule(&mut self, value: &Value, path: &str) -> Rule {
        match value {
            Value::Null => Rule::Absent,
            Value::String(name) => self.arm(name, path).map_or(Rule::Absent, Rule::Arm),
            Value::Object(object) => match operation(object) {
                Some(("if", operands)) => self.branches(operands, &format!("{path}.if")),
                Some(("fractional", operands)) => self.fractional(operands, &format!("{path}.fractional")),
                // An empty object is how flagd writes that there is no rule.
                None if object.is_empty() => Rule::Absent,
                _ => self.refused(path, RULES),
            },
            Value::Bool(_) | Value::Number(_) | Value::Array(_) => self.refused(path, RULES),
        }
    }

    fn refused(&mut self, path: &str, sentence: &str) -> Rule {
        self.notes.add(path, sentence);
        Rule::Absent
    }

    fn arm(&mut self, name: &str, path: &str) -> Option<usize> {
        let found = self.names.iter().position(|known| *known == name);
        if found.is_none() {
            self.notes.add(path, &format!("names {name:?}, which is no variant of this flag"));
        }
        found
    }

    fn branches(&mut self, operands: &[Value], path: &str) -> Rule {
        if operands.len() < 2 {
            return self.refused(path, "should have a condition and a rule at least");
        }
        let mut branches = Vec::new();
        for (idx, pair) in operands.chunks_exact(2).enumerate() {
            let condition = self.condition(&pair[0], &format!("{path}[{}]", 2 * idx));
            let rule = self.rule(&pair[1], &format!("{path}[{}]", 2 * idx + 1));
            branches.extend(condition.map(|condition| (condition, rule)));
        }
        let last = operands.len() - 1;
        let otherwise = match operands.len() % 2 {
            0 => Rule::Absent,
            _ => self.rule(&operands[last], &format!("{path}[{last}]")),
        };
        Rule::If(branches, Box::new(otherwise))
    }

    fn fractional(&mut self, operands: &[Value], path: &str) -> Rule {
        let explicit = operands.first().filter(|first| !first.is_array());
        let bucketing = explicit.and_then(|value| self.bucketing(value, &format!("{path}[0]")));
        let mut split: Vec<(usize, u32)> = Vec::new();
        for (idx, value) in operands.iter().enumerate().skip(usize::from(explicit.is_some())) {
            let path = format!("{path}[{idx}]");
            let Some((arm_idx, weight)) = self.share(value, &path) else { continue };
            if split.iter().any(|(other, _)| *other == arm_idx) {
                self.notes.add(&path, "names a variant for the second time");
            }
            split.push((arm_idx, weight));
        }
        let total: u64 = split.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if !(1..=WEIGHTS_MAX).contains(&total) {
            self.notes.add(path, &format!("should have weights that sum up to 1 to {WEIGHTS_MAX}"));
        }
        Rule::Fractional(bucketing, split.into())
    }

    fn share(&mut self, value: &Value, path: &str) -> Option<(usize, u32)> {
        let (name, weight) = match value.as_array().map(Vec::as_slice) {
            Some([Value::String(name)]) => (name, Some(1)),
            Some([Value::String(name), weight]) => {
                (name, weight.as_u64().filter(|&weight| weight <= WEIGHTS_MAX))
            }
            _ => {
                self.notes.add(path, "should be [variant, weight]");
                return None;
            }
        };
        let arm_idx = self.arm(name, path)?;
        let Some(weight) = weight.and_then(|weight| u32::try_from(weight).ok()) else {
            self.notes
                .add(path, &format!("should have a whole number from 0 to {WEIGHTS_MAX} as its weight"));
            return None;
        };
        Some((arm_idx, weight))
    }

    fn bucketing(&mut self, value: &Value, path: &str) -> Option<Vec<Text>> {
        if self.version == HashVersion::Rendezvous {
            self.notes.add(path, "cannot say what is hashed where hash_version is 2; metadata.salt does");
            return None;
        }
        let texts = match value.as_object().and_then(operation) {
            Some(("cat", operands)) => operands.iter().map(text).collect(),
            _ => text(value).map(|text| vec![text]),
        };
        if texts.is_none() {
            self.notes.add(path, "should be a text, a variable, or {\"cat\": [...]} of them");
        }
        texts
    }

    fn condition(&mut self, value: &Value, path: &str) -> Option<Condition> {
        let Some((name, operands)) = value.as_object().and_then(operation) else {
            self.notes.add(path, CONDITIONS);
            return None;
        };
        let path = format!("{path}.{name}");
        match (name, operands) {
            ("==", [operand, Value::String(text)]) => {
                Some(Condition::Is(self.variable(operand, &path)?, text.clone()))
            }
            ("!=", [operand, Value::String(text)]) => {
                let is = Condition::Is(self.variable(operand, &path)?, text.clone());
                Some(Condition::Not(Box::new(is)))
            }
            ("==" | "!=", _) => {
                self.notes.add(&path, "should be [variable, text]");
                None
            }
            ("in", [operand, Value::Array(texts)]) if texts.iter().all(Value::is_string) => {
                let texts = texts.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                Some(Condition::In(self.variable(operand, &path)?, texts))
            }
            ("in", _) => {
                self.notes.add(&path, "should be [variable, [text, ...]]");
                None
            }
            ("!", [operand]) => {
                Some(Condition::Not(Box::new(self.condition(operand, &format!("{path}[0]"))?)))
            }
            ("and", operands) if !operands.is_empty() => {
                Some(Condition::All(self.conditions(operands, &path)?))
            }
            ("or", operands) if !operands.is_empty() => {
                Some(Condition::Any(self.conditions(operands, &path)?))
            }
            _ => {
                self.notes.add(&path, CONDITIONS);
                None
            }
        }
    }

    /// All of them, so that each is checked.
    fn conditions(&mut self, values: &[Value], path: &str) -> Option<Vec<Condition>> {
        let read: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(idx, value)| self.condition(value, &format!("{path}[{idx}]")))
            .collect();
        read.into_iter().collect()
    }

    fn variable(&mut self, value: &Value, path: &str) -> Option<Variable> {
        let found = variable(value);
        if found.is_none() {
            let known = Variable::ALL.map(|(_, name)| name).join(", ");
            self.notes.add(path, &format!("should compare {{\"var\": name}} with name one of {known}"));
        }
        found
    }
}

/// Largest sum of weights. Source: flagd's `fractional` operation.
const WEIGHTS_MAX: u64 = 2_147_483_647;

/// The one operation of an object and its operands; JSON Logic takes a single operand without brackets, too.
fn operation(object: &Map<String, Value>) -> Option<(&str, &[Value])> {
    let mut entries = object.iter();
    let (name, operands) = entries.next()?;
    if entries.next().is_some() {
        return None;
    }
    Some((name, operands.as_array().map_or(std::slice::from_ref(operands), Vec::as_slice)))
}

fn variable(value: &Value) -> Option<Variable> {
    let ("var", [Value::String(name)]) = value.as_object().and_then(operation)? else { return None };
    Variable::ALL.into_iter().find(|(_, known)| known == name).map(|(variable, _)| variable)
}

fn text(value: &Value) -> Option<Text> {
    let literal = value.as_str().map(|text| Text::Literal(text.to_owned()));
    literal.or_else(|| variable(value).map(Text::Of))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NAMES: [&str; 2] = ["control", "wide"];

    fn read(rule: &Value, version: HashVersion) -> Result<Rule, Vec<String>> {
        let mut notes = Notes::default();
        let read = TargetingReader { names: &NAMES, version, notes: &mut notes }.rule(rule, "targeting");
        let sentences = notes.into_sentences();
        if sentences.is_empty() { Ok(read) } else { Err(sentences) }
    }

    fn check(rule: Value, subject: &Subject<'_>, expected: Verdict) {
        let spread = Spread {
            flag_key: "newshound.x".to_owned(),
            version: HashVersion::Flagd,
            salt: String::new(),
            phase: String::new(),
        };
        let read = read(&rule, HashVersion::Flagd).unwrap_or_else(|mistakes| panic!("{rule}: {mistakes:?}"));
        assert_eq!(read.verdict(subject, &spread, &NAMES), expected, "{rule}");
    }

    #[test]
    fn conditions_are_read_as_json_logic_means_them() {
        let reader = Subject { key: "u1", locale: Some("en-US"), tier: Some("gold"), tenant: None };
        let when = |condition: Value| json!({"if": [condition, "wide", "control"]});
        for holds in [
            json!({"==": [{"var": "locale"}, "en-US"]}),
            json!({"!=": [{"var": "tenant"}, "acme"]}),
            json!({"in": [{"var": ["tier"]}, ["silver", "gold"]]}),
            json!({"!": {"==": [{"var": "tier"}, "silver"]}}),
            json!({"and": [{"==": [{"var": "tier"}, "gold"]}, {"==": [{"var": "targetingKey"}, "u1"]}]}),
            json!({"or": [{"==": [{"var": "tier"}, "silver"]}, {"==": [{"var": "$flagd.flagKey"}, "newshound.x"]}]}),
        ] {
            check(when(holds.clone()), &reader, Verdict::Arm(1));
            check(when(json!({"!": [holds]})), &reader, Verdict::Arm(0));
        }
        let stranger = Subject { key: "u2", ..Subject::default() };
        check(when(json!({"in": [{"var": "locale"}, [""]]})), &stranger, Verdict::Arm(0));
    }

    #[test]
    fn the_first_condition_that_holds_decides_and_nothing_may_be_said() {
        let rule = json!({"if": [
            {"==": [{"var": "locale"}, "de"]}, "control",
            {"==": [{"var": "tier"}, "gold"]}, "wide",
        ]});
        let both = Subject { key: "u", locale: Some("de"), tier: Some("gold"), tenant: None };
        check(rule.clone(), &both, Verdict::Arm(0));
        check(rule.clone(), &Subject { locale: None, ..both }, Verdict::Arm(1));
        check(rule, &Subject { locale: None, tier: None, ..both }, Verdict::Absent);
        check(json!({}), &both, Verdict::Absent);
        check(Value::Null, &both, Verdict::Absent);
    }

    #[test]
    fn fractions_hash_what_they_say_or_flag_and_reader() {
        let reader = Subject { key: "u1", ..Subject::default() };
        let explicit = json!({"cat": [{"var": "$flagd.flagKey"}, {"var": "targetingKey"}]});
        let shares = [json!(["control", 1]), json!(["wide"])];
        let split: Split = [(0, 1), (1, 1)].into();
        let place = hash::flagd(b"newshound.xu1", &[1, 1]).unwrap();
        let expected = || Verdict::Spread(place, Arc::clone(&split));
        check(json!({"fractional": shares}), &reader, expected());
        check(json!({"fractional": [explicit, shares[0], shares[1]]}), &reader, expected());
    }

    /// Readers of one tenant once counted as independent draws, so that an experiment on two tenants looked like one on all of
    /// their readers.
    #[test]
    fn a_hash_of_what_readers_share_is_a_rule() {
        let reader = Subject { key: "u1", tenant: Some("daily"), locale: Some("fi"), tier: None };
        let shares = [json!(["control", 1]), json!(["wide"])];
        for (bucketing, hashed) in [
            (json!("newshound.xu1"), "newshound.xu1"),
            (json!({"var": "tenant"}), "daily"),
            (json!({"var": "locale"}), "fi"),
            (json!({"cat": [{"var": "$flagd.flagKey"}, {"var": "tenant"}]}), "newshound.xdaily"),
        ] {
            let place = hash::flagd(hashed.as_bytes(), &[1, 1]).unwrap();
            let rule = json!({"fractional": [bucketing, shares[0], shares[1]]});
            check(rule, &reader, Verdict::Arm(place));
        }
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let rule = json!({"if": [
            {"<": [{"var": "locale"}, "de"]}, "wider",
            {"and": [{"==": [{"var": "age"}, "9"]}, {"in": [{"var": "tier"}, "gold"]}, {"==": ["a", "b", "c"]}]},
            {"fractional": [["control", -1], ["wide", 1], ["wide", 1], "wide"]},
            {"$ref": "mine"},
        ]});
        let mistakes = read(&rule, HashVersion::Flagd).unwrap_err();
        let places: Vec<_> = mistakes.iter().map(|mistake| mistake.split(' ').next().unwrap()).collect();
        let expected = [
            "targeting.if[0].<",
            "targeting.if[1]",
            "targeting.if[2].and[0].==",
            "targeting.if[2].and[1].in",
            "targeting.if[2].and[2].==",
            "targeting.if[3].fractional[0]",
            "targeting.if[3].fractional[2]",
            "targeting.if[3].fractional[3]",
            "targeting.if[4]",
        ];
        assert_eq!(places, expected, "{mistakes:#?}");
    }

    #[test]
    fn weights_must_sum_up_to_something_that_flagd_can_hold() {
        let of = |one: u64, other: u64| json!({"fractional": [["control", one], ["wide", other]]});
        assert!(read(&of(0, 1), HashVersion::Flagd).is_ok());
        assert!(read(&of(0, 0), HashVersion::Flagd).is_err());
        assert!(read(&of(WEIGHTS_MAX - 1, 1), HashVersion::Flagd).is_ok());
        assert!(read(&of(WEIGHTS_MAX, 1), HashVersion::Flagd).is_err());
    }

    #[test]
    fn what_is_hashed_has_one_place_to_be_said() {
        let rule = json!({"fractional": [{"var": "targetingKey"}, ["control", 1]]});
        assert!(read(&rule, HashVersion::Flagd).is_ok());
        assert!(read(&rule, HashVersion::Rendezvous).is_err());
    }
}
