//! `bench index`: what a search among article vectors costs, exact and by graph, and how much the graph misses.
use super::CommandError;
use crate::news::{
    article::Article,
    nearest::{ArticleVectors, Method, recall},
    vectors::Near,
};
use clap::Args;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use std::{
    io::Write,
    time::{Duration, Instant},
};

/// Articles of one subject; subjects, not single articles, are far apart.
const SUBJECT_ARTICLES: usize = 50;
/// Distance of an article from its subject, where subjects are at distance 1 from the middle.
const SPREAD: f32 = 0.7;
/// Everything drawn is drawn from this.
const SEED: u64 = 1;
/// Recall is taken among as many hits as a reader sees.
const HITS: usize = 10;
/// Most numbers of all vectors: a GiB of them, and the searches hold two and a half times that. More is refused.
const NUMBERS_MAX: usize = 1 << 28;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct IndexArgs {
    /// Articles
    #[arg(long, default_value_t = 51_000)]
    pub articles: usize,
    /// Numbers of a vector
    #[arg(long, default_value_t = 128)]
    pub width: usize,
    /// Queries; one thread asks one after another
    #[arg(long, default_value_t = 1_000)]
    pub queries: usize,
}

/// Builds both indices on the same random unit vectors, asks both the same queries, and reports.
///
/// # Errors
/// If the sizes make no sense or an index fails.
pub fn index(args: &IndexArgs, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    let n_numbers = args.articles.saturating_add(args.queries).saturating_mul(args.width);
    if args.articles == 0 || args.queries == 0 || args.width == 0 || n_numbers > NUMBERS_MAX {
        let usage = format!(
            "articles, queries and width must be at least 1, and not above {NUMBERS_MAX} numbers in all"
        );
        return Err(CommandError::Usage(usage));
    }
    let (articles, vectors, queries) = drawn(args);
    let build = |method| {
        let started = Instant::now();
        let rows = vectors.chunks_exact(args.width).enumerate();
        let built = ArticleVectors::build(&articles, args.width, rows, method)?;
        Ok::<_, CommandError>((built, started.elapsed()))
    };
    let (exact, exact_build) = build(Method::Exact)?;
    let (graph, graph_build) = build(Method::Hnsw)?;
    let (truth, exact_times) = asked(&exact, &queries, args.width)?;
    let (found, graph_times) = asked(&graph, &queries, args.width)?;
    #[allow(clippy::cast_precision_loss, reason = "NUMBERS_MAX is far below 2^52")]
    let mean_recall = truth.iter().zip(&found).map(|(truth, found)| recall(truth, found)).sum::<f64>()
        / args.queries as f64;
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let (exact_p50, exact_p95) = (ms(quantile(&exact_times, 50)), ms(quantile(&exact_times, 95)));
    let (graph_p50, graph_p95) = (ms(quantile(&graph_times, 50)), ms(quantile(&graph_times, 95)));
    if json {
        let report = serde_json::json!({
            "articles": args.articles, "width": args.width, "queries": args.queries, "seed": SEED,
            "exact": { "build_s": exact_build.as_secs_f64(), "p50_ms": exact_p50, "p95_ms": exact_p95 },
            "hnsw": { "build_s": graph_build.as_secs_f64(), "p50_ms": graph_p50, "p95_ms": graph_p95 },
            "recall_at_10": mean_recall,
        });
        return Ok(writeln!(out, "{report}")?);
    }
    let (articles, width, queries) = (args.articles, args.width, args.queries);
    writeln!(out, "{articles} articles x {width}, {queries} queries, {HITS} hits each, one thread")?;
    for (name, built, p50, p95) in
        [("exact", exact_build, exact_p50, exact_p95), ("hnsw", graph_build, graph_p50, graph_p95)]
    {
        let built = built.as_secs_f64();
        writeln!(out, "{name:<6} built in {built:7.2} s  query p50 {p50:7.3} ms  p95 {p95:7.3} ms")?;
    }
    Ok(writeln!(out, "recall@{HITS} of hnsw against exact {mean_recall:.4}")?)
}

/// Articles that are always alive, their vectors (articles x width), and queries (queries x width) about the same subjects.
fn drawn(args: &IndexArgs) -> (Vec<Article>, Vec<f32>, Vec<f32>) {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let n_subjects = args.articles.div_ceil(SUBJECT_ARTICLES);
    let subjects: Vec<f32> = (0..n_subjects).flat_map(|_| unit(&mut random, args.width, None)).collect();
    let mut near_subjects = |n: usize| -> Vec<f32> {
        let mut rows = Vec::with_capacity(n * args.width);
        for _ in 0..n {
            let subject_idx = random.random_range(0..n_subjects);
            let subject = &subjects[subject_idx * args.width..][..args.width];
            rows.extend(unit(&mut random, args.width, Some(subject)));
        }
        rows
    };
    let (vectors, queries) = (near_subjects(args.articles), near_subjects(args.queries));
    let article = |idx: usize| Article {
        id: idx.to_string(),
        story_id: String::new(),
        title: String::new(),
        summary: String::new(),
        category: String::new(),
        language: String::new(),
        published_unix_s: 0,
        expires_unix_s: 1,
    };
    ((0..args.articles).map(article).collect(), vectors, queries)
}

/// A random direction, or one near a subject.
fn unit(random: &mut ChaCha8Rng, width: usize, subject: Option<&[f32]>) -> Vec<f32> {
    #[allow(clippy::cast_precision_loss, reason = "NUMBERS_MAX bounds it, and a rounded spread is a spread")]
    let scale = SPREAD / (width as f32).sqrt();
    let mut vector: Vec<f32> = (0..width)
        .map(|idx| {
            let noise: f32 = random.sample(StandardNormal);
            subject.map_or(0.0, |subject| subject[idx]) + scale * noise
        })
        .collect();
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|value| *value /= length);
    vector
}

/// Hits and times of all queries, the times in order. A first round warms caches and is not counted.
fn asked(
    vectors: &ArticleVectors,
    queries: &[f32],
    width: usize,
) -> Result<(Vec<Vec<Near>>, Vec<Duration>), CommandError> {
    const WARM_UP: usize = 20;
    for query in queries.chunks_exact(width).take(WARM_UP) {
        vectors.search(query, None, HITS)?;
    }
    let (mut hits, mut times) = (Vec::new(), Vec::new());
    for query in queries.chunks_exact(width) {
        let started = Instant::now();
        let found = vectors.search(query, None, HITS)?;
        times.push(started.elapsed());
        hits.push(found);
    }
    times.sort_unstable();
    Ok((hits, times))
}

/// The time that a share of all times, in percent, is not above; `sorted` must hold one at least.
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.saturating_sub(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_nearest_ranks() {
        let times: Vec<Duration> = (1..=20).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 50), Duration::from_millis(10));
        assert_eq!(quantile(&times, 95), Duration::from_millis(19));
        assert_eq!(quantile(&times[..1], 95), Duration::from_millis(1));
    }

    #[test]
    fn a_small_index_is_measured_and_an_empty_one_refused() {
        let args = IndexArgs { articles: 300, width: 8, queries: 5 };
        let mut out = Vec::new();
        index(&args, true, &mut out).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert!(report["recall_at_10"].as_f64().unwrap() > 0.9, "{report}");
        for refused in [
            IndexArgs { articles: 0, ..args.clone() },
            IndexArgs { queries: 0, ..args.clone() },
            IndexArgs { width: usize::MAX, ..args },
        ] {
            assert!(matches!(index(&refused, true, &mut Vec::new()), Err(CommandError::Usage(_))));
        }
    }
}
