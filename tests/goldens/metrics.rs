//! Goldens of measures: rankings per reader and on average.
use crate::support::goldens::{json, root};
use newshound::{
    lexicon::unit::{Unit, mean_distance},
    news::vectors::VectorIndex,
    train::{
        ranking::{Gain, Grades, average_precision, hit_rate, ndcg, precision, recall, reciprocal_rank},
        rewards::alignment::nearest_mean,
    },
};
use serde_json::Value;
use std::collections::BTreeMap;

const TOLERANCE: f64 = 1e-6;

fn close(got: f64, expected: f64, what: &str) {
    assert!(
        (got - expected).abs() <= TOLERANCE * expected.abs().max(1.0),
        "{what}: {got}, expected {expected}"
    );
}

/// A measure by its name, such as `ndcg@10`.
fn measured(name: &str, ranking: &[String], grades: &Grades<String>) -> f64 {
    let (measure, k) =
        name.split_once('@').map_or((name, usize::MAX), |(measure, k)| (measure, k.parse().unwrap()));
    match measure {
        "recall" => recall(ranking, grades, k),
        "precision" => precision(ranking, grades, k),
        "hit_rate" => hit_rate(ranking, grades, k),
        "mrr" => reciprocal_rank(ranking, grades, k),
        "map" => average_precision(ranking, grades, k),
        "ndcg" => ndcg(ranking, grades, k, Gain::Linear),
        "ndcg_burges" => ndcg(ranking, grades, k, Gain::Exponential),
        unknown => panic!("{unknown} is not checked"),
    }
}

#[test]
fn golden_rankings_are_measured_as_by_the_reference() {
    let golden = json(&root().join("metrics/ranking.json"));
    let grades: BTreeMap<String, Grades<String>> =
        serde_json::from_value(golden["relevance_grades"].clone()).unwrap();
    let rankings: BTreeMap<String, Vec<String>> =
        serde_json::from_value(golden["ranked_lists"].clone()).unwrap();
    assert!(!rankings.is_empty());
    let binary = |grades: &Grades<String>| {
        grades.iter().map(|(id, grade)| (id.clone(), u32::from(*grade > 0))).collect()
    };
    for (kind, expected) in golden["expected"].as_object().unwrap() {
        if kind == "pytrec_eval_binary" {
            continue;
        }
        let as_kind =
            |grades: &Grades<String>| if kind == "binary" { binary(grades) } else { grades.clone() };
        for (name, mean) in expected["mean"].as_object().unwrap() {
            let of_user = |user: &String| measured(name, &rankings[user], &as_kind(&grades[user]));
            let per_user: Vec<f64> = rankings.keys().map(of_user).collect();
            let expected_per_user: BTreeMap<String, f64> =
                serde_json::from_value(expected["per_user"][name].clone()).unwrap();
            assert_eq!(per_user.len(), expected_per_user.len());
            for ((user, got), expected) in rankings.keys().zip(&per_user).zip(expected_per_user.values()) {
                close(*got, *expected, &format!("{kind} {name} {user}"));
            }
            let got = per_user.iter().sum::<f64>() / per_user.len() as f64;
            close(got, mean.as_f64().unwrap(), &format!("{kind} {name}"));
        }
    }
    check_second_opinion(&golden["expected"]["pytrec_eval_binary"], &rankings, |user| binary(&grades[user]));
}

/// trec_eval has names of its own.
fn check_second_opinion(
    expected: &Value,
    rankings: &BTreeMap<String, Vec<String>>,
    grades: impl Fn(&str) -> Grades<String>,
) {
    for (user, measures) in expected.as_object().unwrap() {
        for (name, expected) in measures.as_object().unwrap() {
            let ours = match name.as_str() {
                "recip_rank" => "mrr".to_owned(),
                other => other.replace("_cut_", "@").replace("recall_", "recall@"),
            };
            let got = measured(&ours, &rankings[user], &grades(user));
            close(got, expected.as_f64().unwrap(), &format!("{name} {user}"));
        }
    }
}

/// Largest cosine distance: no cap.
const NO_CAP: f64 = 2.0;
/// Vectors are float32, the reference computes in float64.
const VECTOR_TOLERANCE: f64 = 1e-6;

fn units(rows: &Value) -> Vec<Unit> {
    let rows: Vec<Vec<f32>> = serde_json::from_value(rows.clone()).unwrap();
    rows.into_iter().map(|row| Unit::of(row).unwrap()).collect()
}

#[test]
fn golden_queries_are_aligned_and_diverse_as_by_the_reference() {
    let golden = json(&root().join("metrics/embedding_rewards.json"));
    let cases = golden["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let (queries, documents) = (units(&case["queries"]), units(&case["documents"]));
        let width = documents[0].0.len();
        let living = VectorIndex::build(width, documents.iter().map(|unit| &unit.0[..]).enumerate());
        let k = usize::try_from(case["k"].as_u64().unwrap()).unwrap();
        for (idx, query) in queries.iter().enumerate() {
            let near = living.search(&query.0, k);
            let ids: Vec<u64> = near.iter().map(|near| near.article_idx as u64).collect();
            let expected: Vec<u64> = serde_json::from_value(case["topk_ids"][idx].clone()).unwrap();
            assert_eq!(ids, expected);
            let expected = case["per_query_mean_topk_cosine"][idx].as_f64().unwrap();
            assert!((nearest_mean(query, &living, k) - expected).abs() < VECTOR_TOLERANCE);
        }
        let some: Vec<Option<&Unit>> = queries.iter().map(Some).collect();
        match (mean_distance(&some, NO_CAP), case["pairwise_cosine_distance_mean"].as_f64()) {
            (Some(got), Some(expected)) => assert!((got - expected).abs() < VECTOR_TOLERANCE),
            (got, expected) => assert_eq!((got, expected), (None, None)),
        }
    }
}
