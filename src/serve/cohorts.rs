//! Lists for everybody of a locale: what a reader gets where there is no time or room for a list of her own, and none is stored.
//!
//! A TOML file that may change while the server runs: under `[lists]` a list of queries by locale, `"en-US" = ["storm warning coast", ..]`,
//! each a valid one as if the model had written it. A reader gets that of her locale, else that of its language (`en`), else that of `""`.
use crate::{
    cleaner::{Verdict, rules},
    queries::QueryList,
    serve::{
        metrics::Metrics,
        watched::{self, FileError, FilesDigest, Looked, Watched},
    },
    settings::Mistakes,
    text::parse,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tracing::{info, warn};

/// Largest file: some thousand lists.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How often the file is looked at: what people write for a day need not be there within a second.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

type Lists = BTreeMap<String, QueryList>;

/// The lists in force.
#[derive(Debug)]
pub struct Cohorts {
    current: Watched<Lists>,
    file: Option<PathBuf>,
    metrics: Arc<Metrics>,
}

impl Cohorts {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// If it cannot be read or has mistakes.
    pub fn open(file: Option<PathBuf>, metrics: Arc<Metrics>) -> Result<Self, FileError> {
        let (first, contents) = match &file {
            None => (Lists::new(), FilesDigest::of([])),
            Some(path) => {
                let text = read(path)?;
                let contents = FilesDigest::of([&*text]);
                (lists(&text, path)?, contents)
            }
        };
        let cohorts = Self { current: Watched::new(first, contents), file, metrics };
        if cohorts.file.is_some() {
            cohorts.loaded();
        }
        Ok(cohorts)
    }

    /// The list for readers of a locale, if there is one.
    pub fn of(&self, locale: Option<&str>) -> Option<QueryList> {
        let lists = self.current.now();
        let locale = locale.unwrap_or_default();
        let language = locale.split('-').next().unwrap_or_default();
        [locale, language, ""].into_iter().find_map(|name| lists.get(name)).cloned()
    }

    /// Looks at the file again and again. Where there is none it returns.
    pub async fn watch(self: Arc<Self>) {
        let Some(path) = self.file.clone() else { return };
        watched::watch(LOOKED_AT_EVERY, move || self.look(&path)).await;
    }

    /// Puts the file in force if it has changed and is right; otherwise says once what is wrong with it.
    fn look(&self, path: &Path) {
        let make = |text: Vec<u8>| Ok(lists(&text, path)?);
        match self.current.look(read(path), |text| FilesDigest::of([&**text]), make) {
            Looked::Same | Looked::Back => {}
            Looked::Loaded => self.loaded(),
            Looked::Refused(error) => {
                self.metrics.cohorts_read("refused");
                let error = crate::telemetry::Chain(&error);
                warn!(%error, "file of cohorts is refused; the old lists stay in force");
            }
        }
    }

    fn loaded(&self) {
        self.metrics.cohorts_read("loaded");
        info!(n_lists = self.current.now().len(), "lists of cohorts are in force");
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    watched::read_named("degradation.cohort_file", path, FILE_BYTES_MAX)
}

/// Every list of a file, or everything that is wrong with it.
fn lists(text: &[u8], path: &Path) -> Result<Lists, Mistakes> {
    let mut mistakes = Vec::new();
    let mut lists = Lists::new();
    match toml::from_slice::<toml::Table>(text) {
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

    fn open(text: &str) -> Result<(tempfile::TempDir, Cohorts), FileError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cohorts.toml");
        std::fs::write(&file, text).unwrap();
        Cohorts::open(Some(file), Arc::new(Metrics::new().unwrap())).map(|cohorts| (dir, cohorts))
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
        let none = Cohorts::open(None, Arc::new(Metrics::new().unwrap())).unwrap();
        assert!(none.of(None).is_none());
    }

    #[test]
    fn all_mistakes_of_a_file_are_told_and_the_old_lists_stay() {
        let text = format!(
            "more = 1\n[lists]\na = [\"one\"]\nb = 7\nc = {}\nd = {QUERIES}",
            QUERIES.replace("storm warning coast", "call 020 7946 0958")
        );
        let error = open(&text).unwrap_err();
        let FileError::Mistakes(Mistakes { mistakes, .. }) = &error else { panic!("{error}") };
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
