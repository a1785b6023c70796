//! Logs of platforms become folders that every training command reads; what cannot be used is counted.
use newshound::{
    signals::Stream,
    train::{
        error::TrainError,
        events::{Scope, Split, World},
        import::{ImportSettings, events, log::ImportSummary, mind},
    },
};
use std::{collections::BTreeMap, fs, path::Path};

/// 2019-11-09 00:00:00 UTC.
const BEGIN: i64 = 1_573_257_600;
const DAY: i64 = 86_400;

fn settings(out: &Path) -> ImportSettings {
    ImportSettings { out: out.to_owned(), strict: false, cutoff_unix_s: None }
}

/// A row of `news.tsv` with MIND's eight columns; titles hold what a CSV reader would stumble over.
fn news(id: &str) -> String {
    format!("{id}\tnews\tnewsworld\tTitle \"of {id}\tAbstract of {id}.\thttps://example.com/{id}\t[]\t[]\n")
}

/// Enough readers that each split has some. Everybody read N1 and N2 before, clicked N3 on the first day and N4 on the last.
fn mind_folder(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let articles: String = ["N1", "N2", "N3", "N4", "N5"].into_iter().map(news).collect();
    fs::write(dir.join("news.tsv"), articles).unwrap();
    let mut rows = String::new();
    for user in 0..60 {
        rows += &format!("1\tU{user}\t11/9/2019 8:00:00 AM\tN1 N2\tN3-1 N4-0 N5-0\n");
        rows += &format!("2\tU{user}\t11/15/2019 12:00:05 PM\tN1 N2\tN4-1 N5-0\n");
    }
    fs::write(dir.join("behaviors.tsv"), rows).unwrap();
}

fn import_mind(dir: &Path) -> (ImportSummary, World) {
    let out = dir.join("world");
    let summary = mind::import(&[dir.to_owned()], &settings(&out)).unwrap();
    (summary, World::read(&out, Scope::Evaluation).unwrap())
}

#[test]
fn a_folder_of_mind_becomes_a_world_with_histories_clicks_and_held_out_clicks() {
    let dir = tempfile::tempdir().unwrap();
    mind_folder(dir.path());
    let (summary, world) = import_mind(dir.path());
    let last = BEGIN + 6 * DAY + 12 * 3600 + 5;
    assert_eq!(world.cutoff_unix_s, last - DAY);
    assert_eq!((world.articles.len(), world.readers.len(), summary.rejects.count()), (5, 60, 0));
    assert_eq!(summary.n_users.iter().sum::<usize>(), 60);
    assert_eq!(summary.n_events, 60 * 3);
    let first = BEGIN + 8 * 3600;
    for reader in &world.readers {
        let clicked: Vec<(&str, i64)> = reader
            .events
            .iter()
            .map(|event| (world.articles[event.article_idx.unwrap()].id.as_str(), event.time_unix_s))
            .collect();
        assert_eq!(clicked, [("N1", first - 7200), ("N2", first - 3600), ("N3", first)], "{}", reader.key);
        assert_eq!(reader.events[0].text, "Title \"of N1");
        assert_eq!(reader.events[0].category.as_deref(), Some("news"));
        let held_out: Vec<&str> =
            reader.held_out.iter().map(|idx| world.articles[*idx].id.as_str()).collect();
        assert_eq!(held_out, if reader.split == Split::Train { vec![] } else { vec!["N4"] });
    }
    let lifetime = |id: &str| {
        let article = world.articles.iter().find(|article| article.id == id).unwrap();
        (article.published_unix_s, article.expires_unix_s)
    };
    assert_eq!(lifetime("N3"), (first, first + 1));
    assert_eq!(lifetime("N4"), (first, last + 1));
    assert!(lifetime("N1").1 < first, "it was read before the log began");
    assert!(World::read(&dir.path().join("world"), Scope::Training).unwrap().readers.len() < 60);
}

#[test]
fn a_click_on_an_article_that_appeared_after_the_cutoff_is_counted_and_not_held_out() {
    let dir = tempfile::tempdir().unwrap();
    mind_folder(dir.path());
    let mut rows = fs::read_to_string(dir.path().join("behaviors.tsv")).unwrap();
    let mut articles = fs::read_to_string(dir.path().join("news.tsv")).unwrap();
    articles += &news("N6");
    rows += &(0..60).map(|user| format!("3\tU{user}\t11/15/2019 11:00:00 AM\t\tN6-1\n")).collect::<String>();
    fs::write(dir.path().join("behaviors.tsv"), rows).unwrap();
    fs::write(dir.path().join("news.tsv"), articles).unwrap();
    let (summary, _) = import_mind(dir.path());
    assert!(summary.n_held_out > 0);
    assert_eq!(summary.n_held_out_not_alive, summary.n_held_out);
}

