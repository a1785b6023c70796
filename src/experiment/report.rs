//! What an experiment shows: every arm against control, metric by metric, and whether the experiment is sound at all.
#![allow(clippy::cast_precision_loss, reason = "counts of readers and events are far below 2^52")]
mod metrics;
mod words;

use super::{
    readers::{LeftOut, Reader, Readers},
    record::EventKind,
    statistics::{
        ALPHA, Comparison, Interval,
        many::Correction,
        means::{Moments, cuped, paired, percentile_interval, ratio, resampled, theta, welch},
        normal,
        proportions::{Mismatch, Share, equal_shares, sample_ratio, sample_size, two_proportions},
        ranks::mann_whitney,
        sequential::always_valid,
    },
};
use metrics::{CLICKERS, CLICKS, CLICKS_PER_ANSWER, COST, DISMISSALS, DWELL, Metric};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;

/// Resamples of a bootstrap interval, and the most readers that are resampled: with more, the t-test's interval is as good.
const N_RESAMPLES: usize = 1_000;
const RESAMPLED_READERS_MAX: usize = 20_000;
/// With which chance an experiment of the size that is recommended finds the lift.
const POWER: f64 = 0.8;

/// What to compare.
#[derive(Clone, Debug)]
pub struct Question {
    /// Id of the experiment.
    pub experiment: String,
    /// The arm that others are compared with.
    pub control: String,
    /// How p-values are corrected for their number.
    pub correction: Correction,
    /// The relative lift that the experiment was made to find: above 0, and chosen before anybody looks at the log.
    pub expected_lift: f64,
}

/// What there is to say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Id of the experiment.
    pub experiment: String,
    /// Its phase.
    pub phase: String,
    /// The arm that others are compared with.
    pub control: String,
    /// Readers and answers by arm, and what they cost.
    pub arms: BTreeMap<String, ArmSize>,
    /// The currency of costs, where any is told.
    pub currency: Option<String>,
    /// Whether arms have the readers that their weights say; none with a single arm.
    pub mismatch: Option<Mismatch>,
    /// Whether as many readers of each arm had answers that fell short; none where nobody or everybody had, or there is one arm.
    pub degraded: Option<Mismatch>,
    /// Readers per arm that find the expected lift in the share of readers who click, with a power of 80 %.
    pub readers_needed: Option<f64>,
    /// The expected lift.
    pub expected_lift: f64,
    /// One per arm and metric, of all answers as they were: what readers of an arm got is what the arm does, also where it fell short.
    pub rows: Vec<Row>,
    /// The same of answers in full alone, where others are among them. No verdict rests on these: which answers fall short comes after the
    /// arm, and may come of it, so that other readers may be left in each.
    pub in_full: Vec<Row>,
    /// One per arm whose readers were seen before.
    pub before: Vec<Before>,
    /// What was not counted.
    pub left_out: LeftOut,
}

/// How large an arm is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ArmSize {
    /// Readers.
    pub readers: usize,
    /// Answers that they got.
    pub answers: u64,
    /// Those of them that fell short of what was asked, or were not of the arm's bundle.
    pub answers_degraded: u64,
    /// What the answers of a thousand readers cost, in units of the currency, over those whose costs are known.
    pub cost_per_1k_readers: Option<f64>,
}

/// One metric of one arm against control.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What is measured.
    pub metric: &'static str,
    /// The arm.
    pub arm: String,
    /// Its value in control.
    pub control: f64,
    /// Its value in the arm.
    pub treatment: f64,
    /// The difference, its interval and its p-value.
    pub comparison: Comparison,
    /// The p-value, corrected for all rows.
    pub p_corrected: f64,
    /// The p-value for those who look every day.
    pub p_always_valid: f64,
    /// The p-value of the rank test, where there is one.
    pub p_ranks: Option<f64>,
    /// The interval by resampling, where there is one.
    pub resampled: Option<Interval>,
}

/// Readers of one arm against themselves, earlier: what the arm does not explain if control shows it too.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Before {
    /// The arm.
    pub arm: String,
    /// Its readers who were seen before.
    pub readers: usize,
    /// Clicks per answer now less clicks per answer before.
    pub comparison: Comparison,
}

