//! Experiments as a file says them; its format is told in the documentation of `experiment`.
use super::{
    hash::HashVersion,
    notes::Notes,
    policy::{Bounds, Field, Head, Policy},
    targeting::{Rule, Spread, TargetingReader},
};
use crate::settings::Mistakes;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, fmt::Write, sync::Arc};

/// Largest file. A larger one is refused unread: it is not written by people.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Experiments of a file, and arms of an experiment: both are labels of metrics.
pub const EXPERIMENTS_MAX: usize = 8;
/// See `EXPERIMENTS_MAX`.
pub const ARMS_MAX: usize = 8;
/// Longest name of an experiment, arm, phase or version, and longest salt.
pub const NAME_BYTES_MAX: usize = 64;
/// Flags whose key starts with this are experiments.
const PREFIX: &str = "newshound.";
/// The version of the format, as flagd writes it.
const SCHEMA: &str = "https://flagd.dev/schema/v0/flags.json";

/// The experiments of one file.
#[derive(Clone, Debug, Default)]
pub struct Experiments {
    /// First 16 hex digits of the sha256 of the file.
    pub digest: String,
    /// What the file calls its version.
    pub version: Option<String>,
    /// In the order of their ids.
    pub experiments: Vec<Arc<Experiment>>,
    /// Flags of the file that are somebody else's.
    pub n_ignored: usize,
}

/// One experiment.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The flag's key without `newshound.`.
    pub id: String,
    /// Whether anybody gets an arm.
    pub enabled: bool,
    /// Whether a request may choose its arm.
    pub allows_forced_arm: bool,
    /// How readers are spread.
    pub spread: Spread,
    /// In the order of their ids.
    pub arms: Vec<Arm>,
    /// What any of its arms sets.
    pub fields: BTreeSet<Field>,
    /// Who is not targeted gets this arm, by position.
    pub(super) default_arm: Option<usize>,
    pub(super) targeting: Rule,
}

impl Experiment {
    /// What some arm sets and a request set itself: the same whichever arm it has, so that leaving such requests out favours none.
    pub fn overridden<'a>(&'a self, explicit: &'a BTreeSet<Field>) -> impl Iterator<Item = Field> + 'a {
        self.fields.intersection(explicit).copied()
    }
}

/// One arm.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Its name.
    pub id: String,
    /// What it sets.
    pub policy: Policy,
}

impl Experiments {
    /// First 16 hex digits of the sha256 of a file's text.
    pub fn digest(text: &[u8]) -> String {
        Sha256::digest(text).iter().take(8).fold(String::new(), |mut digits, byte| {
            let _ = write!(digits, "{byte:02x}");
            digits
        })
    }

    /// What the arms, those of experiments that are off among them, ask of a reward head.
    pub fn head_needed(&self) -> Head {
        let arms = self.experiments.iter().flat_map(|experiment| &experiment.arms);
        arms.map(|arm| arm.policy.head_needed()).max().unwrap_or(Head::Absent)
    }

    /// Reads a file's text; `file` names it in mistakes.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn read(text: &[u8], file: &str, bounds: &Bounds) -> Result<Self, Mistakes> {
        let refused = |mistakes| Err(Mistakes { file: file.to_owned(), mistakes });
        if text.len() > FILE_BYTES_MAX {
            return refused(vec![format!("has more than {FILE_BYTES_MAX} bytes")]);
        }
        let root = match serde_json::from_slice::<Value>(text) {
            Ok(Value::Object(root)) => root,
            Ok(_) => return refused(vec!["should be a JSON object".to_owned()]),
            Err(error) => return refused(vec![format!("is not JSON: {error}")]),
        };
        let mut notes = Notes::default();
        let experiments = file_of(&root, Self::digest(text), bounds, &mut notes);
        let mistakes = notes.into_sentences();
        if mistakes.is_empty() { Ok(experiments) } else { refused(mistakes) }
    }
}

