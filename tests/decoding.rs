//! Tests of decoding: rows of many prompts in one batch say what each would say alone.
mod constrained;
mod forced;
mod growing;
mod pruned_output;
mod shortcuts;

use crate::support::device::{device, tolerance};
use candle_core::Tensor;
use newshound::{
    decode::{
        batch::{
            Batch, DecodeError, Finish, FinishedRow, GroupId, GroupRequest, TOGETHER_MIN,
            TOGETHER_MIN_ON_GPU, prefill_budget,
        },
        run::run_to_end,
        sampler::SamplerSettings,
    },
    model::{
        config::{Biases, DecoderConfig, Family, OutputIds, RopeScaling},
        ops::Numerics,
        transformer::Transformer,
        weights::Parameters,
    },
};
use std::{collections::BTreeMap, sync::Arc};

const VOCAB: u32 = 64;
const STOP: u32 = 63;
const LINE_FEED: u32 = 10;
const MAX_POSITIONS: usize = 96;

const SAMPLED: SamplerSettings = SamplerSettings {
    temperature: 0.9,
    top_k: 0,
    top_p: 0.95,
    min_p: 0.0,
    repetition_penalty: 1.1,
    constrained: false,
};

fn model() -> Arc<Transformer> {
    model_of(&mut Parameters::fresh(7, &device()), true)
}

fn model_of(parameters: &mut Parameters, tied_head: bool) -> Arc<Transformer> {
    let config = DecoderConfig {
        family: Family::Qwen2,
        hidden_size: 32,
        intermediate_size: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        vocab_size: VOCAB as usize,
        max_positions: MAX_POSITIONS,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        tied_head,
        eos_ids: vec![STOP],
        biases: Biases::of(Family::Qwen2),
        output_ids: OutputIds::All,
    };
    Arc::new(Transformer::load(&config, parameters, Numerics::Serve).unwrap())
}

/// A group whose prompt of `n_prompt` ids and whose seeds follow from its id.
fn request(id: u64, n_prompt: u32, n_rows: u64) -> GroupRequest {
    GroupRequest {
        id: GroupId(id),
        prompt: (0..n_prompt).map(|i| (i * 7 + u32::try_from(id).unwrap() * 13) % 60).collect(),
        known: None,
        pruning: None,
        n_held: 0,
        seeds: (0..n_rows).map(|row| id * 100 + row).collect(),
        sampler: SAMPLED,
        max_new_tokens: 24,
        stop_ids: Arc::new([STOP]),
        boundary_ids: Arc::new([LINE_FEED]),
    }
}

/// Steps until no row is left; rows by group and place.
fn drain(batch: &mut Batch) -> BTreeMap<(GroupId, usize), FinishedRow> {
    let mut rows = BTreeMap::new();
    while batch.n_rows() > 0 {
        collect(&mut rows, batch.step().unwrap());
    }
    collect(&mut rows, batch.step().unwrap());
    rows
}

fn collect(rows: &mut BTreeMap<(GroupId, usize), FinishedRow>, finished: Vec<FinishedRow>) {
    for row in finished {
        assert!(rows.insert((row.group, row.row_idx), row).is_none(), "a row ended twice");
    }
}

fn alone(model: &Arc<Transformer>, request: &GroupRequest, row_idx: usize) -> FinishedRow {
    let mut batch = Batch::new(model.clone());
    batch.admit(GroupRequest { seeds: vec![request.seeds[row_idx]], ..request.clone() }).unwrap();
    drain(&mut batch).remove(&(request.id, 0)).unwrap()
}

fn assert_same(got: &FinishedRow, expected: &FinishedRow) {
    assert_eq!((&got.ids, got.finish), (&expected.ids, expected.finish));
    let ends = |row: &FinishedRow| row.query_ends.iter().map(|end| end.n_ids).collect::<Vec<_>>();
    assert_eq!(ends(got), ends(expected));
    for (got, expected) in got.logprobs.iter().zip(&expected.logprobs) {
        assert!((got - expected).abs() < tolerance(1e-4), "log-probability {got}, expected {expected}");
    }
    for (got, expected) in got.query_ends.iter().zip(&expected.query_ends) {
        let far = got
            .hidden
            .iter()
            .zip(&expected.hidden)
            .any(|(got, expected)| (got - expected).abs() > tolerance(1e-4));
        assert!(!far && got.hidden.len() == expected.hidden.len(), "hidden states differ");
    }
}

