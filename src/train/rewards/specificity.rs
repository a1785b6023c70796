//! Are queries telling?
//!
//! R = mean over queries of clip((mean rarity - lo) / (hi - lo)) x [2 to 6 words] x (1 - H / log 50), where lo and hi are the
//! medians of the mean rarity of whole clicked titles and of their telling words, and H is the entropy of the stories among the first 50 articles
//! found, by score: a query that finds fifty stories alike says nothing. One that finds nothing has no supply, and gets 0.
use super::{Asked, Judge, mean, meaning::Meaning};
use std::collections::BTreeMap;

/// Articles among which stories are counted.
const DEPTH: usize = 50;
/// Words of a query that people would type.
const WORDS: std::ops::RangeInclusive<usize> = 2..=6;

/// Specificity of a list.
pub(super) fn specificity(queries: &[Asked], judge: &Judge<'_>) -> f64 {
    let (low, high) = judge.calibration.rarity;
    let of_query = |asked: &Asked| {
        let words = asked.words.iter().map(String::as_str);
        let rarity = mean_of_rarities(words, &judge.meaning).unwrap_or(0.0);
        let telling = ((rarity - low) / (high - low).max(1e-3)).clamp(0.0, 1.0);
        let story = |idx: usize| judge.articles[idx].story_id.as_str();
        let stories = asked.found.iter().take(DEPTH).map(|&(idx, score)| (story(idx), f64::from(score)));
        if WORDS.contains(&asked.words.len()) { telling * focus(stories) } else { 0.0 }
    };
    mean(queries.iter().map(of_query))
}

/// Mean rarity of the words that the news has; words that it has not count as finding nothing, 0.
pub(super) fn mean_of_rarities<'a>(words: impl Iterator<Item = &'a str>, meaning: &Meaning) -> Option<f64> {
    let rarities: Vec<f64> = words.map(|word| meaning.rarity(word).unwrap_or(0.0)).collect();
    (!rarities.is_empty()).then(|| mean(rarities.into_iter()))
}

/// 1 - entropy of the scores by story, over its largest value; 0 of nothing found.
fn focus<'a>(stories: impl Iterator<Item = (&'a str, f64)>) -> f64 {
    let mut by_story: BTreeMap<&str, f64> = BTreeMap::new();
    for (story, score) in stories {
        *by_story.entry(story).or_default() += score;
    }
    let total: f64 = by_story.values().sum();
    if total <= 0.0 {
        return 0.0;
    }
    let entropy: f64 = by_story.values().map(|score| -(score / total) * (score / total).ln()).sum();
    #[allow(clippy::cast_precision_loss, reason = "fifty")]
    let largest = (DEPTH as f64).ln();
    1.0 - entropy / largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_story_is_all_focus_and_fifty_alike_are_none() {
        assert!((focus([("a", 1.0), ("a", 3.0)].into_iter()) - 1.0).abs() < 1e-12);
        let names: Vec<String> = (0..50).map(|idx| idx.to_string()).collect();
        assert!(focus(names.iter().map(|name| (name.as_str(), 2.0))).abs() < 1e-12);
        assert_eq!(focus(std::iter::empty()), 0.0, "no supply");
    }
}