fn file_of(root: &Map<String, Value>, digest: String, bounds: &Bounds, notes: &mut Notes) -> Experiments {
    for key in root.keys().filter(|key| !["$schema", "$evaluators", "flags", "metadata"].contains(&&***key)) {
        notes.add(key, "is not understood");
    }
    // flagd requires none.
    if root.get("$schema").is_some_and(|schema| schema != SCHEMA) {
        notes.add("$schema", &format!("should be {SCHEMA:?}"));
    }
    let metadata = object(root.get("metadata"), "metadata", notes);
    let version = metadata.and_then(|metadata| metadata.get("version"));
    let version = version.and_then(|version| name_of(version, "metadata.version", notes));
    if !root.get("flags").is_some_and(Value::is_object) {
        notes.add("flags", "should be an object, one entry per flag");
    }
    let flags = object(root.get("flags"), "flags", &mut Notes::default());
    let (ours, others): (Vec<_>, Vec<_>) =
        flags.into_iter().flatten().partition(|(key, _)| key.starts_with(PREFIX));
    let mut experiments: Vec<_> =
        ours.into_iter().map(|(key, flag)| experiment(key, flag, bounds, notes)).collect();
    experiments.sort_by(|one, other| one.id.cmp(&other.id));
    if experiments.len() > EXPERIMENTS_MAX {
        notes.add("flags", &format!("should hold at most {EXPERIMENTS_MAX} experiments"));
    }
    one_owner_per_field(&experiments, notes);
    let experiments = experiments.into_iter().map(Arc::new).collect();
    Experiments { digest, version, experiments, n_ignored: others.len() }
}

/// What a reader gets must not depend on the order of experiments.
fn one_owner_per_field(experiments: &[Experiment], notes: &mut Notes) {
    for (idx, later) in experiments.iter().enumerate().filter(|(_, experiment)| experiment.enabled) {
        for earlier in experiments[..idx].iter().filter(|experiment| experiment.enabled) {
            for field in later.fields.intersection(&earlier.fields) {
                let path = format!("flags.{PREFIX}{}", later.id);
                let sentence = format!("sets {}, and so does {PREFIX}{}", field.word(), earlier.id);
                notes.add(&path, &sentence);
            }
        }
    }
}

fn experiment(key: &str, flag: &Value, bounds: &Bounds, notes: &mut Notes) -> Experiment {
    let path = format!("flags.{key}");
    let empty = Map::new();
    let flag = object(Some(flag), &path, notes).unwrap_or(&empty);
    let known = ["state", "variants", "defaultVariant", "targeting", "metadata"];
    for unknown in flag.keys().filter(|key| !known.contains(&&***key)) {
        notes.add(&format!("{path}.{unknown}"), "is not understood");
    }
    let id = &key[PREFIX.len()..];
    if !is_name(id) {
        notes.add(&path, NAME);
    }
    let enabled = match flag.get("state").and_then(Value::as_str) {
        Some("ENABLED") => true,
        Some("DISABLED") => false,
        _ => {
            notes.add(&format!("{path}.state"), "should be \"ENABLED\" or \"DISABLED\"");
            false
        }
    };
    let (spread, allows_forced_arm) = metadata(key, flag.get("metadata"), notes);
    let arms = arms(flag.get("variants"), &format!("{path}.variants"), bounds, notes);
    // One that is off can name a bundle of which the settings know nothing: nothing may keep anybody from switching an experiment off.
    if enabled {
        arms.iter().for_each(|arm| resident(arm, &path, &bounds.bundles, notes));
    }
    let names: Vec<&str> = arms.iter().map(|arm| arm.id.as_str()).collect();
    let mut reader = TargetingReader { names: &names, version: spread.version, notes };
    let targeting = reader.rule(flag.get("targeting").unwrap_or(&Value::Null), &format!("{path}.targeting"));
    let default_arm = match flag.get("defaultVariant") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let found = names.iter().position(|name| value.as_str() == Some(name));
            if found.is_none() {
                notes.add(&format!("{path}.defaultVariant"), "should be the name of a variant");
            }
            found
        }
    };
    let fields = arms.iter().flat_map(|arm| arm.policy.fields()).collect();
    Experiment { id: id.to_owned(), enabled, allows_forced_arm, spread, arms, fields, default_arm, targeting }
}

