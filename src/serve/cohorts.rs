//! Lists for everybody of a locale: what a reader gets where there is no time or room for a list of her own, and none is stored.
//!
//! A TOML file that may change while the server runs: under `[lists]` a list of queries by locale, `"en-US" = ["storm warning coast", ..]`,
//! each a valid one as if the model had written it. A reader gets that of her locale, else that of its language (`en`), else that of `""`.
use crate::{
    cleaner::{Verdict, rules},
    queries::QueryList,
    serve::metrics::Metrics,
    settings::Mistakes,
    text::parse,
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};
use thiserror::Error;
use tracing::{info, warn};

/// Largest file: some thousand lists.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How often the file is looked at: what people write for a day need not be there within a second.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

/// Why lists cannot be used.
#[derive(Debug, Error)]
pub enum CohortsError {
    /// The file cannot be read.
    #[error("degradation.cohort_file {} cannot be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file has mistakes.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

type Lists = BTreeMap<String, QueryList>;

/// The lists in force.
#[derive(Debug)]
pub struct Cohorts {
    current: RwLock<Arc<Lists>>,
    file: Option<PathBuf>,
    /// Digest of what was read last, so that each mistake is told once.
    seen: Mutex<[u8; 32]>,
    metrics: Arc<Metrics>,
}

impl Cohorts {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// If it cannot be read or has mistakes.
    pub fn open(file: Option<PathBuf>, metrics: Arc<Metrics>) -> Result<Self, CohortsError> {
        let cohorts = Self { current: RwLock::default(), file, seen: Mutex::default(), metrics };
        if let Some(path) = &cohorts.file {
            let text = read(path)?;
            cohorts.saw(&text);
            cohorts.put(lists(&text, path)?);
        }
        Ok(cohorts)
    }

    /// The list for readers of a locale, if there is one.
    pub fn of(&self, locale: Option<&str>) -> Option<QueryList> {
        let lists = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let locale = locale.unwrap_or_default();
        let language = locale.split('-').next().unwrap_or_default();
        [locale, language, ""].into_iter().find_map(|name| lists.get(name)).cloned()
    }

    /// Looks at the file again and again. Where there is none it returns.
    pub async fn watch(self: Arc<Self>) {
        let Some(path) = self.file.clone() else { return };
        loop {
            tokio::time::sleep(LOOKED_AT_EVERY).await;
            let (cohorts, path) = (Arc::clone(&self), path.clone());
            // Files are read on another thread, whatever disk they are on; a look that panicked changed nothing.
            let _ = tokio::task::spawn_blocking(move || cohorts.look(&path)).await;
        }
    }

    /// Puts the file in force if it has changed and is right; otherwise says once what is wrong with it.
    fn look(&self, path: &Path) {
        let text = read(path);
        let is_known = !self.saw(text.as_deref().unwrap_or_default());
        if is_known {
            return;
        }
        match text.and_then(|text| Ok(lists(&text, path)?)) {
            Ok(lists) => self.put(lists),
            Err(error) => {
                self.metrics.cohorts_read("refused");
                let error = crate::telemetry::Chain(&error);
                warn!(%error, "file of cohorts is refused; the old lists stay in force");
            }
        }
    }

    /// Whether this was not what was read last.
    fn saw(&self, text: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(text).into();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *seen, digest) != digest
    }

    fn put(&self, lists: Lists) {
        self.metrics.cohorts_read("loaded");
        info!(n_lists = lists.len(), "lists of cohorts are in force");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(lists);
    }
}

fn read(path: &Path) -> Result<String, CohortsError> {
    let mut text = String::new();
    // One byte more tells a file that is too large; what is cut off must not be left out in silence.
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let fits = read.and_then(|n_bytes| match n_bytes as u64 {
        n_bytes if n_bytes > FILE_BYTES_MAX => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        _ => Ok(text),
    });
    fits.map_err(|source| CohortsError::File { path: path.to_owned(), source })
}

