//! What the method must show, of bundles that bear the names of its roles: each beside the others on the same readers, intervals paired.
//! Source: arXiv 2602.15005, whose teacher finds 1.40 times what the prompt alone does and whose student recovers 88 % of the gap.
use super::{SequenceModel, hstu::Hstu, report::Measurements};
use crate::train::{
    gates::gate::{Bound, Gate},
    statistics::bootstrap_ratio,
};

/// The teacher that was trained by rewards.
pub const TEACHER: &str = "teacher";
/// Its network, taught the form of a list and not the task.
pub const PROMPT_ONLY: &str = "prompt-only";
/// The student before it met its teacher.
pub const UNDISTILLED: &str = "undistilled";
/// The student that learned from its teacher on its own lists.
pub const STUDENT: &str = "student";
/// The same that learned from its teacher's lists.
pub const SUPERVISED: &str = "supervised";

/// Endings of the names of a bundle's rows.
pub(super) const ONE_LIST: &str = ", one list";
pub(super) const BY_HEAD: &str = " by reward head";
pub(super) const BY_JUDGE: &str = " by the rewards' judge";

/// Recall@10 of each reader.
type Found = Vec<f64>;

/// The bars whose rows there are, but those that would divide by nothing.
pub(super) fn bars(measured: &[Measurements], seed: u64) -> Vec<Gate> {
    let of = |word: &str, ending: &str| -> Option<Found> {
        measured.iter().find(|row| row.is(word, ending)).map(Measurements::mean_recall)
    };
    let one = |word: &str| of(word, ONE_LIST);
    let less = |one: Option<Found>, other: Option<Found>| -> Option<Found> {
        Some(one?.iter().zip(&other?).map(|(one, other)| one - other).collect())
    };
    let ratio = |part: Option<Found>, whole: Option<Found>| {
        // The best of one list adds nothing to one list, whoever chooses it.
        let whole = whole.filter(|whole| whole.iter().any(|found| *found != 0.0))?;
        Some(bootstrap_ratio(&part?, &whole, seed))
    };
    let gap = || less(one(TEACHER), one(UNDISTILLED));
    let recovered = |word: &str| ratio(less(one(word), one(UNDISTILLED)), gap());
    let of_composite =
        ratio(less(of(STUDENT, BY_HEAD), one(STUDENT)), less(of(STUDENT, BY_JUDGE), one(STUDENT)));
    let bars = [
        ("teacher / prompt-only", ratio(one(TEACHER), one(PROMPT_ONLY)), Bound::AtLeast(1.3)),
        ("teacher / HSTU", ratio(one(TEACHER), of(Hstu::WORD, "")), Bound::Above(1.0)),
        ("(student - undistilled) / (teacher - undistilled)", recovered(STUDENT), Bound::AtLeast(0.88)),
        // The paper's recovers 69 %.
        ("(supervised - undistilled) / (teacher - undistilled)", recovered(SUPERVISED), Bound::Any),
        (
            "(student - supervised) / (teacher - undistilled)",
            ratio(less(one(STUDENT), one(SUPERVISED)), gap()),
            Bound::Above(0.0),
        ),
        ("student: (by head - one list) / (by judge - one list)", of_composite, Bound::AtLeast(0.6)),
    ];
    bars.into_iter().filter_map(|(name, figure, bound)| Some(Gate::of(name, figure?, bound))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::baselines::{asked::Measured, report::Kind};

    /// Rows of two readers who find so much.
    fn row(word: &str, ending: &str, recall: [f64; 2]) -> Measurements {
        let figures = recall.map(|recall| [recall; 7]).to_vec();
        let measured = Measured { figures, traits: vec![[0.0; 4]; 2], alone: Vec::new() };
        Measurements::of((word, &format!("{word}{ending}")), Kind::Ours, vec![measured])
    }

    #[test]
    fn every_bar_is_the_ratio_of_its_rows_and_rows_that_are_missing_leave_it_out() {
        let rows = [
            row(Hstu::WORD, "", [0.1, 0.3]),
            row(TEACHER, ONE_LIST, [0.4, 0.8]),
            row(PROMPT_ONLY, ONE_LIST, [0.2, 0.2]),
            row(UNDISTILLED, ONE_LIST, [0.2, 0.4]),
            row(STUDENT, ONE_LIST, [0.4, 0.6]),
            row(STUDENT, ", best of 8 by reward head", [0.5, 0.6]),
            row(STUDENT, ", best of 8 by the rewards' judge", [0.5, 0.7]),
            row(SUPERVISED, ONE_LIST, [0.3, 0.5]),
        ];
        let found = bars(&rows, 1);
        let figures: Vec<f64> = found.iter().map(|bar| bar.figure.mean).collect();
        let expected = [3.0, 3.0, 2.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.5];
        assert_eq!(figures.len(), expected.len());
        assert!(figures.iter().zip(expected).all(|(got, due)| (got - due).abs() < 1e-9), "{figures:?}");
        let passed: Vec<bool> = found.iter().map(|bar| bar.passed).collect();
        assert_eq!(passed, [true, true, false, true, true, false]);
        let names = |rows: &[Measurements]| bars(rows, 1).iter().map(|bar| bar.name).collect::<Vec<_>>();
        assert_eq!(names(&rows[..3]), ["teacher / prompt-only", "teacher / HSTU"]);
        assert!(names(&rows[4..5]).is_empty());
        let of_one_list = [ONE_LIST, BY_HEAD, BY_JUDGE].map(|ending| row(STUDENT, ending, [0.4, 0.6]));
        assert!(names(&of_one_list).is_empty());
    }
}
