//! The life of every connection, on whatever port: how it is served, when it is told to go, and when it is cut.
use super::{
    connections::{self, Doorstep, Guarded},
    server::builder,
    streams::{CountStreams, Counted},
};
use axum::Router;
use rand::Rng;
use std::{convert::Infallible, pin::pin, time::Duration};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{service::Routes, transport::Server};
use tower::Layer;
use tracing::debug;

/// How far the age of a connection strays, each by a share of its own: clients that came together would otherwise all reconnect at the same
/// moment.
const AGE_JITTER: f64 = 0.1;

/// A port, and what answers there.
#[derive(Debug)]
pub struct Port {
    /// Where connections come from.
    pub listener: TcpListener,
    /// What they meet first.
    pub doorstep: Doorstep,
    /// What answers.
    pub routes: Router,
    /// Whether HTTP/1.1 is spoken beside HTTP/2.
    pub speaks_http1: bool,
}

impl Port {
    /// Serves until `draining` is cancelled and every client has gone. When the future is dropped no connection is left.
    pub async fn serve(self, draining: CancellationToken) {
        let cut = CancellationToken::new();
        // Whatever way this function is left, no connection outlives it.
        let _cut = cut.clone().drop_guard();
        let settings = self.doorstep.settings;
        let service = CountStreams.layer(Routes::from(self.routes).prepare());
        let lives = TaskTracker::new();
        // The listener closes with this block: who comes while the others finish is turned away at once.
        {
            let mut incoming = pin!(connections::accept(self.listener, self.doorstep, cut));
            while let Some(Some(connection)) = draining.run_until_cancelled(incoming.next()).await {
                let age = drawn(settings.age_max, &mut rand::rng());
                let life = Life { age, grace: settings.age_grace, draining: draining.clone() };
                let server = builder().accept_http1(self.speaks_http1);
                lives.spawn(life.live(connection, server, service.clone()));
            }
        }
        lives.close();
        lives.wait().await;
    }
}

/// The age of one connection, a share above or below what the settings say.
fn drawn(age_max: Duration, random: &mut impl Rng) -> Duration {
    age_max.mul_f64(1.0 + random.random_range(-AGE_JITTER..=AGE_JITTER))
}

struct Life {
    age: Duration,
    grace: Duration,
    draining: CancellationToken,
}

impl Life {
    /// Serves one connection by a server of its own: the library has one age for all connections of a server, and with its own grace it sends
    /// no GOAWAY and cuts calls.
    async fn live(self, connection: Guarded, server: Server, service: Counted<Routes>) {
        let cut = connection.cut();
        let told = async {
            tokio::select! {
                () = self.draining.cancelled() => {}
                () = cut.cancelled() => {}
                () = tokio::time::sleep(self.age) => {}
            }
        };
        // Nothing comes after it, but no end either: at that the library would tell it to go.
        let one = tokio_stream::once(Ok::<_, Infallible>(connection)).chain(tokio_stream::pending());
        let serving = server.serve_with_incoming_shutdown(service, one, told);
        match tokio::time::timeout(self.age + self.grace, serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "connection failed"),
            Err(_) => {
                debug!("connection cut that stayed after it was told to go");
                cut.cancel();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    #[test]
    fn each_connection_has_an_age_of_its_own_about_what_the_settings_say() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let ages: BTreeSet<_> = (0..64).map(|_| drawn(Duration::from_secs(60), &mut random)).collect();
        assert_eq!(ages.len(), 64);
        let (youngest, oldest) = (ages.first().unwrap().as_secs(), ages.last().unwrap().as_secs());
        assert!((54..58).contains(&youngest) && (62..=66).contains(&oldest), "{youngest} {oldest}");
    }
}
