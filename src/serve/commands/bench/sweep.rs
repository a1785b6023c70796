//! Readers that a running server answers per second, where one number of what they ask for changes and the others stay.
use super::{Client, CommandError, LoadArgs, load::Readers};
use crate::serve::{
    commands::{
        engine::rate,
        plot::{self, Sweep},
    },
    rpc::client::Ask,
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// What one point is measured with.
#[derive(Clone, Copy)]
struct Point {
    readers: Readers,
    n_at_once: usize,
}

/// Measures each point for as long as the load took, and draws them. `next`: the first request that nobody has asked.
pub(super) async fn draw(
    args: &LoadArgs,
    clients: &[Client],
    next: u64,
    path: &Path,
) -> Result<(), CommandError> {
    let most = Point { readers: args.readers(), n_at_once: args.at_once };
    let time = Duration::from_secs_f64(args.duration_s);
    let next = Arc::new(AtomicU64::new(next));
    let of_most = measured(clients, most, time, &next).await?;
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let with_n = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut sweeps = Vec::new();
    type With<'a> = &'a dyn Fn(usize) -> Point;
    let over: [(&str, usize, With<'_>); 3] = [
        ("candidates", number(args.n.into()), &|n| Point {
            readers: Readers { n_candidates: with_n(n), ..most.readers },
            ..most
        }),
        ("requests at a time", most.n_at_once, &|n_at_once| Point { n_at_once, ..most }),
        ("signals of a prompt", number(args.signals), &|n_signals| Point {
            readers: Readers { n_signals: n_signals as u64, ..most.readers },
            ..most
        }),
    ];
    for (x, largest, with) in over {
        let mut points = Vec::new();
        for at in plot::below(largest) {
            points.push((at, measured(clients, with(at), time, &next).await?));
        }
        points.push((largest, of_most));
        sweeps.push(Sweep { x, points });
    }
    plot::write(&sweeps, path)
}

/// Closed loop: each caller sends its next request when the one before is answered, past the cache. Refusals do not count.
async fn measured(
    clients: &[Client],
    point: Point,
    time: Duration,
    next: &Arc<AtomicU64>,
) -> Result<f64, CommandError> {
    let (started, mut callers) = (Instant::now(), JoinSet::new());
    for client in clients.iter().cycle().take(point.n_at_once) {
        let (client, next) = (client.clone(), Arc::clone(next));
        callers.spawn(async move {
            let (mut n_answered, mut refused) = (0, None);
            while started.elapsed() < time {
                let ask = point.readers.ask(next.fetch_add(1, Ordering::Relaxed));
                match client.ask(Ask { bypass_cache: true, ..ask }).await {
                    Ok(_) => n_answered += 1,
                    Err(error) => refused = Some(error),
                }
            }
            (n_answered, refused)
        });
    }
    let (mut n_answered, mut refused) = (0, None);
    while let Some(caller) = callers.join_next().await {
        let (n, why) = caller.map_err(|_| CommandError::Panicked)?;
        n_answered += n;
        refused = refused.or(why);
    }
    match refused {
        // Nothing was measured.
        Some(error) if n_answered == 0 => Err(error.into()),
        _ => Ok(rate(n_answered, started.elapsed())),
    }
}