#[test]
fn every_bad_row_of_mind_is_counted_by_its_reason_and_strict_refuses() {
    let dir = tempfile::tempdir().unwrap();
    mind_folder(dir.path());
    let append = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        let whole = [fs::read(&path).unwrap().as_slice(), bytes].concat();
        fs::write(path, whole).unwrap();
    };
    append(
        "news.tsv",
        b"N7\tnews\ttitle\n\tnews\tsub\ttitle\tabstract\nN1\tnews\tsub\ttitle\tabstract\n\xff\xfe\n",
    );
    append(
        "behaviors.tsv",
        b"1\tU1\t11/9/2019\tN1\tN3-1\n1\tU1\n1\t\t11/9/2019 8:00:00 AM\tN1\tN3-1\n\
          1\tU1\t11/9/2019 8:00:00 AM\tN1 N99\tN3-1 N98-0 N4-2\n",
    );
    let out = dir.path().join("world");
    let summary = mind::import(&[dir.path().to_owned()], &settings(&out)).unwrap();
    let expected = BTreeMap::from([
        ("article that stands twice", 1),
        ("article with too few columns", 1),
        ("article without id or title", 1),
        ("behaviour at no time", 1),
        ("behaviour with other columns", 1),
        ("behaviour without a user", 1),
        ("impression with another label than 0 or 1", 1),
        ("row that is no UTF-8", 1),
        ("unknown article in a behaviour", 2),
    ]);
    assert_eq!(summary.rejects.by_reason, expected);
    assert_eq!(summary.rejects.first.len(), 10);
    assert!(
        summary.rejects.first[0].starts_with("news.tsv:6: article with too few columns"),
        "{:?}",
        summary.rejects.first
    );
    let strict = ImportSettings { strict: true, ..settings(&dir.path().join("strict")) };
    let refused = mind::import(&[dir.path().to_owned()], &strict).unwrap_err().to_string();
    assert!(refused.contains("10 bad rows") && refused.contains("2 x unknown article"), "{refused}");
    assert!(!dir.path().join("strict").exists());
}

#[test]
fn the_folder_of_the_log_itself_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    mind_folder(dir.path());
    let refused = mind::import(&[dir.path().to_owned()], &settings(dir.path())).unwrap_err();
    let refused = newshound::telemetry::Chain(&refused).to_string();
    assert!(refused.contains("holds no world.json"), "{refused}");
    assert!(dir.path().join("behaviors.tsv").exists());
}

#[test]
fn a_log_without_events_or_files_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("none");
    let missing = mind::import(std::slice::from_ref(&at), &settings(&dir.path().join("world"))).unwrap_err();
    assert!(missing.to_string().contains("news.tsv"), "{missing}");
    fs::create_dir(&at).unwrap();
    fs::write(at.join("news.tsv"), news("N1")).unwrap();
    fs::write(at.join("behaviors.tsv"), "").unwrap();
    let empty = mind::import(&[at], &settings(&dir.path().join("world"))).unwrap_err();
    assert!(matches!(empty, TrainError::TooLittleData { .. }), "{empty}");
    mind_folder(dir.path());
    let early = ImportSettings { cutoff_unix_s: Some(BEGIN), ..settings(&dir.path().join("world")) };
    let nothing = mind::import(&[dir.path().to_owned()], &early).unwrap_err();
    assert!(nothing.to_string().contains("no event until the cutoff"), "{nothing}");
    assert!(!dir.path().join("world").exists());
}

fn catalogue(at: &Path) {
    let article = |id: &str| {
        serde_json::json!({"id": id, "story_id": id, "title": format!("title of {id}"), "summary": "", "category": "world",
            "language": "en", "published_unix_s": BEGIN, "expires_unix_s": BEGIN + 9 * DAY})
    };
    fs::write(at, format!("{}\n{}\n", article("a1"), article("a2"))).unwrap();
}

