//! Tests of news: catalogues, indices, fusion.
use newshound::news::article::Article;
use newshound::news::catalogue::{self, CatalogueError};
use newshound::news::fuse::{reciprocal_rank, reciprocal_rank_of_stories};
use newshound::news::index::NewsIndex;

mod embed;
mod folder;
mod nearest;
mod tsv;

fn article(id: &str, title: &str, summary: &str) -> Article {
    Article {
        id: id.to_owned(),
        story_id: format!("story-of-{id}"),
        title: title.to_owned(),
        summary: summary.to_owned(),
        category: "space".to_owned(),
        language: "en".to_owned(),
        published_unix_s: 100,
        expires_unix_s: 200,
    }
}

fn found(articles: &[Article], query: &str, alive_at: Option<i64>, n_hits: usize) -> Vec<usize> {
    let index = NewsIndex::build(articles).unwrap();
    index.search(query, alive_at, n_hits).unwrap().into_iter().map(|hit| hit.article_idx).collect()
}

/// BM25 (k1 1.2, b .75) of one word in one field, in f64 and from its definition.
fn bm25(n_with_word: f64, n_articles: f64, (frequency, length, length_mean): (f64, f64, f64)) -> f64 {
    let idf = (1.0 + (n_articles - n_with_word + 0.5) / (n_with_word + 0.5)).ln();
    idf * frequency * 2.2 / (frequency + 1.2 * (1.0 - 0.75 + 0.75 * length / length_mean))
}

#[test]
fn scores_are_bm25_with_titles_counted_twice() {
    let articles = [
        article("a", "comet seen", "a comet and a probe"),
        article("b", "probe lands", "dust everywhere here today now"),
        article("c", "budget vote", "nothing else"),
    ];
    let index = NewsIndex::build(&articles).unwrap();
    let hits = index.search("Comet PROBE", None, 10).unwrap();
    let summary_mean = 12.0 / 3.0;
    let a = 2.0 * bm25(1.0, 3.0, (1.0, 2.0, 2.0)) + 2.0 * bm25(1.0, 3.0, (1.0, 5.0, summary_mean));
    let b = 2.0 * bm25(1.0, 3.0, (1.0, 2.0, 2.0));
    assert_eq!(hits.iter().map(|hit| hit.article_idx).collect::<Vec<_>>(), [0, 1]);
    for (hit, expected) in hits.iter().zip([a, b]) {
        assert!((f64::from(hit.score) - expected).abs() < 1e-4 * expected, "{} != {expected}", hit.score);
    }
}

#[test]
fn rare_words_outweigh_common_ones_and_ties_go_to_the_lower_index() {
    let articles = [
        article("a", "storm north", ""),
        article("b", "storm south", ""),
        article("c", "storm south", ""),
        article("d", "eclipse south", ""),
    ];
    assert_eq!(found(&articles, "storm eclipse", None, 10), [3, 0, 1, 2]);
    assert_eq!(found(&articles, "storm eclipse", None, 2), [3, 0]);
    assert_eq!(found(&articles, "storm eclipse", None, 0), [0_usize; 0]);
}

#[test]
fn an_article_is_found_from_its_publication_until_just_before_it_expires() {
    let articles = [article("a", "comet", "")];
    for (time, alive) in [(99, false), (100, true), (199, true), (200, false)] {
        assert_eq!(found(&articles, "comet", Some(time), 10).len(), usize::from(alive), "at {time}");
    }
    assert_eq!(found(&articles, "comet", None, 10), [0]);
}

#[test]
fn dead_articles_never_take_the_places_of_living_ones() {
    let mut articles: Vec<Article> =
        (0..50).map(|idx| article(&format!("dead{idx}"), "comet comet", "")).collect();
    articles.iter_mut().for_each(|article| article.expires_unix_s = 101);
    articles.push(article("alive", "a long title that names the comet once", ""));
    assert_eq!(found(&articles, "comet", Some(150), 1), [50]);
}

#[test]
fn words_are_compared_without_case_width_or_punctuation() {
    let articles = [article("a", "Ｃｏｍｅｔ-watch: ÉTÉ!", "")];
    for query in ["comet", "COMET?", "watch", "été", "\"title:comet\"", "comet AND NOT x"] {
        assert_eq!(found(&articles, query, None, 10), [0], "{query}");
    }
    for query in ["", "  ", "+-*()", "come", "cometwatch"] {
        assert!(found(&articles, query, None, 10).is_empty(), "{query}");
    }
}

#[test]
fn repeating_a_word_of_the_query_changes_nothing() {
    let articles = [article("a", "comet", ""), article("b", "probe", "probe")];
    let index = NewsIndex::build(&articles).unwrap();
    let once = index.search("comet probe", None, 10).unwrap();
    assert_eq!(index.search("comet comet Comet probe", None, 10).unwrap(), once);
}

#[test]
fn hostile_queries_and_an_empty_catalogue_find_nothing_and_fail_nothing() {
    let long = "x".repeat(100_000);
    let many: String = (0..20_000).map(|idx| format!("w{idx} ")).collect();
    for query in [long.as_str(), many.as_str(), "\u{0}\u{202e}"] {
        assert!(found(&[article("a", "comet", "")], query, None, 10).is_empty());
    }
    assert!(found(&[], "comet", None, 10).is_empty());
}

