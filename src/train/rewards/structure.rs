//! Do queries keep the form?
//!
//! The parser has refused texts that are no list at all. R = share of queries of 2 to 8 words, one of them with a letter, whose first
//! letters are not those of an earlier query.
use crate::{
    queries::QueryList,
    text::words::{fold, words},
};
use std::collections::{BTreeSet, HashSet};

/// Words of a query; the parser takes more.
const WORDS: std::ops::RangeInclusive<usize> = 2..=8;
/// Words that agree in this many first letters are forms of one word.
const STEM_LETTERS: usize = 5;

/// Structure of a list.
#[allow(clippy::cast_precision_loss, reason = "a handful of queries")]
pub(super) fn structure(list: &QueryList) -> f64 {
    let mut seen = HashSet::new();
    let keeps = list.as_slice().iter().filter(|query| {
        let stems: BTreeSet<String> = words(query.as_str()).map(stem).collect();
        let n_words = query.as_str().split_whitespace().count();
        let is_words = words(query.as_str()).any(|word| word.chars().any(char::is_alphabetic));
        seen.insert(stems) && WORDS.contains(&n_words) && is_words
    });
    keeps.count() as f64 / list.as_slice().len() as f64
}

fn stem(word: &str) -> String {
    fold(word).chars().take(STEM_LETTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse::parse;

    #[test]
    fn forms_of_the_same_words_are_one_query() {
        let list = parse("harbour strikes\nharbours strike\nbus fares rise").unwrap();
        assert!((structure(&list) - 2.0 / 3.0).abs() < 1e-12);
        let list = parse("harbour strike\nbus fares\nrate cut").unwrap();
        assert_eq!(structure(&list), 1.0);
    }

    #[test]
    fn a_query_of_nine_words_is_too_long() {
        let list = parse("one two three four five six seven eight nine\nbus fares\nrate cut").unwrap();
        assert!((structure(&list) - 2.0 / 3.0).abs() < 1e-12);
    }
}
