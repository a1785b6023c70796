//! The trainer's commands: arguments in, one call of a stage.
mod measuring;

use super::{
    arguments::{
        BundleArgs, BundleInputs as Inputs, Command, ImportArgs, ImportCommand, WorldCommand, WorldSize,
        encoders::{CleanerArgs, IndexCommand, VectorMethod},
        stages::{
            HeadArgs, PipelineArgs, ProfileName, PromptsArgs, RubricArgs, ServeRewardArgs, SftArgs,
            StudentArgs, TeacherArgs,
        },
    },
    baselines::{bars::STUDENT, roles::NamedBundle},
    cleaner::{self, Labels},
    demo, embedder,
    encoder_fit::EncoderSettings,
    error::TrainError,
    evaluate::{self, EvaluateSettings},
    events::{Scope, Split, World},
    gates::{
        self, GateSettings,
        gate::{Gate, n_failed},
    },
    generate, head,
    import::{self, ImportSettings, log::ImportSummary},
    journal::progress_bar,
    model_folder::ModelFolder,
    pack_bundle::{self, Parts, Provenance},
    pipeline::{self, Profile},
    pretrain, quantize, report,
    rewards::composite::Composite,
    rubric, score, search, serve_reward,
    settings::{
        HeadSettings, PretrainSettings, RubricSettings, SftSettings, StudentSettings, TeacherSettings,
        layered,
    },
    sft,
    signals::End,
    student::{self, Pair},
    teacher::{self, Asks, Start},
    tokenizer,
};
use crate::{
    bundle::archive,
    cleaner::Cleaner,
    model::{device::DeviceChoice, precision::Precision},
    news::nearest::Method,
    text::vocabulary::Controls,
    world::{self, Size, WorldSettings},
};
use serde::Serialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{Write, stdin},
    path::{Path, PathBuf},
    sync::Arc,
};
use toml::Value;

/// Runs one command; what it has to say goes to `output`. Language models compute on the device chosen; commands without one do not
/// open it. A service tells `end` when it begins.
/// # Errors
/// What the command's stage says, or that there is no such device.
pub fn run(
    command: Command,
    device: DeviceChoice,
    output: &mut dyn Write,
    end: &Arc<End>,
) -> Result<(), TrainError> {
    match command {
        Command::World(what) => run_world(what, output),
        Command::Import(what) => say(output, &run_import(what)?),
        Command::Tokenizer(args) => {
            tokenizer::run(&World::read(&args.world, Scope::Training)?, args.vocab_size, &args.out)
        }
        Command::Pretrain(args) => {
            let settings =
                layered(&PretrainSettings::demo(), args.fit.settings.as_deref(), &args.fit.flags())?;
            let world = World::read(&args.world, Scope::Training)?;
            let folder = pretrain::run(&world, &args.tokenizer, &settings, &args.out, &device.open()?)?;
            say(output, &folder.display())
        }
        Command::Sft(args) => say(output, &run_sft(&args, device)?.display()),
        Command::Teacher(args) => say(output, &run_teacher(&args, device)?.display()),
        Command::Prompts(args) => run_prompts(&args, output),
        Command::ServeReward(args) => run_serve_reward(&args, output, Arc::clone(end)),
        Command::Student(args) => say(output, &run_student(&args, device)?.display()),
        Command::Head(args) => run_head(&args, device, output),
        Command::Rubric(args) => run_rubric(&args, output),
        Command::Cleaner(args) => run_cleaner(args, output),
        Command::Embedder(args) => {
            let encoder = &args.encoder;
            let settings =
                layered(&EncoderSettings::embedder(), encoder.settings.as_deref(), &encoder.flags())?;
            say(output, &embedder::run(&args.world, &settings, &encoder.out)?)
        }
        Command::Index(what) => run_index(what, output),
        Command::Quantize { model, prompts, out } => {
            quantize::run(&model, prompts.as_deref(), &out)?;
            say(output, &out.display())
        }
        Command::Bundle(args) => run_bundle(args, output),
        Command::Pipeline(args) => run_pipeline(&args, device, output),
        Command::DemoBundle { out, work, world, figures } => {
            demo::run((&work, world.as_deref()), &texts(&figures)?, &out, &device.open()?)?;
            say(output, &out.display())
        }
        Command::Eval(args) => measuring::eval(&args, device, output),
        Command::Baselines(args) => measuring::baselines(&args, device, output),
        Command::Measure(args) => say(output, &evaluate::trec::measure(&args.qrels, &args.run)?),
        Command::Report(args) => report::run(&args.runs, &args.out),
        Command::Score(args) => {
            let folder = ModelFolder::open_any(&args.model, &device.open()?)?;
            score::run(&folder, args.temperature, &mut stdin().lock(), output)
        }
        Command::Generate(args) => {
            let settings = args.settings()?;
            let folder = ModelFolder::open_any(&args.model, &device.open()?)?;
            generate::run(folder, settings, &mut stdin().lock(), output)
        }
    }
}

