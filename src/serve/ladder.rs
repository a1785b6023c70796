//! How far an answer falls short where there is no time or no room for all of it: pure policy, whatever it follows from is passed in.
//!
//! First come fewer candidates, then one list, then a stored answer that is too old, then the list of a cohort, and only then a refusal. What the model is asked for
//! follows from two things, of which the stricter counts: how long a request is going to wait, and whether it can end before its
//! deadline. A wait alone refuses nobody whom the queue would not refuse.
use crate::experiment::policy::Rung;
use std::time::Duration;

/// From which expected wait on answers fall short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// To `Rung::Fewer`.
    pub fewer: Duration,
    /// To `Rung::Greedy`.
    pub greedy: Duration,
    /// To `Rung::Stale`, where there is one.
    pub stale: Duration,
}

impl Waits {
    /// The same shares of a longest wait that is this much shorter, for what is generated: a stored answer makes no queue shorter than that.
    #[must_use]
    pub fn shortened(self, ratio: f64) -> Self {
        Self { fewer: self.fewer.mul_f64(ratio), greedy: self.greedy.mul_f64(ratio), stale: self.stale }
    }

    /// The rung that a wait asks for.
    fn rung(&self, wait: Duration) -> Rung {
        if wait >= self.stale {
            Rung::Stale
        } else if wait >= self.greedy {
            Rung::Greedy
        } else if wait >= self.fewer {
            Rung::Fewer
        } else {
            Rung::Full
        }
    }
}

/// Why an answer falls short, or there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Too many wait.
    Pressure,
    /// The deadline is too near.
    Deadline,
    /// Nothing is known of the reader.
    NoSignals,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pressure, Self::Deadline, Self::NoSignals];

    /// Its word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pressure => "pressure",
            Self::Deadline => "deadline",
            Self::NoSignals => "no_signals",
        }
    }
}

/// A rung that is generated, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Not `Rung::Stale`.
    pub rung: Rung,
    /// How long it is going to wait.
    pub wait: Duration,
    /// From then to the last list; what nobody has measured takes no time.
    pub work: Duration,
    /// Whether the queue has a place for it, and room for its tokens.
    pub has_place: bool,
}

impl Offer {
    /// From now to the last list.
    fn takes(&self) -> Duration {
        self.wait + self.work
    }
}

/// What a request meets.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What can be generated for it, best first; the first is all that was asked.
    pub offers: &'a [Offer],
    /// How long it is going to wait.
    pub wait: Duration,
    /// The longest wait that may be expected of it.
    pub wait_max: Duration,
    /// Time to its deadline, if it has one.
    pub left: Option<Duration>,
    /// How far its answer may fall short.
    pub lowest: Rung,
}

/// What is generated, and if it is less than was asked, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub rung: Rung,
    /// Why; none on `Rung::Full`.
    pub why: Option<Why>,
    /// What it takes, the wait included.
    pub takes: Duration,
}

/// Why nothing is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It would wait longer than anybody may.
    Wait {
        /// How long that is.
        wait_max: Duration,
    },
    /// Even the least that it allows would not be in time.
    Deadline {
        /// How long that takes, the wait included.
        takes: Duration,
        /// `Why::Pressure` where it would be in time if it need not wait.
        cause: Why,
    },
}

impl Refusal {
    /// Why.
    pub fn why(self) -> Why {
        match self {
            Self::Wait { .. } => Why::Pressure,
            Self::Deadline { .. } => Why::Deadline,
        }
    }
}

/// What is done for a request of which no fresh answer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether a stored answer is used if there is any, however old, and why.
    pub stored: Option<Why>,
    /// Whether the queue has no place for any that it allows.
    pub is_full: bool,
    /// What is done otherwise.
    pub otherwise: Result<Step, Refusal>,
}

/// Decides what is done for a request.
pub fn decide(waits: &Waits, situation: &Situation<'_>) -> Decision {
    let otherwise = generated(waits, situation);
    let is_full = !allowed(situation).any(|offer| offer.has_place);
    let is_pressed = is_full || situation.wait >= waits.stale;
    let why = match otherwise {
        Err(refusal) => Some(refusal.why()),
        Ok(_) => is_pressed.then_some(Why::Pressure),
    };
    Decision { stored: why.filter(|_| situation.lowest >= Rung::Stale), is_full, otherwise }
}

