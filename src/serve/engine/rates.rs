//! How long things take on a model thread lately, and what follows for a request that would come now: pure, the time is passed in.
use std::time::{Duration, Instant};

/// How far a measurement moves what is expected: an eighth, so that one odd request does not, and ten of a kind do.
const SHARE: f64 = 0.125;

/// By how much earlier measurements of many small parts fade with each new one: after some two hundred, a few seconds of steps, they count
/// a third.
const FADE: f64 = 1.0 - 1.0 / 200.0;

/// Steps older than this say nothing of the next one. It also bounds how long wrong expectations can keep everybody away: somebody is let in
/// to be measured once nothing was measured for so long.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// Of the tokens that a list may have, those it is expected to have before any was written: as likely too few as too many. All of them would
/// refuse readers of a server that has just started, as if each of those before them took several times what she takes.
const UNSEEN_SHARE: f64 = 0.5;

/// What a request asks of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Its candidates.
    pub rows: usize,
    /// Most tokens of one.
    pub row_tokens_max: usize,
}

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// Tokens of a prompt for each byte of its signals.
    prompt_tokens: Ratio,
    /// Seconds to clean signals and to build their prompt.
    preparation: Mean,
    /// Seconds of a prefill for each token of the prompt, those among them that were known.
    prefill: Ratio,
    /// Seconds of a step by the rows in it.
    step: Line,
    /// Tokens of a list.
    list_tokens: Mean,
    /// Tokens of the longest list of several.
    longest_tokens: Mean,
    stepped_at: Option<Instant>,
}

/// What a network took for a first list.
#[derive(Clone, Copy, Debug)]
pub struct Warmth {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Time of its prefill.
    pub prefill: Duration,
    /// Candidates.
    pub rows: usize,
    /// Time of a step of theirs.
    pub step: Duration,
}

impl Rates {
    /// Notes a first list, which was written now.
    pub(super) fn warmed(&mut self, warmth: &Warmth, now: Instant) {
        self.prefilled(warmth.prompt_tokens, warmth.prefill);
        self.stepped(warmth.rows, warmth.step, now);
    }

    /// Notes the prompt of some signals, all of which had a place in it.
    pub(super) fn prepared(&mut self, n_bytes: usize, n_tokens: usize, took: Duration) {
        self.prompt_tokens.note(float(n_tokens), float(n_bytes));
        self.preparation.note(took.as_secs_f64());
    }

    /// How long it takes to clean signals and to build their prompt; no time where nobody has measured it.
    pub(super) fn preparation(&self) -> Duration {
        self.preparation
            .value
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .unwrap_or_default()
    }

    /// Notes a prefill.
    pub(super) fn prefilled(&mut self, n_tokens: usize, took: Duration) {
        self.prefill.note(took.as_secs_f64(), float(n_tokens));
    }

    /// Notes a step that ended now.
    pub(super) fn stepped(&mut self, n_rows: usize, took: Duration, now: Instant) {
        self.step.note(float(n_rows), took.as_secs_f64());
        self.stepped_at = Some(now);
    }

    /// Notes a list that was written to its end.
    pub(super) fn wrote(&mut self, n_tokens: usize) {
        self.list_tokens.note(float(n_tokens));
    }

    /// Notes the longest of several lists.
    pub(super) fn wrote_all(&mut self, longest: usize) {
        self.longest_tokens.note(float(longest));
    }

    /// About how many tokens the prompt of signals of so many bytes has; none before anything was measured.
    pub(super) fn prompt_tokens(&self, n_bytes: usize) -> Option<usize> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and a message's bytes"
        )]
        self.prompt_tokens.value().map(|per_byte| (per_byte * float(n_bytes)).ceil() as usize)
    }

    /// How long work takes from its preparation to its last list, if it need not wait, beside `n_running` rows; none where too little was
    /// measured, or too long ago. Lists are half as long as they may be before any was written.
    pub(super) fn takes(&self, work: &Work, n_running: usize, now: Instant) -> Option<Duration> {
        let is_old = now.saturating_duration_since(self.stepped_at?) >= GOOD_FOR;
        let longest = if work.rows > 1 { self.longest_tokens.value } else { None };
        let (n_tokens, most) = (longest.or(self.list_tokens.value), float(work.row_tokens_max));
        let n_steps = n_tokens.map_or(UNSEEN_SHARE * most, |n_tokens| n_tokens.min(most));
        let prefill = self.prefill.value()? * float(work.prompt_tokens);
        let step = self.step.at(float(n_running + work.rows))?;
        let seconds = self.preparation.value.unwrap_or(0.0) + prefill + n_steps * step;
        Duration::try_from_secs_f64(seconds).ok().filter(|_| !is_old)
    }
}

/// A moving average.
#[derive(Debug, Default)]
struct Mean {
    value: Option<f64>,
}

impl Mean {
    fn note(&mut self, measured: f64) {
        self.value = Some(self.value.map_or(measured, |value| value + SHARE * (measured - value)));
    }
}

/// A quotient of sums that fade.
#[derive(Debug, Default)]
struct Ratio {
    upper: f64,
    lower: f64,
}

