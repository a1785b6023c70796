//! `[degradation]`: how answers fall short where there is no time or room for all that is asked.
use super::{CACHE_TTL_MS_MAX, from_zero, milliseconds};
use crate::{experiment::policy::Rung, serve::ladder::Waits, settings::Reader};
use std::{path::PathBuf, time::Duration};

/// Longest wait that may be set: the longest that a queue may have.
const WAIT_MS_MAX: u64 = 600_000;

/// `[degradation]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DegradationSettings {
    /// `lowest_rung`: how far answers may fall short unless a request or an arm says otherwise: full (not at all), fewer (half the
    /// candidates), greedy (one list), stale (a stored answer that is too old), cohort (the list of the reader's locale). Default stale: a reader has more of a list that could be
    /// better than of a refusal, every answer says how far it falls short, and who cannot use such an answer forbids it. Those of bulk
    /// requests do not, unless a request or an arm says so: nobody waits for them.
    pub lowest_rung: Rung,
    /// `fewer_wait_ms`, `greedy_wait_ms` and `stale_wait_ms`: the waits for the model that are expected from which on the rungs are used, each no shorter
    /// than the one before. Defaults 500: half of the second within which readers should have their answer; 1,500: the second is
    /// lost, and what still helps is that the queue gets shorter; 4,000: most readers have gone when it ends.
    pub waits: Waits,
    /// `answer_ttl_ms`: how long an answer that falls short is used, at most. Default 10,000: the longest that anybody waits, in which a
    /// crowd has gone or is one that stays.
    pub answer_ttl: Duration,
    /// `spare_ms`: how long a stored answer that is too old is kept for when there is no other, within cache.bytes_max. Default 3,600,000: what
    /// interested a reader an hour ago still does.
    pub spare: Duration,
    /// `cohort_file`: lists by locale for everybody whom nothing else can be had for; see the documentation of `serve::cohorts`. Default empty:
    /// none. Needed where `lowest_rung` is cohort.
    pub cohort_file: Option<PathBuf>,
}

impl DegradationSettings {
    pub(super) fn demo() -> Self {
        Self {
            lowest_rung: Rung::Stale,
            waits: Waits {
                fewer: Duration::from_millis(500),
                greedy: Duration::from_millis(1500),
                stale: Duration::from_secs(4),
            },
            answer_ttl: Duration::from_secs(10),
            spare: Duration::from_secs(3600),
            cohort_file: None,
        }
    }
}

pub(super) fn read(reader: &mut Reader, default: DegradationSettings) -> DegradationSettings {
    let expected = format!("one of {}", Rung::words());
    let lowest_rung = reader.text("degradation.lowest_rung", &expected, Rung::of_word, default.lowest_rung);
    let waits = Waits {
        fewer: milliseconds(reader, "degradation.fewer_wait_ms", WAIT_MS_MAX, default.waits.fewer),
        greedy: milliseconds(reader, "degradation.greedy_wait_ms", WAIT_MS_MAX, default.waits.greedy),
        stale: milliseconds(reader, "degradation.stale_wait_ms", WAIT_MS_MAX, default.waits.stale),
    };
    reader.require(
        waits.fewer <= waits.greedy && waits.greedy <= waits.stale,
        "degradation.fewer_wait_ms, greedy_wait_ms and stale_wait_ms should not fall in this order",
    );
    let cohort_file = super::access::path(reader, "degradation.cohort_file");
    reader.require(
        lowest_rung < Rung::Cohort || cohort_file.is_some(),
        "degradation.cohort_file is needed where degradation.lowest_rung is cohort",
    );
    let (ttl, spare) = (default.answer_ttl, default.spare);
    DegradationSettings {
        lowest_rung,
        waits,
        answer_ttl: milliseconds(reader, "degradation.answer_ttl_ms", CACHE_TTL_MS_MAX, ttl),
        spare: from_zero(reader, "degradation.spare_ms", CACHE_TTL_MS_MAX, spare),
        cohort_file,
    }
}
