//! What saves work changes nothing of what is said: rows that stop early, beginnings that are known, sums in 8 bits.
use super::{alone, assert_same, collect, drain, model, request};
use candle_core::{Device, Tensor};
use newshound::{
    decode::{
        batch::{Batch, DecodeError, Finish, FinishedRow, GroupRequest, Known},
        pruning::{IsList, Pruning},
    },
    model::{precision::Precision, reward_head::RewardHead, weights::Parameters},
};
use std::{collections::BTreeMap, sync::Arc};

/// A head that takes what a list scores now for what it will score, sure to a millionth.
fn sure_head() -> Arc<RewardHead> {
    let mut parameters = Parameters::fresh(3, &Device::Cpu);
    RewardHead::load(&mut parameters, 32, false).unwrap();
    let lines = Tensor::new(&[[0.0_f32, 1.0, 1e-6]; 9], &Device::Cpu).unwrap();
    parameters.vars()["foresight"].set(&lines).unwrap();
    Arc::new(RewardHead::load(&mut parameters, 32, false).unwrap())
}

#[test]
fn weak_rows_stop_early_and_change_no_other() {
    let model = model();
    // Two rows in five end a query by chance with each token, so that there is something to compare at the first look.
    let boundary_ids: Arc<[u32]> = (0..25).collect();
    let request = GroupRequest { boundary_ids, ..request(4, 9, 8) };
    let run = |pruning: Option<Pruning>| {
        let mut batch = Batch::new(model.clone());
        batch.admit(GroupRequest { pruning, ..request.clone() }).unwrap();
        let rows = drain(&mut batch);
        assert_eq!((rows.len(), batch.kv_bytes()), (8, 0));
        rows
    };
    let whole = run(None);
    // Some rows end by themselves, and of those not all are lists.
    let is_list: IsList = Arc::new(|row| row.finish == Finish::Stop && row.row_idx % 2 == 0);
    let pruning = |confidence| {
        Some(Pruning { head: sure_head(), confidence, is_list: Arc::clone(&is_list), meets: None })
    };
    let pruned = run(pruning(1.0));
    let n_stopped = pruned.values().filter(|row| row.finish == Finish::Pruned).count();
    assert!((1..=6).contains(&n_stopped), "{n_stopped} rows stopped; two are always left");
    for (place, row) in &pruned {
        assert!(whole[place].ids.starts_with(&row.ids));
        assert_eq!(row.finish == Finish::Pruned, row.ids.len() < whole[place].ids.len());
    }
    // As if it had been known at each look what the whole rows would say.
    let rows: Vec<FinishedRow> = whole.values().cloned().collect();
    let replayed = pruning(1.0).unwrap().replay(&rows).unwrap();
    assert_eq!(replayed.len(), pruned.len());
    replayed.iter().zip(pruned.values()).for_each(|(replayed, pruned)| assert_same(pruned, replayed));
    for (place, row) in run(pruning(f32::MAX)) {
        assert_same(&row, &whole[&place]);
    }
    assert!(whole.values().any(|row| row.finish == Finish::Stop && row.ids.len() < 20), "some end early");
}

#[test]
fn a_known_beginning_changes_what_is_computed_and_not_what_is_said() {
    let model = model();
    let request = request(6, 40, 4);
    let mut batch = Batch::new(model.clone());
    let whole = batch.admit(request.clone()).unwrap();
    let expected = drain(&mut batch);
    let prefix = whole.prefix.unwrap();
    assert_eq!((whole.prefill_tokens_computed, prefix.n_positions()), (40, 40));
    for n_positions in [1, 20, 39] {
        let known = Some(Known { prefix: Arc::clone(&prefix), n_positions });
        let admitted = batch.admit(GroupRequest { known, ..request.clone() }).unwrap();
        assert_eq!(admitted.prefill_tokens_computed, 40 - n_positions);
        for (place, row) in drain(&mut batch) {
            assert_same(&row, &expected[&place]);
        }
    }
    let known = Some(Known { prefix, n_positions: 40 });
    assert!(batch.admit(GroupRequest { known, ..request }).is_err(), "nothing would be left to compute");
    assert_eq!(batch.n_rows(), 0);
}

