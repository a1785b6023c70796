//! The sentence embedder: trained on a tiny catalogue, it finds an article's own summary among others.
use candle_core::Device;
use newshound::{
    model::encoder::embedder::Embedder,
    news::{
        catalogue,
        nearest::{Method, VectorsError},
    },
    text::tokens::encoder::EncoderTokens,
    train::{embedder, encoder_fit::EncoderSettings, error::TrainError, search},
    world::{self, Size, WorldSettings},
};
use std::path::Path;

#[test]
fn a_trained_embedder_finds_the_summary_of_a_title_it_has_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let world = dir.path().join("world");
    world::generate(&WorldSettings::of(Size::Tiny, 4), &world, &mut |_, _| ()).unwrap();
    let settings = EncoderSettings {
        vocab_size: 1500,
        hidden_size: 32,
        intermediate_size: 64,
        steps: 100,
        rows: 32,
        warmup_steps: 10,
        ..EncoderSettings::embedder()
    };
    let report = embedder::run(&world, &settings, &dir.path().join("out")).unwrap();
    let by_chance = 10.0 / report.n_candidates as f64;
    assert!(report.n_candidates > 20 && report.recall_at_10 > 2.0 * by_chance, "{report}");
    assert!(report.recall_at_1 <= report.recall_at_10);

    let by = dir.path().join("out");
    let articles = catalogue::read(&world.join("articles.jsonl")).unwrap();
    let index = dir.path().join("index");
    for method in [Method::Exact, Method::Hnsw] {
        let summary = search::build(&world.join("articles.parquet"), &by, method, &index).unwrap();
        assert_eq!(
            (summary.n_articles, summary.n_vectors, summary.width),
            (articles.len(), articles.len(), 32)
        );
        let wanted = &articles[articles.len() / 2];
        let alive_at = Some(wanted.published_unix_s);
        let found = search::search(&index, &by, std::slice::from_ref(&wanted.title), (alive_at, 5)).unwrap();
        assert_eq!(found[0].story_id, wanted.story_id, "{method:?}");
        let stories: std::collections::BTreeSet<&str> = found.iter().map(|hit| &*hit.story_id).collect();
        assert_eq!((found.len(), stories.len()), (5, 5), "one article a story");
        let before = search::search(&index, &by, std::slice::from_ref(&wanted.title), (Some(0), 5)).unwrap();
        assert!(before.is_empty(), "nothing was alive in 1970");
    }
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/goldens/models/bert-embedder");
    let error = search::search(&index, &other, &["anything".to_owned()], (None, 5)).unwrap_err();
    assert!(matches!(error, TrainError::Vectors(VectorsError::Width { got: 48, expected: 32 })), "{error:?}");

    let opened = Embedder::open(&dir.path().join("out"), &Device::Cpu).unwrap();
    let tokens =
        EncoderTokens::open(&dir.path().join("out"), opened.encoder().config().tokens_max()).unwrap();
    let rows: Vec<Vec<u32>> = ["a title", "another"].map(|text| tokens.encode(text)).to_vec();
    let vectors: Vec<Vec<f32>> = opened.embed(&rows).unwrap().to_vec2().unwrap();
    for vector in vectors {
        let length = vector.iter().map(|value| value * value).sum::<f32>();
        assert!(vector.len() == 32 && (length - 1.0).abs() < 1e-4, "{length}");
    }
}
