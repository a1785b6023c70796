//! The models that answer: the default one, and residents by name, whom arms of experiments compare with it.
use super::ModelsError;
use crate::{
    experiment::policy::Head,
    serve::{generation::Writer, opening},
};
use std::{collections::BTreeMap, sync::Arc};

/// The models that answer.
#[derive(Clone, Debug)]
pub struct Answering {
    default: Arc<Writer>,
    /// Those that the settings name; none where nobody answers under the name.
    residents: BTreeMap<String, Option<Arc<Writer>>>,
}

impl Answering {
    /// The default model alone; under these names others may answer.
    pub fn new(default: Arc<Writer>, names: impl Iterator<Item = String>) -> Self {
        Self { default, residents: names.map(|name| (name, None)).collect() }
    }

    /// The one that answers unless an arm says otherwise.
    pub fn default(&self) -> &Arc<Writer> {
        &self.default
    }

    /// The resident of that name, if one answers.
    pub fn resident(&self, name: &str) -> Option<&Arc<Writer>> {
        self.residents.get(name)?.as_ref()
    }

    /// The one that answers under a name, which is empty for the default one.
    ///
    /// # Errors
    /// If the settings have no such name.
    pub fn under(&self, name: &str) -> Result<Option<&Arc<Writer>>, ModelsError> {
        match self.residents.get(name) {
            _ if name.is_empty() => Ok(Some(&self.default)),
            Some(resident) => Ok(resident.as_ref()),
            None => Err(ModelsError::ResidentUnknown { resident: name.to_owned() }),
        }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Writer>> {
        std::iter::once(&self.default).chain(self.residents.values().flatten())
    }

    /// Names and generations of the residents; 0 where nobody answers.
    pub fn residents(&self) -> impl Iterator<Item = (&str, u64)> {
        let generation =
            |resident: &Option<Arc<Writer>>| resident.as_ref().map_or(0, |writer| writer.facts.generation);
        self.residents.iter().map(move |(name, resident)| (name.as_str(), generation(resident)))
    }

    /// Lets a model answer under its name; returns the one that did.
    pub fn put(&mut self, next: Arc<Writer>) -> Option<Arc<Writer>> {
        match self.residents.get_mut(&next.facts.resident) {
            Some(resident) => resident.replace(next),
            None => Some(std::mem::replace(&mut self.default, next)),
        }
    }

    /// Lets nobody answer under a name; returns the one that did.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Writer>> {
        self.residents.get_mut(name)?.take()
    }

    /// What the head of every model can do.
    pub fn head(&self) -> Head {
        let heads = self.all().map(|writer| opening::head(writer.head.as_deref()));
        heads.min().unwrap_or(Head::Absent)
    }
}
