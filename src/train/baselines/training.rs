//! Trains a sequence model and ranks living articles with it.
use super::{
    super::{
        descent,
        error::TrainError,
        events::{Reader, World},
        fit::DEVICE,
        optimizer::{AdamW, AdamWSettings},
        retrieval::RANKING_LENGTH,
    },
    CLICKS_MAX, Recommender, SequenceModel, WIDTH,
    sequences::{self, Batch},
};
use crate::model::{
    ops,
    weights::{Parameters, TensorSource},
};
use candle_core::Tensor;

/// Passes over the readers. More did not help validation readers.
const PASSES: u64 = 6;
const LEARNING_RATE: f64 = 2e-3;
/// Of matrices; what dropout is for in the sources.
const WEIGHT_DECAY: f64 = 0.05;

/// A trained model.
#[derive(Debug)]
pub struct Trained<M> {
    model: M,
    /// (V, D)
    articles: Tensor,
}

impl<M: SequenceModel> Trained<M> {
    /// Trains on the clicks of training readers, in a number of passes.
    /// # Errors
    /// If no training reader has two clicks, or the loss stops being a number.
    pub fn fit_passes(world: &World, seed: u64, n_passes: u64) -> Result<Self, TrainError> {
        let readers = sequences::training(world);
        if readers.is_empty() {
            return Err(TrainError::TooLittleData { reason: "no training reader has two clicks".to_owned() });
        }
        let mut parameters = Parameters::fresh(seed, &DEVICE);
        let articles = parameters.tensor("articles.weight", &[world.articles.len(), WIDTH])?;
        let model = M::load(&articles, &mut parameters)?;
        let settings = AdamWSettings { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: WEIGHT_DECAY };
        let mut optimizer = AdamW::new(settings, parameters.vars());
        let trained = Self { model, articles };
        let batches = (0..n_passes).flat_map(|pass| sequences::batches(&readers, seed, pass));
        for (step, batch) in (0..).zip(batches) {
            let loss = trained.loss(&batch)?;
            descent::update(&parameters, &mut optimizer, &loss, (step, LEARNING_RATE))?;
        }
        Ok(trained)
    }

    /// Mean cross-entropy of the next article, nats.
    #[allow(clippy::cast_precision_loss, reason = "thousands of clicks")]
    fn loss(&self, batch: &Batch) -> Result<Tensor, TrainError> {
        let hidden = self.hidden(&batch.articles, (batch.n_rows, batch.width))?;
        let rows = hidden.reshape((batch.n_rows * batch.width, WIDTH))?;
        let share = 1.0 / batch.next.iter().flatten().count().max(1) as f32;
        let ids: Vec<u32> = batch.next.iter().map(|next| next.unwrap_or(0)).collect();
        let weights: Vec<f32> =
            batch.next.iter().map(|next| if next.is_some() { share } else { 0.0 }).collect();
        Ok(ops::linear_cross_entropy(&rows, &self.articles, &ids, &weights)?)
    }

    fn hidden(&self, articles: &[u32], (n_rows, width): (usize, usize)) -> Result<Tensor, TrainError> {
        let ids = Tensor::from_slice(articles, articles.len(), &DEVICE)?;
        let clicks = self.articles.index_select(&ids, 0)?.reshape((n_rows, width, WIDTH))?;
        Ok(self.model.hidden(&clicks)?)
    }
}

impl<M: SequenceModel> Recommender for Trained<M> {
    const NAME: &'static str = M::NAME;
    const WORD: &'static str = M::WORD;

    fn fit(world: &World, seed: u64) -> Result<Self, TrainError> {
        Self::fit_passes(world, seed, PASSES)
    }

    fn ranking(
        &self,
        reader: &Reader,
        at_unix_s: i64,
        candidates: &[usize],
    ) -> Result<Option<Vec<usize>>, TrainError> {
        let clicked = sequences::clicked(reader, at_unix_s, CLICKS_MAX);
        let Some(last) = clicked.len().checked_sub(1) else { return Ok(None) };
        let hidden = self.hidden(&clicked, (1, clicked.len()))?.narrow(1, last, 1)?.reshape((1, WIDTH))?;
        let scores: Vec<f32> = hidden.matmul(&self.articles.t()?)?.flatten_all()?.to_vec1()?;
        let mut ranked = candidates.to_vec();
        ranked.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        ranked.truncate(RANKING_LENGTH);
        Ok(Some(ranked))
    }
}
