//! `model`: changes the model of a running server.
use super::{CommandError, reach::ReachArgs};
use crate::serve::rpc::{
    admin_client::{AdminClient, ModelLine},
    client::ReplyModel,
};
use clap::{Args, Subcommand};
use std::io::Write;

/// Whom to ask.
#[derive(Clone, Debug, Args)]
pub struct Whom {
    /// Address of the server's admin port (setting admin.addr)
    #[arg(long, default_value = "127.0.0.1:50052", global = true)]
    pub admin: String,
    /// Refuses unless this generation answers, so that two operators do not undo each other
    #[arg(long, global = true)]
    pub expected_generation: Option<u64>,
    /// What to show.
    #[command(flatten)]
    pub reach: ReachArgs,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelChange {
    /// Shows the models in memory, and the one that a rollback goes to
    List,
    /// Loads a bundle in admin.models_dir beside the models that answer
    Load {
        /// Name of its folder or archive
        folder: String,
        /// Also lets it answer as soon as it is loaded
        #[arg(long)]
        swap: bool,
        /// Name under which it is to answer (setting models.residents), instead of the default model
        #[arg(long, default_value = "", hide_default_value = true)]
        resident: String,
    },
    /// Lets a loaded model answer; requests under way end on the model with which they began
    Swap {
        /// Generation of the loaded model
        generation: u64,
    },
    /// Goes back to the model that answered before
    Rollback {
        /// Name of the resident that goes back, instead of the default model
        #[arg(long, default_value = "", hide_default_value = true)]
        resident: String,
    },
    /// Gives up a model that waits, or a resident: arms that name it get the default model
    Unload {
        /// Generation of the model
        generation: u64,
    },
}

/// Asks for a change, and writes what came of it.
///
/// # Errors
/// If nobody answers or the server refuses.
pub async fn model(what: ModelChange, whom: Whom, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut client = AdminClient::connect(&whom.reach.to(&whom.admin)?).await?;
    let expected = whom.expected_generation;
    match what {
        ModelChange::List => {
            let (models, previous) = client.list().await?;
            for line in &models {
                writeln!(out, "{}", shown(line))?;
            }
            if let Some(previous) = previous {
                writeln!(out, "a rollback goes to {}", named(&previous))?;
            }
            return Ok(());
        }
        ModelChange::Load { folder, swap, resident } => {
            let loaded = client.load(&folder, &resident, expected).await?;
            writeln!(out, "{}", shown(&loaded))?;
            if swap {
                writeln!(out, "{}", shown(&client.swap(loaded.model.generation, expected).await?))?;
            }
        }
        ModelChange::Swap { generation } => {
            writeln!(out, "{}", shown(&client.swap(generation, expected).await?))?;
        }
        ModelChange::Rollback { resident } => {
            writeln!(out, "{}", shown(&client.rollback(&resident, expected).await?))?;
        }
        ModelChange::Unload { generation } => {
            client.unload(generation).await?;
            writeln!(out, "generation {generation} is given up")?;
        }
    }
    Ok(())
}

fn named(model: &ReplyModel) -> String {
    format!("generation {}: {} ({})", model.generation, model.name, model.bundle_id)
}

/// A model on one line.
fn shown(line: &ModelLine) -> String {
    let from = if line.folder.is_empty() { "built in" } else { &line.folder };
    let took =
        line.load_time.map_or_else(String::new, |took| format!(", loaded in {:.1} s", took.as_secs_f64()));
    let name = if line.resident.is_empty() { String::new() } else { format!(", resident {}", line.resident) };
    format!("{:<8} {}{name}, {from}{took}", line.state, named(&line.model))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_model_is_shown_on_one_line() {
        let model = ReplyModel {
            generation: 2,
            name: "daily 7".to_owned(),
            bundle_id: "0123456789abcdef".to_owned(),
        };
        let line = ModelLine {
            model,
            state: "LOADED",
            resident: String::new(),
            folder: "/models/v7".to_owned(),
            load_time: Some(Duration::from_millis(1234)),
        };
        let expected = "LOADED   generation 2: daily 7 (0123456789abcdef), /models/v7, loaded in 1.2 s";
        assert_eq!(shown(&line), expected);
        let resident = ModelLine { resident: "next".to_owned(), ..line };
        assert_eq!(shown(&resident), expected.replace(", /", ", resident next, /"));
    }
}