/// The rows that step beside the pieces say what they say alone, too.
#[test]
fn a_prompt_in_pieces_beside_steps_says_what_it_says_whole_and_changes_no_row() {
    let model = model();
    let (request, other) = (request(6, 40, 4), request(7, 11, 3));
    let mut batch = Batch::new(model.clone());
    let mut expected = BTreeMap::new();
    for request in [&request, &other] {
        batch.admit(request.clone()).unwrap();
        expected.extend(drain(&mut batch));
    }
    for piece in [1, 7, 39, 100] {
        batch.admit(other.clone()).unwrap();
        let mut rows = Vec::new();
        let mut asked = request.clone();
        while asked.n_known() < 39 {
            let before = asked.n_known();
            rows.extend(batch.step_beside(&mut asked, piece).unwrap());
            assert!((1..=piece).contains(&(asked.n_known() - before)), "also where no row runs any more");
        }
        let admitted = batch.admit(asked).unwrap();
        assert_eq!(admitted.prefill_tokens_computed, 1, "the last id is left for its logits");
        while batch.n_rows() > 0 {
            rows.extend(batch.step().unwrap());
        }
        rows.extend(batch.step().unwrap());
        assert_eq!(rows.len(), 7);
        for row in rows {
            assert_same(&row, &expected[&(row.group, row.row_idx)]);
        }
    }
    let mut refused = GroupRequest { prompt: vec![], ..request };
    assert!(matches!(batch.step_beside(&mut refused, 8), Err(DecodeError::EmptyPrompt)));
}

/// Sums have one order, and in 8 bits none at all: a row says the same to the last bit in any company and behind a prompt in pieces.
#[test]
fn rows_say_to_the_last_bit_what_they_say_alone() {
    let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
    let said = |row: &FinishedRow| {
        let hidden: Vec<_> = row.query_ends.iter().map(|end| bits(&end.hidden)).collect();
        (row.ids.clone(), bits(&row.logprobs), hidden)
    };
    for precision in [Precision::F32, Precision::Int8] {
        let mut parameters = Parameters::fresh(7, &Device::Cpu);
        let model = precision.load(model().config(), &mut parameters, &Device::Cpu).unwrap();
        let model = Arc::new(model);
        let requests: Vec<GroupRequest> =
            (1..=8_u32).map(|id| request(u64::from(id), 3 + id * 5, 4)).collect();
        let (mut together, mut rows) = (Batch::new(Arc::clone(&model)), BTreeMap::new());
        for (at, mut request) in requests.iter().cloned().enumerate() {
            while at % 2 == 1 && request.n_known() + 1 < request.prompt.len() {
                collect(&mut rows, together.step_beside(&mut request, 7).unwrap());
            }
            together.admit(request).unwrap();
        }
        rows.append(&mut drain(&mut together));
        assert_eq!(rows.len(), 32);
        for request in &requests {
            for row_idx in 0..4 {
                let expected = alone(&model, request, row_idx);
                assert_eq!(said(&rows[&(request.id, row_idx)]), said(&expected), "{precision}");
            }
        }
    }
}

/// In 8 bits, so that rows can be compared to the last bit.
#[test]
fn held_rows_wait_for_the_first_and_say_what_they_say_without_waiting() {
    let mut parameters = Parameters::fresh(7, &Device::Cpu);
    let model = Precision::Int8.load(model().config(), &mut parameters, &Device::Cpu).unwrap();
    let mut batch = Batch::new(Arc::new(model));
    let held = GroupRequest { n_held: 6, ..request(1, 20, 8) };
    batch.admit(request(1, 20, 8)).unwrap();
    let whole = drain(&mut batch);
    for _ in 0..2 {
        batch.admit(held.clone()).unwrap();
        assert_eq!((batch.n_rows(), batch.draw(held.id).unwrap()), (2, 0), "the first have not ended");
        let first = drain(&mut batch);
        assert_eq!(first.keys().map(|(_, row_idx)| *row_idx).collect::<Vec<_>>(), [0, 1]);
        assert!(batch.kv_bytes() > 0, "the prompt is kept for the others");
        let mut company = request(2, 30, 3);
        batch.step_beside(&mut company, 8).unwrap();
        batch.admit(company).unwrap();
        batch.step().unwrap();
        assert_eq!(batch.draw(held.id).unwrap(), 6);
        assert_eq!(batch.draw(held.id).unwrap(), 0);
        let mut rows = drain(&mut batch);
        rows.retain(|(group, _), _| *group == held.id);
        rows.extend(first);
        assert_eq!(rows, whole);
        assert_eq!((batch.kv_bytes(), batch.draw(held.id).unwrap()), (0, 0));
    }
    batch.admit(held.clone()).unwrap();
    drain(&mut batch);
    assert_eq!(
        (batch.cancel(held.id), batch.kv_bytes()),
        (0, 0),
        "nothing stays of a group that draws no more"
    );
    let none = GroupRequest { n_held: 8, ..held };
    assert!(matches!(batch.admit(none), Err(DecodeError::EmptyRequest { n_rows: 0, .. })));
}