/// What a request may be offered.
fn allowed<'a>(situation: &Situation<'a>) -> impl DoubleEndedIterator<Item = &'a Offer> {
    let lowest = situation.lowest;
    situation.offers.iter().filter(move |offer| offer.rung <= lowest)
}

fn generated(waits: &Waits, situation: &Situation<'_>) -> Result<Step, Refusal> {
    if situation.wait >= situation.wait_max {
        return Err(Refusal::Wait { wait_max: situation.wait_max });
    }
    let in_time = |offer: &&Offer| situation.left.is_none_or(|left| offer.takes() <= left);
    let allowed = || allowed(situation);
    let Some(timely) = allowed().find(in_time) else {
        let takes = allowed().map(Offer::takes).min().unwrap_or_default();
        let fits_alone = allowed().any(|offer| situation.left.is_none_or(|left| offer.work <= left));
        return Err(Refusal::Deadline {
            takes,
            cause: if fits_alone { Why::Pressure } else { Why::Deadline },
        });
    };
    // The first that asks for as little as the wait does and has a place, or else the least that there is: if that has none, the queue says so.
    let asked = waits.rung(situation.wait).max(timely.rung);
    let modest = allowed().find(|offer| offer.rung >= asked && offer.has_place);
    let chosen = modest.or(allowed().next_back()).unwrap_or(timely);
    let why = if chosen.rung > timely.rung { Why::Pressure } else { Why::Deadline };
    let why = (chosen.rung > Rung::Full).then_some(why);
    Ok(Step { rung: chosen.rung, why, takes: chosen.takes() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    const WAITS: Waits = Waits { fewer: ms(500), greedy: ms(1500), stale: ms(4000) };

    fn offers(wait: Duration) -> [Offer; 3] {
        [(Rung::Full, 400), (Rung::Fewer, 250), (Rung::Greedy, 100)].map(|(rung, took)| Offer {
            rung,
            wait,
            work: ms(took),
            has_place: true,
        })
    }

    /// What a request meets that waits so long, has so long, and allows so little.
    fn check(wait_ms: u64, left_ms: Option<u64>, lowest: Rung) -> Decision {
        let offers = offers(ms(wait_ms));
        let (wait, left) = (ms(wait_ms), left_ms.map(ms));
        let situation = Situation { offers: &offers, wait, wait_max: ms(10_000), left, lowest };
        decide(&WAITS, &situation)
    }

    fn step(decision: Decision) -> (Rung, Option<Why>) {
        let step = decision.otherwise.unwrap();
        (step.rung, step.why)
    }

    #[test]
    fn a_shorter_wait_asks_for_as_much_less() {
        let shortened = WAITS.shortened(0.01);
        for (wait, expected) in
            [(4, Rung::Full), (5, Rung::Fewer), (15, Rung::Greedy), (3999, Rung::Greedy), (4000, Rung::Stale)]
        {
            assert_eq!(shortened.rung(ms(wait)), expected, "{wait} ms");
        }
    }

    #[test]
    fn who_need_not_wait_and_has_time_gets_everything() {
        let decision = check(0, Some(400), Rung::Stale);
        assert_eq!((step(decision), decision.stored), ((Rung::Full, None), None));
        assert_eq!(step(check(499, None, Rung::Stale)), (Rung::Full, None));
    }

    #[test]
    fn a_wait_takes_one_rung_after_the_other() {
        let pressure = Some(Why::Pressure);
        for (wait_ms, rung, stored) in [
            (500, Rung::Fewer, None),
            (1499, Rung::Fewer, None),
            (1500, Rung::Greedy, None),
            (3999, Rung::Greedy, None),
            (4000, Rung::Greedy, pressure),
            (9999, Rung::Greedy, pressure),
        ] {
            let decision = check(wait_ms, None, Rung::Stale);
            assert_eq!((step(decision), decision.stored), ((rung, pressure), stored), "{wait_ms}");
        }
        assert_eq!(check(10_000, None, Rung::Stale).otherwise, Err(Refusal::Wait { wait_max: ms(10_000) }));
    }

    #[test]
    fn a_deadline_takes_as_little_as_it_needs_and_refuses_only_what_cannot_be() {
        let deadline = Some(Why::Deadline);
        for (left_ms, rung) in
            [(399, Rung::Fewer), (250, Rung::Fewer), (249, Rung::Greedy), (100, Rung::Greedy)]
        {
            let decision = check(0, Some(left_ms), Rung::Stale);
            assert_eq!((step(decision), decision.stored), ((rung, deadline), None), "{left_ms}");
        }
        let decision = check(0, Some(99), Rung::Stale);
        assert_eq!(decision.otherwise, Err(Refusal::Deadline { takes: ms(100), cause: Why::Deadline }));
        assert_eq!(decision.stored, deadline, "an old answer is in time");
    }

    #[test]
    fn a_deadline_that_only_a_wait_makes_too_near_is_refused_because_of_that() {
        for (left_ms, cause) in [(100, Why::Pressure), (99, Why::Deadline)] {
            let refusal = check(50, Some(left_ms), Rung::Stale).otherwise;
            assert_eq!(refusal, Err(Refusal::Deadline { takes: ms(150), cause }), "{left_ms}");
        }
        let refusal = check(50, Some(399), Rung::Full).otherwise;
        assert_eq!(
            refusal,
            Err(Refusal::Deadline { takes: ms(450), cause: Why::Deadline }),
            "less would fit"
        );
    }

    #[test]
    fn the_stricter_of_wait_and_deadline_counts_and_says_why() {
        assert_eq!(step(check(1500, Some(1750), Rung::Stale)), (Rung::Greedy, Some(Why::Pressure)));
        assert_eq!(step(check(500, Some(600), Rung::Stale)), (Rung::Greedy, Some(Why::Deadline)));
    }

    #[test]
    fn nothing_falls_short_of_what_a_request_allows() {
        assert_eq!(step(check(9000, None, Rung::Full)), (Rung::Full, None), "a wait alone refuses nobody");
        assert_eq!(step(check(9000, None, Rung::Fewer)), (Rung::Fewer, Some(Why::Pressure)));
        let decision = check(0, Some(399), Rung::Full);
        assert_eq!(decision.otherwise, Err(Refusal::Deadline { takes: ms(400), cause: Why::Deadline }));
        assert_eq!(check(0, Some(99), Rung::Greedy).stored, None);
        assert_eq!(check(9000, None, Rung::Greedy).stored, None);
    }

    /// What a request meets that need not wait where the queue has room for the last so many of three offers.
    fn with_places(n_places: usize, lowest: Rung) -> Decision {
        let mut offers = offers(Duration::ZERO);
        offers.iter_mut().rev().skip(n_places).for_each(|offer| offer.has_place = false);
        let (wait, wait_max) = (Duration::ZERO, ms(10_000));
        decide(&WAITS, &Situation { offers: &offers, wait, wait_max, left: None, lowest })
    }

    #[test]
    fn a_queue_without_room_for_all_of_it_is_asked_for_less() {
        let pressure = Some(Why::Pressure);
        for (n_places, expected) in
            [(3, (Rung::Full, None)), (2, (Rung::Fewer, pressure)), (1, (Rung::Greedy, pressure))]
        {
            let decision = with_places(n_places, Rung::Stale);
            assert_eq!((step(decision), decision.stored, decision.is_full), (expected, None, false));
        }
    }

    #[test]
    fn a_full_queue_looks_for_an_old_answer_before_it_refuses() {
        let full = with_places(0, Rung::Stale);
        assert_eq!((full.stored, full.is_full), (Some(Why::Pressure), true));
        let strict = with_places(0, Rung::Greedy);
        assert_eq!((strict.stored, strict.is_full), (None, true));
        assert!(with_places(1, Rung::Fewer).is_full, "what it does not allow is of no use to it");
    }

    #[test]
    fn a_request_that_cannot_ask_for_less_is_never_said_to_fall_short() {
        let (wait, left) = (ms(3000), Some(ms(5000)));
        let offers = [Offer { rung: Rung::Full, wait, work: ms(100), has_place: true }];
        let situation = Situation { offers: &offers, wait, wait_max: ms(10_000), left, lowest: Rung::Stale };
        assert_eq!(step(decide(&WAITS, &situation)), (Rung::Full, None));
    }
}
