//! Stored answers as bytes.
//!
//! Before the content stand four letters and the version of what follows; a server reads its own version only. The content is JSON, wrapped
//! by `seal`. It names the reader, the question and the bundle that it answers, by their digests, and all of them are compared when
//! it is read. Lists pass the parser and the rules of personal data again, so that whatever stands in the store, what comes out is an answer as it could have been
//! generated here.
use super::seal::Seal;
use crate::{
    bundle::manifest::BundleId,
    decode::batch::Finish,
    queries::QueryList,
    serve::{
        candidate::{self, Answer, Candidate, Invalid, Phases, Scores, StitchedList},
        cost::{Cost, Owed},
        models::facts::ModelFacts,
        owner::Owner,
        rerank::Method,
    },
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// What every record begins with.
const LETTERS: [u8; 4] = *b"nhsc";
/// Version of a record. Another one is another question: releases that differ in it run beside each other, and share nothing.
pub const SCHEMA: u8 = 1;
/// Largest record that is stored or read: several times that of the most candidates with the longest lists.
pub const RECORD_BYTES_MAX: usize = 256 << 10;

/// Whose answer to what a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The reader.
    pub owner: Owner,
    /// The digest of everything that the answer depends on.
    pub question: [u8; 32],
    /// The bundle that writes it.
    pub bundle: BundleId,
}

impl Place {
    /// What a record is bound to.
    fn bytes(&self) -> Vec<u8> {
        [&LETTERS[..], &[SCHEMA], &self.owner.0, &self.question, self.bundle.0.as_bytes()].concat()
    }
}

/// Writes an answer; none where it is too large, or a number of it is no number.
pub fn encode(answer: &Answer, place: &Place, seal: &Seal) -> Option<Vec<u8>> {
    let record = Record {
        reader: place.owner.0,
        question: place.question,
        bundle: place.bundle.0.clone(),
        answer: AnswerRecord::of(answer)?,
    };
    let content = serde_json::to_vec(&record).ok()?;
    let closed = seal.close(place.owner, &place.bytes(), content);
    let bytes = [&LETTERS[..], &[SCHEMA], &closed].concat();
    (bytes.len() <= RECORD_BYTES_MAX).then_some(bytes)
}

/// Reads an answer, which is then one of `model`: the bundle is the same. None where the bytes are no record of this version, were stored
/// for another place, or hold what no server generates.
pub fn decode(bytes: &[u8], place: &Place, seal: &Seal, model: &Arc<ModelFacts>) -> Option<Answer> {
    let closed = bytes.strip_prefix(&LETTERS)?.strip_prefix(&[SCHEMA])?;
    let content = seal.opened(place.owner, &place.bytes(), closed)?;
    let Record { reader, question, bundle, answer } = serde_json::from_slice(&content).ok()?;
    let read = Place { owner: Owner(reader), question, bundle: BundleId(bundle) };
    (read == *place).then_some(answer)?.answer(model)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    reader: [u8; 16],
    question: [u8; 32],
    bundle: String,
    answer: AnswerRecord,
}

