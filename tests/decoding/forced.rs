//! Rows that are written already are read as they were sampled.
use super::{STOP, VOCAB, drain, model, request};
use crate::support::device::tolerance;
use newshound::decode::{
    batch::{Batch, DecodeError, Finish, GroupRequest},
    forced,
};
use std::sync::Arc;

#[test]
fn a_row_that_is_read_says_what_it_said_when_it_was_sampled() {
    let model = model();
    let boundary_ids: Arc<[u32]> = (0..VOCAB).filter(|id| id % 2 == 0 && *id != STOP).collect();
    let request = GroupRequest { boundary_ids: boundary_ids.clone(), ..request(3, 6, 8) };
    let mut batch = Batch::new(model.clone());
    batch.admit(request.clone()).unwrap();
    let rows = drain(&mut batch);
    let ends = || (request.stop_ids.clone(), boundary_ids.clone());
    for row in rows.values() {
        let read = forced::read(&model, &request.prompt, &row.ids, ends()).unwrap();
        assert_eq!((&read.ids, read.finish), (&row.ids, row.finish));
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < tolerance(1e-4));
        assert!(close(&read.logprobs, &row.logprobs), "{:?} {:?}", read.logprobs, row.logprobs);
        assert_eq!((read.logprobs.len(), read.query_ends.len()), (row.logprobs.len(), row.query_ends.len()));
        for (read, sampled) in read.query_ends.iter().zip(&row.query_ends) {
            assert_eq!((read.start, read.n_ids), (sampled.start, sampled.n_ids));
            assert!(read.hidden.len() == sampled.hidden.len() && close(&read.hidden, &sampled.hidden));
        }
    }
    assert!(
        rows.values().any(|row| row.finish == Finish::Stop)
            && rows.values().any(|row| row.query_ends.len() > 1)
    );
    let empty = forced::read(&model, &request.prompt, &[], ends());
    assert!(matches!(empty, Err(DecodeError::EmptyRequest { .. })));
    assert!(matches!(forced::read(&model, &[], &[1], ends()), Err(DecodeError::EmptyPrompt)));
}
