//! The gates of a world: is there anything to learn between copying the signals and knowing the truth?
use super::{rows, text, tiny};
use newshound::news::article::Article;
use newshound::news::catalogue;
use newshound::news::fuse::reciprocal_rank;
use newshound::news::index::NewsIndex;
use newshound::world::{CUTOFF_UNIX_S, DAY_S, Size, WorldSettings, generate};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const HITS_PER_QUERY: usize = 20;

/// Mean Recall@10 over test readers with held-out clicks.
#[derive(Debug)]
struct Gates {
    n_readers: usize,
    popularity: f64,
    copy: f64,
    oracle: f64,
}

fn check(gates: &Gates) {
    assert!(gates.oracle >= 5.0 * gates.popularity, "{gates:?}");
    assert!(gates.copy <= 0.6 * gates.oracle, "{gates:?}");
}

#[test]
fn copying_signals_is_far_below_knowing_the_interests() {
    // Ten of the hundred or so living articles of a tiny world are a tenth of it: popularity has no gate there.
    let gates = measure(tiny(), 80);
    assert!(gates.copy < gates.oracle && gates.popularity < gates.oracle, "{gates:?}");
}

#[test]
fn a_small_world_passes_the_gates() {
    if std::env::var_os("NEWSHOUND_SLOW").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let settings = WorldSettings { size: Size::Small, seed: 1 };
    generate(&settings, dir.path(), &mut |_, _| ()).unwrap();
    let gates = measure(dir.path(), 300);
    assert_eq!(gates.n_readers, 300);
    eprintln!("{gates:?}");
    check(&gates);
}

fn measure(dir: &Path, n_readers_max: usize) -> Gates {
    let articles: Vec<Article> = catalogue::read(&dir.join("articles.jsonl"))
        .unwrap()
        .into_iter()
        .filter(|article| article.is_alive_at(CUTOFF_UNIX_S))
        .collect();
    let ids: BTreeMap<&str, usize> =
        articles.iter().enumerate().map(|(idx, article)| (&*article.id, idx)).collect();
    let index = NewsIndex::build(&articles).unwrap();
    let events = rows(&dir.join("events.jsonl"));
    let popular = popular(&events, &ids);
    let oracle_queries = oracle_queries(dir);
    let mut held_out: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for row in rows(&dir.join("held_out.jsonl"))
        .iter()
        .filter(|row| row["split"] == "test" && row["policy"] == "uniform")
    {
        held_out.entry(text(row, "user_key").to_owned()).or_default().insert(ids[text(row, "article_id")]);
    }
    let mut signals: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in &events {
        signals.entry(text(row, "user_key")).or_default().push(text(row, "text"));
    }
    let fused = |queries: &[String]| -> Vec<usize> {
        let hits = |query: &String| index.search(query, Some(CUTOFF_UNIX_S), HITS_PER_QUERY).unwrap();
        let ranked: Vec<Vec<usize>> =
            queries.iter().map(|query| hits(query).iter().map(|hit| hit.article_idx).collect()).collect();
        reciprocal_rank(&ranked, 10)
    };
    let readers: Vec<_> = held_out.iter().take(n_readers_max).collect();
    let mean = |ranked: &dyn Fn(&str) -> Vec<usize>| -> f64 {
        let recall = |(key, relevant): &(&String, &BTreeSet<usize>)| {
            ranked(key).iter().filter(|idx| relevant.contains(idx)).count() as f64 / relevant.len() as f64
        };
        readers.iter().map(recall).sum::<f64>() / readers.len() as f64
    };
    let last_five = |key: &str| {
        let texts = &signals[key];
        texts[texts.len().saturating_sub(5)..].iter().map(|&text| text.to_owned()).collect::<Vec<_>>()
    };
    Gates {
        n_readers: readers.len(),
        popularity: mean(&|_| popular.clone()),
        copy: mean(&|key| fused(&last_five(key))),
        oracle: mean(&|key| fused(&oracle_queries[key])),
    }
}

fn popular(events: &[Value], ids: &BTreeMap<&str, usize>) -> Vec<usize> {
    let mut clicks: BTreeMap<usize, usize> = BTreeMap::new();
    for row in events.iter().filter(|row| row["time_unix_s"].as_i64().unwrap() >= CUTOFF_UNIX_S - DAY_S) {
        if let Some(&idx) = row["article_id"].as_str().and_then(|id| ids.get(id)) {
            *clicks.entry(idx).or_default() += 1;
        }
    }
    let mut ranked: Vec<usize> = clicks.keys().copied().collect();
    ranked.sort_by_key(|idx| (std::cmp::Reverse(clicks[idx]), *idx));
    ranked.truncate(10);
    ranked
}

/// One query per true interest of weight .1 or more (at most 5): entities of its living stories in a reader's language.
fn oracle_queries(dir: &Path) -> BTreeMap<String, Vec<String>> {
    let mut living: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for row in rows(&dir.join("truth/stories.jsonl")) {
        let alive = row["born_unix_s"].as_i64() <= Some(CUTOFF_UNIX_S)
            && row["expires_unix_s"].as_i64() > Some(CUTOFF_UNIX_S);
        if alive {
            let words =
                row["entities"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned());
            living.entry(row["interest"].as_u64().unwrap()).or_default().extend(words);
        }
    }
    let aspects: Vec<Value> = rows(&dir.join("truth/interests.jsonl"));
    let mut interests: BTreeMap<String, Vec<(f64, String)>> = BTreeMap::new();
    for row in rows(&dir.join("truth/users.jsonl")) {
        let now = row["from_unix_s"].as_i64() <= Some(CUTOFF_UNIX_S)
            && row["until_unix_s"].as_i64().is_none_or(|until| until > CUTOFF_UNIX_S);
        let queries = interests.entry(text(&row, "user_key").to_owned()).or_default();
        let recent = row["care"] != "burst" || row["from_unix_s"].as_i64() > Some(CUTOFF_UNIX_S - 2 * DAY_S);
        if now && recent && row["care"] != "household" && row["weight"].as_f64() >= Some(0.1) {
            let interest = row["interest"].as_u64().unwrap();
            let mut words: Vec<String> = living.get(&interest).into_iter().flatten().cloned().collect();
            let key = if text(&row, "languages").starts_with("es") { "aspects_es" } else { "aspects_en" };
            let own = aspects[usize::try_from(interest).unwrap()][key].as_array().unwrap();
            words.extend(own.iter().take(3).map(|word| word.as_str().unwrap().to_owned()));
            queries.push((row["weight"].as_f64().unwrap(), words.join(" ")));
        }
    }
    let best = |mut queries: Vec<(f64, String)>| {
        queries.sort_by(|left, right| right.0.total_cmp(&left.0));
        queries.into_iter().take(5).map(|(_, query)| query).collect()
    };
    interests.into_iter().map(|(key, queries)| (key, best(queries))).collect()
}
