//! The sentence embedder: trained on a tiny catalogue, it finds an article's own summary among others.
use candle_core::Device;
use newshound::{
    model::encoder::embedder::Embedder,
    text::tokens::encoder::EncoderTokens,
    train::{embedder, encoder_fit::EncoderSettings},
    world::{self, Size, WorldSettings},
};

#[test]
fn a_trained_embedder_finds_the_summary_of_a_title_it_has_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let world = dir.path().join("world");
    world::generate(&WorldSettings { size: Size::Tiny, seed: 4 }, &world, &mut |_, _| ()).unwrap();
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