#[test]
fn event_lines_of_every_stream_are_read_and_bad_ones_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (file, articles) = (dir.path().join("events.jsonl"), dir.path().join("articles.jsonl"));
    catalogue(&articles);
    let good = r#"{"user_key": "u1", "stream": "search", "time": "2019-11-10T09:00:00+01:00", "text": "rain jacket", "more": 1}
{"user_key": "u1", "stream": "page", "time_unix_s": 1573380000, "text": "jackets", "source": "shop", "dwell_ms": 1200}
{"user_key": "u1", "stream": "click", "time_unix_s": 1573390000, "article_id": "a1"}
{"user_key": "u1", "stream": "click", "time_unix_s": 1573600000, "article_id": "a2", "text": "own words"}
"#;
    let bad = r#"{"stream": "search", "time_unix_s": 1, "text": "x"}
{"user_key": "u1", "stream": "search", "time_unix_s": 1573600000000, "text": "milliseconds"}
{"user_key": "u1", "stream": "mail", "time_unix_s": 1, "text": "x"}
{"user_key": "u1", "stream": "search", "time": "yesterday", "text": "x"}
{"user_key": "u1", "stream": "search", "time_unix_s": 1, "text": " \u200b "}
{"user_key": "u1", "stream": "click", "time_unix_s": 1, "article_id": "a9"}
{"user_key": "u1", "stream": "click", "time_unix_s": 1}
{"user_key": "u1", "stream": "page", "time_unix_s": 1, "text": "x", "dwell_ms": -1}
not json
"#;
    fs::write(&file, format!("{good}{bad}")).unwrap();
    let out = dir.path().join("world");
    let cutoff = ImportSettings { cutoff_unix_s: Some(1_573_600_000), ..settings(&out) };
    let summary = events::import(&[file], &articles, &cutoff).unwrap();
    assert_eq!(summary.rejects.by_reason.len(), 9, "{:?}", summary.rejects);
    assert_eq!(summary.rejects.count(), 9);
    let world = World::read(&out, Scope::Evaluation).unwrap();
    let events: Vec<_> =
        world.readers[0].events.iter().map(|event| (event.stream, event.text.as_str())).collect();
    assert_eq!(
        events,
        [
            (Stream::Search, "rain jacket"),
            (Stream::Page, "jackets"),
            (Stream::Click, "title of a1"),
            (Stream::Click, "own words"),
        ]
    );
    assert_eq!(world.readers[0].events[0].time_unix_s, 1_573_372_800);
}

#[test]
fn a_generated_world_is_the_same_as_json_lines_and_as_parquet() {
    let dir = tempfile::tempdir().unwrap();
    let world_at = dir.path().join("world");
    let tiny = newshound::world::WorldSettings::of(newshound::world::Size::Tiny, 3);
    newshound::world::generate(&tiny, &world_at, &mut |_, _| ()).unwrap();
    let import = |kind: &str| {
        let out = dir.path().join(kind);
        let file = |name: &str| world_at.join(format!("{name}.{kind}"));
        let summary = events::import(&[file("events")], &file("articles"), &settings(&out)).unwrap();
        (summary, fs::read_to_string(out.join("events.jsonl")).unwrap())
    };
    let (lines, columns) = (import("jsonl"), import("parquet"));
    assert_eq!(lines, columns);
    assert!(lines.0.n_events > 1000 && lines.0.rejects.count() == 0 && lines.0.n_held_out > 0, "{}", lines.0);
}

#[test]
fn a_parquet_column_of_another_type_is_an_error_that_names_it() {
    use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    let dir = tempfile::tempdir().unwrap();
    let (file, articles) = (dir.path().join("events.parquet"), dir.path().join("articles.jsonl"));
    catalogue(&articles);
    let numbers: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![7, 8]));
    let texts: ArrayRef = std::sync::Arc::new(StringArray::from(vec!["search", "page"]));
    let import = |user: &ArrayRef, time: &ArrayRef| {
        let columns = [("user_key", user), ("stream", &texts), ("time_unix_s", time), ("text", &texts)];
        let columns = columns.map(|(name, column)| (name, ArrayRef::clone(column)));
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let sink = fs::File::create(&file).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(sink, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let settings = ImportSettings { cutoff_unix_s: Some(BEGIN), ..settings(&dir.path().join("world")) };
        events::import(std::slice::from_ref(&file), &articles, &settings)
    };
    assert_eq!(import(&texts, &numbers).unwrap().rejects.count(), 0);
    for (user, time, column) in [(&numbers, &numbers, "user_key"), (&texts, &texts, "time_unix_s")] {
        let refused = import(user, time).unwrap_err().to_string();
        assert!(refused.contains(column), "{refused}");
    }
}
