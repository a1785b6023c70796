//! From a reader's signals to her prompt.
use super::{Writer, cleaner_failed};
use crate::{
    cleaner,
    decode::features::Meets,
    lexicon::meets::meets,
    serve::answer::ServeError,
    signals::UserSignals,
    text::prompt::{self, Prompt},
};
use std::time::{Duration, Instant};

/// A prompt, and what came of its signals.
pub(super) struct Built {
    pub(super) prompt: Prompt,
    /// Signals that the cleaner took away, and how long that took.
    pub(super) n_cleaned: usize,
    pub(super) clean: Duration,
    /// How long all of it took.
    pub(super) took: Duration,
    /// What rows meet of what is left.
    pub(super) meets: Option<Meets>,
}

impl Writer {
    /// The prompt of what the cleaner leaves.
    pub(super) fn prompt(&self, signals: &UserSignals) -> Result<Built, ServeError> {
        let started = Instant::now();
        // Before the cleaner, which keeps a signal that is noise where there is no other.
        let told = self.topics.signals(signals.clone()).ok_or(ServeError::OnlySensitiveTopics)?;
        let left = match &self.cleaner {
            Some(cleaner) => {
                let (left, verdicts) = cleaner.clean(&told).map_err(cleaner_failed)?;
                verdicts.iter().for_each(|verdict| self.metrics.signal(verdict.word()));
                left
            }
            // Whatever the bundle: what identifies a person is for no prompt.
            None => cleaner::without_personal(&told),
        };
        let cleaned = left.ok_or(ServeError::OnlyPersonalData)?;
        let n_cleaned = signals.as_slice().len() - cleaned.as_slice().len();
        let clean = started.elapsed();
        let prompt = prompt::build(&cleaned, &self.tokens, self.prompt_tokens_max);
        let meets = self.lexicon.as_ref().map(|lexicon| meets(lexicon, prompt.shown(&cleaned), &self.tokens));
        Ok(Built { prompt, n_cleaned, clean, took: started.elapsed(), meets })
    }
}
