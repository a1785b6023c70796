//! Many questions of one experiment: of a hundred p-values below 5 %, five are by chance.

/// How p-values are corrected for their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// The chance of any false finding is bounded. Source: Holm 1979.
    Holm,
    /// The same, and simpler, and blinder.
    Bonferroni,
    /// The share of false findings among findings is bounded. Source: Benjamini and Hochberg 1995.
    BenjaminiHochberg,
}

impl Correction {
    /// Corrected p-values, in the order of the given ones.
    pub fn of(self, ps: &[f64]) -> Vec<f64> {
        let n = ps.len() as f64;
        let mut order: Vec<usize> = (0..ps.len()).collect();
        order.sort_by(|&one, &other| ps[one].total_cmp(&ps[other]));
        let mut corrected = vec![0.0; ps.len()];
        match self {
            Self::Bonferroni => {
                ps.iter().zip(&mut corrected).for_each(|(p, corrected)| *corrected = (p * n).min(1.0));
            }
            Self::Holm => {
                let mut largest: f64 = 0.0;
                for (place, &idx) in order.iter().enumerate() {
                    largest = largest.max((n - place as f64) * ps[idx]).min(1.0);
                    corrected[idx] = largest;
                }
            }
            Self::BenjaminiHochberg => {
                let mut smallest: f64 = 1.0;
                for (place, &idx) in order.iter().enumerate().rev() {
                    smallest = smallest.min(n / (place + 1) as f64 * ps[idx]);
                    corrected[idx] = smallest;
                }
            }
        }
        corrected
    }
}