#[test]
fn catalogues_survive_both_file_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let articles = vec![article("a", "quote \" and line\nbreak", ""), article("b", "ñ 漢字", "s")];
    let jsonl = dir.path().join("articles.jsonl");
    catalogue::write_jsonl(&jsonl, &articles).unwrap();
    assert_eq!(catalogue::read(&jsonl).unwrap(), articles);
    let parquet = dir.path().join("articles.parquet");
    catalogue::write_parquet(&parquet, &articles).unwrap();
    assert_eq!(catalogue::read(&parquet).unwrap(), articles);
    catalogue::write_parquet(&parquet, &[]).unwrap();
    assert_eq!(catalogue::read(&parquet).unwrap(), []);
}

#[test]
fn broken_lines_are_named_by_number() {
    let line = |article: &Article| serde_json::to_string(article).unwrap();
    let good = line(&article("a", "t", "s"));
    let empty_id = line(&article("", "t", "s"));
    let mut dead = article("d", "t", "s");
    dead.expires_unix_s = dead.published_unix_s;
    let dead = line(&dead);
    let cases = [
        ("{", "EOF"),
        (r#"{"id":"x"}"#, "missing field"),
        ("\u{feff}", "expected value"),
        (good.as_str(), "id a is already taken"),
        (empty_id.as_str(), "id is empty"),
        (dead.as_str(), "expires"),
    ];
    for (broken, expected) in cases {
        let file = format!("{good}\n\n{broken}\n");
        let error = catalogue::parse_jsonl(file.as_bytes(), "my.jsonl").unwrap_err();
        assert!(matches!(error, CatalogueError::Line { line: 3, .. }), "{error:?}");
        let shown = error.to_string();
        assert!(shown.starts_with("my.jsonl: line 3: ") && shown.contains(expected), "{shown}");
    }
    assert!(catalogue::parse_jsonl(b"\xff\xfe\n", "my.jsonl").is_err());
    assert_eq!(catalogue::parse_jsonl(b"\n \r\n", "my.jsonl").unwrap(), []);
}

#[test]
fn files_that_are_no_catalogue_are_refused_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["missing.jsonl", "missing.parquet", "articles.csv", "missing.tsv"] {
        let error = catalogue::read(&dir.path().join(name)).unwrap_err();
        assert!(matches!(error, CatalogueError::File { .. }) && error.to_string().contains(name), "{error}");
    }
    let lying = dir.path().join("lying.parquet");
    std::fs::write(&lying, b"PAR1 no PAR1").unwrap();
    assert!(matches!(catalogue::read(&lying).unwrap_err(), CatalogueError::File { .. }));
}

#[test]
fn fusion_sums_reciprocal_ranks() {
    // 7: 1/61 + 1/63; 5: 1/62 + 1/61; 9: 1/63; 4: 1/62.
    assert_eq!(reciprocal_rank(&[vec![7, 5, 9], vec![5, 4, 7]], 10), [5, 7, 4, 9]);
    assert_eq!(reciprocal_rank(&[vec![7, 5, 9], vec![5, 4, 7]], 2), [5, 7]);
    // Two second ranks (2/62) beat one first (1/61).
    assert_eq!(reciprocal_rank(&[vec![1, 2], vec![3, 2]], 1), [2]);
}

#[test]
fn fusion_breaks_ties_by_index_whatever_the_order_of_lists() {
    assert_eq!(reciprocal_rank(&[vec![8], vec![3]], 10), [3, 8]);
    assert_eq!(reciprocal_rank(&[vec![3], vec![8]], 10), [3, 8]);
    let lists = [vec![2, 6, 4], vec![4, 2, 6], vec![6, 4, 2]];
    assert_eq!(reciprocal_rank(&lists, 10), [2, 4, 6]);
    assert_eq!(reciprocal_rank(&[], 10), [0_usize; 0]);
    assert_eq!(reciprocal_rank(&[vec![1, 1, 1], vec![2, 3]], 10), [1, 2, 3]);
}

#[test]
fn each_story_is_fused_to_its_best_article_and_its_other_places_go_to_other_stories() {
    let mut articles: Vec<Article> = (0..6).map(|idx| article(&format!("a{idx}"), "", "")).collect();
    for (idx, story) in [(0, "storm"), (1, "storm"), (2, "storm"), (3, "vote"), (4, ""), (5, "")] {
        articles[idx].story_id = story.to_owned();
    }
    let ranked = [vec![1, 0, 3, 4], vec![1, 2, 5, 3]];
    assert_eq!(reciprocal_rank(&ranked, 10), [1, 3, 0, 2, 5, 4]);
    assert_eq!(reciprocal_rank_of_stories(&ranked, &articles, 10), [1, 3, 5, 4]);
    assert_eq!(reciprocal_rank_of_stories(&ranked, &articles, 3), [1, 3, 5]);
    assert_eq!(reciprocal_rank_of_stories(&ranked, &articles, 0), [0_usize; 0]);
    assert_eq!(reciprocal_rank_of_stories(&[], &articles, 3), [0_usize; 0]);
}
