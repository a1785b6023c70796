//! Tests of world: every one on the tiny size, read back from its files.

use newshound::news::catalogue;
use newshound::world::{CUTOFF_UNIX_S, DAY_S, START_UNIX_S, Size, WorldSettings, WorldSummary, generate};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

static TINY: LazyLock<(tempfile::TempDir, WorldSummary)> = LazyLock::new(|| world(1));

fn world(seed: u64) -> (tempfile::TempDir, WorldSummary) {
    let dir = tempfile::tempdir().unwrap();
    let settings = WorldSettings::of(Size::Tiny, seed);
    let summary = generate(&settings, dir.path(), &mut |_, _| ()).unwrap();
    (dir, summary)
}

fn tiny() -> &'static Path {
    TINY.0.path()
}

fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'row>(row: &'row Value, key: &str) -> &'row str {
    row[key].as_str().unwrap_or_else(|| panic!("{key} of {row}"))
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let (again, summary) = world(1);
    assert_eq!(summary, TINY.1);
    assert_eq!(summary.files.len(), 12);
    for (name, _) in &summary.files {
        let bytes = |dir: &Path| std::fs::read(dir.join(name)).unwrap();
        assert!(bytes(tiny()) == bytes(again.path()), "{name} differs");
    }
    let bytes = |dir: &Path| std::fs::read(dir.join("world.json")).unwrap();
    assert_eq!(bytes(tiny()), bytes(again.path()));
    let (_other, other) = world(2);
    for ((name, digest), (_, other_digest)) in summary.files.iter().zip(&other.files) {
        assert_ne!(digest, other_digest, "{name}");
    }
}

#[test]
fn the_bytes_of_a_seed_are_pinned_to_the_generator_version() {
    // A change that moves these digests moves every published figure: raise GENERATOR_VERSION with it.
    assert_eq!(TINY.1.generator_version, 3);
    let digest = |name: &str| &TINY.1.files.iter().find(|(known, _)| known == name).unwrap().1;
    let articles = "a9e5b35a4f02097f52a05fb40750998eff96d853fa81dfe55f6f323cc244528d";
    let events = "be586ca52f097d2dab243980a64f3aef18b2352003bd63c01e656a92178d5049";
    assert_eq!((digest("articles.jsonl").as_str(), digest("events.jsonl").as_str()), (articles, events));
    let all: String = TINY.1.files.iter().map(|(_, digest)| digest.as_str()).collect();
    let all = newshound::bundle::manifest::sha256_hex(all.as_bytes());
    assert_eq!(
        all, "c0cc76dd02c6389bcc6f6457485be0a004edbd11306334f1ff1ed647c1c6c81d",
        "held-out clicks or the truth differ"
    );
}

#[test]
fn the_summary_counts_what_the_files_hold_and_lists_their_digests() {
    let summary: Value = serde_json::from_slice(&std::fs::read(tiny().join("world.json")).unwrap()).unwrap();
    let count = |name: &str| rows(&tiny().join(name)).len() as u64;
    assert_eq!(summary["n_articles"], count("articles.jsonl"));
    assert_eq!(summary["n_events"], count("events.jsonl"));
    assert_eq!(summary["n_held_out"], count("held_out.jsonl"));
    assert_eq!(summary["n_stories"], count("truth/stories.jsonl"));
    assert_eq!(summary["n_interests"], count("truth/interests.jsonl"));
    assert_eq!(summary["n_users"], serde_json::json!([240, 40, 80]));
    assert_eq!(summary["cutoff_unix_s"], CUTOFF_UNIX_S);
}

#[test]
fn progress_counts_every_reader_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut heard = Vec::new();
    let settings = WorldSettings::of(Size::Tiny, 3);
    generate(&settings, dir.path(), &mut |done, total| heard.push((done, total))).unwrap();
    assert_eq!(heard, (1..=360).map(|done| (done, 360)).collect::<Vec<_>>());
}

#[test]
fn more_readers_are_divided_as_the_size_divides_its_own_and_the_first_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let generate = |n_readers: u64| {
        let settings = WorldSettings { n_readers: Some(n_readers), ..WorldSettings::of(Size::Tiny, 1) };
        generate(&settings, dir.path(), &mut |_, _| ()).unwrap()
    };
    // More than are drawn side by side.
    let more = generate(1_081);
    assert_eq!(more.n_users, [721, 120, 240]);
    let events = std::fs::read_to_string(dir.path().join("events.jsonl")).unwrap();
    let usual = std::fs::read_to_string(tiny().join("events.jsonl")).unwrap();
    let of_first_readers: Vec<&str> =
        usual.lines().filter(|line| line.contains("\"split\":\"train\"")).collect();
    assert!(events.lines().zip(&of_first_readers).all(|(line, usual)| line == *usual));
    assert_eq!(generate(360).n_users, TINY.1.n_users);
    assert_eq!(generate(1).n_users, [1, 0, 0]);
}

