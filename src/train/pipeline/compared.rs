//! What teacher and student are compared with: a teacher that was never taught the task, and a student that was only shown lists.
use super::{Made, Places, Profile};
use crate::{
    cleaner::Cleaner,
    train::{
        baselines::{
            bars::{PROMPT_ONLY, SUPERVISED, TEACHER, UNDISTILLED},
            roles::NamedBundle,
        },
        error::TrainError,
        events::{Scope, Split, World},
        pack_bundle::{self, Parts, Provenance},
        sft,
        student::{self, Pair, TeacherAt},
        tokenizer,
    },
};
use candle_core::Device;
use std::path::Path;

/// Makes both in the folder of a pipeline that has run, and packs each role that has a bar (`baselines::bars`), but the student, as a
/// bundle without a head. Returns the bundles by the names of their roles.
/// # Errors
/// If a stage fails.
pub fn run(
    profile: &Profile,
    made: &Made,
    work: &Path,
    device: &Device,
) -> Result<Vec<NamedBundle>, TrainError> {
    let places = Places { work: work.to_owned(), world: made.world.clone() };
    let mut world = World::read(&places.world, Scope::Validation)?;
    world.clean(&Cleaner::open(&places.at("cleaner"))?, &[Split::Train, Split::Valid])?;
    let (tokens, json) = tokenizer::read(&places.at("tokenizer"))?;
    let (init, form) = (places.at("teacher-pretrain"), profile.prompt_only());
    sft::run(&world, (&tokens, &json), (&init, device), &form, &places.at(PROMPT_ONLY))?;
    let (init, teacher) = (places.at("student-sft"), places.at("teacher"));
    let pair = Pair { student: &init, teacher: TeacherAt::Folder(&teacher) };
    student::run(&world, pair, &profile.supervised(), &places.at(SUPERVISED), device)?;
    let with = "--world work/world --cleaner work/cleaner --settings work/settings";
    let roles = [
        (TEACHER, "teacher", None),
        (
            PROMPT_ONLY,
            PROMPT_ONLY,
            Some(format!(
                "sft {with}/{PROMPT_ONLY}.toml --tokenizer work/tokenizer --init work/teacher-pretrain --out work/{PROMPT_ONLY}"
            )),
        ),
        (UNDISTILLED, "student-sft", None),
        (
            SUPERVISED,
            SUPERVISED,
            Some(format!(
                "student {with}/{SUPERVISED}.toml --init work/student-sft --teacher work/teacher --out work/{SUPERVISED}"
            )),
        ),
    ];
    let packed = |(name, model, command): (&str, &str, Option<String>)| {
        let folder = places.at("compared").join(name);
        let mut provenance =
            Provenance { name: format!("{}-{name}", made.provenance.name), ..made.provenance.clone() };
        provenance.commands.extend(command.map(|command| format!("newshound-trainer {command}")));
        let parts = Parts { model: places.at(model), head: None, ..made.parts.clone() };
        pack_bundle::run(parts, provenance, &folder)?;
        Ok(NamedBundle { name: name.to_owned(), folder })
    };
    roles.into_iter().map(packed).collect()
}
