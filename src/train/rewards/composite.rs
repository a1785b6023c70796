//! How the rewards of a list become one number, as the settings of a run weigh them.
use super::{
    super::{askers::Asker, error::TrainError, events::World, settings::rewards::RewardWeights},
    Judge, Rewards,
    hit::Hits,
};
use crate::queries::QueryList;

/// The five rewards, the optional sixth, and what each counts.
#[derive(Debug)]
pub struct Composite<'j> {
    /// Gives the five.
    pub judge: &'j Judge<'j>,
    /// Gives the sixth; None where it counts nothing.
    pub hits: Option<Hits<'j>>,
    /// What each counts.
    pub weights: RewardWeights,
}

impl<'j> Composite<'j> {
    /// Prepares what the weights ask for.
    /// # Errors
    /// If a weight means nothing, or articles cannot be indexed.
    pub fn of(world: &'j World, judge: &'j Judge<'j>, weights: RewardWeights) -> Result<Self, TrainError> {
        weights.check()?;
        let hits = (weights.hit > 0.0).then(|| Hits::of(world)).transpose()?;
        Ok(Self { judge, hits, weights })
    }

    /// Rewards a list for a reader at a moment: the five, the sixth where it counts and is known, and one number, from 0 to 1.
    /// # Errors
    /// If the search fails.
    pub fn rewards(
        &self,
        list: Option<&QueryList>,
        asker: &Asker<'_>,
    ) -> Result<(Rewards, Option<f64>, f64), TrainError> {
        let rewards = self.judge.rewards(list, &asker.view(self.judge))?;
        let hit = match (&self.hits, list) {
            (Some(hits), Some(list)) => {
                let clicked = asker.clicked(hits);
                clicked.map(|clicked| hits.of_queries(list, &clicked)).transpose()?.map(|z| best(&z))
            }
            (Some(hits), None) => asker.clicked(hits).map(|_| 0.0),
            (None, _) => None,
        };
        Ok((rewards, hit, self.weights.mean(&rewards, hit)))
    }
}

/// The reward of a list by the z of its queries.
pub fn best(z: &[f64]) -> f64 {
    z.iter().copied().fold(0.0, f64::max)
}
