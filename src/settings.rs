//! Settings files: read once by a binary, all mistakes reported together, unknown keys refused.
//!
//! A file is TOML; a section within a section is named with a point between. Overrides come from the environment that the binary hands over, and win over the
//! file.
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    ops::RangeInclusive,
};
use thiserror::Error;

/// Everything that is wrong with a settings file, one sentence per mistake.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct Mistakes {
    /// File the settings came from.
    pub file: String,
    /// One sentence per mistake, in the order of the file's keys.
    pub mistakes: Vec<String>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} has {} mistake(s)", self.file, self.mistakes.len())?;
        self.mistakes.iter().try_for_each(|mistake| write!(out, "\n  {mistake}"))
    }
}

/// A value that wins over the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Override {
    /// Which value, as `key` or `section.key`.
    pub key: String,
    /// The value as it was written.
    pub value: String,
    /// Where it was written, for messages: the name of a variable, or of a flag.
    pub origin: String,
}

impl Override {
    /// What a flag of the command line says.
    pub fn by_flag(key: &str, flag: &str, value: impl fmt::Display) -> Self {
        Self { key: key.to_owned(), value: value.to_string(), origin: flag.to_owned() }
    }
}

/// What was given, by whom, and what of it is nobody else's business.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    file: String,
    values: BTreeMap<String, toml::Value>,
    /// Where values that do not come from the file were written.
    origins: BTreeMap<String, String>,
    secrets: BTreeSet<String>,
}

impl Given {
    /// What was given for a key, as TOML, and where; a table that was taken apart is put together again. None where nothing was.
    pub fn of(&self, key: &str) -> Option<(String, &str)> {
        let part = |full: &str| full.strip_prefix(key)?.strip_prefix('.').map(str::to_owned);
        let parts = self.values.iter().filter_map(|(full, value)| Some((part(full)?, value.clone())));
        let table: toml::Table = parts.collect();
        let value = match self.values.get(key) {
            Some(value) => value.clone(),
            None if table.is_empty() => return None,
            None => toml::Value::Table(table),
        };
        let is_shown = !self.secrets.contains(key) || value.as_str() == Some("");
        let shown = if is_shown { value } else { toml::Value::String("(secret)".to_owned()) };
        Some((shown.to_string(), self.origins.get(key).unwrap_or(&self.file)))
    }
}

/// Hands out values by key and remembers every mistake instead of stopping at the first.
#[derive(Debug)]
pub struct Reader {
    file: String,
    values: BTreeMap<String, toml::Value>,
    given: Given,
    mistakes: Vec<String>,
}

impl Reader {
    /// Reads TOML text; `file` names it in messages. Unreadable text counts as a mistake.
    pub fn new(text: &str, file: &str, overrides: &[Override]) -> Self {
        let (values, origins, secrets) = Default::default();
        let given = Given { file: file.to_owned(), values, origins, secrets };
        let mut reader = Self { file: file.to_owned(), values: BTreeMap::new(), given, mistakes: Vec::new() };
        match text.parse::<toml::Table>() {
            Ok(table) => reader.flatten("", table),
            Err(error) => reader.mistakes.push(format!("is not TOML: {}", error.message())),
        }
        for Override { key, value, origin } in overrides {
            reader.given.origins.insert(key.clone(), origin.clone());
            // A word that is no TOML value is meant as text, so that addresses need no quotes.
            let parsed = format!("value = {value}").parse::<toml::Table>();
            let parsed = parsed.ok().and_then(|mut table| table.remove("value"));
            reader.values.insert(key.clone(), parsed.unwrap_or_else(|| toml::Value::String(value.clone())));
        }
        reader.given.values.clone_from(&reader.values);
        reader
    }

    fn flatten(&mut self, section: &str, table: toml::Table) {
        for (key, value) in table {
            let key = format!("{section}{key}");
            if let toml::Value::Table(keys) = value {
                self.flatten(&format!("{key}."), keys);
            } else {
                self.values.insert(key, value);
            }
        }
    }

    /// A whole number within a range, or the default where the key is absent.
    pub fn whole(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let Some(value) = self.values.remove(key) else { return default };
        let whole = value.as_integer().and_then(|value| u64::try_from(value).ok());
        match whole.filter(|value| range.contains(value)) {
            Some(value) => value,
            None => self.refuse(
                key,
                &value,
                &format!("a whole number from {} to {}", range.start(), range.end()),
                default,
            ),
        }
    }

    /// A count within a range, or the default where the key is absent.
    pub fn count(&mut self, key: &str, range: RangeInclusive<u64>, default: usize) -> usize {
        let value = self.whole(key, range, default as u64);
        usize::try_from(value).unwrap_or(default)
    }

    /// A finite number within a range, or the default where the key is absent.
    pub fn number(&mut self, key: &str, range: RangeInclusive<f64>, default: f64) -> f64 {
        let Some(value) = self.values.remove(key) else { return default };
        #[allow(clippy::cast_precision_loss, reason = "settings are small numbers")]
        let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
        match number.filter(|number| number.is_finite() && range.contains(number)) {
            Some(number) => number,
            None => self.refuse(
                key,
                &value,
                &format!("a number from {} to {}", range.start(), range.end()),
                default,
            ),
        }
    }

