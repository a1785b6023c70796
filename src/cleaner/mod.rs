//! Which signals say something about their reader, and which are noise: rules first, then a small RoBERTa classifier.
//!
//! A cleaner given to training judges as the one in the bundle does. News clicks and categories are the platform's own words, so that they are
//! judged by one rule alone: what identifies a person must not reach a model, whoever wrote it.
pub mod rules;

use crate::{
    model::{
        encoder::{classifier::Classifier, config::EncoderConfig},
        ops::Numerics,
        weights::{Checkpoint, ModelError},
    },
    signals::{Stream, UserSignals},
    text::tokens::{TokensError, encoder::EncoderTokens},
};
use candle_core::{DType, Device};
use std::{borrow::Cow, path::Path};
use thiserror::Error;

/// Signals that go through the classifier together: padding grows with the batch, overhead per batch shrinks with it.
const BATCH: usize = 64;

/// What a signal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// It says what its reader cares about.
    Keep,
    /// Broken input: escapes, keys struck at random, nothing that is a word.
    Malformed,
    /// On the way to a site, whatever is read there.
    Navigational,
    /// Written by a machine: spam, automata.
    Automated,
    /// Personal data or a secret: it must not reach a model.
    Personal,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 5] =
        [Self::Keep, Self::Malformed, Self::Navigational, Self::Automated, Self::Personal];

    /// Its word in files, tables and metrics; the label of a classifier that means it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Malformed => "malformed",
            Self::Navigational => "navigational",
            Self::Automated => "automated",
            Self::Personal => "personal",
        }
    }

    /// The verdict of a word. `drop`, the label of classifiers that know two, is automated.
    pub fn of_word(word: &str) -> Option<Self> {
        match word {
            "drop" => Some(Self::Automated),
            word => Self::ALL.into_iter().find(|verdict| verdict.word() == word),
        }
    }
}

/// Why a cleaner cannot be used.
#[derive(Debug, Error)]
pub enum CleanerError {
    /// The classifier could not be used.
    #[error("classifier could not be used")]
    Model(#[from] ModelError),
    /// Its tokenizer could not be used.
    #[error("tokenizer of the classifier could not be used")]
    Tokens(#[from] TokensError),
    /// Logits could not be read.
    #[error("logits of the classifier could not be read")]
    Logits(#[from] candle_core::Error),
    /// A label of the classifier means nothing here.
    #[error(
        "label {label:?} of the classifier is none of keep, drop, malformed, navigational, automated, personal"
    )]
    Label {
        /// The label.
        label: String,
    },
}

/// Judges signals.
#[derive(Debug)]
pub struct Cleaner {
    classifier: Classifier,
    tokens: EncoderTokens,
    /// What each logit means.
    labels: Vec<Verdict>,
}

impl Cleaner {
    /// Opens the Hugging Face folder of a RoBERTa or BERT classifier whose labels are verdicts.
    /// # Errors
    /// If a file is missing or broken, or a label is unknown.
    pub fn open(dir: &Path) -> Result<Self, CleanerError> {
        let classifier = Classifier::open(dir, &Device::Cpu)?;
        let tokens = EncoderTokens::open(dir, classifier.encoder().config().tokens_max())?;
        Self::new(classifier, tokens)
    }

    /// Builds a cleaner of the contents of `config.json`, `model.safetensors` and `tokenizer.json`.
    /// # Errors
    /// As [`Cleaner::open`].
    pub fn from_files(
        config: &[u8],
        weights: Cow<'static, [u8]>,
        tokenizer: &[u8],
    ) -> Result<Self, CleanerError> {
        let config = EncoderConfig::parse(config, "config.json of the cleaner")?;
        let file = ("model.safetensors of the cleaner".to_owned(), weights);
        // Tiny, and on the CPU whatever the student runs on: signals are cleaned before they become ids.
        let mut source = Checkpoint::from_files(vec![file], DType::F32, &Device::Cpu)?;
        let classifier = Classifier::load(&config, &mut source, Numerics::Serve)?;
        let tokens = EncoderTokens::from_bytes(tokenizer, config.tokens_max())?;
        Self::new(classifier, tokens)
    }

