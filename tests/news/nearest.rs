//! Search among vectors: what is exact, what the graph may miss, and who is alive.
use super::article;
use newshound::{
    lexicon::unit::dot,
    news::{
        article::Article,
        nearest::{ArticleVectors, Method, VectorsError, recall},
        vectors::{Near, VectorIndex},
    },
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(super) const WIDTH: usize = 16;

/// Unit vectors around a tenth as many subjects.
pub(super) fn units(n: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut direction = |base: &[f32], spread: f32| {
        let moved: Vec<f32> =
            base.iter().map(|at| at + spread * random.random_range(-1.0..1.0_f32)).collect();
        let length = dot(&moved, &moved).sqrt();
        moved.iter().map(|value| value / length).collect::<Vec<f32>>()
    };
    let subjects: Vec<Vec<f32>> = (0..n.div_ceil(10)).map(|_| direction(&[0.0; WIDTH], 1.0)).collect();
    (0..n).map(|idx| direction(&subjects[idx % subjects.len()], 0.2)).collect()
}

/// Articles of which every third is alive at 150, every other third before, and the rest after.
pub(super) fn articles(n: usize) -> Vec<Article> {
    let one = |idx: usize| {
        let mut article = article(&format!("a{idx}"), "comet", "");
        let start = 50 * i64::try_from(idx % 3).unwrap();
        (article.published_unix_s, article.expires_unix_s) = (start + 50, start + 100);
        article
    };
    (0..n).map(one).collect()
}

pub(super) fn built(articles: &[Article], vectors: &[Vec<f32>], method: Method) -> ArticleVectors {
    let rows = vectors.iter().map(Vec::as_slice).enumerate();
    ArticleVectors::build(articles, WIDTH, rows, method).unwrap()
}

fn idxs(near: &[Near]) -> Vec<usize> {
    near.iter().map(|near| near.article_idx).collect()
}

/// The nearest by their definition: every cosine is computed and all are sorted.
fn by_definition(
    vectors: &[Vec<f32>],
    query: &[f32],
    k: usize,
    keep: impl Fn(usize) -> bool,
) -> Vec<(usize, f32)> {
    let mut all: Vec<(usize, f32)> =
        (0..vectors.len()).filter(|&idx| keep(idx)).map(|idx| (idx, dot(&vectors[idx], query))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

fn pairs(near: &[Near]) -> Vec<(usize, f32)> {
    near.iter().map(|near| (near.article_idx, near.cosine)).collect()
}

#[test]
fn exact_search_finds_what_the_definition_says_to_the_last_bit() {
    let mut vectors = units(700, 1);
    // Equal vectors tie, and vectors that differ by less than rounding to 16 bits shows must not be confused.
    vectors.extend_from_within(..40);
    for idx in 0..40 {
        let mut moved = vectors[0].clone();
        moved[idx % WIDTH] += 1e-6 * (idx as f32 - 20.0);
        vectors.push(moved);
    }
    let index = VectorIndex::build(WIDTH, vectors.iter().map(Vec::as_slice).enumerate());
    for query in units(20, 2).iter().chain(&vectors[..5]) {
        for k in [0, 1, 10, 48, 49, 400, 10_000] {
            assert_eq!(pairs(&index.search(query, k)), by_definition(&vectors, query, k, |_| true));
            let odd = |idx: usize| idx % 2 == 1;
            assert_eq!(pairs(&index.search_among(query, k, odd)), by_definition(&vectors, query, k, odd));
        }
        assert_eq!(index.search_among(query, 5, |_| false), []);
    }
}

#[test]
fn exact_search_is_exact_for_vectors_that_are_not_unit_vectors_too() {
    let mut vectors = units(200, 1);
    vectors[7].iter_mut().for_each(|value| *value *= 3.0);
    let long: Vec<f32> = units(1, 2)[0].iter().map(|value| value * 1e6).collect();
    let index = VectorIndex::build(WIDTH, vectors.iter().map(Vec::as_slice).enumerate());
    let short = VectorIndex::build(WIDTH, vectors[8..].iter().map(Vec::as_slice).enumerate());
    for query in units(5, 2).iter().chain([&long, &vec![0.0; WIDTH]]) {
        assert_eq!(pairs(&index.search(query, 3)), by_definition(&vectors, query, 3, |_| true));
        assert_eq!(pairs(&short.search(query, 3)), by_definition(&vectors[8..], query, 3, |_| true));
    }
}

#[test]
fn the_graph_finds_nearly_all_of_the_nearest() {
    let (articles, vectors) = (articles(2_000), units(2_000, 1));
    let graph = built(&articles, &vectors, Method::Hnsw);
    let queries = units(100, 2);
    let recall = graph.recall(queries.iter().map(Vec::as_slice), None, 10).unwrap();
    assert!(recall > 0.9, "recall@10 is {recall}");
    let exact = built(&articles, &vectors, Method::Exact);
    assert_eq!(exact.recall(queries.iter().map(Vec::as_slice), None, 10).unwrap(), 1.0);
    let again = built(&articles, &vectors, Method::Hnsw);
    for query in &queries {
        let found = graph.search(query, None, 10).unwrap();
        assert_eq!(found, again.search(query, None, 10).unwrap(), "two builds differ");
        for near in found {
            assert_eq!(
                near.cosine,
                dot(&vectors[near.article_idx], query),
                "cosines are those of the exact search"
            );
        }
    }
}

#[test]
fn k_articles_are_found_wherever_k_are_alive() {
    for (n, method) in [(300, Method::Exact), (300, Method::Hnsw)] {
        let (articles, vectors) = (articles(n), units(n, 1));
        let index = built(&articles, &vectors, method);
        let n_alive = articles.iter().filter(|article| article.is_alive_at(149)).count();
        for query in units(10, 2) {
            for k in [1, 10, 100, n_alive, n] {
                let found = index.search(&query, Some(149), k).unwrap();
                assert_eq!(found.len(), k.min(n_alive), "{method:?}");
                assert!(found.iter().all(|near| articles[near.article_idx].is_alive_at(149)));
            }
        }
        let queries = units(20, 3);
        let recall = index.recall(queries.iter().map(Vec::as_slice), Some(149), 10).unwrap();
        assert!(recall > 0.9, "recall@10 is {recall}");
    }
}

#[test]
fn an_article_is_found_from_its_publication_until_just_before_it_expires() {
    let articles = [article("a", "", "")];
    let vectors = units(1, 1);
    for method in [Method::Exact, Method::Hnsw] {
        let index = built(&articles, &vectors, method);
        for (time, alive) in [(99, false), (100, true), (199, true), (200, false)] {
            let found = index.search(&vectors[0], Some(time), 3).unwrap();
            assert_eq!(found.len(), usize::from(alive), "at {time}");
        }
    }
}

#[test]
fn articles_without_a_vector_are_not_found_and_an_index_of_none_finds_nothing() {
    let (articles, vectors) = (articles(6), units(6, 1));
    let rows = || [4, 1].into_iter().map(|idx: usize| (idx, vectors[idx].as_slice()));
    for method in [Method::Exact, Method::Hnsw] {
        let index = ArticleVectors::build(&articles, WIDTH, rows(), method).unwrap();
        assert_eq!(idxs(&index.search(&vectors[1], None, 6).unwrap()), [1, 4]);
        let none = ArticleVectors::build(&articles, WIDTH, std::iter::empty(), method).unwrap();
        assert_eq!(none.search(&vectors[0], Some(150), 3).unwrap(), []);
        assert_eq!(none.recall(vectors.iter().map(Vec::as_slice), None, 3).unwrap(), 1.0);
    }
}

#[test]
fn what_is_no_unit_vector_of_an_article_is_refused() {
    let articles = articles(2);
    let good = units(1, 1).remove(0);
    let long: Vec<f32> = good.iter().map(|value| value * 1.01).collect();
    let mut broken = good.clone();
    broken[3] = f32::NAN;
    let build = |rows: &[(usize, &[f32])]| {
        ArticleVectors::build(&articles, WIDTH, rows.iter().copied(), Method::Hnsw).unwrap_err()
    };
    assert!(matches!(build(&[(0, &good[1..])]), VectorsError::Width { got: 15, expected: WIDTH }));
    assert!(matches!(build(&[(0, &good), (1, &long)]), VectorsError::Length { article_idx: 1, .. }));
    assert!(matches!(build(&[(1, &broken)]), VectorsError::Length { article_idx: 1, .. }));
    assert!(matches!(build(&[(2, &good)]), VectorsError::Article { article_idx: 2, n_articles: 2 }));
    assert!(matches!(build(&[(1, &good), (1, &good)]), VectorsError::Article { article_idx: 1, .. }));
    let index = built(&articles, std::slice::from_ref(&good), Method::Exact);
    assert!(matches!(index.search(&good[1..], None, 1), Err(VectorsError::Width { got: 15, .. })));
    assert!(matches!(index.search(&broken, None, 1), Err(VectorsError::Query)));
}

#[test]
fn recall_is_the_share_of_exact_hits_and_equal_cosines_are_equally_good() {
    let near = |article_idx, cosine| Near { article_idx, cosine };
    let exact = [near(1, 0.9), near(2, 0.8), near(3, 0.7), near(4, 0.6)];
    assert_eq!(recall(&exact, &exact), 1.0);
    assert_eq!(recall(&exact, &[near(1, 0.9), near(3, 0.7), near(9, 0.6), near(8, 0.5)]), 0.75);
    assert_eq!(recall(&exact, &[]), 0.0);
    assert_eq!(recall(&[], &[]), 1.0);
}