    /// Whether something is on, or the default where the key is absent.
    pub fn switch(&mut self, key: &str, default: bool) -> bool {
        let Some(value) = self.values.remove(key) else { return default };
        match value.as_bool() {
            Some(is_on) => is_on,
            None => self.refuse(key, &value, "true or false", default),
        }
    }

    /// A list of texts that `parse` accepts; empty where the key is absent.
    pub fn texts<T>(&mut self, key: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let Some(value) = self.values.remove(key) else { return Vec::new() };
        let parsed = value.as_array().and_then(|values| {
            values.iter().map(|value| value.as_str().and_then(&parse)).collect::<Option<Vec<T>>>()
        });
        match parsed {
            Some(parsed) => parsed,
            None => self.refuse(key, &value, expected, Vec::new()),
        }
    }

    /// Text that `parse` accepts, or the default where the key is absent.
    pub fn text<T>(
        &mut self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        default: T,
    ) -> T {
        let Some(value) = self.values.remove(key) else { return default };
        match value.as_str().and_then(parse) {
            Some(parsed) => parsed,
            None => self.refuse(key, &value, expected, default),
        }
    }

    /// As `text`, but no mistake shows the value.
    pub fn secret<T>(
        &mut self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        default: T,
    ) -> T {
        self.given.secrets.insert(key.to_owned());
        let Some(value) = self.values.remove(key) else { return default };
        value.as_str().and_then(parse).unwrap_or_else(|| {
            self.mistakes.push(format!("{} should be {expected}", self.named(key)));
            default
        })
    }

    /// Whole numbers within a range by name, in a table of the file or between braces; none where the key is absent.
    pub fn wholes(&mut self, key: &str, range: RangeInclusive<u64>) -> BTreeMap<String, u64> {
        let one = format!("a whole number from {} to {}", range.start(), range.end());
        let whole = |value: &toml::Value| value.as_integer().and_then(|value| u64::try_from(value).ok());
        let whole = |value: &toml::Value| whole(value).filter(|value| range.contains(value));
        self.by_name(key, (&format!("{one} by name, as {{ a = 1 }}"), &one), whole)
    }

    /// Values by name that `parse` accepts, in a table of the file or between braces; none where the key is absent. `expected`: all of them, and
    /// one.
    pub fn by_name<T>(
        &mut self,
        key: &str,
        expected: (&str, &str),
        parse: impl Fn(&toml::Value) -> Option<T>,
    ) -> BTreeMap<String, T> {
        // A table of the file was taken apart when it was read; one that the environment gives was not, and wins.
        let prefix = format!("{key}.");
        let of_file: Vec<String> =
            self.values.keys().filter(|other| other.starts_with(&prefix)).cloned().collect();
        let of_file: Vec<_> = of_file
            .into_iter()
            .filter_map(|full| {
                self.values.remove(&full).map(|value| (full[prefix.len()..].to_owned(), value))
            })
            .collect();
        let named = match self.values.remove(key) {
            None => of_file,
            Some(toml::Value::Table(table)) => table.into_iter().collect(),
            Some(value) => return self.refuse(key, &value, expected.0, BTreeMap::new()),
        };
        let mut found = BTreeMap::new();
        for (name, value) in named {
            match parse(&value) {
                Some(parsed) => drop(found.insert(name, parsed)),
                None => self.refuse(&format!("{prefix}{name}"), &value, expected.1, ()),
            }
        }
        found
    }

    /// Notes a mistake that only several values together make.
    pub fn require(&mut self, holds: bool, sentence: &str) {
        if !holds {
            self.mistakes.push(sentence.to_owned());
        }
    }

    fn refuse<T>(&mut self, key: &str, value: &toml::Value, expected: &str, default: T) -> T {
        self.mistakes.push(format!("{} = {value} should be {expected}", self.named(key)));
        default
    }

    /// A key as its writer knows it.
    fn named(&self, key: &str) -> String {
        self.given.origins.get(key).map_or_else(|| key.to_owned(), |origin| format!("{origin} ({key})"))
    }

    /// Returns the settings if there was no mistake and no unknown key.
    ///
    /// # Errors
    /// Every mistake at once.
    pub fn finish<T>(self, settings: T) -> Result<T, Mistakes> {
        self.finish_told(settings).map(|(settings, _)| settings)
    }

    /// As `finish`, with what was given.
    ///
    /// # Errors
    /// As `finish`.
    pub fn finish_told<T>(mut self, settings: T) -> Result<(T, Given), Mistakes> {
        let unknown: Vec<_> =
            self.values.keys().map(|key| format!("{} is not a setting", self.named(key))).collect();
        self.mistakes.extend(unknown);
        if self.mistakes.is_empty() {
            return Ok((settings, self.given));
        }
        Err(Mistakes { file: self.file, mistakes: self.mistakes })
    }
}