/// Every list of a file, or everything that is wrong with it.
fn lists(text: &str, path: &Path) -> Result<Lists, Mistakes> {
    let mut mistakes = Vec::new();
    let mut lists = Lists::new();
    match text.parse::<toml::Table>() {
        Err(error) => mistakes.push(format!("is not TOML: {}", error.message())),
        Ok(mut table) => {
            let of_locales = table.remove("lists").and_then(|lists| lists.as_table().cloned());
            mistakes.extend(table.keys().map(|key| format!("{key} is not known; lists stand under [lists]")));
            if of_locales.as_ref().is_none_or(toml::Table::is_empty) {
                mistakes.push("has no list under [lists]".to_owned());
            }
            for (locale, queries) in of_locales.unwrap_or_default() {
                match list(&queries) {
                    Ok(list) => drop(lists.insert(locale, list)),
                    Err(mistake) => mistakes.push(format!("lists.{locale:?} {mistake}")),
                }
            }
        }
    }
    if mistakes.is_empty() {
        return Ok(lists);
    }
    Err(Mistakes { file: path.display().to_string(), mistakes })
}

/// A list that the model might have written, and whose queries say nothing of a person.
fn list(queries: &toml::Value) -> Result<QueryList, String> {
    let texts: Option<Vec<&str>> =
        queries.as_array().and_then(|queries| queries.iter().map(|query| query.as_str()).collect());
    let texts = texts.ok_or("should be a list of texts")?;
    let list = parse::parse(&texts.join("\n")).map_err(|malformed| format!("is no list: {malformed}"))?;
    if list.as_slice().len() != texts.len() {
        return Err("has a query of several lines".to_owned());
    }
    let is_personal = |text: &&str| rules::verdict(text) == Some(Verdict::Personal);
    match texts.iter().position(is_personal) {
        Some(idx) => Err(format!("has personal data in query {idx}")),
        None => Ok(list),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERIES: &str = r#"["storm warning coast", "train strike talks", "city council vote"]"#;

    fn open(text: &str) -> Result<(tempfile::TempDir, Cohorts), CohortsError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cohorts.toml");
        std::fs::write(&file, text).unwrap();
        Cohorts::open(Some(file), Arc::new(Metrics::new(1).unwrap())).map(|cohorts| (dir, cohorts))
    }

    #[test]
    fn a_reader_gets_the_list_of_her_locale_then_of_its_language_then_of_all() {
        let other = QUERIES.replace("storm", "flood");
        let text = format!("[lists]\n\"en-US\" = {QUERIES}\nen = {other}");
        let (_dir, cohorts) = open(&text).unwrap();
        let first = |locale| cohorts.of(locale).map(|list| list.as_slice()[0].as_str().to_owned());
        assert_eq!(first(Some("en-US")).as_deref(), Some("storm warning coast"));
        assert_eq!(first(Some("en-GB")).as_deref(), Some("flood warning coast"));
        assert_eq!((first(Some("fr-FR")), first(None)), (None, None));
        let (_dir, cohorts) = open(&format!("[lists]\n\"\" = {QUERIES}")).unwrap();
        assert!(cohorts.of(Some("fr-FR")).is_some() && cohorts.of(None).is_some());
        let none = Cohorts::open(None, Arc::new(Metrics::new(1).unwrap())).unwrap();
        assert!(none.of(None).is_none());
    }

    #[test]
    fn all_mistakes_of_a_file_are_told_and_the_old_lists_stay() {
        let text = format!(
            "more = 1\n[lists]\na = [\"one\"]\nb = 7\nc = {}\nd = {QUERIES}",
            QUERIES.replace("storm warning coast", "call 020 7946 0958")
        );
        let error = open(&text).unwrap_err();
        let CohortsError::Mistakes(Mistakes { mistakes, .. }) = &error else { panic!("{error}") };
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(!error.to_string().contains("7946"), "{error}");
        let (dir, cohorts) = open(&format!("[lists]\na = {QUERIES}")).unwrap();
        let file = dir.path().join("cohorts.toml");
        for (text, holds) in
            [("no lists", true), ("[lists]\n", true), (&format!("[lists]\nb = {QUERIES}"), false)]
        {
            std::fs::write(&file, text).unwrap();
            cohorts.look(&file);
            assert_eq!(cohorts.of(Some("a")).is_some(), holds, "{text}");
        }
        std::fs::remove_file(&file).unwrap();
        cohorts.look(&file);
        assert!(cohorts.of(Some("b")).is_some());
        assert!(cohorts.metrics.render().contains("newshound_cohort_reads_total{result=\"refused\"} 3"));
    }
}
