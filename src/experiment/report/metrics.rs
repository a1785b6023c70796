//! What an experiment is compared by.
/// What is measured, and how large it usually is. The always-valid p-value is made for the expected lift of that: a test that
/// follows what the log shows at each look promises nothing. Where values are others it loses power, never validity.
#[derive(Clone, Copy)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) usual: f64,
}

pub(super) const CLICKERS: Metric = Metric { name: "readers who clicked", usual: 0.2 };
pub(super) const CLICKS_PER_ANSWER: Metric = Metric { name: "clicks per answer", usual: 0.1 };
pub(super) const CLICKS: Metric = Metric { name: "clicks per reader", usual: 1.0 };
pub(super) const DISMISSALS: Metric = Metric { name: "dismissals per reader", usual: 0.1 };
/// Some four answers of a tenth of a second each, at the server's own price of one a device-hour.
pub(super) const COST: Metric = Metric { name: "cost per reader, billionths", usual: 100_000.0 };
pub(super) const DWELL: Metric = Metric { name: "dwell per reader, s", usual: 60.0 };