fn run_world(what: WorldCommand, output: &mut dyn Write) -> Result<(), TrainError> {
    match what {
        WorldCommand::Generate { size, readers, seed, out } => {
            let size = match size {
                WorldSize::Tiny => Size::Tiny,
                WorldSize::Small => Size::Small,
                WorldSize::Full => Size::Full,
            };
            let settings = WorldSettings { size, n_readers: readers, seed };
            let bar = progress_bar("world", 0);
            let mut progress = |done, of| {
                bar.set_length(of);
                bar.set_position(done);
            };
            let summary = world::generate(&settings, &out, &mut progress)?;
            bar.finish();
            let json = serde_json::to_string(&summary).map_err(|error| TrainError::file(&out, error))?;
            say(output, &json)
        }
        WorldCommand::Check { world, users, climbers, split, seed } => {
            let settings = GateSettings { split: split.into(), n_users: users, n_climbers: climbers, seed };
            let report = gates::check(&world, settings)?;
            say(output, &report)?;
            passed(&report.gates)
        }
    }
}

fn run_import(what: ImportCommand) -> Result<ImportSummary, TrainError> {
    let settings =
        |args: ImportArgs| ImportSettings { out: args.out, strict: args.strict, cutoff_unix_s: args.cutoff };
    match what {
        ImportCommand::Mind { folders, args } => import::mind::import(&folders, &settings(args)),
        ImportCommand::Events { files, catalogue, args } => {
            import::events::import(&files, &catalogue, &settings(args))
        }
    }
}

fn run_cleaner(args: CleanerArgs, output: &mut dyn Write) -> Result<(), TrainError> {
    let encoder = &args.encoder;
    let settings = layered(&EncoderSettings::cleaner(), encoder.settings.as_deref(), &encoder.flags())?;
    let labels = args.labels.map_or(Labels::World, Labels::File);
    let report = cleaner::run(&args.world, &labels, &settings, &encoder.out)?;
    say(output, &report)?;
    passed(&report.gates)
}

fn run_index(what: IndexCommand, output: &mut dyn Write) -> Result<(), TrainError> {
    match what {
        IndexCommand::Build { catalogue, embedder, method, out } => {
            let method = match method {
                VectorMethod::Exact => Method::Exact,
                VectorMethod::Hnsw => Method::Hnsw,
            };
            let summary = search::build(&catalogue, &embedder, method, &out)?;
            let json = serde_json::to_string(&summary).map_err(|error| TrainError::file(&out, error))?;
            say(output, &json)
        }
        IndexCommand::Search { index, embedder, queries, as_of, k } => {
            for hit in search::search(&index, &embedder, &queries, (as_of, k))? {
                let json = serde_json::to_string(&hit).map_err(|error| TrainError::file(&index, error))?;
                say(output, &json)?;
            }
            Ok(())
        }
    }
}

/// A world for training, its signals judged where there is a cleaner.
fn cleaned(world: &Path, cleaner: Option<&Path>, scope: Scope) -> Result<World, TrainError> {
    let mut world = World::read(world, scope)?;
    if let Some(folder) = cleaner {
        world.clean(&Cleaner::open(folder)?, &[Split::Train, Split::Valid])?;
    }
    Ok(world)
}

