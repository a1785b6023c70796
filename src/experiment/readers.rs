//! What the log says of the readers of one experiment: lines in any order, from any number of servers.
use super::{
    assign::By,
    record::{ArmRecord, CostRecord, EventKind, Exposure, Outcomes, Record},
};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Lines that are not counted, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Lines that are no records: the last of a file whose disk was lost may be half of one.
    pub unreadable_lines: usize,
    /// Answers whose arm was not drawn by the reader's key.
    pub answers_not_by_hash: usize,
    /// Answers of requests that set something themselves which the experiment would have set.
    pub answers_overridden: usize,
    /// Readers who were seen in two arms, as they are after a change of weights: what they did belongs to neither.
    pub readers_of_two_arms: usize,
    /// Answers whose cost is not told, or told in another currency than that of the latest: costs leave out their readers, nothing
    /// else does.
    pub answers_without_cost: usize,
    /// Reports that came again.
    pub reports_repeated: usize,
    /// Reports of answers that are not in the log.
    pub reports_of_unknown_answers: usize,
}

/// What one reader did in the experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reader {
    /// Her arm.
    pub arm: String,
    /// The weights by which she got it, when she first did.
    pub split: BTreeMap<String, u32>,
    /// Answers in the experiment.
    pub n_answers: u32,
    /// Those of them that fell short of what was asked, or were not of the arm's bundle.
    pub n_degraded: u32,
    /// Events of those answers, by kind.
    pub events: BTreeMap<EventKind, u32>,
    /// Seconds that she stayed, all together.
    pub dwell_s: f64,
    /// What her answers cost, in billionths of the currency's unit; none where the cost of one of them is not known.
    pub cost_nanos: Option<u64>,
    /// Answers before her first one in this experiment, under arms of others or of an earlier phase.
    pub n_answers_before: u32,
    /// Clicks of those.
    pub n_clicks_before: u32,
}

impl Reader {
    /// How often this happened to her answers.
    pub fn count(&self, what: EventKind) -> u32 {
        self.events.get(&what).copied().unwrap_or(0)
    }
}

/// One experiment's readers.
#[derive(Clone, Debug, PartialEq)]
pub struct Readers {
    /// The phase that was read.
    pub phase: String,
    /// The currency of costs, where any is told.
    pub currency: Option<String>,
    /// In the order of their digests.
    pub readers: Vec<Reader>,
    /// The same by their answers in full alone; whoever had none is not among them.
    ///
    /// Which answers fall short is decided after the arm is, and partly by it: these readers are not those whom the hash has drawn.
    pub in_full: Vec<Reader>,
    /// What is not among them.
    pub left_out: LeftOut,
}

/// Collects lines.
#[derive(Debug)]
pub struct Collector {
    experiment: String,
    answers: HashMap<String, Answer>,
    reports: HashMap<(String, String), Outcomes>,
    left_out: LeftOut,
}

#[derive(Debug)]
struct Answer {
    time_unix_ms: u64,
    reader: String,
    cost: Option<CostRecord>,
    is_degraded: bool,
    /// What this experiment has to do with it.
    arm: Option<ArmRecord>,
}

impl Collector {
    /// For one experiment, by its id.
    pub fn new(experiment: &str) -> Self {
        let (answers, reports) = (HashMap::new(), HashMap::new());
        Self { experiment: experiment.to_owned(), answers, reports, left_out: LeftOut::default() }
    }

