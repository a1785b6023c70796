//! What is drawn where only lists may be.
use super::{SAMPLED, VOCAB, drain, model, request};
use newshound::decode::{
    batch::{Batch, Finish, FinishedRow, GroupRequest},
    sampler::SamplerSettings,
};
use std::sync::Arc;

/// A stop and boundaries so frequent that hardly any row is a list by chance.
const STOPS: std::ops::Range<u32> = 0..VOCAB / 4;
const BOUNDARIES: std::ops::Range<u32> = VOCAB / 4..VOCAB * 3 / 4;

fn rows(constrained: bool) -> Vec<FinishedRow> {
    let mut batch = Batch::new(model());
    let sampler = SamplerSettings { constrained, repetition_penalty: 1.0, ..SAMPLED };
    let (stop_ids, boundary_ids) = (Arc::from_iter(STOPS), Arc::from_iter(BOUNDARIES));
    let asked = request(8, 6, 16);
    batch.admit(GroupRequest { sampler, stop_ids, boundary_ids, max_new_tokens: 64, ..asked }).unwrap();
    drain(&mut batch).into_values().collect()
}

/// The ended queries of a row, blank ones included.
fn queries(row: &FinishedRow) -> Vec<&[u32]> {
    let ends = |id: &u32| STOPS.contains(id) || BOUNDARIES.contains(id);
    let mut queries: Vec<&[u32]> = row.ids.split(ends).collect();
    // After the last end nothing has ended.
    queries.pop();
    queries
}

fn has_form(row: &FinishedRow) -> bool {
    let mut queries = queries(row);
    let (n_queries, is_blank) = (queries.len(), queries.iter().any(|query| query.is_empty()));
    queries.sort_unstable();
    queries.dedup();
    let n_expected = if row.finish == Finish::Stop { 3..=8 } else { 0..=8 };
    n_expected.contains(&n_queries) && !is_blank && queries.len() == n_queries
}

#[test]
fn a_constrained_row_has_three_to_eight_distinct_queries_none_of_them_blank() {
    let constrained = rows(true);
    for row in &constrained {
        assert!(has_form(row), "{:?}", row.ids);
    }
    let of_length = |n_queries| constrained.iter().any(|row| queries(row).len() == n_queries);
    assert!(of_length(3), "no list ended as soon as it could");
    assert!(rows(false).iter().filter(|row| !has_form(row)).count() > 10, "the rules had nothing to do");
}

#[test]
fn after_the_last_query_that_a_list_may_have_no_other_begins() {
    let mut batch = Batch::new(model());
    let sampler = SamplerSettings { constrained: true, repetition_penalty: 1.0, ..SAMPLED };
    // Nothing stops, so queries follow each other for as long as they may.
    let (stop_ids, boundary_ids) = (Arc::new([]), Arc::from_iter(BOUNDARIES));
    let asked = request(8, 6, 16);
    batch.admit(GroupRequest { sampler, stop_ids, boundary_ids, max_new_tokens: 64, ..asked }).unwrap();
    let of_row = |row: &FinishedRow| row.ids.iter().filter(|id| BOUNDARIES.contains(id)).count();
    assert!(drain(&mut batch).values().all(|row| of_row(row) == 7));
}