    /// Takes a classifier and its tokenizer.
    /// # Errors
    /// If a label is unknown.
    pub fn new(classifier: Classifier, tokens: EncoderTokens) -> Result<Self, CleanerError> {
        let known = |label: &String| {
            Verdict::of_word(label).ok_or_else(|| CleanerError::Label { label: label.clone() })
        };
        let labels = classifier.encoder().config().labels.iter().map(known).collect::<Result<_, _>>()?;
        Ok(Self { classifier, tokens, labels })
    }

    /// Judges signals, in their order.
    /// # Errors
    /// If the classifier fails.
    pub fn verdicts<'a>(
        &self,
        signals: impl Iterator<Item = (Stream, &'a str)>,
    ) -> Result<Vec<Verdict>, CleanerError> {
        let mut verdicts = Vec::new();
        let mut unsure: Vec<(usize, Vec<u32>)> = Vec::new();
        for (idx, (stream, text)) in signals.enumerate() {
            let by_rule = match stream {
                Stream::Click => Some(platform(text)),
                Stream::Search | Stream::Page => rules::verdict(text),
            };
            if by_rule.is_none() {
                unsure.push((idx, self.tokens.encode(&line(stream, text))));
            }
            verdicts.push(by_rule.unwrap_or(Verdict::Keep));
        }
        // Rows of like lengths share a batch, so that little of it is padding.
        unsure.sort_by_key(|(_, ids)| ids.len());
        for batch in unsure.chunks(BATCH) {
            let rows: Vec<Vec<u32>> = batch.iter().map(|(_, ids)| ids.clone()).collect();
            let best = self.classifier.logits(&rows)?.argmax(1)?.to_vec1::<u32>()?;
            for ((idx, _), label) in batch.iter().zip(best) {
                verdicts[*idx] = self.labels.get(label as usize).copied().unwrap_or(Verdict::Keep);
            }
        }
        Ok(verdicts)
    }

    /// Judges a reader's signals and leaves noise out; returns what is left, and the verdicts in the order of what there was.
    ///
    /// A reader with nothing but noise keeps it, as no answer would be worse, but never personal data: where there is nothing
    /// else, nothing is left.
    /// # Errors
    /// If the classifier fails.
    pub fn clean(&self, signals: &UserSignals) -> Result<(Option<UserSignals>, Vec<Verdict>), CleanerError> {
        let all = signals.as_slice();
        let mut verdicts = self.verdicts(all.iter().map(|signal| (signal.stream(), signal.text())))?;
        for (verdict, signal) in verdicts.iter_mut().zip(all) {
            *verdict = with_category(*verdict, signal.category());
        }
        let without = |drops: fn(Verdict) -> bool| {
            signals.kept(&verdicts.iter().map(|verdict| !drops(*verdict)).collect::<Vec<_>>())
        };
        let left = without(|verdict| verdict != Verdict::Keep);
        let left = left.or_else(|| without(|verdict| verdict == Verdict::Personal));
        Ok((left, verdicts))
    }
}

/// Leaves personal data out by the rules alone, where there is no classifier; none if nothing else is left.
pub fn without_personal(signals: &UserSignals) -> Option<UserSignals> {
    let is_personal = |text: &str| platform(text) == Verdict::Personal;
    let keeps = signals
        .as_slice()
        .iter()
        .map(|signal| !is_personal(signal.text()) && !signal.category().is_some_and(is_personal));
    signals.kept(&keeps.collect::<Vec<_>>())
}

/// The verdict on a signal of which the text has this one: its category goes the way of its text.
pub fn with_category(verdict: Verdict, category: Option<&str>) -> Verdict {
    if category.is_some_and(|category| platform(category) == Verdict::Personal) {
        Verdict::Personal
    } else {
        verdict
    }
}

/// The verdict on words of the platform's own.
fn platform(text: &str) -> Verdict {
    match rules::verdict(text) {
        Some(Verdict::Personal) => Verdict::Personal,
        Some(Verdict::Keep | Verdict::Malformed | Verdict::Navigational | Verdict::Automated) | None => {
            Verdict::Keep
        }
    }
}

/// What the classifier reads of a signal.
pub fn line(stream: Stream, text: &str) -> String {
    format!("{}: {text}", stream.word())
}
