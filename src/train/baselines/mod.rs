//! What a platform has already, trained on the same readers; walks also go over the past clicks of those who are asked. Sequence models and walks read clicks alone, and know articles by number;
//! NRHUB reads texts of all streams. A reader of whom a baseline knows nothing is shown what is popular.
//!
//! One file per model, each with the source that it follows and where it departs from it.
pub mod asked;
pub mod bars;
pub mod gru4rec;
pub mod hstu;
pub mod kept;
pub mod nrhub;
pub mod parts;
pub mod pinsage;
pub mod report;
pub mod roles;
pub mod sasrec;
pub mod sequences;
pub mod table;
pub mod training;

use super::{
    error::TrainError,
    events::{Reader, World},
};
use crate::model::weights::{ModelError, TensorSource};
use candle_core::Tensor;

/// Something that is trained on a world and ranks articles for a reader.
pub trait Recommender: Sized {
    /// Its name in tables.
    const NAME: &'static str;
    /// Its word in commands and names of files.
    const WORD: &'static str;

    /// Trains it. The same seed gives the same ranking.
    /// # Errors
    /// If the world holds too little, or the loss stops being a number.
    fn fit(world: &World, seed: u64) -> Result<Self, TrainError>;

    /// Ranks articles for a reader at a moment, best first, as many as rankings have; none for a reader of whom it knows nothing.
    /// # Errors
    /// If the model fails.
    fn ranking(
        &self,
        reader: &Reader,
        at_unix_s: i64,
        candidates: &[usize],
    ) -> Result<Option<Vec<usize>>, TrainError>;
}

/// A network that reads the articles clicked so far and says which comes next.
pub trait SequenceModel: Sized {
    /// Its name in tables.
    const NAME: &'static str;
    /// Its word in commands and names of files.
    const WORD: &'static str;

    /// Builds it over a table of articles (V, D).
    /// # Errors
    /// If a tensor cannot be made.
    fn load(articles: &Tensor, source: &mut dyn TensorSource) -> Result<Self, ModelError>;

    /// Embedded clicks (B, T, D) to hidden states (B, T, D); position t has read clicks 0 to t. The next article is the
    /// one whose embedding has the largest product with it.
    /// # Errors
    /// If shapes do not fit.
    fn hidden(&self, clicks: &Tensor) -> candle_core::Result<Tensor>;
}

/// Numbers of an embedding and of a hidden state.
pub const WIDTH: usize = 64;
/// Clicks that are read; the newest of longer histories.
pub const CLICKS_MAX: usize = 50;