fn run_sft(args: &SftArgs, device: DeviceChoice) -> Result<PathBuf, TrainError> {
    let settings = layered(&SftSettings::demo(), args.fit.settings.as_deref(), &args.fit.flags())?;
    let world = cleaned(&args.world, args.cleaner.as_deref(), Scope::Training)?;
    let (tokens, json) = tokenizer::read(&args.tokenizer)?;
    sft::run(&world, (&tokens, &json), (&args.init, &device.open()?), &settings, &args.out)
}

fn run_teacher(args: &TeacherArgs, device: DeviceChoice) -> Result<PathBuf, TrainError> {
    let settings = layered(&TeacherSettings::demo(), args.fit.settings.as_deref(), &args.fit.flags())?;
    let world = cleaned(&args.world, args.cleaner.as_deref(), Scope::Validation)?;
    let start = Start { init: &args.init, rollouts: args.rollouts.as_deref() };
    teacher::run(&world, start, &settings, &args.out, &device.open()?)
}

fn run_prompts(args: &PromptsArgs, output: &mut dyn Write) -> Result<(), TrainError> {
    let settings = layered(&TeacherSettings::demo(), args.settings.as_deref(), &[])?;
    let world = cleaned(&args.world, args.cleaner.as_deref(), Scope::Validation)?;
    let Asks { prompts, askers, tokens } = teacher::prompts(&world, &args.init, &settings)?;
    for (prompt_ids, asker) in prompts.iter().zip(&askers) {
        let text = tokens.vocabulary().decode(prompt_ids, Controls::Keep);
        let line = json!({ "prompt_ids": prompt_ids, "prompt": text, "label": asker.label() });
        say(output, &line)?;
    }
    Ok(())
}

fn run_serve_reward(args: &ServeRewardArgs, output: &mut dyn Write, end: Arc<End>) -> Result<(), TrainError> {
    let prompts = &args.prompts;
    let settings = layered(&TeacherSettings::demo(), prompts.settings.as_deref(), &[])?;
    let world = cleaned(&prompts.world, prompts.cleaner.as_deref(), Scope::Validation)?;
    let Asks { askers, .. } = teacher::prompts(&world, &prompts.init, &settings)?;
    let judge = teacher::judge(&world)?;
    let composite = Composite::of(&world, &judge, &settings.rewards)?;
    let mut said = Ok(());
    serve_reward::run(&composite, &askers, args.addr, end.of_service(), |addr| {
        said = say(output, &format_args!("rewards at http://{addr}/get_reward"));
    })?;
    said
}

fn run_student(args: &StudentArgs, device: DeviceChoice) -> Result<PathBuf, TrainError> {
    let settings = layered(&StudentSettings::demo(), args.fit.settings.as_deref(), &args.fit.flags())?;
    let world = cleaned(&args.world, args.cleaner.as_deref(), Scope::Validation)?;
    let pair = Pair { student: &args.init, teacher: args.teacher()? };
    student::run(&world, pair, &settings, &args.out, &device.open()?)
}

fn run_head(args: &HeadArgs, device: DeviceChoice, output: &mut dyn Write) -> Result<(), TrainError> {
    let seed = args.seed.map(|seed| Value::Integer(i64::from(seed)));
    let settings = layered(&HeadSettings::demo(), args.settings.as_deref(), &[("seed", seed)])?;
    let world = cleaned(&args.world, args.cleaner.as_deref(), Scope::Training)?;
    let report = head::run(&world, &args.model, &settings, &args.out, &device.open()?)?;
    let json = serde_json::to_string(&report).map_err(|error| TrainError::file(&args.out, error))?;
    say(output, &json)
}

