//! NRHUB: attention over the words of each search, page and click, over the signals of each stream, and over the three streams.
//!
//! Source: Wu et al., "Neural News Recommendation with Heterogeneous User Behavior", EMNLP 2019. Departs from it: words are attended to
//! without a convolution before; wrong answers are the other clicks of the batch, not four that were shown; no dropout.
use super::{Recommender, WIDTH, parts::Linear};
use crate::{
    cleaner::Verdict,
    model::weights::{ModelError, Parameters, TensorSource},
    signals::Stream,
    text::words::{fold, words},
    train::{
        descent,
        error::TrainError,
        events::{Event, Reader, World},
        fit::DEVICE,
        optimizer::{AdamW, AdamWSettings},
        order::Order,
        retrieval::RANKING_LENGTH,
    },
};
use candle_core::{D, Tensor};
use std::collections::HashMap;

/// Signals of each stream that are read, the newest.
const SIGNALS: usize = 12;
/// Words of a text that are read.
const WORDS: usize = 12;
/// A word in fewer texts is not known.
const TEXTS_MIN: u32 = 5;
/// Clicks of a reader that are learned from.
const CLICKS_PER_READER: usize = 6;
const BATCH: usize = 64;
const PASSES: u64 = 2;
const LEARNING_RATE: f64 = 2e-3;
/// Added to attention scores of what is not there.
const ABSENT: f32 = -1e9;

/// Weighted mean by learned attention: softmax over tanh(x W + b) · q.
#[derive(Debug)]
struct Attention {
    inner: Linear,
    query: Linear,
}

impl Attention {
    fn load(name: &str, source: &mut dyn TensorSource) -> Result<Self, ModelError> {
        let inner = Linear::load(&format!("{name}.inner"), (WIDTH, WIDTH), source)?;
        Ok(Self { inner, query: Linear::load(&format!("{name}.query"), (WIDTH, 1), source)? })
    }

    /// `items` (n, k, D), `absent` (n, k): 0 where an item is there and [`ABSENT`] where none is. Gives (n, D).
    fn forward(&self, items: &Tensor, absent: &Tensor) -> candle_core::Result<Tensor> {
        let scores = self.query.forward(&self.inner.forward(items)?.tanh()?)?.squeeze(D::Minus1)?;
        let shares = candle_nn::ops::softmax(&(scores + absent)?, D::Minus1)?;
        shares.unsqueeze(1)?.matmul(items)?.squeeze(1)
    }
}

/// Words of some texts, [`WORDS`] each, with what is absent.
#[derive(Debug, Default)]
struct Texts {
    ids: Vec<u32>,
    absent: Vec<f32>,
}

impl Texts {
    fn push(&mut self, ids: &[u32]) {
        for place in 0..WORDS {
            self.ids.push(ids.get(place).copied().unwrap_or(0));
            // A text without a known word is all padding, and reads as that.
            let is_there = place < ids.len() || ids.is_empty();
            self.absent.push(if is_there { 0.0 } else { ABSENT });
        }
    }

    fn len(&self) -> usize {
        self.ids.len() / WORDS
    }
}

/// The trained network, and the titles of all articles as it sees them.
#[derive(Debug)]
pub struct Nrhub {
    vocabulary: HashMap<String, u32>,
    /// (words, D); the first row is padding.
    embedding: Tensor,
    words: Attention,
    streams: [Attention; 3],
    reader: Attention,
    /// (articles, D), row after row.
    titles: Vec<f32>,
}

/// A click, and the signals before it.
struct Sample<'a> {
    before: &'a [Event],
    article_idx: usize,
}

impl Recommender for Nrhub {
    const NAME: &'static str = "NRHUB";
    const WORD: &'static str = "nrhub";

    fn fit(world: &World, seed: u64) -> Result<Self, TrainError> {
        Self::fit_passes(world, seed, PASSES)
    }