/// Compares the arms of an experiment.
pub fn report(readers: &Readers, question: &Question) -> Report {
    let by_arm = by_arm(&readers.readers);
    let control = by_arm.get(&question.control).cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for (arm, treatment) in by_arm.iter().filter(|(arm, _)| **arm != question.control) {
        rows.extend(compare(arm, &control, treatment, question.expected_lift));
    }
    rows.extend(adjusted(&by_arm, question));
    let in_full = if has_degraded(readers) { rows_in_full(readers, question) } else { Vec::new() };
    let ps: Vec<f64> = rows.iter().map(|row| row.comparison.p).collect();
    for (row, corrected) in rows.iter_mut().zip(question.correction.of(&ps)) {
        row.p_corrected = corrected;
    }
    let Share { n, of } = share_of_clickers(&control);
    let base_rate = n as f64 / of.max(1) as f64;
    Report {
        experiment: question.experiment.clone(),
        phase: readers.phase.clone(),
        currency: readers.currency.clone(),
        control: question.control.clone(),
        arms: by_arm.iter().map(|(arm, readers)| (arm.clone(), size(readers))).collect(),
        mismatch: mismatch(readers),
        degraded: degraded(&by_arm),
        readers_needed: sample_size(base_rate, question.expected_lift, POWER),
        expected_lift: question.expected_lift,
        rows,
        in_full,
        before: by_arm.iter().filter_map(|(arm, readers)| before(arm, readers)).collect(),
        left_out: readers.left_out,
    }
}

type Arm<'a> = Vec<&'a Reader>;

fn by_arm(readers: &[Reader]) -> BTreeMap<String, Arm<'_>> {
    let mut arms: BTreeMap<String, Arm<'_>> = BTreeMap::new();
    readers.iter().for_each(|reader| arms.entry(reader.arm.clone()).or_default().push(reader));
    arms
}

fn size(readers: &Arm<'_>) -> ArmSize {
    ArmSize {
        readers: readers.len(),
        cost_per_1k_readers: cost_per_1k_readers(readers),
        answers: readers.iter().map(|reader| u64::from(reader.n_answers)).sum(),
        answers_degraded: readers.iter().map(|reader| u64::from(reader.n_degraded)).sum(),
    }
}

/// What each reader's answers cost, of those whose costs are known.
fn costs(readers: &Arm<'_>) -> Vec<f64> {
    readers.iter().filter_map(|reader| reader.cost_nanos).map(|nanos| nanos as f64).collect()
}

fn cost_per_1k_readers(readers: &Arm<'_>) -> Option<f64> {
    let costs = costs(readers);
    (!costs.is_empty()).then(|| Moments::of(&costs).mean * 1000.0 / 1e9)
}

/// Readers by arm against the weights that each of them was drawn by, whatever rule and day.
fn mismatch(readers: &Readers) -> Option<Mismatch> {
    let mut cells: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for reader in &readers.readers {
        cells.entry(&reader.arm).or_default().0 += 1.0;
        let total: f64 = reader.split.values().map(|weight| f64::from(*weight)).sum();
        for (arm, weight) in reader.split.iter().filter(|(_, weight)| **weight > 0) {
            cells.entry(arm).or_default().1 += f64::from(*weight) / total;
        }
    }
    let (observed, expected): (Vec<f64>, Vec<f64>) = cells.into_values().unzip();
    sample_ratio(&observed, &expected)
}

fn has_degraded(readers: &Readers) -> bool {
    readers.readers.iter().any(|reader| reader.n_degraded > 0)
}

/// Readers with an answer that fell short, by arm: readers, because answers of one reader fall short together.
fn degraded(by_arm: &BTreeMap<String, Arm<'_>>) -> Option<Mismatch> {
    let share = |readers: &Arm<'_>| {
        let n = readers.iter().filter(|reader| reader.n_degraded > 0).count();
        Share { n: n as u64, of: readers.len() as u64 }
    };
    equal_shares(&by_arm.values().map(share).collect::<Vec<_>>())
}

/// Every metric of every arm against control, of answers in full alone.
fn rows_in_full(readers: &Readers, question: &Question) -> Vec<Row> {
    let by_arm = by_arm(&readers.in_full);
    let control = by_arm.get(&question.control).cloned().unwrap_or_default();
    let treatments = by_arm.iter().filter(|(arm, _)| **arm != question.control);
    let mut rows: Vec<Row> = treatments
        .flat_map(|(arm, treatment)| compare(arm, &control, treatment, question.expected_lift))
        .collect();
    let ps: Vec<f64> = rows.iter().map(|row| row.comparison.p).collect();
    for (row, corrected) in rows.iter_mut().zip(question.correction.of(&ps)) {
        row.p_corrected = corrected;
    }
    rows
}