fn run_rubric(args: &RubricArgs, output: &mut dyn Write) -> Result<(), TrainError> {
    let seed = args.seed.map(|seed| Value::Integer(i64::from(seed)));
    let settings = layered(&RubricSettings::demo(), args.settings.as_deref(), &[("seed", seed)])?;
    let world = cleaned(&args.world, args.cleaner.as_deref(), Scope::Training)?;
    let report = rubric::run(&world, &args.tokenizer, &settings, &args.out)?;
    let json = serde_json::to_string(&report).map_err(|error| TrainError::file(&args.out, error))?;
    say(output, &json)
}

/// Validation readers that the pipeline's bundle is measured on.
const PIPELINE_READERS: usize = 1_000;
/// Lists per reader of that table: as many as the server samples.
const PIPELINE_LISTS: usize = 8;

fn run_pipeline(args: &PipelineArgs, device: DeviceChoice, output: &mut dyn Write) -> Result<(), TrainError> {
    let profile = match args.profile {
        ProfileName::Tiny => Profile::tiny(),
        ProfileName::Small => Profile::small(),
        ProfileName::Demo => Profile::demo(),
    };
    let device = device.open()?;
    let made = pipeline::run(&profile, &args.out, args.world.as_deref(), &device)?;
    let bundle = args.out.join("bundle");
    pack_bundle::run(made.parts.clone(), made.provenance.clone(), &bundle)?;
    if args.compare {
        let compared = pipeline::compared::run(&profile, &made, &args.out, &device)?;
        let student = NamedBundle { name: STUDENT.to_owned(), folder: bundle.clone() };
        for NamedBundle { name, folder } in compared.iter().chain([&student]) {
            say(output, &format_args!("--bundle {name}={}", folder.display()))?;
        }
    }
    let settings = EvaluateSettings {
        split: Split::Valid,
        n_users: PIPELINE_READERS,
        n_lists: PIPELINE_LISTS,
        seed: 1,
        n_seeds: 1,
        stream: None,
    };
    let inputs = evaluate::Inputs {
        world: &made.world,
        bundle: &bundle,
        embedder: None,
        trec: None,
        device: &device,
        precision: Precision::F32,
    };
    let evaluation = evaluate::run(inputs, settings)?;
    write_json(Some(&args.out.join("evaluation.json")), &evaluation)?;
    say(output, &evaluation.markdown())
}

fn run_bundle(args: BundleArgs, output: &mut dyn Write) -> Result<(), TrainError> {
    let provenance = Provenance {
        name: args.name,
        version: args.version,
        prompt_tokens_max: args.prompt_tokens,
        commands: args.commands,
        seeds: args.seeds.into_iter().collect(),
        training: BTreeMap::new(),
    };
    let (others, bytes_max) = match &args.shown {
        Some(world) => (demo::shown(world)?, Some(demo::BYTES_MAX)),
        None => (Vec::new(), None),
    };
    let Inputs { model, tokenizer, head, cleaner } = args.inputs;
    let figures = texts(&args.figures)?;
    let parts = Parts { model, tokenizer, head, cleaner, others, figures, bytes_max };
    pack_bundle::run(parts, provenance, &args.out)?;
    if let Some(path) = &args.archive {
        archive::write(&args.out, path)?;
    }
    say(output, &args.out.display())
}

fn texts(files: &[PathBuf]) -> Result<Vec<String>, TrainError> {
    files.iter().map(|path| std::fs::read_to_string(path).map_err(TrainError::disk(path, "read"))).collect()
}

/// A gate that failed is a failure.
fn passed(gates: &[Gate]) -> Result<(), TrainError> {
    match n_failed(gates) {
        0 => Ok(()),
        n_failed => Err(TrainError::Gates { n_failed, n_gates: gates.len() }),
    }
}

fn write_json(path: Option<&Path>, figures: &impl Serialize) -> Result<(), TrainError> {
    let Some(path) = path else { return Ok(()) };
    let json = serde_json::to_vec_pretty(figures).map_err(|error| TrainError::file(path, error))?;
    std::fs::write(path, json).map_err(TrainError::disk(path, "write"))
}

fn say(output: &mut dyn Write, line: &dyn std::fmt::Display) -> Result<(), TrainError> {
    writeln!(output, "{line}").map_err(TrainError::disk("standard output".as_ref(), "write"))
}
