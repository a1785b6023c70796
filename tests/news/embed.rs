//! Articles by the vectors of an encoder.
use super::article;
use crate::support::goldens::root;
use candle_core::Device;
use newshound::{
    model::encoder::embedder::{Embedder, unit},
    news::{
        embed::embed,
        nearest::{ArticleVectors, Method},
    },
    text::tokens::encoder::EncoderTokens,
};

#[test]
fn articles_beside_others_have_the_vectors_that_they_have_alone_and_find_themselves() {
    let folder = root().join("models/bert-embedder");
    let embedder = Embedder::open(&folder, &Device::Cpu).unwrap();
    let tokens = EncoderTokens::open(&folder, embedder.encoder().config().tokens_max()).unwrap();
    let titles = ["storm closes the harbour", "budget vote", "a comet over the city tonight", "strike", ""];
    let articles: Vec<_> = (0..150)
        .map(|idx| {
            article(&format!("a{idx}"), &titles[idx % 5].repeat(1 + idx / 5 % 4), &"late ".repeat(idx / 20))
        })
        .collect();
    let embedded = embed(&articles, &tokens, &embedder).unwrap();
    assert!(embedded.is_sorted_by_key(|&(article_idx, _)| article_idx));
    assert!(embedded.len() >= 120, "only texts without tokens have no vector");
    let rows = || embedded.iter().map(|(idx, vector)| (*idx, vector.as_slice()));
    let width = embedded[0].1.len();
    let index = ArticleVectors::build(&articles, width, rows(), Method::Exact).unwrap();
    for (article_idx, vector) in embedded.iter().step_by(7) {
        let text = format!("{} {}", articles[*article_idx].title, articles[*article_idx].summary);
        let alone = unit(&embedder.embed(&[tokens.encode(&text)]).unwrap()).unwrap();
        for (got, expected) in vector.iter().zip(&alone.to_vec2::<f32>().unwrap()[0]) {
            assert!((got - expected).abs() < 1e-4, "{got}, alone {expected}");
        }
        let best = index.search(vector, None, 1).unwrap()[0];
        assert!(best.cosine > 0.9999, "{best:?} for {article_idx}");
    }
}