fn arms(variants: Option<&Value>, path: &str, bounds: &Bounds, notes: &mut Notes) -> Vec<Arm> {
    let variants = variants.and_then(Value::as_object).filter(|variants| !variants.is_empty());
    let Some(variants) = variants.filter(|variants| variants.len() <= ARMS_MAX) else {
        notes.add(path, &format!("should be an object of 1 to {ARMS_MAX} variants"));
        return Vec::new();
    };
    let mut arms: Vec<Arm> = variants
        .iter()
        .map(|(id, variant)| {
            let path = format!("{path}.{id}");
            if !is_name(id) {
                notes.add(&path, NAME);
            }
            Arm { id: id.clone(), policy: Policy::read(variant, &path, bounds, notes) }
        })
        .collect();
    arms.sort_by(|one, other| one.id.cmp(&other.id));
    arms
}

/// Readers of an arm get the bundle that it names.
fn resident(arm: &Arm, path: &str, bundles: &BTreeSet<String>, notes: &mut Notes) {
    if let Some(bundle) = arm.policy.bundle.as_deref().filter(|bundle| !bundles.contains(*bundle)) {
        let known: Vec<&str> = bundles.iter().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let path = format!("{path}.variants.{}.bundle", arm.id);
        notes.add(&path, &format!("names {bundle}, which is no resident (residents: {known})"));
    }
}

/// How readers are spread, and whether a request may choose its arm.
fn metadata(key: &str, value: Option<&Value>, notes: &mut Notes) -> (Spread, bool) {
    let path = format!("flags.{key}.metadata");
    let empty = Map::new();
    let metadata = object(value, &path, notes).unwrap_or(&empty);
    let known = ["hash_version", "salt", "phase", "allow_forced_arm"];
    for unknown in metadata.keys().filter(|key| !known.contains(&&***key)) {
        notes.add(&format!("{path}.{unknown}"), "is not understood");
    }
    let version = metadata
        .get("hash_version")
        .map_or(Some(HashVersion::Flagd), |value| value.as_u64().and_then(HashVersion::of_number));
    if version.is_none() {
        notes.add(&format!("{path}.hash_version"), "should be 1 (flagd's) or 2 (rendezvous)");
    }
    let version = version.unwrap_or(HashVersion::Flagd);
    if metadata.contains_key("salt") && version == HashVersion::Flagd {
        notes
            .add(&format!("{path}.salt"), "needs hash_version 2; what version 1 hashes stands in fractional");
    }
    let mut text = |name: &str, default: &str| {
        let value = metadata.get(name).map(|value| name_of(value, &format!("{path}.{name}"), notes));
        value.flatten().unwrap_or_else(|| default.to_owned())
    };
    let (salt, phase) = (text("salt", key), text("phase", "1"));
    let forced = metadata.get("allow_forced_arm").map_or(Some(false), Value::as_bool);
    if forced.is_none() {
        notes.add(&format!("{path}.allow_forced_arm"), "should be true or false");
    }
    (Spread { flag_key: key.to_owned(), version, salt, phase }, forced.unwrap_or(false))
}

/// An object, if it is there; something else at its place is a mistake.
fn object<'a>(value: Option<&'a Value>, path: &str, notes: &mut Notes) -> Option<&'a Map<String, Value>> {
    let value = value?;
    if !value.is_object() {
        notes.add(path, "should be an object");
    }
    value.as_object()
}