#[test]
fn a_folder_that_cannot_be_made_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("taken");
    std::fs::write(&file, b"x").unwrap();
    let error = generate(&WorldSettings::of(Size::Tiny, 1), &file, &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");
}

#[test]
fn every_parquet_row_equals_its_json_row() {
    for stem in ["events", "held_out", "truth/users", "truth/events_truth"] {
        let expected = rows(&tiny().join(format!("{stem}.jsonl")));
        assert_eq!(parquet_rows(&tiny().join(format!("{stem}.parquet"))), expected, "{stem}");
    }
    let read = |name: &str| catalogue::read(&tiny().join(name)).unwrap();
    assert_eq!(read("articles.parquet"), read("articles.jsonl"));
}

fn parquet_rows(path: &Path) -> Vec<Value> {
    let file = std::fs::File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        for row_idx in 0..batch.num_rows() {
            let cells = batch
                .schema()
                .fields()
                .iter()
                .zip(batch.columns())
                .map(|(field, column)| (field.name().clone(), cell(column.as_ref(), row_idx)))
                .collect();
            rows.push(Value::Object(cells));
        }
    }
    rows
}

fn cell(column: &dyn arrow_array::Array, row_idx: usize) -> Value {
    use arrow_array::{BooleanArray, Float64Array, Int64Array, StringArray, UInt32Array};
    let any = column.as_any();
    if column.is_null(row_idx) {
        Value::Null
    } else if let Some(texts) = any.downcast_ref::<StringArray>() {
        texts.value(row_idx).into()
    } else if let Some(times) = any.downcast_ref::<Int64Array>() {
        times.value(row_idx).into()
    } else if let Some(counts) = any.downcast_ref::<UInt32Array>() {
        counts.value(row_idx).into()
    } else if let Some(flags) = any.downcast_ref::<BooleanArray>() {
        flags.value(row_idx).into()
    } else {
        any.downcast_ref::<Float64Array>().unwrap().value(row_idx).into()
    }
}

#[test]
fn readers_belong_to_one_split_and_all_have_a_signal() {
    let mut split_of = BTreeMap::new();
    for row in rows(&tiny().join("events.jsonl")) {
        let split = text(&row, "split").to_owned();
        assert_eq!(*split_of.entry(text(&row, "user_key").to_owned()).or_insert(split.clone()), split);
    }
    let count = |wanted: &str| split_of.values().filter(|split| *split == wanted).count();
    assert_eq!((count("train"), count("valid"), count("test")), (240, 40, 80));
    for row in rows(&tiny().join("held_out.jsonl")) {
        assert_eq!(split_of[text(&row, "user_key")], text(&row, "split"));
        assert_ne!(text(&row, "split"), "train");
    }
}

#[test]
fn events_are_sorted_end_before_the_cutoff_and_fill_only_the_fields_of_their_stream() {
    let mut previous = (String::new(), 0);
    for row in rows(&tiny().join("events.jsonl")) {
        let time = row["time_unix_s"].as_i64().unwrap();
        assert!((START_UNIX_S..CUTOFF_UNIX_S).contains(&time), "{row}");
        let key = (text(&row, "user_key").to_owned(), time);
        assert!(previous <= key, "{row}");
        previous = key;
        let stream = text(&row, "stream");
        assert_eq!(row["category"].is_string(), stream == "click", "{row}");
        assert_eq!(row["article_id"].is_string(), stream == "click", "{row}");
        assert_eq!(row["dwell_ms"].is_u64(), stream != "search", "{row}");
        assert_eq!(row["position"].as_u64().is_some_and(|slot| (1..=20).contains(&slot)), stream == "click");
        assert_eq!(row["propensity"].as_f64().is_some_and(|p| p > 0.0), stream == "click", "{row}");
        assert!(!text(&row, "text").trim().is_empty() && !text(&row, "source").is_empty());
    }
}