#[test]
fn a_prompt_beside_few_rows_fills_the_machine_and_beside_many_doubles_the_step() {
    let budget = |n_rows| (prefill_budget(n_rows, TOGETHER_MIN), prefill_budget(n_rows, TOGETHER_MIN_ON_GPU));
    assert_eq!(
        [1, 64, 100, 256, 600].map(budget),
        [(127, 511), (64, 448), (100, 412), (256, 256), (600, 600)]
    );
}

#[test]
fn a_row_alone_is_the_row_in_any_batch() {
    let model = model();
    let requests = [request(1, 5, 3), request(2, 17, 1), request(3, 1, 8), request(4, 40, 2)];
    let mut batch = Batch::new(model.clone());
    let mut rows = BTreeMap::new();
    for request in &requests {
        batch.admit(request.clone()).unwrap();
        for _ in 0..3 {
            collect(&mut rows, batch.step().unwrap());
        }
    }
    rows.append(&mut drain(&mut batch));
    assert_eq!(rows.len(), 14);
    for request in &requests {
        for row_idx in 0..request.seeds.len() {
            assert_same(&rows[&(request.id, row_idx)], &alone(&model, request, row_idx));
        }
    }
}

#[test]
fn cancelling_a_group_leaves_the_others_as_they_were() {
    let model = model();
    let (kept, gone) = (request(1, 9, 4), request(2, 12, 5));
    let mut batch = Batch::new(model.clone());
    batch.admit(kept.clone()).unwrap();
    batch.admit(gone.clone()).unwrap();
    let mut rows = BTreeMap::new();
    for _ in 0..4 {
        collect(&mut rows, batch.step().unwrap());
    }
    let n_live = batch.n_rows_of(gone.id);
    let n_kept = batch.n_rows_of(kept.id);
    assert_eq!(batch.cancel(gone.id), n_live);
    assert_eq!((batch.n_rows(), batch.cancel(gone.id)), (n_kept, 0));
    rows.append(&mut drain(&mut batch));
    for row_idx in 0..4 {
        assert_same(&rows[&(kept.id, row_idx)], &alone(&model, &kept, row_idx));
    }
    assert_eq!((batch.n_rows(), batch.kv_bytes()), (0, 0));
}

#[test]
fn prompt_is_prefilled_and_stored_once_whatever_the_number_of_rows() {
    let model = model();
    let admitted = |n_rows| {
        let mut batch = Batch::new(model.clone());
        let admitted =
            batch.admit(GroupRequest { stop_ids: Arc::new([]), ..request(1, 33, n_rows) }).unwrap();
        (admitted.prefill_tokens_computed, batch.kv_bytes(), batch)
    };
    let (tokens, bytes, _) = admitted(1);
    let (tokens_of_8, bytes_of_8, mut batch) = admitted(8);
    assert_eq!((tokens, tokens_of_8), (33, 33));
    // Two layers of keys and values, two heads of eight f32 each, filled up to whole registers where that is faster.
    assert!(bytes >= 33 * 2 * 2 * 2 * 8 * 4);
    assert_eq!(bytes_of_8, bytes);
    batch.step().unwrap();
    assert!(batch.kv_bytes() > bytes_of_8, "the rows' own keys and values are counted too");
}

#[test]
fn cached_decoding_is_whole_row_decoding() {
    let model = model();
    let request =
        GroupRequest { sampler: SamplerSettings::GREEDY, stop_ids: Arc::new([]), ..request(5, 11, 1) };
    let row = alone(&model, &request, 0);
    let mut ids = request.prompt.clone();
    for &id in &row.ids {
        let whole = Tensor::new(ids.as_slice(), &device()).unwrap().unsqueeze(0).unwrap();
        let hidden = model.hidden(&whole, None).unwrap();
        let last = hidden.narrow(1, ids.len() - 1, 1).unwrap().squeeze(1).unwrap();
        let logits = model.logits(&last).unwrap().squeeze(0).unwrap().to_vec1::<f32>().unwrap();
        let expected = (0..VOCAB).max_by(|&a, &b| logits[a as usize].total_cmp(&logits[b as usize])).unwrap();
        assert_eq!(id, expected);
        ids.push(id);
    }
    assert_eq!((row.ids.len(), row.finish), (24, Finish::Length));
}

#[test]
fn seeds_reproduce_rows_and_differ_among_themselves() {
    let model = model();
    let request = request(6, 8, 6);
    let decode = || {
        let mut batch = Batch::new(model.clone());
        batch.admit(request.clone()).unwrap();
        drain(&mut batch)
    };
    let rows = decode();
    assert_eq!(rows, decode());
    let distinct: std::collections::BTreeSet<_> = rows.values().map(|row| row.ids.clone()).collect();
    assert_eq!(distinct.len(), 6);
}

