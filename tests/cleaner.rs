//! The signal cleaner: trained on tiny data, measured, packed, and used before prompts.
use newshound::{
    bundle::load::{BundleError, BundleSource, CLEANER_FILES, load},
    cleaner::{Cleaner, CleanerError, Verdict},
    signals::{SignalDraft, Stream, UserSignals},
    train::{
        cleaner::{self, CleanerReport, Labels, REPORT_FILE},
        encoder_fit::EncoderSettings,
        error::TrainError,
        events::{Scope, Split, World},
    },
    world::{self, Size, WorldSettings},
};
use std::{fs, path::Path, process::Command, sync::LazyLock};

/// Enough to tell noise of few templates from searches.
const STEPS: u64 = 300;

static TRAINED: LazyLock<(tempfile::TempDir, CleanerReport)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    world::generate(&WorldSettings::of(Size::Tiny, 4), &dir.path().join("world"), &mut |_, _| ()).unwrap();
    let settings = EncoderSettings { steps: STEPS, ..EncoderSettings::cleaner() };
    let report =
        cleaner::run(&dir.path().join("world"), &Labels::World, &settings, &dir.path().join("cleaner"))
            .unwrap();
    (dir, report)
});

fn trained() -> &'static Path {
    TRAINED.0.path()
}

fn signals(texts: &[(Stream, &str)]) -> UserSignals {
    let drafts = texts.iter().zip(1_767_600_000..).map(|((stream, text), time_unix_s)| SignalDraft {
        stream: *stream,
        text: (*text).to_owned(),
        time_unix_s,
        category: None,
        source: None,
        dwell_ms: None,
        weight: None,
    });
    UserSignals::new(drafts.collect()).unwrap()
}

fn texts(signals: &UserSignals) -> Vec<&str> {
    signals.as_slice().iter().map(|signal| signal.text()).collect()
}

#[test]
fn a_trained_cleaner_tells_noise_from_searches_of_readers_it_has_not_seen() {
    let report = &TRAINED.1;
    assert_eq!(report.verdicts.len(), 4);
    for row in &report.verdicts {
        assert!(row.n > 10 && row.precision > 0.9 && row.recall > 0.9, "{row:?}");
    }
    assert!(report.cost_us > 0.0);
    assert_eq!(report.gains.len(), 4);
    for gain in &report.gains {
        assert!(gain.n_users > 0 && gain.with.mean.is_finite() && gain.alone.mean.is_finite(), "{gain:?}");
    }
    // A second person writes like anybody.
    let second = report.second_person.as_ref().unwrap();
    assert!(second.n > 10 && second.kept > 0.9, "{second:?}");
    let page = report.to_string();
    assert!(page.contains("| navigational |") && page.contains("tiny world, seed 4"), "{page}");
    for gate in ["noisy readers: judge's list cleaned / of all signals", "signals per second and core"] {
        assert!(page.contains(&format!("| {gate} | at least ")), "{page}");
    }
}

#[test]
fn noise_and_personal_data_are_left_out_and_of_clicks_only_what_is_personal() {
    let cleaner = Cleaner::open(&trained().join("cleaner")).unwrap();
    let given = signals(&[
        (Stream::Search, "www.mailbox.com"),
        (Stream::Click, "www.mailbox.com opens its archive"),
        (Stream::Click, "write to jane@example.org and win"),
        (Stream::Search, "mail jane@example.org"),
        (Stream::Page, "%20%20"),
        (Stream::Search, "free prize claim 77"),
        (Stream::Search, "my mailbox account"),
    ]);
    let (left, verdicts) = cleaner.clean(&given).unwrap();
    assert_eq!(texts(&left.unwrap()), ["www.mailbox.com opens its archive"]);
    let expected = [
        Verdict::Navigational,
        Verdict::Keep,
        Verdict::Personal,
        Verdict::Personal,
        Verdict::Malformed,
        Verdict::Automated,
        Verdict::Navigational,
    ];
    assert_eq!(verdicts, expected);
}

