//! How the rewards of a list become one number, as the settings of a run weigh them.
use super::{
    super::{
        askers::Asker,
        error::TrainError,
        events::World,
        settings::rewards::{RewardSettings, RewardWeights},
    },
    Asked, Judge, Rewards,
    hit::{Clicked, HIT, Hits},
    rubric::{Look, RUBRIC, Rubric},
    view::View,
};
use crate::queries::QueryList;
use std::{path::Path, time::Instant};

/// How many rewards there may be beside the five.
pub const N_FURTHER: usize = 2;
/// Their names, in the order in which they stand everywhere.
pub const FURTHER: [&str; N_FURTHER] = [HIT, RUBRIC];

/// Rewards beside the five, each from 0 to 1, in the order of [`FURTHER`]: None where one does not count or is not known.
pub type Further = [Option<f64>; N_FURTHER];

/// The five rewards, what is beside them, and what each counts.
#[derive(Debug)]
pub struct Composite<'j> {
    /// Gives the five.
    pub judge: &'j Judge<'j>,
    /// Says what finds clicks; None where that counts nothing.
    hits: Option<Hits<'j>>,
    /// Looks at lists; None where that counts nothing.
    rubric: Option<Rubric>,
    /// What each counts.
    pub weights: RewardWeights,
}

/// What the lists of a prompt are compared with.
#[derive(Debug)]
pub struct Wish {
    /// The reader's interests.
    pub view: View,
    /// What was clicked after, where it counts and there is something.
    clicked: Option<Clicked>,
}

/// Rewards of one list beside the five.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// The rewards.
    pub further: Further,
    /// Seconds that each took.
    pub seconds: [f64; N_FURTHER],
    /// Of each query, whether it finds what was clicked; None where that does not count or is not known.
    pub hits: Option<Vec<f64>>,
}

impl<'j> Composite<'j> {
    /// Prepares what the weights ask for.
    /// # Errors
    /// If a weight means nothing, articles cannot be indexed, or the rubric is not there.
    pub fn of(world: &'j World, judge: &'j Judge<'j>, settings: &RewardSettings) -> Result<Self, TrainError> {
        settings.check()?;
        let weights = settings.weights;
        let hits = (weights.hit > 0.0).then(|| Hits::of(world)).transpose()?;
        let rubric = (weights.rubric > 0.0).then(|| Rubric::open(Path::new(&settings.rubric)));
        Ok(Self { judge, hits, rubric: rubric.transpose()?, weights })
    }

    /// What the lists of an asker are compared with.
    pub fn wish(&self, asker: &Asker<'_>) -> Wish {
        Wish {
            view: asker.view(self.judge),
            clicked: self.hits.as_ref().and_then(|hits| asker.clicked(hits)),
        }
    }

    /// What a list has beside the five.
    /// # Errors
    /// If the search or the rubric fails.
    pub fn beside(&self, list: &QueryList, asked: &[Asked], wish: &Wish) -> Result<Beside, TrainError> {
        let started = Instant::now();
        let hits = match (&self.hits, &wish.clicked) {
            (Some(hits), Some(clicked)) => Some(hits.of_queries(list, clicked)?),
            _ => None,
        };
        let hit_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let look = Look { list, asked, view: &wish.view };
        let rubric = self.rubric.as_ref().map(|rubric| rubric.reward(self.judge, look)).transpose()?;
        let seconds = [hit_seconds, started.elapsed().as_secs_f64()];
        Ok(Beside { further: [hits.as_deref().map(best), rubric], seconds, hits })
    }

    /// What a text that is no list has beside the five: it finds nothing and keeps no rule, which is known where anything is.
    pub fn of_no_list(&self, wish: &Wish) -> Further {
        [wish.clicked.as_ref().map(|_| 0.0), self.rubric.as_ref().map(|_| 0.0)]
    }

    /// Rewards a list for a reader at a moment: the five, those beside them, and one number, from 0 to 1.
    /// # Errors
    /// If the search or the rubric fails.
    pub fn rewards(
        &self,
        list: Option<&QueryList>,
        asker: &Asker<'_>,
    ) -> Result<(Rewards, Further, f64), TrainError> {
        let wish = self.wish(asker);
        let (rewards, further) = match list {
            Some(list) => {
                let asked = self.judge.all_asked(list)?;
                let further = self.beside(list, &asked, &wish)?.further;
                (self.judge.rewards_of(list, &asked, &wish.view), further)
            }
            None => (Rewards::default(), self.of_no_list(&wish)),
        };
        Ok((rewards, further, self.weights.mean(&rewards, further)))
    }
}

/// The reward of a list by what its queries hit.
fn best(hits: &[f64]) -> f64 {
    hits.iter().copied().fold(0.0, f64::max)
}