    /// Takes a line.
    pub fn add(&mut self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Record::Exposure(exposure)) => {
                let Exposure { time_unix_ms, response_id, reader, cost, degraded, arms, .. } = exposure;
                let arm = arms.into_iter().find(|arm| arm.experiment == self.experiment);
                let is_absent = arm.as_ref().is_some_and(|arm| arm.absent_bundle.is_some());
                let is_degraded = degraded.is_some() || is_absent;
                self.answers.insert(response_id, Answer { time_unix_ms, reader, cost, is_degraded, arm });
            }
            Ok(Record::Outcomes(outcomes)) => {
                let key = (outcomes.response_id.clone(), outcomes.request_id.clone());
                if self.reports.insert(key, outcomes).is_some() {
                    self.left_out.reports_repeated += 1;
                }
            }
            Err(_) => self.left_out.unreadable_lines += 1,
        }
    }

    /// Joins everything, for one phase, by default that of the latest answer; nothing if the experiment has none.
    pub fn readers(mut self, phase: Option<&str>) -> Option<Readers> {
        let of_experiment = self.answers.values().filter(|answer| answer.arm.is_some());
        let latest = of_experiment.max_by_key(|answer| (answer.time_unix_ms, &answer.reader));
        let latest = latest.and_then(|answer| answer.arm.as_ref()).map(|arm| arm.phase.clone());
        let phase = phase.map(str::to_owned).or(latest)?;
        let counted = self.counted(&phase);
        let is_full = |response_id: &&String| !self.answers[*response_id].is_degraded;
        let full: HashSet<String> = counted.iter().filter(is_full).cloned().collect();
        let left_out = self.left_out;
        let (in_full, _) = self.join(&full);
        // What is left out of the experiment is that of all answers.
        self.left_out = left_out;
        let (readers, currency) = self.join(&counted);
        let left_out = self.left_out;
        (!readers.is_empty()).then_some(Readers { phase, currency, readers, in_full, left_out })
    }

    /// Readers by these answers, and the currency of what they cost.
    fn join(&mut self, counted: &HashSet<String>) -> (Vec<Reader>, Option<String>) {
        let (mut readers, begun) = self.begin(counted);
        let currency = self.add_costs(counted, &mut readers);
        for outcomes in self.reports.values() {
            let Some(answer) = self.answers.get(&outcomes.response_id) else {
                self.left_out.reports_of_unknown_answers += 1;
                continue;
            };
            let Some(reader) = readers.get_mut(&answer.reader) else { continue };
            if counted.contains(&outcomes.response_id) {
                for event in &outcomes.events {
                    *reader.events.entry(event.what).or_default() += 1;
                    reader.dwell_s += event.value.filter(|_| event.what == EventKind::Dwell).unwrap_or(0.0);
                }
            } else if answer.time_unix_ms < begun[&answer.reader] {
                let clicks = outcomes.events.iter().filter(|event| event.what == EventKind::Clicked);
                reader.n_clicks_before += u32::try_from(clicks.count()).unwrap_or(u32::MAX);
            }
        }
        let mut sorted: Vec<_> = readers.into_iter().collect();
        sorted.sort_by(|one, other| one.0.cmp(&other.0));
        (sorted.into_iter().map(|(_, reader)| reader).collect(), currency)
    }

    /// Ids of the answers that belong to the experiment's phase and can be compared.
    fn counted(&mut self, phase: &str) -> HashSet<String> {
        let mut counted = HashSet::new();
        for (response_id, answer) in &self.answers {
            let Some(arm) = answer.arm.as_ref().filter(|arm| arm.phase == phase) else { continue };
            if arm.by != By::Hash.word() {
                self.left_out.answers_not_by_hash += 1;
            } else if !arm.overridden.is_empty() {
                self.left_out.answers_overridden += 1;
            } else {
                counted.insert(response_id.clone());
            }
        }
        counted
    }

    /// Adds what answers cost; returns the currency, which is that of the latest answer that has one.
    fn add_costs(
        &mut self,
        counted: &HashSet<String>,
        readers: &mut HashMap<String, Reader>,
    ) -> Option<String> {
        let answers = || counted.iter().map(|response_id| (response_id, &self.answers[response_id]));
        let costs =
            answers().filter_map(|(id, answer)| Some((answer.time_unix_ms, id, answer.cost.as_ref()?)));
        let currency =
            costs.max_by_key(|&(time_unix_ms, id, _)| (time_unix_ms, id)).map(|(.., cost)| &cost.currency);
        let mut n_without = 0;
        for (_, answer) in answers() {
            let Some(reader) = readers.get_mut(&answer.reader) else { continue };
            let cost = answer.cost.as_ref().filter(|cost| Some(&cost.currency) == currency);
            n_without += usize::from(cost.is_none());
            reader.cost_nanos = reader.cost_nanos.zip(cost).map(|(sum, cost)| sum.saturating_add(cost.nanos));
        }
        let currency = currency.cloned();
        self.left_out.answers_without_cost = n_without;
        currency
    }

    /// Readers with their arms and answers, and when each had her first.
    fn begin(&mut self, counted: &HashSet<String>) -> (HashMap<String, Reader>, HashMap<String, u64>) {
        let mut answers: Vec<(&String, &Answer)> = self.answers.iter().collect();
        answers.sort_by_key(|(response_id, answer)| (answer.time_unix_ms, *response_id));
        let (mut readers, mut begun) = (HashMap::<String, Reader>::new(), HashMap::new());
        let mut of_two_arms = HashSet::new();
        for (response_id, answer) in &answers {
            let Some(arm) = answer.arm.as_ref().filter(|_| counted.contains(*response_id)) else { continue };
            begun.entry(answer.reader.clone()).or_insert(answer.time_unix_ms);
            let reader = readers.entry(answer.reader.clone()).or_insert_with(|| Reader {
                arm: arm.arm.clone(),
                split: arm.split.clone(),
                cost_nanos: Some(0),
                ..Reader::default()
            });
            reader.n_answers += 1;
            reader.n_degraded += u32::from(answer.is_degraded);
            if reader.arm != arm.arm {
                of_two_arms.insert(answer.reader.clone());
            }
        }
        for (_, answer) in answers {
            if let (Some(reader), Some(begun)) = (readers.get_mut(&answer.reader), begun.get(&answer.reader))
            {
                reader.n_answers_before += u32::from(answer.time_unix_ms < *begun);
            }
        }
        readers.retain(|reader, _| !of_two_arms.contains(reader));
        self.left_out.readers_of_two_arms = of_two_arms.len();
        (readers, begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::record::Event;

    fn exposure(time_unix_ms: u64, reader: &str, arm: &str) -> Exposure {
        let arm = ArmRecord {
            experiment: "x".to_owned(),
            phase: "2".to_owned(),
            arm: arm.to_owned(),
            by: "hash".to_owned(),
            hash_version: 2,
            split: BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 1)]),
            overridden: Vec::new(),
            absent_bundle: None,
        };
        Exposure {
            time_unix_ms,
            response_id: format!("{time_unix_ms}"),
            reader: reader.to_owned(),
            config: "c".to_owned(),
            bundle: "b".to_owned(),
            served: "miss".to_owned(),
            degraded: None,
            cost: Some(CostRecord {
                nanos: time_unix_ms * 10,
                currency: "EUR".to_owned(),
                price_version: String::new(),
            }),
            arms: vec![arm],
        }
    }

    fn changed(exposure: Exposure, change: impl FnOnce(&mut ArmRecord)) -> Exposure {
        let mut exposure = exposure;
        change(&mut exposure.arms[0]);
        exposure
    }

    fn click(response: u64, request_id: &str) -> Outcomes {
        let events = [(EventKind::Clicked, None), (EventKind::Dwell, Some(3.0))].map(|(what, value)| Event {
            what,
            query_rank: None,
            value,
            time_unix_ms: None,
        });
        Outcomes {
            time_unix_ms: 999,
            response_id: response.to_string(),
            request_id: request_id.to_owned(),
            events: events.to_vec(),
        }
    }

    fn read(exposures: Vec<Exposure>, reports: Vec<Outcomes>) -> Option<Readers> {
        let lines =
            reports.into_iter().map(Record::Outcomes).chain(exposures.into_iter().map(Record::Exposure));
        let mut collector = Collector::new("x");
        // Outcomes come first here: several servers' files are read one after the other.
        lines.for_each(|line| collector.add(&serde_json::to_string(&line).unwrap()));
        collector.readers(None)
    }

    #[test]
    fn answers_and_what_came_of_them_are_joined() {
        let read = read(
            vec![exposure(1, "one", "a"), exposure(2, "one", "a"), exposure(3, "two", "b")],
            vec![click(1, "r1"), click(2, "r1"), click(2, "r1"), click(77, "r1")],
        );
        let read = read.unwrap();
        assert_eq!((read.phase.as_str(), read.readers.len()), ("2", 2));
        let one = &read.readers[0];
        assert_eq!((one.n_answers, one.count(EventKind::Clicked), one.dwell_s), (2, 2, 6.0));
        assert_eq!(read.readers[1].count(EventKind::Clicked), 0);
        assert_eq!(read.left_out.reports_repeated, 1);
        assert_eq!(read.left_out.reports_of_unknown_answers, 1);
    }

    #[test]
    fn answers_that_fell_short_are_counted_and_apart_from_those_in_full() {
        let short = |exposure| Exposure { degraded: Some("greedy".to_owned()), ..exposure };
        let lines =
            vec![exposure(1, "one", "a"), short(exposure(2, "one", "a")), short(exposure(3, "two", "b"))];
        let read = read(lines, vec![click(1, "r"), click(2, "r"), click(3, "r"), click(77, "r")]).unwrap();
        let of = |readers: &[Reader]| -> Vec<_> {
            let of =
                |reader: &Reader| (reader.n_answers, reader.n_degraded, reader.count(EventKind::Clicked));
            readers.iter().map(of).collect()
        };
        assert_eq!(of(&read.readers), [(2, 1, 2), (1, 1, 1)]);
        assert_eq!(of(&read.in_full), [(1, 0, 1)]);
        assert_eq!(read.left_out.reports_of_unknown_answers, 1, "told once");
    }

    #[test]
    fn costs_are_summed_unless_one_is_not_known_or_of_another_currency() {
        let change = |time, reader: &str, cost: Option<&str>| {
            let known = exposure(time, reader, "a");
            let cost = cost
                .map(|currency| CostRecord { currency: currency.to_owned(), ..known.cost.clone().unwrap() });
            Exposure { cost, ..known }
        };
        let lines = vec![
            change(1, "one", Some("EUR")),
            change(2, "one", Some("EUR")),
            change(3, "two", Some("EUR")),
            change(4, "two", None),
            change(5, "three", Some("USD")),
            change(6, "four", Some("EUR")),
        ];
        let read = read(lines, Vec::new()).unwrap();
        assert_eq!(read.currency.as_deref(), Some("EUR"));
        let mut all: Vec<_> = read.readers.iter().map(|reader| reader.cost_nanos).collect();
        all.sort_unstable();
        assert_eq!(all, [None, None, Some(30), Some(60)]);
        assert_eq!(read.left_out.answers_without_cost, 2);
    }

    #[test]
    fn what_came_before_is_kept_apart() {
        let before = changed(exposure(1, "one", "b"), |arm| arm.phase = "1".to_owned());
        let elsewhere = changed(exposure(2, "one", "b"), |arm| arm.experiment = "y".to_owned());
        let read = read(vec![before, elsewhere, exposure(3, "one", "a")], vec![click(1, "r"), click(3, "r")]);
        let one = &read.unwrap().readers[0];
        assert_eq!((one.arm.as_str(), one.n_answers, one.count(EventKind::Clicked)), ("a", 1, 1));
        assert_eq!((one.n_answers_before, one.n_clicks_before), (2, 1));
    }

    /// Which arm's bundle goes away is no matter of the hash, so its readers stay; what they got in full is told apart.
    #[test]
    fn an_answer_of_another_bundle_than_the_arms_is_not_in_full() {
        let absent = changed(exposure(1, "one", "b"), |arm| arm.absent_bundle = Some("student-2".to_owned()));
        let read = read(vec![absent, exposure(2, "one", "b")], Vec::new()).unwrap();
        assert_eq!((read.readers[0].n_answers, read.readers[0].n_degraded), (2, 1));
        assert_eq!((read.in_full[0].n_answers, read.in_full[0].n_degraded), (1, 0));
    }

    #[test]
    fn what_cannot_be_compared_is_left_out_and_counted() {
        let forced = changed(exposure(1, "one", "b"), |arm| arm.by = "forced".to_owned());
        let overridden =
            changed(exposure(2, "two", "b"), |arm| arm.overridden = vec!["temperature".to_owned()]);
        let both = [exposure(3, "three", "a"), exposure(4, "three", "b")];
        let kept = exposure(5, "four", "a");
        let read = read([vec![forced, overridden, kept], both.to_vec()].concat(), Vec::new()).unwrap();
        assert_eq!(read.readers.len(), 1);
        let expected = LeftOut {
            answers_not_by_hash: 1,
            answers_overridden: 1,
            readers_of_two_arms: 1,
            ..LeftOut::default()
        };
        assert_eq!(read.left_out, expected);
    }

    #[test]
    fn lines_that_are_no_records_are_counted_and_without_readers_there_is_nothing() {
        let mut collector = Collector::new("x");
        ["", "{\"kind\": \"exposure.v1\"", "7"].into_iter().for_each(|line| collector.add(line));
        assert_eq!(collector.left_out.unreadable_lines, 3);
        assert!(collector.readers(None).is_none());
    }
}
