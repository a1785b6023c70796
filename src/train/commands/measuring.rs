//! Commands that measure models and what a platform has without them.
use super::{passed, say, write_json};
use crate::{
    model::device::DeviceChoice,
    signals::Stream,
    train::{
        arguments::measuring::{BaselineArgs, EvalArgs, HeldOutSplit, OnlyStream},
        baselines::table,
        error::TrainError,
        evaluate::{self, EvaluateSettings},
        events::Split,
    },
};
use candle_core::Device;
use std::io::Write;

pub(super) fn eval(args: &EvalArgs, device: DeviceChoice, output: &mut dyn Write) -> Result<(), TrainError> {
    let split = args.split.into();
    let settings = EvaluateSettings {
        split,
        n_users: args.users,
        n_lists: args.n.max(1),
        seed: args.seed,
        n_seeds: args.seeds,
        stream: args.stream.map(Into::into),
    };
    let inputs = evaluate::Inputs {
        world: &args.world,
        bundle: &args.bundle,
        embedder: args.embedder.as_deref(),
        precision: args.precision,
        device: &device.open()?,
        trec: args.trec.as_deref(),
    };
    let evaluation = evaluate::run(inputs, settings)?;
    write_json(args.json.as_deref(), &evaluation)?;
    if let Some(path) = &args.html {
        std::fs::write(path, evaluation.html()?).map_err(TrainError::disk(path, "write"))?;
    }
    say(output, &evaluation.markdown())
}

pub(super) fn baselines(
    args: &BaselineArgs,
    device: DeviceChoice,
    output: &mut dyn Write,
) -> Result<(), TrainError> {
    let settings = EvaluateSettings {
        split: args.split.into(),
        n_users: args.users,
        n_lists: args.n.max(1),
        seed: args.seed,
        n_seeds: args.seeds,
        stream: None,
    };
    let inputs = table::Inputs {
        world: &args.world,
        cleaner: args.cleaner.as_deref(),
        bundles: &args.bundles,
        device: &if args.bundles.is_empty() { Device::Cpu } else { device.open()? },
        only: &args.only,
        kept: args.kept.as_deref(),
    };
    let table = table::run(inputs, settings)?;
    write_json(args.json.as_deref(), &table)?;
    if let Some(path) = &args.html {
        std::fs::write(path, table.html()?).map_err(TrainError::disk(path, "write"))?;
    }
    say(output, &table.markdown())?;
    passed(&table.gates)
}

impl From<OnlyStream> for Stream {
    fn from(only: OnlyStream) -> Self {
        match only {
            OnlyStream::Search => Self::Search,
            OnlyStream::Page => Self::Page,
            OnlyStream::Click => Self::Click,
        }
    }
}

impl From<HeldOutSplit> for Split {
    fn from(split: HeldOutSplit) -> Self {
        match split {
            HeldOutSplit::Valid => Self::Valid,
            HeldOutSplit::Test => Self::Test,
        }
    }
}
