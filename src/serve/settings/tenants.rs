//! `[tenants]`: what tenants may take of the model.
use crate::settings::Reader;
use std::{collections::BTreeMap, time::Duration};

/// Most tokens a minute that may be set: more than a rack of GPUs writes.
const TOKENS_PER_MINUTE_MAX: u64 = 10_000_000_000;
/// Longest time for which a tenant may save up.
const BURST_S_MAX: u64 = 3600;

/// `[tenants]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantSettings {
    /// `tokens_per_minute`: tokens that the generations of one tenant may take, their prompts and every candidate, as far as the model
    /// computes them. Requests without a tenant are those of one. Default 0, no limit: what a tenant has paid for is the operator's to say.
    pub tokens_per_minute: u64,
    /// `burst_s`: for how long a tenant that asks for nothing saves up. Default 60: what it may take in a minute it may take at once.
    pub burst: Duration,
    /// `limits`: tenants with another limit, as `{ daily = 1000000, trial = 20000 }`; 0: none. Default: no tenant has another.
    pub limits: BTreeMap<String, u64>,
}

impl TenantSettings {
    pub(super) fn demo() -> Self {
        Self { tokens_per_minute: 0, burst: Duration::from_secs(60), limits: BTreeMap::new() }
    }
}

pub(super) fn read(reader: &mut Reader, default: TenantSettings) -> TenantSettings {
    let range = 0..=TOKENS_PER_MINUTE_MAX;
    let burst_s = reader.whole("tenants.burst_s", 1..=BURST_S_MAX, default.burst.as_secs());
    TenantSettings {
        tokens_per_minute: reader.whole(
            "tenants.tokens_per_minute",
            range.clone(),
            default.tokens_per_minute,
        ),
        burst: Duration::from_secs(burst_s),
        limits: reader.wholes("tenants.limits", range),
    }
}

#[cfg(test)]
mod tests {
    use crate::{serve::settings::ServeSettings, settings::Override};

    #[test]
    fn tenants_have_limits_by_name_from_file_and_environment() {
        let read = |text: &str| ServeSettings::read(&format!("[tenants]\n{text}"), "a", &[]);
        let limits = read("limits = { daily = 1000, trial = 0 }").unwrap().tenants.limits;
        assert_eq!(
            limits.into_iter().collect::<Vec<_>>(),
            [("daily".to_owned(), 1000), ("trial".to_owned(), 0)]
        );
        assert!(ServeSettings::read("[tenants.limits]\ndaily = 1000", "a", &[]).is_ok());
        let (key, value) = ("tenants.limits".to_owned(), "{ daily = 7 }".to_owned());
        let by_environment = [Override { key, value, origin: "NH".to_owned() }];
        assert_eq!(ServeSettings::read("", "a", &by_environment).unwrap().tenants.limits["daily"], 7);
        for wrong in ["limits = { daily = -1 }", "limits = 7", "burst_s = 0", "tokens_per_minute = -1"] {
            assert_eq!(read(wrong).unwrap_err().mistakes.len(), 1, "{wrong}");
        }
    }
}
