//! How much a reader has clicked before.
use crate::train::events::Reader;
use serde::Serialize;

/// Most clicks of a cold and of a cool reader.
const COLD_CLICKS_MAX: usize = 5;
const COOL_CLICKS_MAX: usize = 20;

/// How much a reader has clicked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// At most 5 clicks.
    Cold,
    /// At most 20.
    Cool,
    /// More.
    Warm,
}

impl Tier {
    /// Every tier, from the coldest.
    pub const ALL: [Self; 3] = [Self::Cold, Self::Cool, Self::Warm];

    /// The tier of a reader.
    pub fn of(reader: &Reader) -> Self {
        Self::of_clicks(reader.events.iter().filter(|event| event.article_idx.is_some()).count())
    }

    fn of_clicks(n_clicks: usize) -> Self {
        if n_clicks <= COLD_CLICKS_MAX {
            Self::Cold
        } else if n_clicks <= COOL_CLICKS_MAX {
            Self::Cool
        } else {
            Self::Warm
        }
    }

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold (0 to 5)",
            Self::Cool => "cool (6 to 20)",
            Self::Warm => "warm (more)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_end_at_5_and_20_clicks() {
        let tiers: Vec<Tier> = [0, 5, 6, 20, 21].into_iter().map(Tier::of_clicks).collect();
        assert_eq!(tiers, [Tier::Cold, Tier::Cold, Tier::Cool, Tier::Cool, Tier::Warm]);
    }
}
