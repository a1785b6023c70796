//! One list of the best queries of several lists.
//!
//! A reader's interests are many and a list holds few: what several lists say of them is more than any one does. Queries are
//! taken by how much each adds to those taken before: its score, less the share of its words that they hold already (greedy
//! maximisation of a coverage; Nemhauser, Wolsey, Fisher, Mathematical Programming 14, 1978).
use super::parse;
use crate::queries::{Query, QueryList};
use std::collections::{BTreeSet, HashSet};

/// A list made of queries of several lists.
#[derive(Clone, Debug, PartialEq)]
pub struct Stitched {
    /// The list, the query that was taken first at its head.
    pub list: QueryList,
    /// Where each query stood: the number of its list, and its place there.
    pub from: Vec<(usize, usize)>,
}

/// Chooses as many queries as the lists have at the median, the best first. None without lists, or where no valid list can be
/// made.
///
/// `scores`: of each list, one for each of its queries, 0 or more; a list whose scores are of another number is passed over.
/// Equal gains go to the earlier query.
pub fn stitch(lists: &[&QueryList], scores: &[&[f32]]) -> Option<Stitched> {
    let mut lengths: Vec<usize> = lists.iter().map(|list| list.as_slice().len()).collect();
    lengths.sort_unstable();
    let n_wanted = *lengths.get(lengths.len() / 2)?;
    let mut rest: Vec<Offer<'_>> = Vec::new();
    for (list_idx, (list, scores)) in lists.iter().zip(scores).enumerate() {
        let queries = list.as_slice();
        if queries.len() == scores.len() {
            let scored = scores.iter().zip(queries).enumerate();
            rest.extend(scored.map(|(query_idx, (&score, query))| {
                let (words, from) = (words(query), (list_idx, query_idx));
                Offer { score, words, text: query.as_str(), from }
            }));
        }
    }
    let (mut told, mut chosen) = (HashSet::new(), Vec::new());
    while chosen.len() < n_wanted {
        let gains = rest.iter().map(|offer| offer.score * new_share(&offer.words, &told)).enumerate();
        let best = gains.reduce(|best, other| if other.1 > best.1 { other } else { best });
        let Some((place, gain)) = best else { break };
        if gain <= 0.0 {
            break;
        }
        let Offer { words, text, from, .. } = rest.remove(place);
        told.extend(words);
        chosen.push((text, from));
    }
    let (queries, from): (Vec<&str>, Vec<(usize, usize)>) = chosen.into_iter().unzip();
    Some(Stitched { list: parse::parse(&queries.join("\n")).ok()?, from })
}

/// A query that may be chosen.
struct Offer<'a> {
    score: f32,
    words: BTreeSet<String>,
    text: &'a str,
    from: (usize, usize),
}

fn words(query: &Query) -> BTreeSet<String> {
    query.as_str().split_whitespace().map(str::to_lowercase).collect()
}

/// Share of words that are not told yet.
#[allow(clippy::cast_precision_loss, reason = "a query has a dozen words")]
fn new_share(words: &BTreeSet<String>, told: &HashSet<String>) -> f32 {
    let n_new = words.iter().filter(|word| !told.contains(*word)).count();
    n_new as f32 / words.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(queries: &[&str]) -> QueryList {
        parse::parse(&queries.join("\n")).unwrap()
    }

    #[track_caller]
    fn check(lists: &[(&[&str], &[f32])], expected: Option<&[&str]>) {
        let parsed: Vec<QueryList> = lists.iter().map(|(queries, _)| list(queries)).collect();
        let scores: Vec<&[f32]> = lists.iter().map(|(_, scores)| *scores).collect();
        let got = stitch(&parsed.iter().collect::<Vec<_>>(), &scores);
        for (query, &(list_idx, query_idx)) in
            got.iter().flat_map(|got| got.list.as_slice().iter().zip(&got.from))
        {
            assert_eq!(query, &parsed[list_idx].as_slice()[query_idx], "taken from where it stood");
        }
        let got = got.as_ref().map(|got| got.list.as_slice().iter().map(Query::as_str).collect::<Vec<_>>());
        assert_eq!(got.as_deref(), expected);
    }

    #[test]
    fn the_best_queries_of_all_lists_make_one_and_what_is_told_is_not_told_again() {
        let first = (&["port strike", "bus fares", "old town"][..], &[0.9, 0.2, 0.1][..]);
        let second = (&["port strike ends", "rain today", "bus fares"][..], &[0.8, 0.5, 0.3][..]);
        // "port strike ends" adds a third of its words; "bus fares" of the second list says it with more weight.
        check(&[first, second], Some(&["port strike", "rain today", "bus fares"]));
    }

    #[test]
    fn one_list_is_itself_by_the_order_of_its_scores_and_no_list_is_none() {
        check(
            &[(&["one two", "three four", "five six"], &[0.1, 0.3, 0.2])],
            Some(&["three four", "five six", "one two"]),
        );
        check(&[], None);
    }

    #[test]
    fn equal_gains_go_to_the_earlier_query() {
        let (first, second) =
            (["one two", "three four", "five six"], ["seven eight", "nine ten", "eleven twelve"]);
        check(&[(&first, &[0.5; 3]), (&second, &[0.5; 3])], Some(&first));
    }

    #[test]
    fn queries_that_add_nothing_or_are_worth_nothing_are_left_out() {
        check(&[(&["one two", "three four", "five six"], &[0.4, 0.3, 0.0])], None);
        check(&[(&["one two", "three four", "five six"], &[0.4, 0.3])], None);
    }
}
