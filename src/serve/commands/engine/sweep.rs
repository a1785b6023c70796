//! Readers per second where one number of a measurement changes and the others stay.
use super::{CommandError, EngineArgs, Subject, answer, as_a_server_does, rate, requests};
use crate::serve::commands::plot::{self, Sweep};
use std::path::Path;

/// Measures around what was measured, `users_per_s` of it, and draws it.
pub(super) fn draw(
    args: &EngineArgs,
    subject: &Subject,
    users_per_s: f64,
    path: &Path,
) -> Result<(), CommandError> {
    let measured = |args: EngineArgs| -> Result<f64, CommandError> {
        let requests = requests(&args, subject)?;
        let (load, took) = as_a_server_does(|| answer(&args, subject, &requests))??;
        Ok(rate(load.latencies.len(), took))
    };
    let over =
        |x: &'static str, most: usize, with: &dyn Fn(usize) -> EngineArgs| -> Result<Sweep, CommandError> {
            let points = plot::below(most).map(|number| Ok((number, measured(with(number))?)));
            let points = points.chain([Ok((most, users_per_s))]).collect::<Result<_, CommandError>>()?;
            Ok(Sweep { x, points })
        };
    let sweeps = [
        over("candidates", args.n, &|n| fewer(args, n))?,
        over("readers at a time", args.concurrency, &|concurrency| EngineArgs {
            concurrency,
            ..args.clone()
        })?,
        over("prompt tokens", args.prompt_tokens, &|prompt_tokens| shorter(args, prompt_tokens))?,
    ];
    plot::write(&sweeps, path)
}

/// The same with fewer candidates, of which the same share is stopped.
pub(super) fn fewer(args: &EngineArgs, n: usize) -> EngineArgs {
    EngineArgs { n, stopped_lists: args.stopped_lists * n / args.n, ..args.clone() }
}

/// The same with shorter prompts, of which the same share is known: what is known whole costs nothing, and would look fast.
pub(super) fn shorter(args: &EngineArgs, prompt_tokens: usize) -> EngineArgs {
    let shared_prefix = args.shared_prefix * prompt_tokens / args.prompt_tokens;
    EngineArgs { prompt_tokens, shared_prefix, ..args.clone() }
}
