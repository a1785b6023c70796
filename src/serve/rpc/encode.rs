//! Answers in our words to messages on the wire.
use super::proto::{self, generate_queries_event::Event};
use crate::{
    cleaner::Verdict,
    decode::batch::Finish,
    experiment::{
        assign::{Assignment, By, Decision},
        flags::Experiment,
        policy::{Draw, EarlyStopping, Policy, Rerank, Rung},
    },
    queries::Query,
    serve::{
        answer::{Answered, Degradation, Origin},
        candidate::{Answer, Candidate, Seen},
        cost::{Price, Saving},
        experiments::enrolment::Enrolment,
        ladder::Why,
        models::facts::ModelFacts,
        rerank::{self, Method},
    },
};
use prost_types::Duration as ProtoDuration;
use std::time::Duration;

/// A model on the wire.
pub fn model(facts: &ModelFacts) -> proto::ModelRef {
    proto::ModelRef {
        name: facts.manifest.name.clone(),
        version: facts.manifest.version.clone(),
        bundle_id: facts.bundle.0.clone(),
        prompt_version: facts.manifest.prompt_version,
        has_reward_head: facts.has_reward_head,
        has_cleaner: facts.has_cleaner,
        foresees: facts.foresees,
        generation: facts.generation,
    }
}

/// A response without what only the request and the server know: ids, candidates, arms, cost, how far it falls short.
pub fn response(answer: &Answer, origin: Origin, total: Duration) -> proto::GenerateQueriesResponse {
    let best = answer.best();
    proto::GenerateQueriesResponse {
        response_id: String::new(),
        best: Some(match &answer.stitched {
            Some(stitched) => proto::QueryList {
                queries: queries(stitched.list.as_slice(), stitched.scores.as_deref(), answer.n_queries_max),
                stitched: true,
                ..list(best, answer.n_queries_max)
            },
            None => list(best, answer.n_queries_max),
        }),
        candidates: Vec::new(),
        model: Some(model(&answer.model)),
        usage: Some(usage(answer)),
        timing: Some(timing(answer, total)),
        cache: Some(cache(origin)),
        rerank: match answer.method {
            Method::RewardHead => proto::RerankMethod::RewardHead,
            Method::Consensus => proto::RerankMethod::Consensus,
            Method::LogProb => proto::RerankMethod::Logprob,
            Method::None => proto::RerankMethod::None,
            Method::Stitch => proto::RerankMethod::Stitch,
        }
        .into(),
        correlation_id: String::new(),
        signal_verdicts: Vec::new(),
        arms: Vec::new(),
        cost: None,
        degradation: None,
    }
}

/// What a request pays of what its answer cost, where there is a price.
pub fn cost(answered: &Answered, price: &Price) -> Option<proto::Cost> {
    let pays = answered.paid_nanos == answered.answer.cost.nanos && answered.origin != Origin::Cohort;
    let basis = match answered.origin.saving() {
        _ if pays => proto::CostBasis::DeviceTime,
        Saving::Cache => proto::CostBasis::Cached,
        Saving::Coalesce | Saving::Prefix | Saving::Pruning => proto::CostBasis::Coalesced,
    };
    price.is_told().then(|| proto::Cost {
        amount_nanos: answered.paid_nanos,
        currency_code: price.currency.clone(),
        basis: basis.into(),
        price_version: price.version.clone(),
    })
}

/// How far an answer falls short.
pub fn degradation(degradation: Degradation) -> proto::Degradation {
    let reason = match degradation.why {
        Why::Pressure => proto::DegradationReason::Pressure,
        Why::Deadline => proto::DegradationReason::Deadline,
        Why::NoSignals => proto::DegradationReason::NoSignals,
    };
    proto::Degradation { rung: rung(degradation.rung).into(), reason: reason.into() }
}

/// A rung.
pub fn rung(rung: Rung) -> proto::Rung {
    match rung {
        Rung::Full => proto::Rung::Full,
        Rung::Fewer => proto::Rung::Fewer,
        Rung::Greedy => proto::Rung::Greedy,
        Rung::Stale => proto::Rung::Stale,
        Rung::Cohort => proto::Rung::Cohort,
    }
}

