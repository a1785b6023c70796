//! Every stage in its order, from nothing to a bundle: a teacher is pre-trained, fine-tuned and trained by rewards; a smaller
//! student is pre-trained, fine-tuned and distilled from it; the reward head is fitted to the student's lists.
//!
//! Each stage leaves a folder. One that is done is not run again and one cut short goes on. Networks whose settings or data are
//! others are refused by their own digest; a world, tokenizer or cleaner that was made here with others by its stamp (`stamp`), and
//! one that was put here is taken as it is.
pub mod compared;
mod profile;
mod stamp;

use super::{
    baselines::bars::{PROMPT_ONLY, SUPERVISED},
    checkpoint,
    cleaner::{self, Labels},
    error::TrainError,
    events::{Scope, Split, World},
    head,
    journal::progress_bar,
    pack_bundle::{Parts, Provenance},
    pretrain,
    settings::{PretrainSettings, SftSettings},
    sft,
    student::{self, Pair, TeacherAt},
    teacher::{self, Start},
    tokenizer,
};
use crate::{
    bundle::load::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE},
    cleaner::Cleaner,
    text::tokens::Tokens,
    world::{self, GENERATOR_VERSION, WorldSettings},
};
use candle_core::Device;
pub use profile::Profile;
use serde::Serialize;
use stamp::Part;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What a pipeline leaves, ready to be packed.
#[derive(Debug)]
pub struct Made {
    /// The parts of the bundle.
    pub parts: Parts,
    /// What made them.
    pub provenance: Provenance,
    /// The world's folder.
    pub world: PathBuf,
}

/// Where the stages leave what they make.
struct Places {
    work: PathBuf,
    world: PathBuf,
}

/// A folder's stages of one network before it meets rewards or a teacher.
#[derive(Clone, Copy)]
struct Network<'a> {
    name: &'static str,
    pretrain: &'a PretrainSettings,
    sft: &'a SftSettings,
}

/// Runs the stages in `work`. `world`: an existing world instead of a fresh one. Networks are trained on `device`.
/// # Errors
/// If a stage fails.
pub fn run(
    profile: &Profile,
    work: &Path,
    world: Option<&Path>,
    device: &Device,
) -> Result<Made, TrainError> {
    let places =
        Places { work: work.to_owned(), world: world.map_or_else(|| work.join("world"), Path::to_owned) };
    let world_made = places.world(profile, world)?;
    write_settings(profile, &places.at("settings"))?;
    let mut world = World::read(&places.world, Scope::Validation)?;
    let made = [world_made, places.tokenizer(profile, &world)?, places.cleaner(profile, &world)?];
    // Networks learn from signals as the server will show them.
    world.clean(&Cleaner::open(&places.at("cleaner"))?, &[Split::Train, Split::Valid])?;
    let (tokens, json) = tokenizer::read(&places.at("tokenizer"))?;
    for network in [profile.teacher_before(), profile.student_before()] {
        fine_tuned(&world, (&tokens, &json), &places, network, device)?;
    }
    let teacher = places.at("teacher");
    let start = Start { init: &places.at("teacher-sft"), rollouts: None };
    teacher::run(&world, start, &profile.teacher, &teacher, device)?;
    let pair = Pair { student: &places.at("student-sft"), teacher: TeacherAt::Folder(&teacher) };
    student::run(&world, pair, &profile.student, &places.at("student"), device)?;
    head::run(&world, &places.at("student"), &profile.head, &places.at("head.safetensors"), device)?;
    Ok(Made {
        parts: Parts {
            model: places.at("student"),
            tokenizer: places.at("tokenizer"),
            head: Some(places.at("head.safetensors")),
            cleaner: Some(places.at("cleaner")),
            others: Vec::new(),
            figures: Vec::new(),
            bytes_max: None,
        },
        provenance: provenance(profile, &world, (&places, made))?,
        world: places.world,
    })
}

