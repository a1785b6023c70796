//! A lexicon in the file of the reward head that reads it: what matters of it, in few bytes.
//!
//! Tensors `lexicon.*`: `news_word` (n, u64), `news_rarity` (n, f16), `news_vector` (n, 128, f16); `typed_word` (m, u64, ascending), `typed_end` (m, u32: where the
//! words of each end, the last with the last of them), `typed_news` (k, u32), `typed_weight` (k, f16).
use super::{
    Lexicon, NewsWord,
    translation::{Features, Translation, Weights},
    unit::WIDTH,
};
use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{collections::HashMap, sync::Arc};

/// News words that are kept of each word or pair that is typed, the heaviest: twice as many as a signal is translated into.
const KEPT: usize = 16;

/// A safetensors file with a lexicon beside the tensors that it has, in place of one that it had; of every translation the heaviest words.
///
/// # Errors
/// If the file is none.
pub fn add(lexicon: &Lexicon, file: &[u8]) -> Result<Vec<u8>, String> {
    let mut typed: Vec<(u64, Weights)> =
        lexicon.translation.by_feature().map(|(feature, weights)| (feature, heaviest(weights))).collect();
    typed.sort_unstable_by_key(|(feature, _)| *feature);
    let ends: Vec<usize> = typed
        .iter()
        .scan(0, |end, (_, weights)| {
            *end += weights.len();
            Some(*end)
        })
        .collect();
    let halves = |values: &mut dyn Iterator<Item = f32>| -> Vec<u8> {
        values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect()
    };
    let u32s = |values: &mut dyn Iterator<Item = usize>| -> Vec<u8> {
        values.flat_map(|value| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()).collect()
    };
    let u64s =
        |values: &mut dyn Iterator<Item = u64>| -> Vec<u8> { values.flat_map(u64::to_le_bytes).collect() };
    let pairs = || typed.iter().flat_map(|(_, weights)| weights);
    let (n_news, n_typed, n_pairs) = (lexicon.news.len(), typed.len(), pairs().count());
    let tensors = [
        (
            "lexicon.news_word",
            Dtype::U64,
            vec![n_news],
            u64s(&mut lexicon.news.iter().map(|word| word.fingerprint)),
        ),
        (
            "lexicon.news_rarity",
            Dtype::F16,
            vec![n_news],
            halves(&mut lexicon.news.iter().map(|word| word.rarity)),
        ),
        (
            "lexicon.news_vector",
            Dtype::F16,
            vec![n_news, WIDTH],
            halves(&mut lexicon.vectors.iter().copied()),
        ),
        (
            "lexicon.typed_word",
            Dtype::U64,
            vec![n_typed],
            u64s(&mut typed.iter().map(|(feature, _)| *feature)),
        ),
        ("lexicon.typed_end", Dtype::U32, vec![n_typed], u32s(&mut ends.into_iter())),
        ("lexicon.typed_news", Dtype::U32, vec![n_pairs], u32s(&mut pairs().map(|(id, _)| *id as usize))),
        ("lexicon.typed_weight", Dtype::F16, vec![n_pairs], halves(&mut pairs().map(|(_, weight)| *weight))),
    ];
    let text = |error: safetensors::SafeTensorError| error.to_string();
    let before = SafeTensors::deserialize(file).map_err(text)?;
    let mut views = before.tensors();
    views.retain(|(name, _)| !name.starts_with("lexicon."));
    for (name, dtype, shape, bytes) in &tensors {
        views.push(((*name).to_owned(), TensorView::new(*dtype, shape.clone(), bytes).map_err(text)?));
    }
    safetensors::serialize(views, None).map_err(text)
}

/// The heaviest words of a translation, by number.
fn heaviest(weights: &Weights) -> Weights {
    let mut kept = weights.clone();
    kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    kept.truncate(KEPT);
    kept.sort_unstable_by_key(|(id, _)| *id);
    kept
}

/// Reads the lexicon of a file; none where it has none.
///
/// # Errors
/// If the file is broken, in a sentence.
pub fn read(bytes: &[u8]) -> Result<Option<Lexicon>, String> {
    let tensors = Tensors(SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?);
    if tensors.0.tensor("lexicon.news_word").is_err() {
        return Ok(None);
    }
    let words = tensors.u64s("news_word")?;
    let n_news = words.len();
    let rarities = tensors.halves("news_rarity", &[n_news])?;
    let vectors = tensors.halves("news_vector", &[n_news, WIDTH])?;
    let features = tensors.u64s("typed_word")?;
    let ends = tensors.u32s("typed_end", &[features.len()])?;
    let ids = tensors.u32s("typed_news", &[])?;
    let weights = tensors.halves("typed_weight", &[ids.len()])?;
    if ids.iter().any(|id| *id as usize >= n_news) {
        return Err(format!("lexicon.typed_news names words beyond the {n_news} there are"));
    }
    let n_told = ends.last().map_or(0, |end| *end as usize);
    if n_told != ids.len() || !features.is_sorted_by(|one, next| one < next) {
        return Err("lexicon.typed_word does not ascend, or lexicon.typed_end does not fit".to_owned());
    }
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let mut by_feature = HashMap::with_capacity(features.len());
    for (feature, (start, end)) in features.iter().zip(starts.zip(&ends)) {
        let of_feature = start as usize..*end as usize;
        let (Some(ids), Some(weights)) = (ids.get(of_feature.clone()), weights.get(of_feature)) else {
            return Err("lexicon.typed_end does not fit lexicon.typed_news".to_owned());
        };
        by_feature.insert(*feature, ids.iter().copied().zip(weights.iter().copied()).collect());
    }
    let news = words.into_iter().zip(rarities).map(|(fingerprint, rarity)| NewsWord { fingerprint, rarity });
    let translation = Arc::new(Translation::new(Features::Neighbours, by_feature));
    Ok(Some(Lexicon::new(news.collect(), vectors, translation)))
}

/// Tensors of a lexicon, each of a type and a shape; where none is told, of one dimension.
struct Tensors<'a>(SafeTensors<'a>);

impl Tensors<'_> {
    fn bytes(&self, name: &str, dtype: Dtype, of: &[usize]) -> Result<&[u8], String> {
        let name = format!("lexicon.{name}");
        let tensor = self.0.tensor(&name).map_err(|error| format!("{name}: {error}"))?;
        let (got, shape) = (tensor.dtype(), tensor.shape());
        let fits = got == dtype && if of.is_empty() { shape.len() == 1 } else { shape == of };
        if fits { Ok(tensor.data()) } else { Err(format!("{name} is {got:?} {shape:?}")) }
    }

    fn u64s(&self, name: &str) -> Result<Vec<u64>, String> {
        let (words, _) = self.bytes(name, Dtype::U64, &[])?.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    fn u32s(&self, name: &str, of: &[usize]) -> Result<Vec<u32>, String> {
        let (words, _) = self.bytes(name, Dtype::U32, of)?.as_chunks::<4>();
        Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    fn halves(&self, name: &str, of: &[usize]) -> Result<Vec<f32>, String> {
        let (words, _) = self.bytes(name, Dtype::F16, of)?.as_chunks::<2>();
        let values: Vec<f32> = words.iter().map(|word| f16::from_le_bytes(*word).to_f32()).collect();
        if values.iter().all(|value| value.is_finite()) {
            Ok(values)
        } else {
            Err(format!("lexicon.{name} is not finite"))
        }
    }
}
