//! Settings from three layers: defaults in code, a file over them, flags over both.
use crate::train::error::TrainError;
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;
use toml::{Table, Value};

/// Lays a TOML file and flags over defaults. `flags`: dotted key and value, where one was given.
/// # Errors
/// If the file cannot be read, or a key is unknown or of another type.
pub fn layered<T: Serialize + DeserializeOwned>(
    defaults: &T,
    file: Option<&Path>,
    flags: &[(&str, Option<Value>)],
) -> Result<T, TrainError> {
    let wrong = |reason: String| TrainError::Settings { reason };
    let mut table = Table::try_from(defaults).map_err(|error| wrong(error.to_string()))?;
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(TrainError::disk(path, "read"))?;
        let over: Table = text.parse().map_err(|error| TrainError::file(path, error))?;
        lay_over(&mut table, over);
    }
    for (key, value) in flags {
        if let Some(value) = value {
            let over = key.rsplit('.').fold(value.clone(), |inner, part| {
                Value::Table(Table::from_iter([(part.to_owned(), inner)]))
            });
            if let Value::Table(over) = over {
                lay_over(&mut table, over);
            }
        }
    }
    table.try_into().map_err(|error| wrong(error.to_string()))
}

fn lay_over(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => lay_over(inner, value),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::settings::{NetworkShape, PretrainSettings};

    #[test]
    fn flags_lie_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pretrain.toml");
        std::fs::write(&file, "row_tokens = 64\n[fit]\nsteps = 5\nseed = 9\n").unwrap();
        let flags = [("fit.steps", Some(Value::Integer(7))), ("fit.seed", None)];
        let settings = layered(&PretrainSettings::demo(), Some(&file), &flags).unwrap();
        assert_eq!((settings.row_tokens, settings.fit.steps, settings.fit.seed), (64, 7, 9));
        assert_eq!(settings.network, NetworkShape::demo());
    }

    #[test]
    fn unknown_key_is_refused_by_name() {
        let flags = [("fit.stepz", Some(Value::Integer(7)))];
        let error = layered(&PretrainSettings::demo(), None, &flags).unwrap_err();
        assert!(error.to_string().contains("stepz"), "{error}");
    }
}