impl Places {
    fn at(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// Makes the world unless it is there; returns the command that makes it, where its `world.json` tells.
    fn world(&self, profile: &Profile, given: Option<&Path>) -> Result<Option<String>, TrainError> {
        let settings = WorldSettings::of(profile.size, profile.world_seed);
        let part = Part {
            folder: &self.world,
            last: WORLD_FILE,
            content: WORLD_FILE,
            command: world_command(settings),
            inputs: format!("{settings:?}, generator {GENERATOR_VERSION}"),
        };
        if given.is_none() {
            part.made(|| generate(settings, &self.world))?;
        }
        let path = self.world.join(WORLD_FILE);
        let json = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
        let about = serde_json::from_slice(&json).map_err(|error| TrainError::file(&path, error))?;
        Ok(WorldSettings::made(&about).map(world_command))
    }

    fn tokenizer(&self, profile: &Profile, world: &World) -> Result<Option<String>, TrainError> {
        let (folder, n) = (self.at("tokenizer"), profile.vocab_size);
        let part = Part {
            folder: &folder,
            last: TOKENIZER_FILE,
            content: TOKENIZER_FILE,
            command: format!("tokenizer --world work/world --vocab-size {n} --out work/tokenizer"),
            inputs: format!("{n} tokens, {}", world.content_digest()),
        };
        part.made(|| tokenizer::run(world, n, &folder))
    }

    fn cleaner(&self, profile: &Profile, world: &World) -> Result<Option<String>, TrainError> {
        let folder = self.at("cleaner");
        let part = Part {
            folder: &folder,
            last: CONFIG_FILE,
            content: WEIGHTS_FILE,
            command: "cleaner --world work/world --settings work/settings/cleaner.toml --out work/cleaner"
                .to_owned(),
            inputs: format!("{:?}, {}", profile.cleaner, world.content_digest()),
        };
        part.made(|| cleaner::run(&self.world, &Labels::World, &profile.cleaner, &folder).map(drop))
    }
}

/// Says what a world is made of.
const WORLD_FILE: &str = "world.json";

fn world_command(WorldSettings { size, n_readers, seed }: WorldSettings) -> String {
    let readers = n_readers.map_or_else(String::new, |n| format!(" --readers {n}"));
    format!("world generate --size {}{readers} --seed {seed} --out work/world", size.word())
}

fn generate(settings: WorldSettings, out: &Path) -> Result<(), TrainError> {
    let bar = progress_bar("world", 0);
    let mut progress = |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    };
    world::generate(&settings, out, &mut progress)?;
    bar.finish();
    Ok(())
}

fn fine_tuned(
    world: &World,
    (tokens, json): (&Tokens, &[u8]),
    places: &Places,
    network: Network<'_>,
    device: &Device,
) -> Result<(), TrainError> {
    let of_stage = |stage: &str| places.at(&format!("{}-{stage}", network.name));
    pretrain::run(world, &places.at("tokenizer"), network.pretrain, &of_stage("pretrain"), device)?;
    sft::run(world, (tokens, json), (&of_stage("pretrain"), device), network.sft, &of_stage("sft"))?;
    Ok(())
}

/// Settings of every stage as its command takes them, so that each can be run alone.
fn write_settings(profile: &Profile, out: &Path) -> Result<(), TrainError> {
    fn toml(settings: &impl Serialize) -> Result<String, TrainError> {
        toml::to_string(settings).map_err(|error| TrainError::Settings { reason: error.to_string() })
    }
    let (teacher, student) = (profile.teacher_before(), profile.student_before());
    let files = [
        ("cleaner", toml(&profile.cleaner)?),
        ("teacher-pretrain", toml(teacher.pretrain)?),
        ("teacher-sft", toml(teacher.sft)?),
        ("student-pretrain", toml(student.pretrain)?),
        ("student-sft", toml(student.sft)?),
        ("teacher", toml(&profile.teacher)?),
        ("student", toml(&profile.student)?),
        ("head", toml(&profile.head)?),
        (PROMPT_ONLY, toml(&profile.prompt_only())?),
        (SUPERVISED, toml(&profile.supervised())?),
    ];
    for (name, text) in files {
        checkpoint::write_file(&out.join(format!("{name}.toml")), text.as_bytes())?;
    }
    Ok(())
}