#[test]
fn rows_end_at_the_stop_token_or_at_the_last_token() {
    let model = model();
    let row = alone(&model, &request(7, 8, 1), 0);
    let with = |max_new_tokens, stop| {
        let stop_ids: Arc<[u32]> = Arc::new([stop]);
        alone(&model, &GroupRequest { max_new_tokens, stop_ids, ..request(7, 8, 1) }, 0)
    };
    // The first token that has not been said before stops the row where it stands, and no earlier.
    let (at, stop) =
        row.ids.iter().copied().enumerate().find(|(at, id)| *at > 2 && !row.ids[..*at].contains(id)).unwrap();
    let stopped = with(24, stop);
    assert_eq!((stopped.ids.as_slice(), stopped.finish), (&row.ids[..=at], Finish::Stop));
    assert_eq!(with(at + 1, stop).finish, Finish::Stop);
    let cut = with(at, stop);
    assert_eq!((cut.ids.as_slice(), cut.finish), (&row.ids[..at], Finish::Length));
    let first = with(1, row.ids[0]);
    assert_eq!((first.ids.as_slice(), first.finish), (&row.ids[..1], Finish::Stop));
}

#[test]
fn query_ends_stand_before_boundaries_that_follow_content() {
    let model = model();
    let boundary_ids: Arc<[u32]> = (0..VOCAB).filter(|id| id % 3 == 0 && *id != STOP).collect();
    let request = GroupRequest { boundary_ids: boundary_ids.clone(), ..request(8, 6, 8) };
    let mut batch = Batch::new(model.clone());
    batch.admit(request).unwrap();
    let (mut n_ends, mut n_after_blank) = (0, 0);
    for row in drain(&mut batch).values() {
        let is_end = |id: &u32| boundary_ids.contains(id) || *id == STOP;
        let begins = |at: &usize| !is_end(&row.ids[*at]) && (*at == 0 || is_end(&row.ids[*at - 1]));
        let end_of = |start| (start..row.ids.len()).find(|&at| is_end(&row.ids[at])).map(|end| (start, end));
        let expected: Vec<_> = (0..row.ids.len()).filter(begins).filter_map(end_of).collect();
        let got: Vec<_> = row.query_ends.iter().map(|end| (end.start, end.n_ids)).collect();
        assert_eq!(got, expected, "{:?}", row.ids);
        n_after_blank +=
            row.ids.windows(3).filter(|w| is_end(&w[0]) && is_end(&w[1]) && !is_end(&w[2])).count();
        assert!(row.query_ends.iter().all(|end| end.hidden.len() == 32));
        n_ends += got.len();
    }
    assert!(n_ends > 8 && n_after_blank > 0, "{n_ends} {n_after_blank}");
}

#[test]
fn hidden_state_of_a_query_end_is_the_one_its_boundary_was_sampled_from() {
    let model = model();
    let request = GroupRequest { boundary_ids: (0..VOCAB - 1).collect(), ..request(9, 6, 1) };
    let boundary_ids: Arc<[u32]> = Arc::new([alone(&model, &request, 0).ids[2]]);
    let row = alone(&model, &GroupRequest { boundary_ids, ..request.clone() }, 0);
    let end = row.query_ends.first().unwrap();
    let mut ids = request.prompt.clone();
    ids.extend(&row.ids[..end.n_ids]);
    let whole = Tensor::new(ids.as_slice(), &device()).unwrap().unsqueeze(0).unwrap();
    let hidden = model.hidden(&whole, None).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
    crate::support::goldens::assert_close(&end.hidden, hidden.last().unwrap(), tolerance(1e-4), "hidden");
}

#[test]
fn request_that_fits_the_positions_is_admitted_and_one_more_token_is_refused() {
    let model = model();
    let admit = |max_new_tokens| {
        Batch::new(model.clone()).admit(GroupRequest { max_new_tokens, ..request(1, 32, 1) }).map(|_| ())
    };
    assert!(admit(MAX_POSITIONS - 32).is_ok());
    let refused = admit(MAX_POSITIONS - 31);
    assert!(matches!(
        refused,
        Err(DecodeError::TooLong { prompt_tokens: 32, max_positions: MAX_POSITIONS, .. })
    ));
    assert!(matches!(admit(usize::MAX), Err(DecodeError::TooLong { .. })));
}