fn share_of_clickers(readers: &Arm<'_>) -> Share {
    let n = readers.iter().filter(|reader| reader.count(EventKind::Clicked) > 0).count();
    Share { n: n as u64, of: readers.len() as u64 }
}

fn values(readers: &Arm<'_>, of: impl Fn(&Reader) -> f64) -> Vec<f64> {
    readers.iter().map(|reader| of(reader)).collect()
}

/// Every metric of one arm against control; none without readers in both.
fn compare(arm: &str, control: &Arm<'_>, treatment: &Arm<'_>, expected_lift: f64) -> Vec<Row> {
    if control.is_empty() || treatment.is_empty() {
        return Vec::new();
    }
    let row = |metric, values, comparison| row(arm, metric, values, comparison, expected_lift);
    let (of_control, of_treatment) = (share_of_clickers(control), share_of_clickers(treatment));
    let shares = two_proportions(of_control, of_treatment);
    let comparison = Comparison {
        difference: shares.difference,
        interval: shares.newcombe,
        standard_error: shares.variance.sqrt(),
        p: shares.p,
    };
    let rate = |share: Share| share.n as f64 / share.of as f64;
    let mut rows = vec![row(CLICKERS, (rate(of_control), rate(of_treatment)), comparison)];
    let clicks = |reader: &Reader| f64::from(reader.count(EventKind::Clicked));
    let answers = |reader: &Reader| f64::from(reader.n_answers);
    let ratios = (
        ratio(&values(control, clicks), &values(control, answers)),
        ratio(&values(treatment, clicks), &values(treatment, answers)),
    );
    if let (Some((of_control, variance)), Some((of_treatment, more_variance))) = ratios {
        let comparison = normal(of_treatment - of_control, variance + more_variance);
        rows.push(row(CLICKS_PER_ANSWER, (of_control, of_treatment), comparison));
    }
    let dismissals = |reader: &Reader| f64::from(reader.count(EventKind::Dismissed));
    for (metric, (of_control, of_treatment)) in [
        (CLICKS, (values(control, clicks), values(treatment, clicks))),
        (DISMISSALS, (values(control, dismissals), values(treatment, dismissals))),
        (DWELL, (values(control, |reader| reader.dwell_s), values(treatment, |reader| reader.dwell_s))),
        (COST, (costs(control), costs(treatment))),
    ] {
        let moments = (Moments::of(&of_control), Moments::of(&of_treatment));
        let Some(test) = welch(moments.0, moments.1) else { continue };
        rows.push(Row {
            p_ranks: mann_whitney(&of_control, &of_treatment).map(|test| test.p),
            resampled: bootstrap(&of_control, &of_treatment),
            ..row(metric, (moments.0.mean, moments.1.mean), test.comparison)
        });
    }
    rows
}

fn row(
    arm: &str,
    metric: Metric,
    (control, treatment): (f64, f64),
    comparison: Comparison,
    expected_lift: f64,
) -> Row {
    let (variance, expected) = (comparison.standard_error.powi(2), expected_lift * metric.usual);
    Row {
        metric: metric.name,
        arm: arm.to_owned(),
        control,
        treatment,
        p_corrected: comparison.p,
        p_always_valid: always_valid(comparison.difference, variance, expected),
        comparison,
        p_ranks: None,
        resampled: None,
    }
}

fn bootstrap(control: &[f64], treatment: &[f64]) -> Option<Interval> {
    if control.len() + treatment.len() > RESAMPLED_READERS_MAX {
        return None;
    }
    // The same for the same log.
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut draw = |n: usize| (0..n).map(|_| random.random_range(0..n)).collect::<Vec<_>>();
    let resamples = (0..N_RESAMPLES).map(|_| (draw(control.len()), draw(treatment.len())));
    percentile_interval(resampled(control, treatment, resamples))
}

/// Clicks per answer of a reader, now and before; none of one who was not seen before.
fn rates(reader: &Reader) -> Option<(f64, f64)> {
    let rate = |clicks: u32, answers: u32| f64::from(clicks) / f64::from(answers);
    let before = rate(reader.n_clicks_before, reader.n_answers_before);
    (reader.n_answers_before > 0).then(|| (before, rate(reader.count(EventKind::Clicked), reader.n_answers)))
}