impl Ratio {
    fn note(&mut self, upper: f64, lower: f64) {
        // Few prompts pass where many steps do, so these fade as an average does.
        self.upper = (1.0 - SHARE).mul_add(self.upper, upper);
        self.lower = (1.0 - SHARE).mul_add(self.lower, lower);
    }

    fn value(&self) -> Option<f64> {
        (self.lower > 0.0).then(|| self.upper / self.lower)
    }
}

/// The line of least squares through points that fade.
#[derive(Debug, Default)]
struct Line {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Line {
    fn note(&mut self, x: f64, y: f64) {
        for (sum, point) in [
            (&mut self.n, 1.0),
            (&mut self.x, x),
            (&mut self.y, y),
            (&mut self.xx, x * x),
            (&mut self.xy, x * y),
        ] {
            *sum = FADE.mul_add(*sum, point);
        }
    }

    /// The line at `x`. It never falls, because a row more makes no step shorter, and never rises faster than in proportion, because no
    /// step is shorter than none; where all points have the same `x` it is level.
    fn at(&self, x: f64) -> Option<f64> {
        if self.n <= 0.0 {
            return None;
        }
        let (mean_x, mean_y) = (self.x / self.n, self.y / self.n);
        let spread = self.xx / self.n - mean_x * mean_x;
        let rise = if spread > f64::EPSILON * mean_x * mean_x {
            (self.xy / self.n - mean_x * mean_y) / spread
        } else {
            0.0
        };
        Some(mean_y + rise.clamp(0.0, mean_y / mean_x.max(1.0)) * (x - mean_x))
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn float(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const WORK: Work = Work { prompt_tokens: 100, rows: 8, row_tokens_max: 96 };

    /// Steps of 2 ms and half a millisecond a row, lists of 20 tokens of which the longest of eight has 30, a tenth of a millisecond a token.
    fn measured(now: Instant) -> Rates {
        let mut rates = Rates::default();
        rates.prefilled(200, 20 * MS);
        for n_rows in [8, 8, 8, 5, 3, 1] {
            rates.stepped(n_rows, 2 * MS + MS * u32::try_from(n_rows).unwrap() / 2, now);
        }
        rates.wrote(20);
        rates.wrote_all(30);
        rates
    }

    fn close(took: Option<Duration>, expected: Duration) {
        let took = took.unwrap();
        assert!(took.abs_diff(expected) < MS / 10, "{took:?} is not {expected:?}");
    }

    #[test]
    fn nothing_is_expected_before_all_of_it_was_measured() {
        let now = Instant::now();
        let mut rates = Rates::default();
        assert_eq!((rates.takes(&WORK, 0, now), rates.prompt_tokens(100)), (None, None));
        rates.prefilled(100, MS);
        assert_eq!(rates.takes(&WORK, 0, now), None);
        rates.stepped(8, MS, now);
        close(rates.takes(&WORK, 0, now), MS + 48 * MS);
        rates.wrote(10);
        close(rates.takes(&WORK, 0, now), MS + 10 * MS);
    }

    #[test]
    fn a_first_list_says_what_others_take() {
        let now = Instant::now();
        let mut rates = Rates::default();
        rates.warmed(&Warmth { prompt_tokens: 200, prefill: 20 * MS, rows: 8, step: 2 * MS }, now);
        close(rates.takes(&WORK, 0, now), 10 * MS + 48 * 2 * MS);
    }

    #[test]
    fn work_takes_its_prompt_and_its_steps_at_the_rows_that_there_are() {
        let now = Instant::now();
        let rates = measured(now);
        close(rates.takes(&WORK, 0, now), 10 * MS + 30 * 6 * MS);
        close(rates.takes(&WORK, 8, now), 10 * MS + 30 * 10 * MS);
        close(rates.takes(&Work { rows: 1, ..WORK }, 0, now), 10 * MS + 20 * 5 * MS / 2);
        close(rates.takes(&Work { row_tokens_max: 10, ..WORK }, 0, now), 10 * MS + 10 * 6 * MS);
    }

    #[test]
    fn what_was_measured_long_ago_says_nothing() {
        let now = Instant::now();
        let rates = measured(now);
        assert!(rates.takes(&WORK, 0, now + GOOD_FOR - MS).is_some());
        assert_eq!(rates.takes(&WORK, 0, now + GOOD_FOR), None);
    }

    #[test]
    fn prompts_grow_with_the_bytes_of_signals_and_take_their_preparation() {
        let now = Instant::now();
        let mut rates = measured(now);
        let before = rates.takes(&WORK, 0, now).unwrap();
        rates.prepared(400, 100, 7 * MS);
        assert_eq!(rates.prompt_tokens(200), Some(50));
        close(rates.takes(&WORK, 0, now), before + 7 * MS);
    }

    #[test]
    fn a_line_through_one_number_of_rows_is_level_and_none_falls() {
        let mut line = Line::default();
        line.note(8.0, 4.0);
        assert_eq!((line.at(1.0), line.at(16.0)), (Some(4.0), Some(4.0)));
        line.note(4.0, 8.0);
        assert!(line.at(16.0) >= line.at(1.0));
        let mut steep = Line::default();
        [(7.0, 1.0), (8.0, 9.0)].into_iter().for_each(|(x, y)| steep.note(x, y));
        assert!(steep.at(1.0).unwrap() > 0.0);
    }
}