#[test]
fn row_can_use_every_position() {
    let request =
        GroupRequest { max_new_tokens: MAX_POSITIONS - 4, stop_ids: Arc::new([]), ..request(1, 4, 2) };
    let mut batch = Batch::new(model());
    batch.admit(request).unwrap();
    assert!(drain(&mut batch).values().all(|row| row.ids.len() == MAX_POSITIONS - 4));
}

#[test]
fn empty_unknown_and_repeated_requests_are_refused_and_leave_the_batch_as_it_was() {
    let mut batch = Batch::new(model());
    let mut refused = |request| batch.admit(request).unwrap_err();
    assert!(matches!(refused(GroupRequest { prompt: vec![], ..request(1, 4, 1) }), DecodeError::EmptyPrompt));
    assert!(matches!(refused(request(1, 4, 0)), DecodeError::EmptyRequest { n_rows: 0, .. }));
    let no_tokens = GroupRequest { max_new_tokens: 0, ..request(1, 4, 1) };
    assert!(matches!(refused(no_tokens), DecodeError::EmptyRequest { max_new_tokens: 0, .. }));
    let unknown = GroupRequest { prompt: vec![VOCAB], ..request(1, 4, 1) };
    assert!(matches!(refused(unknown), DecodeError::UnknownId { id: VOCAB, vocab_size: 64 }));
    let last = GroupRequest { prompt: vec![VOCAB - 1], ..request(1, 4, 2) };
    assert!(batch.admit(last).is_ok());
    assert!(matches!(batch.admit(request(1, 4, 1)), Err(DecodeError::GroupExists { id: GroupId(1) })));
    assert!(batch.n_rows() <= 2);
}

#[test]
fn run_to_end_keeps_to_its_rows_and_changes_no_row() {
    let model = model();
    let requests: Vec<_> =
        (1..=7).map(|id| request(id, 3 + u32::try_from(id).unwrap(), 1 + id % 4)).collect();
    let decode = |max_rows| {
        let mut rows = BTreeMap::new();
        let mut batch = Batch::new(model.clone());
        run_to_end(&mut batch, requests.iter().cloned(), max_rows, |row| collect(&mut rows, vec![row]))
            .unwrap();
        rows
    };
    let narrow = decode(2);
    assert_eq!(narrow.len(), requests.iter().map(|request| request.seeds.len()).sum::<usize>());
    for (key, row) in &decode(64) {
        assert_same(row, &narrow[key]);
    }
    run_to_end(&mut Batch::new(model.clone()), std::iter::empty(), 4, |_| unreachable!()).unwrap();
}

/// Two greedy groups of one row; the embedding of the second token that the first says becomes NaN.
#[test]
fn group_with_broken_logits_is_dropped_and_the_others_go_on() {
    let mut parameters = Parameters::fresh(7, &device());
    let sound = model_of(&mut parameters, false);
    let greedy = |id, n_prompt| GroupRequest {
        sampler: SamplerSettings::GREEDY,
        max_new_tokens: 6,
        ..request(id, n_prompt, 1)
    };
    let says = |request: &GroupRequest| alone(&sound, request, 0);
    let expected = says(&greedy(1, 5));
    let (broken, poison) = (2..40)
        .map(|id| (greedy(id, 7), says(&greedy(id, 7)).ids))
        .find(|(request, ids)| {
            ids.len() > 1
                && ids[0] != ids[1]
                && [&expected.ids, &request.prompt, &greedy(1, 5).prompt]
                    .iter()
                    .all(|known| !known.contains(&ids[1]))
        })
        .map(|(request, ids)| (request, ids[1]))
        .unwrap();
    let table = &parameters.vars()["model.embed_tokens.weight"];
    let mut values = table.to_vec2::<f32>().unwrap();
    values[poison as usize].fill(f32::NAN);
    table.set(&Tensor::new(values, &device()).unwrap()).unwrap();
    let mut batch = Batch::new(model_of(&mut parameters, false));
    batch.admit(greedy(1, 5)).unwrap();
    batch.admit(broken.clone()).unwrap();
    batch.step().unwrap();
    assert!(matches!(batch.step(), Err(DecodeError::NotFinite { id }) if id == broken.id));
    assert_same(&drain(&mut batch)[&(GroupId(1), 0)], &expected);
    let poisoned = GroupRequest { prompt: vec![poison], ..greedy(3, 1) };
    assert!(matches!(batch.admit(poisoned), Err(DecodeError::NotFinite { id: GroupId(3) })));
    assert_eq!((batch.n_rows(), batch.kv_bytes()), (0, 0));
}