/// Rows of those who were seen before, less what their earlier clicks foretell.
fn adjusted(by_arm: &BTreeMap<String, Arm<'_>>, question: &Question) -> Vec<Row> {
    let known = |readers: &Arm<'_>| -> (Vec<f64>, Vec<f64>) {
        readers.iter().filter_map(|reader| rates(reader)).unzip()
    };
    let arms: BTreeMap<&String, (Vec<f64>, Vec<f64>)> =
        by_arm.iter().map(|(arm, readers)| (arm, known(readers))).collect();
    let all: (Vec<f64>, Vec<f64>) = (
        arms.values().flat_map(|arm| arm.0.clone()).collect(),
        arms.values().flat_map(|arm| arm.1.clone()).collect(),
    );
    let (Some(theta), mean_before) = (theta(&all.0, &all.1), Moments::of(&all.0).mean) else {
        return Vec::new();
    };
    let moments = |(before, now): &(Vec<f64>, Vec<f64>)| Moments::of(&cuped(before, now, theta, mean_before));
    let Some(control) = arms.get(&question.control).map(moments) else { return Vec::new() };
    let treatments = arms.iter().filter(|(arm, _)| ***arm != question.control);
    let adjusted = Metric { name: "clicks per answer, CUPED", ..CLICKS_PER_ANSWER };
    let rows = treatments.filter_map(|(arm, rates)| {
        let treatment = moments(rates);
        let test = welch(control, treatment)?;
        let values = (control.mean, treatment.mean);
        Some(row(arm, adjusted, values, test.comparison, question.expected_lift))
    });
    rows.collect()
}

fn before(arm: &str, readers: &Arm<'_>) -> Option<Before> {
    let (before, now): (Vec<f64>, Vec<f64>) = readers.iter().filter_map(|reader| rates(reader)).unzip();
    let comparison = paired(&before, &now)?.comparison;
    Some(Before { arm: arm.to_owned(), readers: before.len(), comparison })
}

