//! A model on its way: from a folder's name to a model that waits.
use super::{Coming, Models, ModelsError, State, facts::Origin};
use crate::{bundle::manifest::BundleId, serve::generation::Writer};
use std::{path::Path, sync::Arc, time::Duration};
use tracing::info;

/// How long a new model waits for the place of one that ends its last requests: as long as a request may wait for the model by default,
/// and twice as long again for what it writes. After it the caller is told that there is no place.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(30);

/// A model that is being loaded; unless it arrives, nobody comes any more when this is dropped.
pub(super) struct Arriving {
    models: Arc<Models>,
    has_arrived: bool,
}

impl Arriving {
    pub(super) fn new(models: &Arc<Models>, state: &mut State) -> Self {
        state.coming = Coming::Loading;
        Self { models: Arc::clone(models), has_arrived: false }
    }

    pub(super) async fn load(
        mut self,
        resident: &str,
        origin: Origin,
        bundle: Option<BundleId>,
    ) -> Result<Arc<Writer>, ModelsError> {
        let workshop = &self.models.workshop;
        let retiring = self.models.full("one still ends its last requests");
        let place = workshop.place(PLACE_WAIT_MAX).await.ok_or(retiring)?;
        let loaded = workshop.load(origin, bundle).await?;
        // Nobody else gives numbers while this one is on its way.
        let generation = self.models.read().n_loaded + 1;
        let writer = workshop.start(loaded, (generation, resident), place).await?;
        let mut state = self.models.write();
        if state.is_stopping {
            // Whoever ended the other threads did not know of this one.
            writer.engine.stop();
            return Err(ModelsError::Stopping);
        }
        state.coming = Coming::Waiting(Arc::clone(&writer));
        state.in_memory.retain(|writer| writer.strong_count() > 0);
        state.in_memory.push(Arc::downgrade(&writer));
        state.n_loaded = generation;
        drop(state);
        self.has_arrived = true;
        info!(generation, bundle = writer.facts.bundle.0, "model is loaded and waits");
        Ok(writer)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if !self.has_arrived {
            self.models.write().coming = Coming::Nobody;
        }
    }
}

/// The folder or archive of that name; a link that leads out of `dir` is none.
pub(super) fn below(dir: &Path, name: &str) -> Result<Origin, ModelsError> {
    let unknown = || ModelsError::FolderUnknown { folder: name.to_owned() };
    let dir = dir.canonicalize().map_err(|_| unknown())?;
    let path = dir.join(name).canonicalize().map_err(|_| unknown())?;
    if (path.is_dir() || path.is_file()) && path != dir && path.starts_with(&dir) {
        Ok(Origin::At(path))
    } else {
        Err(unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_found_below_the_directory_and_nowhere_else() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = inside.path().join("models");
        std::fs::create_dir_all(dir.join("v1")).unwrap();
        std::fs::create_dir(inside.path().join("beside")).unwrap();
        std::fs::write(dir.join("v1.tar"), "").unwrap();
        let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, dir.join(name)).unwrap();
        link(&dir.join("v1"), "current");
        link(outside.path(), "out");
        link(&dir, "self");
        link(Path::new("../beside"), "up");
        let v1 = Origin::At(dir.join("v1").canonicalize().unwrap());
        assert_eq!(below(&dir, "v1").unwrap(), v1);
        assert_eq!(below(&dir, "current").unwrap(), v1, "a link within is followed to what it names now");
        let archive = Origin::At(dir.join("v1.tar").canonicalize().unwrap());
        assert_eq!(below(&dir, "v1.tar").unwrap(), archive);
        for wrong in ["absent", "out", "self", "up"] {
            assert!(matches!(below(&dir, wrong), Err(ModelsError::FolderUnknown { .. })), "{wrong}");
        }
    }
}
