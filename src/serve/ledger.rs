//! Who was answered under which arms, and what came of it: written to the log, and remembered for a while.
use crate::{
    experiment::record::{CostRecord, Exposure, Outcomes, Record},
    serve::{
        answer::Answered,
        experiments::{
            enrolment::Enrolment,
            log::{RecordLog, now_unix_ms},
        },
        metrics::Metrics,
    },
    signals::UserKey,
};
use moka::future::Cache;
use std::sync::Arc;
use thiserror::Error;

/// Responses whose arms are remembered, and reports that are known when they come again; the proto promises these numbers. Both
/// together take some fifty megabytes at most.
const REMEMBERED_MAX: u64 = 100_000;

/// Why a report is not taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LedgerError {
    /// Send it to nobody: this server keeps no log.
    #[error("this server keeps no log of outcomes")]
    Off,
    /// Come back later.
    #[error("more records wait for the disk than may")]
    Full,
}

/// A report that was taken.
#[derive(Clone, Debug)]
pub struct Reported {
    /// The arms of the response, if they are remembered.
    pub enrolment: Option<Arc<Enrolment>>,
    /// Whether it was known, and not written again.
    pub is_duplicate: bool,
}

/// The ledger of one server.
#[derive(Debug)]
pub struct Ledger {
    log: Option<Arc<RecordLog>>,
    /// Arms by response id.
    arms: Cache<String, Arc<Enrolment>>,
    /// Response id and request id of reports.
    reports: Cache<(String, String), ()>,
    metrics: Arc<Metrics>,
}

impl Ledger {
    /// An empty ledger; without a log it writes and remembers nothing.
    pub fn new(log: Option<Arc<RecordLog>>, metrics: Arc<Metrics>) -> Self {
        Self { log, arms: Cache::new(REMEMBERED_MAX), reports: Cache::new(REMEMBERED_MAX), metrics }
    }

    /// Notes that a reader was answered; a reader without arms is nobody's business.
    pub async fn expose(
        &self,
        (tenant, user): (Option<&str>, &UserKey),
        response_id: &str,
        enrolment: &Arc<Enrolment>,
        answered: &Answered,
    ) {
        let Some(log) = self.log.as_ref().filter(|_| !enrolment.assignments.is_empty()) else { return };
        let ((served, _), price) = (answered.origin.status(), self.metrics.price());
        log.offer(&Record::Exposure(Exposure {
            time_unix_ms: now_unix_ms(),
            response_id: response_id.to_owned(),
            reader: log.reader(tenant, user),
            config: enrolment.config.clone(),
            bundle: answered.answer.model.bundle.0.clone(),
            served: served.to_owned(),
            degraded: answered.degradation.map(|degradation| degradation.rung.word().to_owned()),
            cost: price.is_told().then(|| CostRecord {
                nanos: answered.paid_nanos,
                currency: price.currency.clone(),
                price_version: price.version.clone(),
            }),
            arms: enrolment.records(),
        }));
        self.arms.insert(response_id.to_owned(), Arc::clone(enrolment)).await;
    }

    /// Takes a report, once.
    ///
    /// # Errors
    /// If there is no log, or no place in its queue; then the same report may come again.
    pub async fn report(&self, outcomes: Outcomes) -> Result<Reported, LedgerError> {
        let reported = self.take(outcomes).await;
        let result = match &reported {
            Ok(Reported { is_duplicate: true, .. }) => "duplicate",
            Ok(_) => "recorded",
            Err(_) => "refused",
        };
        self.metrics.feedback_report(result, 1);
        reported
    }

    async fn take(&self, outcomes: Outcomes) -> Result<Reported, LedgerError> {
        let log = self.log.as_ref().ok_or(LedgerError::Off)?;
        let enrolment = self.arms.get(&outcomes.response_id).await;
        let key = (outcomes.response_id.clone(), outcomes.request_id.clone());
        let events: Vec<_> = outcomes.events.iter().map(|event| event.what).collect();
        // Of two that come at the same time one is queued, and the other waits for it: nobody hears that a report is known that
        // found no place after all.
        let queued = async { log.offer(&Record::Outcomes(outcomes)).then_some(()) };
        let entry = self.reports.entry_by_ref(&key).or_optionally_insert_with(queued).await;
        if !entry.ok_or(LedgerError::Full)?.is_fresh() {
            return Ok(Reported { enrolment, is_duplicate: true });
        }
        for assignment in enrolment.iter().flat_map(|enrolment| &enrolment.assignments) {
            let arm = (assignment.experiment.id.as_str(), assignment.arm().id.as_str());
            events.iter().for_each(|event| self.metrics.arm_event(arm, event.word()));
        }
        Ok(Reported { enrolment, is_duplicate: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::settings::{LogSettings, Salt};

    fn report(request_id: &str) -> Outcomes {
        let (response_id, request_id) = ("0-1".to_owned(), request_id.to_owned());
        Outcomes { time_unix_ms: 1, response_id, request_id, events: Vec::new() }
    }

    #[tokio::test]
    async fn a_report_that_found_no_place_may_come_again() {
        let settings = LogSettings {
            dir: std::path::PathBuf::new(),
            queue_max: 1,
            file_bytes_max: 1,
            files_max: 1,
            reader_salt: Salt("a salt of sixteen or more".to_owned()),
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let (log, inbox) = RecordLog::queue(&settings, Arc::clone(&metrics));
        let ledger = Ledger::new(Some(Arc::new(log)), Arc::clone(&metrics));
        assert!(!ledger.report(report("r1")).await.unwrap().is_duplicate);
        assert_eq!(ledger.report(report("r2")).await.unwrap_err(), LedgerError::Full);
        assert!(ledger.report(report("r1")).await.unwrap().is_duplicate, "it needs no place");
        inbox.recv().unwrap();
        assert!(!ledger.report(report("r2")).await.unwrap().is_duplicate);
        let text = metrics.render();
        for (result, expected) in [("recorded", 2), ("duplicate", 1), ("refused", 1)] {
            let series = format!("newshound_feedback_reports_total{{result=\"{result}\"}} {expected}");
            assert!(text.contains(&series), "{series} is not in\n{text}");
        }
    }
}