#[test]
fn clicks_are_on_living_articles_and_held_out_ones_on_the_day_after_the_cutoff() {
    let articles = catalogue::read(&tiny().join("articles.jsonl")).unwrap();
    let by_id: BTreeMap<_, _> = articles.iter().map(|article| (article.id.as_str(), article)).collect();
    for row in rows(&tiny().join("events.jsonl")) {
        if let Some(id) = row["article_id"].as_str() {
            let article = by_id[id];
            assert!(article.is_alive_at(row["time_unix_s"].as_i64().unwrap()));
            assert_eq!((text(&row, "text"), text(&row, "category")), (&*article.title, &*article.category));
        }
    }
    let mut clickers = BTreeSet::new();
    for row in rows(&tiny().join("held_out.jsonl")) {
        let time = row["time_unix_s"].as_i64().unwrap();
        assert!(time > CUTOFF_UNIX_S && time <= CUTOFF_UNIX_S + DAY_S);
        let article = by_id[text(&row, "article_id")];
        assert!(article.is_alive_at(CUTOFF_UNIX_S) && article.is_alive_at(time));
        if text(&row, "policy") == "uniform" {
            clickers.insert(text(&row, "user_key").to_owned());
        }
    }
    assert!(share(clickers.len(), 120) >= 0.85, "{} of 120", clickers.len());
}