/// The commands that would do the same one by one, the seeds, and what the runs say of themselves. `made`: the commands of world,
/// tokenizer and cleaner, where they are known; where not, nothing is said of them but that they were there.
fn provenance(
    profile: &Profile,
    world: &World,
    (places, made): (&Places, [Option<String>; 3]),
) -> Result<Provenance, TrainError> {
    let with = "--world work/world --cleaner work/cleaner --settings work/settings";
    let mut training = BTreeMap::from([("world".to_owned(), world.title())]);
    let mut seeds: BTreeMap<String, u64> =
        profile.seeds().into_iter().map(|(stage, seed)| (stage.to_owned(), seed)).collect();
    seeds.insert("world".to_owned(), world.seed);
    for (part, _) in ["world", "tokenizer", "cleaner"].iter().zip(&made).filter(|(_, made)| made.is_none()) {
        training.insert(format!("{part}.made"), "not here, and nothing says how".to_owned());
        seeds.remove(*part);
    }
    let mut commands: Vec<String> = made.into_iter().flatten().collect();
    for name in ["teacher", "student"] {
        commands.push(format!("pretrain --world work/world --tokenizer work/tokenizer --settings work/settings/{name}-pretrain.toml --out work/{name}-pretrain"));
        commands.push(format!("sft {with}/{name}-sft.toml --tokenizer work/tokenizer --init work/{name}-pretrain --out work/{name}-sft"));
    }
    commands.push(format!("teacher {with}/teacher.toml --init work/teacher-sft --out work/teacher"));
    commands.push(format!(
        "student {with}/student.toml --init work/student-sft --teacher work/teacher --out work/student"
    ));
    commands.push(format!("head {with}/head.toml --model work/student --out work/head.safetensors"));
    for stage in ["teacher-pretrain", "teacher-sft", "teacher", "student-pretrain", "student-sft", "student"]
    {
        training.extend(facts(stage, &places.at(stage))?);
    }
    Ok(Provenance {
        name: format!("newshound-{}", profile.name),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        prompt_tokens_max: profile.student_sft.prompt_tokens,
        commands: commands.into_iter().map(|command| format!("newshound-trainer {command}")).collect(),
        seeds,
        training,
    })
}

/// One line of any run's diary, as far as the facts need it.
#[derive(serde::Deserialize)]
struct DiaryLine {
    loss: f64,
    tokens: Option<f64>,
    /// Of lines that were written before the tokens of a step had their own name.
    num_tokens: Option<f64>,
    #[serde(alias = "step_time_s")]
    step_time: Option<f64>,
}

/// Returns steps, tokens, last losses and seconds of a run, from its diary, which holds every step once however often the run went on.
/// # Errors
/// If the diary cannot be read.
pub fn facts(stage: &str, run: &Path) -> Result<BTreeMap<String, String>, TrainError> {
    let path = run.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).map_err(TrainError::disk(&path, "read"))?;
    let lines: Vec<DiaryLine> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let recent = &lines[lines.len().saturating_sub(20)..];
    let loss = super::rewards::mean(recent.iter().map(|line| line.loss));
    let tokens: f64 = lines.iter().filter_map(|line| line.tokens.or(line.num_tokens)).sum();
    let seconds: f64 = lines.iter().filter_map(|line| line.step_time).sum();
    let folder = checkpoint::resolve(run)?;
    let folder = folder.strip_prefix(run).unwrap_or(&folder).display().to_string();
    Ok(BTreeMap::from([
        (format!("{stage}.checkpoint"), folder),
        (format!("{stage}.steps"), lines.len().to_string()),
        (format!("{stage}.tokens"), format!("{tokens:.0}")),
        (format!("{stage}.seconds"), format!("{seconds:.1}")),
        (format!("{stage}.loss"), format!("{loss:.4}")),
    ]))
}