/// Verdicts on the wire.
pub fn verdicts(verdicts: &[Verdict]) -> Vec<i32> {
    let word = |verdict: &Verdict| match verdict {
        Verdict::Keep => proto::SignalVerdict::Keep,
        Verdict::Malformed => proto::SignalVerdict::Malformed,
        Verdict::Navigational => proto::SignalVerdict::Navigational,
        Verdict::Automated => proto::SignalVerdict::Automated,
        Verdict::Personal => proto::SignalVerdict::Personal,
    };
    verdicts.iter().map(|verdict| word(verdict).into()).collect()
}

/// The arms of a request.
pub fn arms(enrolment: &Enrolment) -> Vec<proto::ArmAssignment> {
    let arm = |assignment: &Assignment| {
        let overridden = assignment.experiment.overridden(&enrolment.explicit);
        proto::ArmAssignment {
            overridden: overridden.map(|field| field.word().to_owned()).collect(),
            absent_bundle: enrolment.absent_bundle(assignment.arm()),
            ..assigned(assignment)
        }
    };
    enrolment.assignments.iter().map(arm).collect()
}

/// What became of a reader in every experiment.
pub fn decisions(decisions: &[Decision]) -> Vec<proto::ArmAssignment> {
    let decision = |decision: &Decision| match decision {
        Decision::Assigned(assignment) => assigned(assignment),
        Decision::Disabled(experiment) => of_experiment(experiment, proto::AssignedBy::NoneDisabled),
        Decision::NotTargeted(experiment) => of_experiment(experiment, proto::AssignedBy::NoneNotTargeted),
    };
    decisions.iter().map(decision).collect()
}

fn assigned(assignment: &Assignment) -> proto::ArmAssignment {
    let by = match assignment.by {
        By::Hash => proto::AssignedBy::Hash,
        By::Rule => proto::AssignedBy::Rule,
        By::Default => proto::AssignedBy::Default,
        By::Forced => proto::AssignedBy::Forced,
    };
    let arm_id = Some(assignment.arm().id.clone());
    proto::ArmAssignment { arm_id, ..of_experiment(&assignment.experiment, by) }
}

fn of_experiment(experiment: &Experiment, by: proto::AssignedBy) -> proto::ArmAssignment {
    proto::ArmAssignment {
        experiment_id: experiment.id.clone(),
        arm_id: None,
        assigned_by: by.into(),
        phase: experiment.spread.phase.clone(),
        hash_version: experiment.spread.version.number(),
        overridden: Vec::new(),
        absent_bundle: None,
    }
}