    fn ranking(
        &self,
        reader: &Reader,
        at_unix_s: i64,
        candidates: &[usize],
    ) -> Result<Option<Vec<usize>>, TrainError> {
        let before = reader.events_until(at_unix_s);
        if !before.iter().any(|event| event.verdict == Verdict::Keep) {
            return Ok(None);
        }
        let wanted: Vec<f32> = self.readers(&[before])?.flatten_all()?.to_vec1()?;
        let score = |idx: usize| -> f32 {
            self.titles[idx * WIDTH..][..WIDTH].iter().zip(&wanted).map(|(a, b)| a * b).sum()
        };
        let mut ranked: Vec<(f32, usize)> = candidates.iter().map(|&idx| (score(idx), idx)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(Some(ranked.into_iter().take(RANKING_LENGTH).map(|(_, idx)| idx).collect()))
    }
}

impl Nrhub {
    /// As `fit`, in another number of passes over the clicks.
    /// # Errors
    /// If no training reader has a click after another signal, or the loss stops being a number.
    pub fn fit_passes(world: &World, seed: u64, n_passes: u64) -> Result<Self, TrainError> {
        let samples: Vec<Sample<'_>> = world.training_readers().flat_map(samples).collect();
        if samples.is_empty() {
            let reason = "no training reader has a click after another signal".to_owned();
            return Err(TrainError::TooLittleData { reason });
        }
        let vocabulary = vocabulary(world);
        let mut parameters = Parameters::fresh(seed, &DEVICE);
        let mut attention = |name: &str| Attention::load(name, &mut parameters);
        let (words, reader) = (attention("words")?, attention("reader")?);
        let streams = [attention("searches")?, attention("pages")?, attention("clicks")?];
        let embedding = parameters.tensor("words.weight", &[vocabulary.len() + 1, WIDTH])?;
        let mut model = Self { vocabulary, embedding, words, streams, reader, titles: Vec::new() };
        let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.0 };
        let mut optimizer = AdamW::new(settings, parameters.vars());
        let order = Order::new(seed, samples.len());
        let n_steps = n_passes * samples.len().div_ceil(BATCH) as u64;
        for step in 0..n_steps {
            let chosen = order.items(step * BATCH as u64, BATCH.min(samples.len()));
            let batch: Vec<&Sample<'_>> = chosen.into_iter().map(|idx| &samples[idx]).collect();
            let loss = model.loss(world, &batch)?;
            descent::update(&parameters, &mut optimizer, &loss, (step, LEARNING_RATE))?;
        }
        let all: Vec<usize> = (0..world.articles.len()).collect();
        for chunk in all.chunks(1024) {
            model.titles.extend(model.titles_of(world, chunk)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(model)
    }

    /// Mean negative log-probability of each click among the clicks of the batch, nats.
    fn loss(&self, world: &World, batch: &[&Sample<'_>]) -> Result<Tensor, TrainError> {
        let before: Vec<&[Event]> = batch.iter().map(|sample| sample.before).collect();
        let articles: Vec<usize> = batch.iter().map(|sample| sample.article_idx).collect();
        let scores = self.readers(&before)?.matmul(&self.titles_of(world, &articles)?.t()?)?; // (B, B)
        // The same article clicked by another reader is no wrong answer.
        let same = articles.iter().enumerate().flat_map(|(row, a)| {
            articles
                .iter()
                .enumerate()
                .map(move |(column, b)| if row != column && a == b { ABSENT } else { 0.0 })
        });
        let same = Tensor::from_iter(same, &DEVICE)?.reshape((batch.len(), batch.len()))?;
        let log_probs = candle_nn::ops::log_softmax(&(scores + same)?, D::Minus1)?;
        let own = Tensor::from_iter((0_u32..).take(batch.len()), &DEVICE)?.reshape((batch.len(), 1))?;
        Ok(log_probs.gather(&own, 1)?.mean_all()?.neg()?)
    }

    /// Readers by the signals before a moment: (B, D).
    fn readers(&self, before: &[&[Event]]) -> Result<Tensor, TrainError> {
        let mut of_streams = Vec::with_capacity(3);
        let mut empty: Vec<Vec<bool>> = Vec::new();
        for (stream, attention) in Stream::ALL.into_iter().zip(&self.streams) {
            let (mut texts, mut absent) = (Texts::default(), Vec::new());
            let mut is_empty = Vec::new();
            for events in before {
                let kept = |event: &&Event| event.stream == stream && event.verdict == Verdict::Keep;
                let newest: Vec<&Event> = events.iter().rev().filter(kept).take(SIGNALS).collect();
                for place in 0..SIGNALS {
                    let event = newest.get(place);
                    texts.push(&event.map_or(Vec::new(), |event| self.ids(&event.text)));
                    let is_there = event.is_some() || newest.is_empty();
                    absent.push(if is_there { 0.0 } else { ABSENT });
                }
                is_empty.push(newest.is_empty());
            }
            let signals = self.texts(&texts)?.reshape((before.len(), SIGNALS, WIDTH))?;
            let absent = Tensor::from_vec(absent, (before.len(), SIGNALS), &DEVICE)?;
            of_streams.push(attention.forward(&signals, &absent)?);
            empty.push(is_empty);
        }
        let absent = (0..before.len()).flat_map(|row| {
            let of_row: Vec<bool> = empty.iter().map(|stream| stream[row]).collect();
            let all = of_row.iter().all(|empty| *empty);
            of_row.into_iter().map(move |empty| if empty && !all { ABSENT } else { 0.0 })
        });
        let absent = Tensor::from_iter(absent, &DEVICE)?.reshape((before.len(), 3))?;
        Ok(self.reader.forward(&Tensor::stack(&of_streams, 1)?, &absent)?)
    }

    fn titles_of(&self, world: &World, articles: &[usize]) -> Result<Tensor, TrainError> {
        let mut texts = Texts::default();
        articles.iter().for_each(|&idx| texts.push(&self.ids(&world.articles[idx].title)));
        self.texts(&texts)
    }

    /// (n, D)
    fn texts(&self, texts: &Texts) -> Result<Tensor, TrainError> {
        let ids = Tensor::from_slice(&texts.ids, texts.ids.len(), &DEVICE)?;
        let words = self.embedding.index_select(&ids, 0)?.reshape((texts.len(), WORDS, WIDTH))?;
        let absent = Tensor::from_slice(&texts.absent, (texts.len(), WORDS), &DEVICE)?;
        Ok(self.words.forward(&words, &absent)?)
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        words(text).filter_map(|word| self.vocabulary.get(&fold(word)).copied()).take(WORDS).collect()
    }
}

/// The newest clicks of a reader that follow other signals.
fn samples(reader: &Reader) -> impl Iterator<Item = Sample<'_>> {
    let clicks = (1..reader.events.len()).rev().filter_map(|at| {
        let article_idx = reader.events[at].article_idx?;
        Some(Sample { before: &reader.events[..at], article_idx })
    });
    clicks.take(CLICKS_PER_READER)
}

/// Words of titles and of training readers' signals, numbered from 1 in the order of the alphabet.
fn vocabulary(world: &World) -> HashMap<String, u32> {
    let mut n_texts: HashMap<String, u32> = HashMap::new();
    let signals = world.training_readers().flat_map(|reader| &reader.events).map(|event| &event.text);
    for text in world.published().map(|article| &article.title).chain(signals) {
        words(text).for_each(|word| *n_texts.entry(fold(word)).or_default() += 1);
    }
    let mut known: Vec<String> =
        n_texts.into_iter().filter(|(_, n)| *n >= TEXTS_MIN).map(|(word, _)| word).collect();
    known.sort_unstable();
    known.into_iter().zip(1..).collect()
}
