//! Whether we accept work: for load balancers, for people, and for ourselves.
use crate::serve::metrics::Metrics;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::timeout};
use tonic_health::{ServingStatus, server::HealthReporter};

/// The one place that knows whether new work is accepted and how much is under way.
#[derive(Debug)]
pub struct Health {
    reporter: HealthReporter,
    services: Vec<&'static str>,
    accepting: AtomicBool,
    in_flight: watch::Sender<usize>,
    metrics: Arc<Metrics>,
}

impl Health {
    /// Not ready yet. `services`: names reported beside the overall one.
    pub async fn new(
        reporter: HealthReporter,
        services: Vec<&'static str>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (in_flight, _) = watch::channel(0);
        let health = Self { reporter, services, accepting: AtomicBool::new(false), in_flight, metrics };
        health.report(ServingStatus::NotServing).await;
        Arc::new(health)
    }

    /// Accepts work from now on.
    pub async fn ready(&self) {
        self.accepting.store(true, Ordering::Release);
        self.metrics.readiness(true, false);
        self.report(ServingStatus::Serving).await;
    }

    /// Refuses new work from now on.
    pub async fn draining(&self) {
        self.accepting.store(false, Ordering::Release);
        self.metrics.readiness(false, true);
        self.report(ServingStatus::NotServing).await;
    }

    /// Whether new work is accepted.
    pub fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire)
    }

    /// Counts a request until the returned guard is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.send_modify(|n| *n += 1);
        InFlight { health: Arc::clone(self) }
    }

    /// Resolves when for so long no request was under way, nor came or ended.
    pub async fn idle_for(&self, time: Duration) {
        let mut in_flight = self.in_flight.subscribe();
        loop {
            // The sender lives in self, so waiting cannot fail.
            let _ = in_flight.wait_for(|n| *n == 0).await;
            if timeout(time, in_flight.changed()).await.is_err() {
                return;
            }
        }
    }

    async fn report(&self, status: ServingStatus) {
        for service in std::iter::once("").chain(self.services.iter().copied()) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// A request under way.
#[derive(Debug)]
pub struct InFlight {
    health: Arc<Health>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.health.in_flight.send_modify(|n| *n -= 1);
    }
}
