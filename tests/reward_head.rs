//! The reward head: what it reads and that each list is scored alone.
use candle_core::{Device, Tensor, Var};
use newshound::{
    model::{
        reward_head::{Affinity, Consensus, LIST_AFFINITY, ListFeatures, QUERY_AFFINITY, RewardHead},
        weights::Parameters,
    },
    train::head_fit::bradley_terry,
};

fn list_of(n_queries: usize, value: f32) -> ListFeatures {
    ListFeatures {
        query_hidden: (0..n_queries).map(|query| vec![value + query as f32, 0.5, -value]).collect(),
        query_logprob: vec![-0.5; n_queries],
        mean_logprob: -0.4,
        consensus: Some(Consensus { queries: vec![0.25; n_queries], list: 0.5 }),
        affinity: None,
    }
}

#[test]
fn a_reward_head_scores_each_list_as_if_alone() {
    let mut parameters = Parameters::fresh(3, &Device::Cpu);
    let head = RewardHead::load(&mut parameters, 3, false).unwrap();
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
    let head = RewardHead::load(&mut Parameters::fresh(3, &Device::Cpu), 3, false).unwrap();
    let mut wide = list_of(2, 0.1);
    wide.query_hidden[1].push(0.0);
    let mut unscored = list_of(2, 0.1);
    unscored.query_logprob.pop();
    let mut infinite = list_of(2, 0.1);
    infinite.query_hidden[0][0] = f32::NAN;
    let mut unmeasured = list_of(2, 0.1);
    unmeasured.consensus = Some(Consensus { queries: vec![0.5], list: 0.5 });
    for broken in [wide, unscored, infinite, unmeasured] {
        assert!(head.score(&[broken]).is_err());
    }
}

#[test]
fn a_reward_head_lays_out_its_inputs_as_described() {
    let head = RewardHead::load(&mut Parameters::fresh(3, &Device::Cpu), 3, false).unwrap();
    let mut list = list_of(2, 1.0);
    list.query_logprob = vec![-0.5, -0.75];
    let rows = |inputs: Tensor| inputs.to_vec2::<f32>().unwrap();
    let queries = rows(head.query_inputs(std::slice::from_ref(&list)).unwrap());
    assert_eq!(queries, [[1.0, 0.5, -1.0, -0.5, 0.25], [2.0, 0.5, -1.0, -0.75, 0.25]]);
    let scores = head.score(std::slice::from_ref(&list)).unwrap().remove(0).queries;
    let mean = (scores[0].mean + scores[1].mean) / 2.0;
    assert!(mean != 0.0, "a fresh head scores at random");
    let of_queries = head.score_queries(std::slice::from_ref(&list)).unwrap();
    let lists = rows(head.list_inputs(&[list], &of_queries).unwrap());
    assert_eq!(lists, [[mean, -0.4, -0.75, 0.5, 0.25]]);
}

#[test]
fn a_consensus_that_is_not_there_stands_at_the_mean_of_the_fitted_ones() {
    let mut parameters = Parameters::fresh(3, &Device::Cpu);
    let head = RewardHead::load(&mut parameters, 3, false).unwrap();
    for (name, width, at) in [("query.input_mean", 5, 4), ("list.input_mean", 5, 3)] {
        let means: Vec<f32> = (0..width).map(|idx| if idx == at { 0.375 } else { 0.0 }).collect();
        parameters.vars()[name].set(&Tensor::new(means, &Device::Cpu).unwrap()).unwrap();
    }
    let alone = ListFeatures { consensus: None, ..list_of(2, 1.0) };
    let mean =
        ListFeatures { consensus: Some(Consensus { queries: vec![0.375; 2], list: 0.375 }), ..alone.clone() };
    let inputs = |list: &ListFeatures| {
        let list = std::slice::from_ref(list);
        let rows = |inputs: Tensor| inputs.to_vec2::<f32>().unwrap();
        let of_lists = head.list_inputs(list, &head.score_queries(list).unwrap()).unwrap();
        (rows(head.query_inputs(list).unwrap()), rows(of_lists))
    };
    assert_eq!(inputs(&alone), inputs(&mean));
}

#[test]
fn affinity_is_read_by_heads_that_were_made_to_and_stands_at_the_mean_where_it_is_not_there() {
    let mut parameters = Parameters::fresh(3, &Device::Cpu);
    let head = RewardHead::load(&mut parameters, 3, true).unwrap();
    for (part, n_affinity) in [("query", QUERY_AFFINITY), ("list", LIST_AFFINITY)] {
        let means = [&[0.0_f32; 5], &vec![0.5; n_affinity][..]].concat();
        let means = Tensor::new(means, &Device::Cpu).unwrap();
        parameters.vars()[&format!("{part}.input_mean")].set(&means).unwrap();
    }
    let with = |affinity| ListFeatures { affinity, ..list_of(2, 1.0) };
    let last = |list: ListFeatures| {
        let list = std::slice::from_ref(&list);
        let of_queries = head.query_inputs(list).unwrap().to_vec2::<f32>().unwrap();
        let of_list = head.list_inputs(list, &head.score_queries(list).unwrap()).unwrap();
        let of_list = of_list.to_vec2::<f32>().unwrap()[0][5..].to_vec();
        (of_queries.iter().map(|row| row[5..].to_vec()).collect::<Vec<_>>(), of_list)
    };
    let affinity = Affinity {
        queries: [0, 1].map(|query| std::array::from_fn(|place| (10 * query + place) as f32)).into(),
        list: std::array::from_fn(|place| place as f32),
    };
    let read = last(with(Some(affinity.clone())));
    assert_eq!(read.0, affinity.queries);
    assert_eq!(read.1, affinity.list);
    assert_eq!(last(with(None)), (vec![vec![0.5; QUERY_AFFINITY]; 2], vec![0.5; LIST_AFFINITY]));
    let blind = RewardHead::load(&mut Parameters::fresh(3, &Device::Cpu), 3, false).unwrap();
    assert_eq!(blind.query_inputs(&[with(Some(affinity.clone()))]).unwrap().dims(), [2, 5]);
    assert!(
        head.score(&[with(Some(Affinity { queries: vec![[0.5; QUERY_AFFINITY]], ..affinity.clone() }))])
            .is_err()
    );
    for broken in [
        Affinity { list: [f32::NAN; LIST_AFFINITY], ..affinity.clone() },
        Affinity { queries: vec![[f32::NAN; QUERY_AFFINITY]; 2], ..affinity.clone() },
    ] {
        assert!(head.score(&[with(Some(broken))]).is_err());
    }
}

/// Candle takes the slopes of |x| and of a relu at 0 to be 1; the gradient of a tie was three times too large.
#[test]
fn a_pair_of_equal_scores_pulls_apart_by_half() {
    let score = |value: f32| Var::new(&[value], &Device::Cpu).unwrap();
    for value in [0.0, 0.5] {
        let (chosen, rejected) = (score(value), score(value));
        let loss = bradley_terry(&chosen, &rejected).unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() - 2_f32.ln()).abs() < 1e-6);
        let gradients = loss.backward().unwrap();
        let of = |score: &Var| gradients.get(score).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!((of(&chosen), of(&rejected)), (vec![-0.5], vec![0.5]));
    }
}
