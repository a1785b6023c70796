//! Metrics of costs. Counters hold whole numbers, so they count billionths of the currency's unit.
use super::Metrics;
use crate::serve::cost::{
    Account, Price, Saving, Spending,
    clock::{Begun, DeviceClock},
};
use metrics::{Label, Recorder};
use std::time::{Duration, Instant};

/// What was spent and saved, by what.
#[derive(Debug)]
pub(super) struct Books {
    price: Price,
    clock: DeviceClock,
    spent: [Account; Spending::ALL.len()],
    saved: [Account; Saving::ALL.len()],
}

impl Books {
    pub(super) fn new() -> Self {
        let (spent, saved) = Default::default();
        Self { price: Price::none(), clock: DeviceClock::from(Instant::now()), spent, saved }
    }
}

impl Metrics {
    /// The same registry with a price, at which time is counted from now on.
    #[must_use]
    pub fn priced(mut self, price: Price) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a price has fewer than 52 bits that matter")]
        let per_hour = price.nanos_per_hour as f64 / 1e9;
        let labels = vec![Label::new("currency", price.currency.clone())];
        let key = super::key("newshound_device_hour_price", labels);
        self.recorder.register_gauge(&key, &super::METADATA).set(per_hour);
        self.books.price = price;
        self
    }

    pub(super) fn show_costs_from_the_start(&self) {
        Spending::ALL.into_iter().for_each(|on| _ = self.spent(on, Duration::ZERO));
        Saving::ALL.into_iter().for_each(|by| self.saved(by, Duration::ZERO));
    }

    /// The price of the device.
    pub fn price(&self) -> &Price {
        &self.books.price
    }

    /// Counts time of the device by what it was spent on; returns what it cost, in billionths of the currency's unit.
    pub fn spent(&self, on: Spending, time: Duration) -> u64 {
        let nanos = self.books.spent[on as usize].add(time, &self.books.price);
        self.counter("newshound_cost_nanos_total", &[("kind", on.word())]).increment(nanos);
        nanos
    }

    /// Counts the device's time up to `now` as idle, unless somebody computes.
    pub fn idle_until(&self, now: Instant) {
        self.spent(Spending::Idle, self.books.clock.idle(now));
    }

    /// The same, and lets a model thread begin to compute.
    pub fn compute_from(&self, now: Instant) -> Begun {
        let (begun, idle) = self.books.clock.begin(now);
        self.spent(Spending::Idle, idle);
        begun
    }

    /// Lets a model thread end what it began; returns the time that is to be written on bills.
    pub fn computed(&self, begun: Begun, now: Instant) -> Duration {
        self.books.clock.end(begun, now)
    }

    /// Counts time that the device did not need, by why not.
    pub fn saved(&self, by: Saving, time: Duration) {
        let nanos = self.books.saved[by as usize].add(time, &self.books.price);
        self.counter("newshound_cost_saved_nanos_total", &[("by", by.word())]).increment(nanos);
    }
}