/// What arms set.
pub fn policy(policy: &Policy) -> proto::ArmPolicy {
    let rerank = match policy.rerank {
        None => proto::RerankMethod::Unspecified,
        Some(Rerank::RewardHead) => proto::RerankMethod::RewardHead,
        Some(Rerank::Consensus) => proto::RerankMethod::Consensus,
        Some(Rerank::LogProb) => proto::RerankMethod::Logprob,
        Some(Rerank::None) => proto::RerankMethod::None,
        Some(Rerank::Stitch) => proto::RerankMethod::Stitch,
    };
    proto::ArmPolicy {
        bundle: policy.bundle.as_deref().map(str::to_owned),
        candidate_count: policy.candidate_count.map(count),
        query_count: policy.query_count.map(count),
        temperature: policy.temperature,
        top_p: policy.top_p,
        rerank: rerank.into(),
        cache_ttl_ms: policy.cache_ttl.map(milliseconds),
        cache_stale_ms: policy.cache_stale.map(milliseconds),
        early_stopping: match policy.early_stopping {
            None => proto::EarlyStopping::Unspecified,
            Some(EarlyStopping::Off) => proto::EarlyStopping::Off,
            Some(EarlyStopping::Safe) => proto::EarlyStopping::Safe,
            Some(EarlyStopping::Aggressive) => proto::EarlyStopping::Aggressive,
        }
        .into(),
        draw: match policy.draw {
            None => proto::Draw::Unspecified,
            Some(Draw::All) => proto::Draw::All,
            Some(Draw::AsNeeded) => proto::Draw::AsNeeded,
        }
        .into(),
        lowest_rung: policy.lowest_rung.map_or(proto::Rung::Unspecified, rung).into(),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Every candidate, whole, by number.
pub fn candidates(answer: &Answer) -> Vec<proto::QueryList> {
    let mut candidates: Vec<_> = answer.candidates.iter().collect();
    candidates.sort_by_key(|candidate| candidate.row_idx);
    candidates.into_iter().map(|candidate| list(candidate, usize::MAX)).collect()
}

/// A candidate of which at most `n_queries_max` queries are shown.
pub fn list(candidate: &Candidate, n_queries_max: usize) -> proto::QueryList {
    let scores = candidate.scores.as_ref();
    let of_queries = scores.and_then(|scores| scores.queries.as_deref());
    let list = candidate.list.as_ref();
    proto::QueryList {
        index: count(candidate.row_idx),
        queries: list.map_or_else(|_| Vec::new(), |list| queries(list.as_slice(), of_queries, n_queries_max)),
        list_score: scores.map(|scores| scores.list),
        mean_logprob: candidate.mean_logprob,
        finish_reason: match candidate.finish {
            Finish::Stop => proto::FinishReason::Stop,
            Finish::Length => proto::FinishReason::Length,
            Finish::Pruned => proto::FinishReason::Pruned,
        }
        .into(),
        valid: candidate.list.is_ok(),
        output_tokens: count(candidate.n_tokens),
        consensus: candidate.consensus,
        stitched: false,
    }
}

/// What is seen of an answer before it is there.
pub fn seen(seen: &Seen) -> Event {
    match seen {
        Seen::Ended(candidate) => Event::Candidate(proto::Candidate {
            list: Some(list(candidate, usize::MAX)),
            best_so_far: candidate.best_so_far,
        }),
        Seen::Growing(growing) => Event::Growing(proto::GrowingCandidate {
            index: count(growing.row_idx),
            queries: queries(&growing.queries, growing.scores.as_deref(), usize::MAX),
            foreseen_score: growing.foreseen,
            output_tokens: count(growing.n_tokens),
        }),
    }
}

/// At most so many queries of a list.
fn queries(queries: &[Query], scores: Option<&[f32]>, n_queries_max: usize) -> Vec<proto::Query> {
    let ranks = rerank::ranks(queries.len(), scores);
    let query = |idx: usize| proto::Query {
        text: queries[idx].as_str().to_owned(),
        score: scores.map(|scores| scores[idx]),
        rank: count(ranks[idx]),
    };
    rerank::keep(queries.len(), scores, n_queries_max).into_iter().map(query).collect()
}

fn usage(answer: &Answer) -> proto::Usage {
    let n_candidates = count(answer.candidates.len());
    let candidates = || answer.candidates.iter();
    let n_pruned = candidates().filter(|candidate| candidate.finish == Finish::Pruned).count();
    let n_invalid = candidates().filter(|candidate| candidate.list.is_err()).count();
    proto::Usage {
        prompt_tokens: count(answer.prompt_tokens),
        prefill_tokens_computed: count(answer.prefill_tokens_computed),
        output_tokens: count(answer.n_output_tokens()),
        candidates_started: n_candidates,
        candidates_completed: n_candidates,
        candidates_invalid: count(n_invalid - n_pruned),
        candidates_pruned: count(n_pruned),
        truncated_signals: count(answer.n_truncated_signals),
        cleaned_signals: count(answer.n_cleaned_signals),
        device_time: duration(answer.cost.device_time),
    }
}

fn timing(answer: &Answer, total: Duration) -> proto::Timing {
    let phases = &answer.phases;
    proto::Timing {
        queue: duration(phases.queue),
        clean: duration(phases.clean),
        tokenize: duration(phases.tokenize),
        prefill: duration(phases.prefill),
        decode: duration(phases.decode),
        rerank: duration(phases.rerank),
        total: duration(total),
        time_to_first_candidate: duration(phases.time_to_first_candidate),
    }
}

fn cache(origin: Origin) -> proto::CacheInfo {
    let (status, age) = match origin {
        Origin::Hit(age) => (proto::CacheStatus::Hit, duration(age)),
        Origin::Stale(age) => (proto::CacheStatus::Stale, duration(age)),
        Origin::Miss | Origin::Cohort => (proto::CacheStatus::Miss, None),
        Origin::Coalesced => (proto::CacheStatus::Coalesced, None),
        Origin::Bypass => (proto::CacheStatus::Bypass, None),
    };
    proto::CacheInfo { status: status.into(), age }
}

/// A duration; absent only if it is longer than the wire can say.
pub fn duration(duration: Duration) -> Option<ProtoDuration> {
    ProtoDuration::try_from(duration).ok()
}

/// A count; one that the wire cannot say becomes the largest that it can.
pub fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