/// Times are nanoseconds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerRecord {
    candidates: Vec<CandidateRecord>,
    best_idx: usize,
    stitched: Option<(String, Option<Vec<f32>>)>,
    n_queries_max: usize,
    method: MethodRecord,
    prompt_tokens: usize,
    prefill_tokens_computed: usize,
    n_truncated_signals: usize,
    n_cleaned_signals: usize,
    device_time: u64,
    cost_nanos: u64,
    /// In the order of the fields of `Phases`.
    phases: [u64; 7],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CandidateRecord {
    row_idx: usize,
    /// As the model wrote it; absent where it is no list.
    list: Option<String>,
    scores: Option<(f32, Option<Vec<f32>>)>,
    consensus: Option<f32>,
    mean_logprob: f32,
    finish: FinishRecord,
    n_tokens: usize,
    best_so_far: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MethodRecord {
    RewardHead,
    Consensus,
    LogProb,
    None,
    Stitch,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FinishRecord {
    Stop,
    Length,
    Pruned,
}

impl AnswerRecord {
    fn of(answer: &Answer) -> Option<Self> {
        let phases = &answer.phases;
        Some(Self {
            candidates: answer
                .candidates
                .iter()
                .map(|one| CandidateRecord::of(one))
                .collect::<Option<_>>()?,
            best_idx: answer.best_idx,
            stitched: match &answer.stitched {
                Some(stitched) => Some((stitched.list.to_text(), all_finite(stitched.scores.as_deref())?)),
                None => None,
            },
            n_queries_max: answer.n_queries_max,
            method: match answer.method {
                Method::RewardHead => MethodRecord::RewardHead,
                Method::Consensus => MethodRecord::Consensus,
                Method::LogProb => MethodRecord::LogProb,
                Method::None => MethodRecord::None,
                Method::Stitch => MethodRecord::Stitch,
            },
            prompt_tokens: answer.prompt_tokens,
            prefill_tokens_computed: answer.prefill_tokens_computed,
            n_truncated_signals: answer.n_truncated_signals,
            n_cleaned_signals: answer.n_cleaned_signals,
            device_time: nanoseconds(answer.cost.device_time),
            cost_nanos: answer.cost.nanos,
            phases: [
                phases.clean,
                phases.tokenize,
                phases.queue,
                phases.prefill,
                phases.decode,
                phases.rerank,
                phases.time_to_first_candidate,
            ]
            .map(nanoseconds),
        })
    }

    fn answer(self, model: &Arc<ModelFacts>) -> Option<Answer> {
        let candidates = self.candidates.into_iter().map(|one| one.candidate().map(Arc::new));
        let candidates = candidates.collect::<Option<Vec<_>>>()?;
        let [clean, tokenize, queue, prefill, decode, rerank, time_to_first_candidate] =
            self.phases.map(Duration::from_nanos);
        let cost = Cost { device_time: Duration::from_nanos(self.device_time), nanos: self.cost_nanos };
        let answer = Answer {
            fell_short: false,
            model: Arc::clone(model),
            best_idx: self.best_idx,
            stitched: match self.stitched {
                Some((text, scores)) => {
                    let list = candidate::list(&text).ok()?;
                    Some(StitchedList { scores: scores_of(&list, scores)?, list })
                }
                None => None,
            },
            n_queries_max: self.n_queries_max,
            method: match self.method {
                MethodRecord::RewardHead => Method::RewardHead,
                MethodRecord::Consensus => Method::Consensus,
                MethodRecord::LogProb => Method::LogProb,
                MethodRecord::None => Method::None,
                MethodRecord::Stitch => Method::Stitch,
            },
            prompt_tokens: self.prompt_tokens,
            prefill_tokens_computed: self.prefill_tokens_computed,
            n_truncated_signals: self.n_truncated_signals,
            n_cleaned_signals: self.n_cleaned_signals,
            cost,
            // Whoever was answered where it was generated has paid for it.
            owed: Owed::paid(),
            phases: Phases { clean, tokenize, queue, prefill, decode, rerank, time_to_first_candidate },
            candidates,
        };
        let best = answer.candidates.get(answer.best_idx);
        best.is_some_and(|best| best.list.is_ok()).then_some(answer)
    }
}

impl CandidateRecord {
    fn of(candidate: &Candidate) -> Option<Self> {
        let finite = |number: f32| number.is_finite().then_some(number);
        Some(Self {
            row_idx: candidate.row_idx,
            list: candidate.list.as_ref().ok().map(QueryList::to_text),
            scores: match &candidate.scores {
                Some(scores) => Some((finite(scores.list)?, all_finite(scores.queries.as_deref())?)),
                None => None,
            },
            consensus: match candidate.consensus {
                Some(consensus) => Some(finite(consensus)?),
                None => None,
            },
            mean_logprob: finite(candidate.mean_logprob)?,
            finish: match candidate.finish {
                Finish::Stop => FinishRecord::Stop,
                Finish::Length => FinishRecord::Length,
                Finish::Pruned => FinishRecord::Pruned,
            },
            n_tokens: candidate.n_tokens,
            best_so_far: candidate.best_so_far,
        })
    }

    fn candidate(self) -> Option<Candidate> {
        let list = self.list.map(|text| candidate::list(&text)).transpose().ok()?;
        let scores = match (self.scores, &list) {
            (Some((of_list, queries)), Some(list)) => {
                Some(Scores { list: of_list, queries: scores_of(list, queries)? })
            }
            (Some(_), None) => return None,
            (None, _) => None,
        };
        Some(Candidate {
            row_idx: self.row_idx,
            list: list.ok_or(Invalid::Elsewhere),
            scores,
            consensus: self.consensus,
            // They choose queries while an answer is made, and are told to nobody.
            query_consensus: Vec::new(),
            mean_logprob: self.mean_logprob,
            finish: match self.finish {
                FinishRecord::Stop => Finish::Stop,
                FinishRecord::Length => Finish::Length,
                FinishRecord::Pruned => Finish::Pruned,
            },
            n_tokens: self.n_tokens,
            best_so_far: self.best_so_far,
        })
    }
}

/// The same numbers; none where one is no number, which JSON cannot write.
fn all_finite(numbers: Option<&[f32]>) -> Option<Option<Vec<f32>>> {
    match numbers {
        Some(numbers) if numbers.iter().all(|number| number.is_finite()) => Some(Some(numbers.to_vec())),
        Some(_) => None,
        None => Some(None),
    }
}

/// Scores of queries, of which a list has as many as queries; none where it has not.
fn scores_of(list: &QueryList, scores: Option<Vec<f32>>) -> Option<Option<Vec<f32>>> {
    scores.as_ref().is_none_or(|scores| scores.len() == list.as_slice().len()).then_some(scores)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bundle::manifest::Manifest, serve::models::facts::Origin, text::parse};
    use serde_json::{Value as Json, json};

    const LIST: &str = "solar storm tonight\ntrain strike talks\ncity council vote";

    fn model() -> Arc<ModelFacts> {
        let manifest = Manifest {
            format_version: 1,
            name: "test".to_owned(),
            version: "1".to_owned(),
            prompt_version: 1,
            prompt_tokens_max: 64,
            files: Default::default(),
            commands: Vec::new(),
            seeds: Default::default(),
            training: Default::default(),
        };
        Arc::new(ModelFacts {
            generation: 3,
            resident: String::new(),
            bundle: BundleId("0123456789abcdef".to_owned()),
            manifest,
            origin: Origin::BuiltIn,
            load_time: None,
            has_reward_head: true,
            foresees: false,
            has_cleaner: false,
        })
    }

    fn place() -> Place {
        Place { owner: Owner([1; 16]), question: [2; 32], bundle: model().bundle.clone() }
    }

    fn candidate(row_idx: usize, list: Result<QueryList, Invalid>) -> Arc<Candidate> {
        let scores = list.is_ok().then(|| Scores { list: 0.1, queries: Some(vec![0.3, 1.1, -0.2]) });
        Arc::new(Candidate {
            row_idx,
            consensus: list.is_ok().then_some(0.7),
            query_consensus: Vec::new(),
            mean_logprob: -1.2345678,
            finish: if list.is_ok() { Finish::Stop } else { Finish::Length },
            n_tokens: 17,
            best_so_far: list.is_ok(),
            list,
            scores,
        })
    }

    fn answer() -> Answer {
        let list = || parse::parse(LIST).unwrap();
        let cost = Cost { device_time: Duration::from_micros(1234), nanos: 99 };
        Answer {
            fell_short: false,
            model: model(),
            candidates: vec![candidate(1, Err(Invalid::Elsewhere)), candidate(0, Ok(list()))],
            best_idx: 1,
            stitched: Some(StitchedList { list: list(), scores: None }),
            n_queries_max: 8,
            method: Method::Stitch,
            prompt_tokens: 40,
            prefill_tokens_computed: 30,
            n_truncated_signals: 2,
            n_cleaned_signals: 1,
            cost,
            owed: Owed::paid(),
            phases: Phases { decode: Duration::from_nanos(5), ..Phases::default() },
        }
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        for seal in [Seal::plain(), Seal::with(&[7; 32])] {
            let bytes = encode(&answer(), &place(), &seal).unwrap();
            let read = decode(&bytes, &place(), &seal, &model()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{:?}", answer()));
        }
    }

    #[test]
    fn nobody_elses_answer_is_read_and_none_of_another_version() {
        let seal = Seal::plain();
        let bytes = encode(&answer(), &place(), &seal).unwrap();
        for other in [
            Place { owner: Owner([9; 16]), ..place() },
            Place { question: [9; 32], ..place() },
            Place { bundle: BundleId("another".to_owned()), ..place() },
        ] {
            assert!(decode(&bytes, &other, &seal, &model()).is_none(), "{other:?}");
        }
        let mut newer = bytes.clone();
        newer[LETTERS.len()] = SCHEMA + 1;
        assert!(decode(&newer, &place(), &seal, &model()).is_none());
        assert!(decode(&bytes[..bytes.len() - 1], &place(), &seal, &model()).is_none());
        assert!(decode(b"", &place(), &seal, &model()).is_none());
    }

    /// The record of the answer, changed by somebody who knows how it is wrapped.
    fn forged(change: impl Fn(&mut Json)) -> Option<Answer> {
        let seal = Seal::plain();
        let bytes = encode(&answer(), &place(), &seal).unwrap();
        let head = [&LETTERS[..], &[SCHEMA]].concat();
        let content = seal.opened(place().owner, &place().bytes(), &bytes[head.len()..]).unwrap();
        let mut record = serde_json::from_slice(&content).unwrap();
        change(&mut record);
        let closed = seal.close(place().owner, &place().bytes(), serde_json::to_vec(&record).unwrap());
        decode(&[head, closed].concat(), &place(), &seal, &model())
    }

    #[test]
    fn what_no_server_generates_is_no_answer_whoever_wrote_it() {
        assert!(forged(|_| ()).is_some());
        let changes: [(&str, Json); 14] = [
            ("/reader/0", json!(7)),
            ("/question/31", json!(7)),
            ("/bundle", json!("another")),
            ("/answer/best_idx", json!(0)),
            ("/answer/best_idx", json!(2)),
            ("/answer/candidates/1/list", json!("solar storm tonight\nhttp://a.b/c d\ncity council vote")),
            ("/answer/candidates/1/list", json!("too few\nof them")),
            ("/answer/candidates/1/list", json!("solar storm tonight\njane@example.org\ncity council vote")),
            ("/answer/stitched/0", json!("solar storm tonight\ncall +49 170 1234567\ncity council vote")),
            ("/answer/candidates/1/scores/1", json!([0.5])),
            ("/answer/candidates/0/scores", json!([0.5, null])),
            ("/answer/stitched/0", json!("one")),
            ("/answer/stitched/1", json!([0.5, 0.5, 0.5, 0.5])),
            ("/answer/method", json!("another")),
        ];
        for (path, value) in changes {
            let changed = forged(|record| *record.pointer_mut(path).unwrap() = value.clone());
            assert!(changed.is_none(), "{path} = {value}");
        }
        assert!(forged(|record| record["more"] = json!(1)).is_none());
    }

    #[test]
    fn what_is_too_large_or_no_number_is_not_stored() {
        let seal = Seal::plain();
        let more =
            |n| Answer { candidates: vec![candidate(0, Ok(parse::parse(LIST).unwrap())); n], ..answer() };
        assert!(encode(&more(100), &place(), &seal).is_some());
        assert!(encode(&more(10_000), &place(), &seal).is_none());
        let mut wrong = Candidate::clone(&more(1).candidates[0]);
        wrong.mean_logprob = f32::NAN;
        assert!(encode(&Answer { candidates: vec![Arc::new(wrong)], ..answer() }, &place(), &seal).is_none());
    }
}
