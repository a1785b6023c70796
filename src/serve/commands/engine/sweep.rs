//! Readers per second where one number of a measurement changes and the others stay.
use super::{CommandError, EngineArgs, Subject, answer, rate, requests};
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
        let (_, took) = answer(&args, &subject.0, &requests(&args, subject)?)?;
        Ok(rate(args.users, took))
    };
    let over =
        |x: &'static str, most: usize, with: &dyn Fn(usize) -> EngineArgs| -> Result<Sweep, CommandError> {
            let points = plot::below(most).map(|number| Ok((number, measured(with(number))?)));
            let points = points.chain([Ok((most, users_per_s))]).collect::<Result<_, CommandError>>()?;
            Ok(Sweep { x, points })
        };
    let sweeps = [
        over("candidates", args.n, &|n| EngineArgs { n, ..args.clone() })?,
        over("readers at a time", args.concurrency, &|concurrency| EngineArgs {
            concurrency,
            ..args.clone()
        })?,
        over("prompt tokens", args.prompt_tokens, &|prompt_tokens| EngineArgs {
            prompt_tokens,
            ..args.clone()
        })?,
    ];
    plot::write(&sweeps, path)
}
