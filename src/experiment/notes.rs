//! Mistakes of a file, collected instead of stopping at the first.

/// Most mistakes that are told; further ones are counted.
const MISTAKES_MAX: usize = 64;

/// Sentences about a file, each after the path of what it is about.
#[derive(Debug, Default)]
pub(super) struct Notes {
    sentences: Vec<String>,
    n_found: usize,
}

impl Notes {
    /// Notes that what stands at a path is not as it should be.
    pub(super) fn add(&mut self, path: &str, sentence: &str) {
        self.n_found += 1;
        if self.sentences.len() < MISTAKES_MAX {
            self.sentences.push(format!("{path} {sentence}"));
        }
    }

    /// Everything that was noted; nothing if all was right.
    pub(super) fn into_sentences(mut self) -> Vec<String> {
        let n_untold = self.n_found - self.sentences.len();
        if n_untold > 0 {
            self.sentences.push(format!("and {n_untold} more"));
        }
        self.sentences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_to_tell_is_counted() {
        let mut notes = Notes::default();
        (0..MISTAKES_MAX).for_each(|_| notes.add("flags", "is wrong"));
        notes.add("flags", "is wrong");
        let sentences = notes.into_sentences();
        assert_eq!(sentences.len(), MISTAKES_MAX + 1);
        assert_eq!(sentences.last().unwrap(), "and 1 more");
    }
}
