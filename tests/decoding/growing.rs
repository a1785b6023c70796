//! Rows that are shown while they are written.
use super::{STOP, VOCAB, collect, model, request};
use newshound::decode::batch::{Batch, FinishedRow, GroupRequest, SHOWN_MAX};
use std::{collections::BTreeMap, sync::Arc};

#[test]
fn rows_grow_query_by_query_and_are_shown_as_they_will_be() {
    let model = model();
    let boundary_ids: Arc<[u32]> = (0..VOCAB).filter(|id| id % 2 == 0 && *id != STOP).collect();
    let (shown, other) = (
        GroupRequest { boundary_ids, stop_ids: Arc::new([]), max_new_tokens: 64, ..request(8, 6, 4) },
        request(9, 6, 2),
    );
    let mut batch = Batch::new(model.clone());
    [&shown, &other].into_iter().for_each(|request| drop(batch.admit(request.clone()).unwrap()));
    let (mut rows, mut grown) = (BTreeMap::new(), Vec::new());
    while batch.n_rows() > 0 {
        collect(&mut rows, batch.step().unwrap());
        grown.extend(batch.grown(shown.id));
    }
    collect(&mut rows, batch.step().unwrap());
    assert!(rows.values().any(|row| row.query_ends.len() > SHOWN_MAX), "some have more than a list has");
    for (place, row) in rows.iter().filter(|(place, _)| place.0 == shown.id) {
        let of_row: Vec<&FinishedRow> = grown.iter().filter(|grown| grown.row_idx == place.1).collect();
        assert!(of_row.windows(2).all(|two| two[0].query_ends.len() < two[1].query_ends.len()), "each once");
        assert!(of_row.len() <= SHOWN_MAX, "no more than a list has, however many the row has");
        for grown in of_row {
            assert!(row.ids.starts_with(&grown.ids));
            assert!(row.query_ends.starts_with(&grown.query_ends) && !grown.query_ends.is_empty());
        }
    }
    assert!(grown.iter().all(|grown| grown.group == shown.id));
}