fn words(row: &Value, key: &str) -> Vec<String> {
    row[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn off_news_words_never_meet_the_news_and_six_interests_of_other_topics_share_them() {
    let (mut news, mut topics) = (BTreeSet::new(), BTreeMap::<String, Vec<String>>::new());
    for row in rows(&tiny().join("truth/interests.jsonl")) {
        for key in ["entities", "aspects_en", "aspects_es"] {
            news.extend(words(&row, key));
        }
        let unique: BTreeSet<String> =
            ["off_news_en", "off_news_es"].iter().flat_map(|key| words(&row, key)).collect();
        for word in unique {
            topics.entry(word).or_default().push(text(&row, "topic").to_owned());
        }
    }
    for row in rows(&tiny().join("truth/stories.jsonl")) {
        news.extend(words(&row, "entities"));
    }
    let stem = |word: &String| word.chars().take(4).collect::<String>();
    let news_stems: BTreeSet<String> = news.iter().map(stem).collect();
    assert!(topics.keys().all(|word| !news_stems.contains(&stem(word))));
    for (word, topics) in &topics {
        let distinct: BTreeSet<&String> = topics.iter().collect();
        assert_eq!((topics.len(), distinct.len()), (6, 6), "{word} {topics:?}");
    }

    let articles = catalogue::read(&tiny().join("articles.jsonl")).unwrap();
    let mut texts = articles.iter().flat_map(|article| [&article.title, &article.summary]);
    assert!(texts.all(|text| text.split_whitespace().all(|word| !topics.contains_key(word))));
    assert!(articles.iter().all(|article| (6..=12).contains(&article.title.split_whitespace().count())));
}

#[test]
fn a_word_and_its_neighbour_tell_an_interest_and_neither_alone_does() {
    let off_news: BTreeSet<String> = rows(&tiny().join("truth/interests.jsonl"))
        .iter()
        .flat_map(|row| [words(row, "off_news_en"), words(row, "off_news_es")].concat())
        .collect();
    let contexts = ["portable", "vintage", "outdoor", "compact", "electric", "handmade"];
    let (mut by_pair, mut by_word, mut by_context) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let truth = rows(&tiny().join("truth/events_truth.jsonl"));
    for (event, truth) in rows(&tiny().join("events.jsonl")).iter().zip(&truth) {
        let Some(interest) = truth["interest"].as_u64().filter(|_| event["stream"] != "click") else {
            continue;
        };
        let words: Vec<&str> = text(event, "text").split_whitespace().collect();
        for pair in words.windows(2).filter(|pair| contexts.contains(&pair[0]) && off_news.contains(pair[1]))
        {
            let (context, word) = (pair[0].to_owned(), pair[1].to_owned());
            by_pair.entry((context.clone(), word.clone())).or_insert_with(BTreeSet::new).insert(interest);
            by_word.entry(word).or_insert_with(BTreeSet::new).insert(interest);
            by_context.entry(context).or_insert_with(BTreeSet::new).insert(interest);
        }
    }
    assert!(by_pair.len() > 100 && by_pair.values().all(|interests| interests.len() == 1), "{by_pair:?}");
    assert!(by_word.values().all(|interests| interests.len() == 6), "{by_word:?}");
    assert!(by_context.values().all(|interests| interests.len() == 24), "{by_context:?}");
}

#[test]
fn a_uniform_slice_shows_everything_readable_equally_often_and_the_policy_does_not() {
    let mut by_reader: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for row in rows(&tiny().join("held_out.jsonl")) {
        let key = (text(&row, "policy").to_owned(), text(&row, "user_key").to_owned());
        by_reader.entry(key).or_default().push(row["propensity"].as_f64().unwrap());
    }
    let varied = |wanted: &str| {
        let several = by_reader.iter().filter(|((policy, _), clicks)| policy == wanted && clicks.len() > 1);
        let different = |clicks: &[f64]| clicks.iter().any(|propensity| propensity != &clicks[0]);
        let (all, varied) =
            several.fold((0, 0), |(all, n), (_, clicks)| (all + 1, n + u32::from(different(clicks))));
        assert!(all > 20);
        (all, varied)
    };
    assert_eq!(varied("uniform").1, 0);
    let (all, n_varied) = varied("logged");
    assert!(n_varied > all * 9 / 10, "{n_varied} of {all}");
}

#[test]
fn what_the_platform_does_not_know_is_typed_and_rarely_clicked_before_the_cutoff() {
    let mut known: BTreeMap<(String, u64), bool> = BTreeMap::new();
    let mut n_known: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows(&tiny().join("truth/users.jsonl")) {
        let (key, is_known) =
            (text(&row, "user_key").to_owned(), row["known_to_platform"].as_bool().unwrap());
        let is_lasting = row["until_unix_s"].is_null();
        *n_known.entry(key.clone()).or_default() += usize::from(is_known && is_lasting);
        known.insert((key, row["interest"].as_u64().unwrap()), is_known);
    }
    assert!(n_known.values().all(|&n| n == 1), "{n_known:?}");
    let unknown_share = |stream: &str| {
        let events = rows(&tiny().join("events.jsonl"));
        let truth = rows(&tiny().join("truth/events_truth.jsonl"));
        let of_stream = events.iter().zip(&truth).filter(|(event, _)| text(event, "stream") == stream);
        let own = of_stream.filter(|(_, truth)| text(truth, "tag") == "interest").filter_map(|(_, truth)| {
            known.get(&(text(truth, "user_key").to_owned(), truth["interest"].as_u64()?))
        });
        let (n_unknown, n) =
            own.fold((0, 0), |(part, all), &is_known| (part + usize::from(!is_known), all + 1));
        share(n_unknown, n)
    };
    let (typed, clicked) = (unknown_share("search"), unknown_share("click"));
    // Of 24 interests each is on a tenth of all common slots; of 240, few.
    assert!(typed > 0.8 && clicked < typed - 0.25, "{typed} {clicked}");
}

#[test]
fn an_interest_has_at_most_five_living_stories() {
    let mut lives: BTreeMap<u64, Vec<(i64, i64)>> = BTreeMap::new();
    for row in rows(&tiny().join("truth/stories.jsonl")) {
        let life = (row["born_unix_s"].as_i64().unwrap(), row["expires_unix_s"].as_i64().unwrap());
        lives.entry(row["interest"].as_u64().unwrap()).or_default().push(life);
    }
    assert_eq!(lives.len(), 24);
    for lives in lives.values() {
        // The number of living stories only grows at births.
        for (time, _) in lives {
            assert!(lives.iter().filter(|(born, expires)| born <= time && time < expires).count() <= 5);
        }
    }
    let articles = catalogue::read(&tiny().join("articles.jsonl")).unwrap();
    let mut per_story: BTreeMap<&str, usize> = BTreeMap::new();
    for article in &articles {
        *per_story.entry(&article.story_id).or_default() += 1;
    }
    assert!(per_story.values().all(|n_articles| (1..=6).contains(n_articles)));
}

#[test]
fn shares_of_noise_streams_and_cold_readers_are_as_designed() {
    let events = rows(&tiny().join("events.jsonl"));
    let truth = rows(&tiny().join("truth/events_truth.jsonl"));
    assert_eq!(events.len(), truth.len());
    assert!(events.iter().zip(&truth).all(|(event, truth)| event["user_key"] == truth["user_key"]));
    let noise = share(truth.iter().filter(|row| text(row, "tag") != "interest").count(), truth.len());
    assert!((0.20..=0.30).contains(&noise), "{noise}");
    for (stream, expected) in [("search", 0.35), ("page", 0.40), ("click", 0.25)] {
        let found = share(events.iter().filter(|row| text(row, "stream") == stream).count(), events.len());
        assert!((found - expected).abs() < 0.05, "{stream} {found}");
    }
    let mut clicks: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &events {
        *clicks.entry(text(row, "user_key")).or_default() += usize::from(text(row, "stream") == "click");
    }
    let cold = share(clicks.values().filter(|&&n_clicks| n_clicks <= 5).count(), clicks.len());
    assert!((0.22..=0.38).contains(&cold), "{cold}");
}