/// A short visible text.
fn name_of(value: &Value, path: &str, notes: &mut Notes) -> Option<String> {
    let is_short =
        |text: &&str| (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    let text = value.as_str().filter(is_short);
    if text.is_none() {
        notes.add(path, &format!("should be a text of 1 to {NAME_BYTES_MAX} bytes on one line"));
    }
    text.map(str::to_owned)
}

const NAME: &str = "should have a name of 1 to 64 letters, digits, dots, dashes and underscores";

/// Whether a text can name an experiment, arm or bundle: it becomes a label of metrics and a value of gRPC metadata.
pub fn is_name(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_fit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::policy::Head;
    use serde_json::json;

    fn bounds() -> Bounds {
        Bounds {
            candidate_counts: 1..=32,
            query_counts: 3..=8,
            temperatures: 0.0..=2.0,
            cache_ttls_ms: 1..=86_400_000,
            cache_stales_ms: 0..=86_400_000,
            head: Head::Absent,
            bundles: BTreeSet::from(["student-2".to_owned()]),
        }
    }

    fn file(flags: &Value) -> Value {
        json!({"$schema": SCHEMA, "flags": flags})
    }

    fn read(file: &Value) -> Result<Experiments, Vec<String>> {
        let text = serde_json::to_vec(file).unwrap();
        Experiments::read(&text, "experiments.json", &bounds()).map_err(|error| error.mistakes)
    }

    fn flag(change: impl FnOnce(&mut Map<String, Value>)) -> Value {
        let mut flag = json!({
            "state": "ENABLED",
            "variants": {"control": {}, "wide": {"candidate_count": 16}},
            "defaultVariant": "control",
            "targeting": {"fractional": [["control", 1], ["wide", 1]]},
        });
        change(flag.as_object_mut().unwrap());
        flag
    }

    #[test]
    fn flags_of_others_are_left_alone_whatever_they_hold() {
        let read = read(&json!({
            "$schema": SCHEMA,
            "metadata": {"version": "7", "owner": "news"},
            "$evaluators": {"mine": {}},
            "flags": {
                "newshound.best-of": flag(|_| {}),
                "new-header": {"state": "ENABLED", "variants": {"on": true}, "targeting": {"sem_ver": []}},
            },
        }));
        let read = read.unwrap();
        assert_eq!((read.experiments.len(), read.n_ignored, read.version.as_deref()), (1, 1, Some("7")));
        let experiment = &read.experiments[0];
        assert_eq!((experiment.id.as_str(), experiment.enabled), ("best-of", true));
        assert_eq!(
            experiment.spread.version,
            HashVersion::Flagd,
            "what flagd does, unless the file says otherwise"
        );
        assert!(!experiment.allows_forced_arm);
        assert_eq!(experiment.fields, BTreeSet::from([Field::CandidateCount]));
    }

    #[test]
    fn all_mistakes_of_a_file_are_told_together() {
        let mistakes = read(&json!({
            "$schema": "https://flagd.dev/schema/v1/flags.json",
            "extra": 1,
            "metadata": {"version": 7},
            "flags": {
                "newshound.a b": flag(|flag| {
                    flag.insert("state".to_owned(), json!("PAUSED"));
                    flag.insert("defaultVariant".to_owned(), json!("wider"));
                }),
                "newshound.c": flag(|flag| {
                    flag.insert("variants".to_owned(), json!({"on": true}));
                    flag.insert("source".to_owned(), json!("x"));
                    flag.insert("metadata".to_owned(),
                        json!({"hash_version": 3, "salt": "s", "phase": "", "allow_forced_arm": "yes", "team": "x"}));
                }),
            },
        }));
        let mistakes = mistakes.unwrap_err();
        let places: Vec<_> = mistakes.iter().map(|mistake| mistake.split(' ').next().unwrap()).collect();
        let expected = [
            "extra",
            "$schema",
            "metadata.version",
            "flags.newshound.a",
            "flags.newshound.a",
            "flags.newshound.a",
            "flags.newshound.c.source",
            "flags.newshound.c.metadata.team",
            "flags.newshound.c.metadata.hash_version",
            "flags.newshound.c.metadata.salt",
            "flags.newshound.c.metadata.phase",
            "flags.newshound.c.metadata.allow_forced_arm",
            "flags.newshound.c.variants.on",
            "flags.newshound.c.targeting.fractional[0]",
            "flags.newshound.c.targeting.fractional[1]",
            "flags.newshound.c.targeting.fractional",
            "flags.newshound.c.defaultVariant",
        ];
        assert_eq!(places, expected, "{mistakes:#?}");
    }

    #[test]
    fn text_that_is_no_file_is_one_mistake() {
        for text in ["", "[]", "{\"flags\": ", "7"] {
            let error = Experiments::read(text.as_bytes(), "f", &bounds()).unwrap_err();
            assert_eq!(error.mistakes.len(), 1, "{text}");
        }
        let large = vec![b' '; FILE_BYTES_MAX + 1];
        assert_eq!(Experiments::read(&large, "f", &bounds()).unwrap_err().mistakes.len(), 1);
        assert!(read(&json!({"$schema": SCHEMA})).is_err(), "there are no flags");
    }

    #[test]
    fn a_file_that_names_no_schema_is_right_and_one_that_names_another_is_not() {
        assert!(read(&json!({"flags": {}})).is_ok());
        for schema in [json!("https://flagd.dev/schema/v1/flags.json"), json!(null), json!(0)] {
            assert!(read(&json!({"$schema": schema, "flags": {}})).is_err(), "{schema}");
        }
    }

    #[test]
    fn numbers_of_arms_and_experiments_have_limits() {
        let arms = |n: usize| {
            let variants: Map<_, _> = (0..n).map(|arm| (format!("arm{arm}"), json!({}))).collect();
            let flag = json!({"state": "ENABLED", "variants": variants});
            read(&file(&json!({"newshound.x": flag})))
        };
        assert!(arms(0).is_err() && arms(1).is_ok() && arms(ARMS_MAX).is_ok() && arms(ARMS_MAX + 1).is_err());
        let experiments = |n: usize| {
            let flag = json!({"state": "ENABLED", "variants": {"a": {}}});
            read(&file(&(0..n).map(|id| (format!("newshound.x{id}"), flag.clone())).collect::<Value>()))
        };
        assert!(experiments(0).is_ok() && experiments(EXPERIMENTS_MAX).is_ok());
        assert!(experiments(EXPERIMENTS_MAX + 1).is_err());
    }

    #[test]
    fn two_experiments_never_set_the_same_field_unless_one_is_off() {
        let both = |state: &str| {
            let other = flag(|flag| drop(flag.insert("state".to_owned(), json!(state))));
            read(&file(&json!({"newshound.a": flag(|_| {}), "newshound.b": other})))
        };
        let mistakes = both("ENABLED").unwrap_err();
        assert_eq!(mistakes, ["flags.newshound.b sets candidate_count, and so does newshound.a"]);
        assert!(both("DISABLED").is_ok());
    }

    #[test]
    fn an_arm_names_a_bundle_that_is_resident_unless_its_experiment_is_off() {
        let naming = |bundle: &str, state: &str| {
            let flag = json!({"state": state, "variants": {"a": {}, "b": {"bundle": bundle}}});
            read(&file(&json!({"newshound.x": flag})))
        };
        let arms = naming("student-2", "ENABLED").unwrap().experiments[0].arms.clone();
        assert_eq!(arms[1].policy.bundle.as_deref(), Some("student-2"));
        let mistakes = naming("student-3", "ENABLED").unwrap_err();
        let path = "flags.newshound.x.variants.b.bundle";
        let expected = format!("{path} names student-3, which is no resident (residents: student-2)");
        assert_eq!(mistakes, [expected]);
        assert!(naming("student-3", "DISABLED").is_ok(), "the kill switch works");
        assert!(naming("student/3", "DISABLED").is_err());
    }

    #[test]
    fn digests_differ_by_content() {
        let (one, other) = (read(&file(&json!({}))), read(&file(&json!({"other": {}}))));
        assert_ne!(one.unwrap().digest, other.unwrap().digest);
    }
}