/// Picks overrides out of environment variables: after `prefix`, two underscores stand for the dot, as in `ENGINE__ROWS_MAX`.
///
/// # Errors
/// If a variable with the prefix is not UTF-8. Other variables may hold anything.
pub fn overrides(
    variables: impl Iterator<Item = (OsString, OsString)>,
    prefix: &str,
) -> Result<Vec<Override>, Mistakes> {
    let (mut found, mut mistakes) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        // A name that is not UTF-8 is no setting's, and is refused as such if it starts like one.
        let origin = name.to_string_lossy().into_owned();
        let Some(rest) = origin.strip_prefix(prefix) else { continue };
        let key = rest.to_lowercase().replace("__", ".");
        match value.into_string() {
            Ok(value) => found.push(Override { key, value, origin }),
            Err(_) => mistakes.push(format!("{origin} is not UTF-8")),
        }
    }
    if !mistakes.is_empty() {
        return Err(Mistakes { file: "environment".to_owned(), mistakes });
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn written(key: &str, value: &str) -> Override {
        let origin = format!("NH__{}", key.to_uppercase().replace('.', "__"));
        Override { key: key.to_owned(), value: value.to_owned(), origin }
    }

    fn read(text: &str, overrides: &[(&str, &str)]) -> Result<(u64, f64, String), Mistakes> {
        let overrides: Vec<_> = overrides.iter().map(|&(key, value)| written(key, value)).collect();
        let mut reader = Reader::new(text, "server.toml", &overrides);
        let rows = reader.whole("engine.rows", 1..=8, 4);
        let share = reader.number("engine.share", 0.0..=1.0, 0.5);
        let address = reader.text("address", "an address", |text| Some(text.to_owned()), "here".to_owned());
        reader.finish((rows, share, address))
    }

    #[test]
    fn absent_keys_take_their_defaults() {
        assert_eq!(read("", &[]), Ok((4, 0.5, "here".to_owned())));
    }

    #[test]
    fn both_ends_of_a_range_are_inside_it() {
        assert_eq!(read("[engine]\nrows = 1\nshare = 0", &[]).map(|read| (read.0, read.1)), Ok((1, 0.0)));
        assert_eq!(read("[engine]\nrows = 8\nshare = 1.0", &[]).map(|read| (read.0, read.1)), Ok((8, 1.0)));
    }

    #[test]
    fn all_mistakes_are_told_together() {
        let error = read("address = 3\n[engine]\nrows = 9\nshare = nan\nrow = 1", &[]).unwrap_err();
        let expected = [
            "engine.rows = 9 should be a whole number from 1 to 8",
            "engine.share = nan should be a number from 0 to 1",
            "address = 3 should be an address",
            "engine.row is not a setting",
        ];
        assert_eq!(error.mistakes, expected);
    }

    #[test]
    fn overrides_win_over_the_file_and_need_no_quotes() {
        let read =
            read("address = \"file\"\n[engine]\nrows = 2", &[("engine.rows", "3"), ("address", "a:1")]);
        assert_eq!(read, Ok((3, 0.5, "a:1".to_owned())));
    }

    #[test]
    fn a_mistake_in_an_override_names_its_variable() {
        let error = read("", &[("engine.rows", "9"), ("engine.row", "1")]).unwrap_err();
        let expected = [
            "NH__ENGINE__ROWS (engine.rows) = 9 should be a whole number from 1 to 8",
            "NH__ENGINE__ROW (engine.row) is not a setting",
        ];
        assert_eq!(error.mistakes, expected);
    }

    #[test]
    fn the_environment_names_sections_by_two_underscores() {
        // The last two are what Kubernetes tells every pod about a service called `nh`.
        let variables = [("NH__ENGINE__ROWS_MAX", "3"), ("HOME", "/"), ("NH__ADDRESS", "a")]
            .into_iter()
            .chain([("NH_SERVICE_HOST", "10.0.0.1"), ("NH_PORT_50051_TCP", "tcp://10.0.0.1:50051")]);
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let expected = vec![written("address", "a"), written("engine.rows_max", "3")];
        assert_eq!(overrides(variables, "NH__"), Ok(expected));
    }

    #[test]
    fn only_our_own_variables_must_be_utf_8() {
        let broken = || OsString::from_vec(vec![0xff]);
        let others = [("HOME".into(), broken()), (broken(), broken())].into_iter();
        assert_eq!(overrides(others, "NH__"), Ok(Vec::new()));
        let ours = [("NH__ADDRESS".into(), broken())].into_iter();
        assert_eq!(overrides(ours, "NH__").unwrap_err().mistakes, ["NH__ADDRESS is not UTF-8"]);
    }

    #[test]
    fn text_that_is_not_toml_is_a_mistake() {
        assert_eq!(read("rows 3", &[]).unwrap_err().mistakes.len(), 1);
    }
}