#[test]
fn a_reader_with_nothing_but_noise_keeps_it_without_personal_data() {
    let cleaner = Cleaner::open(&trained().join("cleaner")).unwrap();
    let noise = signals(&[(Stream::Search, "www.mailbox.com"), (Stream::Search, "mail jane@example.org")]);
    assert_eq!(texts(&cleaner.clean(&noise).unwrap().0.unwrap()), ["www.mailbox.com"]);
    let personal = signals(&[(Stream::Search, "mail jane@example.org")]);
    assert!(cleaner.clean(&personal).unwrap().0.is_none(), "nothing is left that a model may read");
}

#[test]
fn verdicts_do_not_depend_on_the_company_of_a_signal() {
    let cleaner = Cleaner::open(&trained().join("cleaner")).unwrap();
    let world = World::read(&trained().join("world"), Scope::Training).unwrap();
    let events: Vec<(Stream, &str)> = world
        .readers
        .iter()
        .flat_map(|reader| &reader.events)
        .map(|event| (event.stream, event.text.as_str()))
        .take(150)
        .collect();
    let together = cleaner.verdicts(events.iter().copied()).unwrap();
    for (event, verdict) in events.iter().zip(together) {
        assert_eq!(cleaner.verdicts(std::iter::once(*event)).unwrap(), [verdict], "{event:?}");
    }
}

#[test]
fn training_reads_what_the_server_would_read() {
    let cleaner = Cleaner::open(&trained().join("cleaner")).unwrap();
    let plain = World::read(&trained().join("world"), Scope::Training).unwrap();
    let mut plain = plain;
    // A reader whom the generator does not make: personal data among noise.
    let reader = plain.readers.iter_mut().find(|reader| reader.events.len() == 2).unwrap();
    (reader.events[0].text, reader.events[1].text) =
        ("jane@example.org".to_owned(), "www.mailbox.com".to_owned());
    reader.events.iter_mut().for_each(|event| (event.stream, event.article_idx) = (Stream::Page, None));
    let mut cleaned = plain.clone();
    cleaned.clean(&cleaner, &[Split::Train]).unwrap();
    let mut n_shorter = 0;
    for (reader, judged) in plain.readers.iter().zip(&cleaned.readers) {
        let at = plain.cutoff_unix_s;
        let (Some(all), Some(left)) = (reader.signals_until(at), judged.signals_until(at)) else { continue };
        assert_eq!(texts(&cleaner.clean(&all).unwrap().0.unwrap()), texts(&left), "{}", reader.key);
        n_shorter += usize::from(left.as_slice().len() < all.as_slice().len());
    }
    assert!(n_shorter > 50, "{n_shorter}");
}

#[test]
fn labels_of_a_platform_train_a_cleaner_and_a_wrong_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (labels, out) = (dir.path().join("labels.jsonl"), dir.path().join("cleaner"));
    let run = |lines: &str| {
        fs::write(&labels, lines).unwrap();
        let settings = EncoderSettings { steps: 30, rows: 16, vocab_size: 300, ..EncoderSettings::cleaner() };
        cleaner::run(&trained().join("world"), &Labels::File(labels.clone()), &settings, &out)
    };
    let rows = [
        ("tents to rent", "keep"),
        ("xqz", "malformed"),
        ("mybank login", "navigational"),
        ("win a prize", "drop"),
    ];
    let line = |(text, label): &(&str, &str)| {
        format!("{{\"stream\":\"search\",\"text\":\"{text}\",\"label\":\"{label}\"}}\n")
    };
    let all: String = rows.iter().map(line).collect();
    let report = run(&all).unwrap();
    assert!(report.verdicts.is_empty(), "nothing is known of the truth");
    Cleaner::open(&out).unwrap();
    for (wrong, reason) in [
        ("{\"stream\":\"click\",\"text\":\"a\",\"label\":\"keep\"}\n", "expected search or page"),
        ("{\"stream\":\"page\",\"text\":\"a\",\"label\":\"household\"}\n", "expected one of"),
        ("{\"stream\":\"page\"}\n", "text"),
    ] {
        let error = run(&format!("{all}{wrong}")).unwrap_err();
        let TrainError::Line { line, reason: got, .. } = &error else { panic!("{error:?}") };
        assert!(*line == 5 && got.contains(reason), "{error}");
    }
    let error = run(&line(&rows[0])).unwrap_err();
    assert!(error.to_string().contains("no signal is malformed"), "{error}");
}