impl Row {
    /// Whether the difference is found, after correction.
    pub fn is_found(&self) -> bool {
        self.p_corrected < ALPHA
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readers(arm: &str, n: usize, clicks: impl Fn(usize) -> u32) -> Vec<Reader> {
        let split = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]);
        (0..n)
            .map(|number| Reader {
                arm: arm.to_owned(),
                split: split.clone(),
                n_answers: 4,
                cost_nanos: Some(250_000),
                events: BTreeMap::from([(EventKind::Clicked, clicks(number))]),
                n_answers_before: 4,
                n_clicks_before: u32::try_from(number / 2 % 3).unwrap(),
                ..Reader::default()
            })
            .collect()
    }

    fn reported(control: Vec<Reader>, treatment: Vec<Reader>) -> Report {
        let readers = [control, treatment].concat();
        let (phase, currency) = ("1".to_owned(), Some("EUR".to_owned()));
        let in_full = readers.iter().filter(|reader| reader.n_degraded == 0).cloned().collect();
        let readers = Readers { phase, currency, readers, in_full, left_out: LeftOut::default() };
        let question = Question {
            experiment: "x".to_owned(),
            control: "a".to_owned(),
            correction: Correction::Holm,
            expected_lift: 0.1,
        };
        report(&readers, &question)
    }

    fn found(report: &Report) -> Vec<&str> {
        report.rows.iter().filter(|row| row.is_found()).map(|row| row.metric).collect()
    }

    fn clicks(number: usize) -> u32 {
        u32::try_from(number % 3).unwrap()
    }

    #[test]
    fn a_difference_is_found_where_there_is_one() {
        let report = reported(readers("a", 900, clicks), readers("b", 900, |number| clicks(number) + 1));
        let metrics =
            ["readers who clicked", "clicks per answer", "clicks per reader", "clicks per answer, CUPED"];
        assert_eq!(found(&report), metrics);
        let text = report.to_string();
        assert!(text.contains("b has more clicks per reader") && !text.contains("BROKEN"), "{text}");
        let row = &report.rows[2];
        assert_eq!((row.control, row.treatment, row.comparison.difference), (1.0, 2.0, 1.0));
        let resampled = row.resampled.unwrap();
        assert!(resampled.low < 1.0 && 1.0 < resampled.high);
        assert!(row.p_always_valid < 0.05 && row.p_ranks.unwrap() < 0.05);
    }

    /// It was once the lift of what control showed at this look, and its promise holds only for what is fixed before.
    #[test]
    fn the_test_for_any_day_is_made_for_the_same_difference_whatever_control_shows() {
        for n_more in [0, 1, 4] {
            let more = |number: usize| clicks(number) + n_more;
            let report = reported(readers("a", 900, more), readers("b", 900, |number| more(number) + 1));
            let row = report.rows.iter().find(|row| row.metric == CLICKS.name).unwrap();
            let Comparison { difference, standard_error, .. } = row.comparison;
            let expected = always_valid(difference, standard_error.powi(2), 0.1 * CLICKS.usual);
            assert_eq!(row.p_always_valid, expected);
        }
    }

    #[test]
    fn equal_arms_differ_in_nothing_and_say_how_many_readers_they_need() {
        let report = reported(readers("a", 900, clicks), readers("b", 900, clicks));
        assert!(found(&report).is_empty());
        let text = report.to_string();
        assert!(text.contains("no difference was found"), "{text}");
        // From two thirds by a tenth: Cohen's h is 0.1457, and 2 (2.8016 / 0.1457)^2 readers find it.
        assert!((report.readers_needed.unwrap() - 739.5).abs() < 1.0, "{:?}", report.readers_needed);
        assert_eq!(report.before.len(), 2, "both arms' readers were seen before");
    }

    #[test]
    fn an_arm_that_costs_more_is_found_and_told_for_a_thousand_readers() {
        let mut dear = readers("b", 900, clicks);
        dear.iter_mut().enumerate().for_each(|(number, reader)| {
            reader.cost_nanos = (number > 0).then_some(500_000 + 1_000 * (number as u64 % 2));
        });
        let report = reported(readers("a", 900, clicks), dear);
        assert_eq!(found(&report), [COST.name]);
        assert_eq!(report.arms["a"].cost_per_1k_readers, Some(0.25));
        let text = report.to_string();
        assert!(text.contains("0.250000 EUR per 1,000 readers"), "{text}");
        assert!(text.contains("b has more cost per reader"), "{text}");
    }

    #[test]
    fn where_no_cost_is_known_none_is_told() {
        let free = |arm: &str| {
            let free = |reader: Reader| Reader { cost_nanos: None, ..reader };
            readers(arm, 90, clicks).into_iter().map(free).collect::<Vec<_>>()
        };
        let report = reported(free("a"), free("b"));
        assert!(report.rows.iter().all(|row| row.metric != COST.name));
        assert!(!report.to_string().contains("per 1,000 readers"));
    }

    #[test]
    fn arms_with_other_readers_than_their_weights_say_break_the_experiment() {
        let report = reported(readers("a", 1200, clicks), readers("b", 900, |_| 3));
        assert!(report.mismatch.unwrap().is_alarming());
        let text = report.to_string();
        assert!(text.contains("BROKEN") && text.contains("verdict: none"), "{text}");
    }

    #[test]
    fn answers_that_fall_short_are_told_by_arm_and_compared_apart() {
        let short = |arm: &str, every: usize| {
            let mut readers = readers(arm, 900, clicks);
            readers.iter_mut().step_by(every).for_each(|reader| reader.n_degraded = 1);
            readers
        };
        let even = reported(short("a", 10), short("b", 10));
        assert!(!even.degraded.unwrap().is_alarming() && even.arms["a"].answers_degraded == 90);
        let text = even.to_string();
        assert!(text.contains("2.5 % fell short") && text.contains("answers in full alone"), "{text}");
        assert!(!text.contains("UNEVEN"), "{text}");
        let uneven = reported(short("a", 100), short("b", 5));
        assert!(uneven.degraded.unwrap().is_alarming());
        assert!(
            uneven.to_string().contains("UNEVEN") && uneven.to_string().contains("verdict: no difference")
        );
        let whole = reported(readers("a", 900, clicks), readers("b", 900, clicks));
        assert!(whole.degraded.is_none() && whole.in_full.is_empty());
        assert!(!whole.to_string().contains("fell short"));
    }

    #[test]
    fn an_arm_without_anybody_to_compare_with_has_no_rows() {
        let report = reported(Vec::new(), readers("b", 5, clicks));
        assert!(report.rows.is_empty());
    }
}
