//! The reward head: what it reads and that each list is scored alone.
use candle_core::{Device, Tensor};
use newshound::model::{
    reward_head::{ListFeatures, RewardHead},
    weights::Parameters,
};

fn list_of(n_queries: usize, value: f32) -> ListFeatures {
    ListFeatures {
        query_hidden: (0..n_queries).map(|query| vec![value + query as f32, 0.5, -value]).collect(),
        query_logprob: vec![-0.5; n_queries],
        mean_logprob: -0.4,
    }
}

#[test]
fn a_reward_head_scores_each_list_as_if_alone() {
    let mut parameters = Parameters::fresh(3, &Device::Cpu);
    let head = RewardHead::load(&mut parameters, 3).unwrap();
    let lists = [list_of(3, 0.1), list_of(0, 0.0), list_of(8, -1.0)];
    let together = head.score(&lists).unwrap();
    for (list, scores) in lists.iter().zip(&together) {
        assert_eq!(scores.queries.len(), list.query_hidden.len());
        let alone = head.score(std::slice::from_ref(list)).unwrap().remove(0);
        assert!((alone.list.mean - scores.list.mean).abs() < 1e-6);
        assert!(scores.list.variance > 0.0 && scores.queries.iter().all(|score| score.variance > 0.0));
    }
    assert!(head.score(&[]).unwrap().is_empty());
}

#[test]
fn a_reward_head_refuses_features_that_do_not_fit() {
    let head = RewardHead::load(&mut Parameters::fresh(3, &Device::Cpu), 3).unwrap();
    let mut wide = list_of(2, 0.1);
    wide.query_hidden[1].push(0.0);
    let mut unscored = list_of(2, 0.1);
    unscored.query_logprob.pop();
    let mut infinite = list_of(2, 0.1);
    infinite.query_hidden[0][0] = f32::NAN;
    for broken in [wide, unscored, infinite] {
        assert!(head.score(&[broken]).is_err());
    }
}

#[test]
fn a_reward_head_lays_out_its_inputs_as_described() {
    let head = RewardHead::load(&mut Parameters::fresh(3, &Device::Cpu), 3).unwrap();
    let mut list = list_of(2, 1.0);
    list.query_logprob = vec![-0.5, -0.75];
    let rows = |inputs: Tensor| inputs.to_vec2::<f32>().unwrap();
    let queries = rows(head.query_inputs(std::slice::from_ref(&list)).unwrap());
    assert_eq!(queries, [[1.0, 0.5, -1.0, -0.5], [2.0, 0.5, -1.0, -0.75]]);
    let lists = rows(head.list_inputs(&[list]).unwrap());
    assert_eq!(lists, [[1.5, 0.5, -1.0, 2.0, 0.5, -1.0, -0.4, -0.75, 0.25]]);
}