#[test]
fn a_cleaner_whose_report_fails_is_written_and_fails_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let (world, out) = (dir.path().join("world"), dir.path().join("cleaner"));
    assert!(
        Command::new("cp").arg("-r").args([&trained().join("world"), &world]).status().unwrap().success()
    );
    // Of readers who clicked nothing later nobody can say what a cleaner is worth.
    fs::write(world.join("held_out.jsonl"), "").unwrap();
    let settings = dir.path().join("settings.toml");
    fs::write(&settings, "steps = 1\nvocab_size = 300\nrows = 16\n").unwrap();
    let arguments = ["--world", "--settings", "--out"].into_iter().zip([&world, &settings, &out]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_newshound-trainer"));
    command.arg("cleaner");
    for (name, path) in arguments {
        command.arg(name).arg(path);
    }
    let output = command.output().unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && error.contains("gates failed"), "{error}");
    assert!(said.contains("| FAILED |"), "{said}");
    Cleaner::open(&out).unwrap();
    let report = fs::read(out.join(REPORT_FILE)).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["gates"][0]["passed"], false);
}

#[test]
fn a_bundle_has_all_files_of_a_cleaner_or_none() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo");
    let dir = tempfile::tempdir().unwrap();
    let folder = trained().join("cleaner");
    let files = CLEANER_FILES.into_iter().zip(["config.json", "model.safetensors", "tokenizer.json"]);
    let bundle = |names: &[&str]| {
        let bundle = load_manifest(&demo);
        let mut kept = Vec::new();
        for entry in fs::read_dir(&demo).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name != "manifest.json" && !CLEANER_FILES.contains(&&*name) {
                kept.push((name, fs::read(entry.path()).unwrap()));
            }
        }
        for (name, file) in files.clone().filter(|(name, _)| names.contains(name)) {
            kept.push((name.to_owned(), fs::read(folder.join(file)).unwrap()));
        }
        newshound::bundle::save::save(&dir.path().join("bundle"), bundle, kept)
    };
    bundle(&CLEANER_FILES).unwrap();
    let opened = load(
        BundleSource::At(&dir.path().join("bundle")),
        newshound::model::precision::Precision::F32,
        &candle_core::Device::Cpu,
    )
    .unwrap();
    let given = signals(&[(Stream::Search, "my mailbox account"), (Stream::Click, "a title")]);
    assert_eq!(texts(&opened.cleaner.unwrap().clean(&given).unwrap().0.unwrap()), ["a title"]);
    let error = bundle(&CLEANER_FILES[..2]).unwrap_err();
    assert!(matches!(&error, BundleError::File { file, .. } if file == CLEANER_FILES[2]), "{error:?}");
}

fn load_manifest(demo: &Path) -> newshound::bundle::manifest::Manifest {
    serde_json::from_slice(&fs::read(demo.join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn a_classifier_with_another_meaning_is_refused_by_its_label() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/goldens/models/roberta-classifier");
    Cleaner::open(&folder).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let config = fs::read_to_string(folder.join("config.json")).unwrap().replace("\"keep\"", "\"positive\"");
    fs::write(dir.path().join("config.json"), config).unwrap();
    let error = Cleaner::open(dir.path()).unwrap_err();
    assert!(matches!(&error, CleanerError::Label { label } if label == "positive"), "{error:?}");
}
