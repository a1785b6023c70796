//! Folders that stand for bundles: each holds one word, and a scripted model that begins every query with it.
use super::super::{
    script::{Gate, Log, Mishap, Script, Text},
    server::{Plan, Server, parts},
};
use newshound::{
    bundle::{load::BundleError, manifest::BundleId},
    decode::batch::{Admitted, DecodeError, FinishedRow, GroupId, GroupRequest},
    serve::{
        Parts,
        engine::Generator,
        models::{
            facts::Origin,
            workshop::{LoadError, Loaded, Loader},
        },
    },
};
use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Condvar, Mutex},
};
use tempfile::TempDir;

/// What loading waits for.
#[derive(Default)]
pub struct Door {
    is_shut: Mutex<bool>,
    changed: Condvar,
}

impl Door {
    pub fn shut(&self) {
        *self.is_shut.lock().unwrap() = true;
    }

    pub fn open(&self) {
        *self.is_shut.lock().unwrap() = false;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut is_shut = self.is_shut.lock().unwrap();
        while *is_shut {
            is_shut = self.changed.wait(is_shut).unwrap();
        }
    }
}

pub struct Shelf {
    dir: TempDir,
    first: String,
    gates: Vec<(String, Arc<Gate>)>,
    alive: Arc<()>,
    pub door: Arc<Door>,
    /// Folders whose models have a reward head.
    heads: Vec<String>,
    /// Names of residents, and the word of each; none where nobody answers at first.
    residents: Vec<(&'static str, Option<&'static str>)>,
}

impl Shelf {
    /// A folder for each word, named like it; the first is the model that the server starts with.
    pub fn of(words: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for word in words {
            std::fs::create_dir(dir.path().join(word)).unwrap();
            std::fs::write(dir.path().join(word).join("word"), word).unwrap();
        }
        let gate = |word: &&str| {
            let gate = Gate::default();
            gate.open();
            ((*word).to_owned(), Arc::new(gate))
        };
        let gates = words.iter().map(gate).collect();
        let (first, alive, door) = (words[0].to_owned(), Arc::new(()), Arc::default());
        Self { dir, first, gates, alive, door, heads: Vec::new(), residents: Vec::new() }
    }

    /// The model of that word makes no step before it may.
    pub fn gated(mut self, word: &str) -> Self {
        self.gates.iter_mut().filter(|(of, _)| of == word).for_each(|(_, gate)| *gate = Arc::default());
        self
    }

    pub fn with_head(mut self, word: &str) -> Self {
        self.heads.push(word.to_owned());
        self
    }

    pub fn with_resident(mut self, name: &'static str, word: Option<&'static str>) -> Self {
        self.residents.push((name, word));
        self
    }

    pub async fn serve(self, plan: Plan) -> (Self, Server) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let dir = self.dir.path().to_owned();
        let Plan { settings, .. } = plan.with(|settings| {
            settings.admin.addr = Some(any);
            settings.admin.models_dir = Some(dir.clone());
            let path = |word: &'static str| dir.join(word);
            let residents = self.residents.iter().map(|(name, word)| ((*name).to_owned(), word.map(path)));
            settings.models.residents = residents.collect();
        });
        let loader = self.loader();
        let first = loader(&Origin::At(dir.join(&self.first))).unwrap();
        let gate = self.gates.iter().find(|(of, _)| *of == self.first).map(|(_, gate)| Arc::clone(gate));
        let server = Server::start_with(settings, first, loader, gate.unwrap(), Arc::default()).await;
        (self, server)
    }

    pub fn open(&self, word: &str) {
        self.gates.iter().filter(|(of, _)| of == word).for_each(|(_, gate)| gate.open());
    }

    pub fn allow(&self, word: &str, n_steps: usize) {
        self.gates.iter().filter(|(of, _)| of == word).for_each(|(_, gate)| gate.allow(n_steps));
    }

    /// Puts another word into a folder.
    pub fn replace(&self, folder: &str, word: &str) {
        std::fs::write(self.dir.path().join(folder).join("word"), word).unwrap();
    }

    /// Models whose memory was not given back.
    pub fn n_alive(&self) -> usize {
        Arc::strong_count(&self.alive) - 2
    }

    fn loader(&self) -> Loader {
        let (gates, alive, door) = (self.gates.clone(), Arc::clone(&self.alive), Arc::clone(&self.door));
        let heads = self.heads.clone();
        Arc::new(move |origin| {
            door.pass();
            let Origin::At(folder) = origin else { return Err(LoadError::Panicked) };
            let word = read(folder)?;
            let gate = gates.iter().find(|(of, _)| *of == word).map(|(_, gate)| Arc::clone(gate));
            let gate = gate.unwrap_or_else(|| {
                let gate = Gate::default();
                gate.open();
                Arc::new(gate)
            });
            let id = BundleId(format!("{:0<16}", hex(&word)));
            let parts = Parts { id, ..parts(heads.contains(&word)) };
            let (alive, text) = (Arc::clone(&alive), text(&word));
            let make = move || Living {
                script: Script::new(text, gate, Arc::new(Log::default()), Mishap::None),
                _alive: alive,
            };
            Ok(Loaded::new(parts, origin.clone(), make))
        })
    }
}

/// Whoever ends a test with a shut door must not wait for it.
impl Drop for Shelf {
    fn drop(&mut self) {
        self.door.open();
        self.gates.iter().for_each(|(_, gate)| gate.open());
    }
}

fn read(folder: &Path) -> Result<String, LoadError> {
    std::fs::read_to_string(folder.join("word")).map_err(|error| {
        LoadError::Bundle(BundleError::File { file: "word".to_owned(), reason: error.to_string() })
    })
}

fn hex(word: &str) -> String {
    word.bytes().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The word that a bundle's model begins its queries with.
pub fn words_of(bundle_id: &str) -> &'static str {
    let of = |word: &&str| format!("{:0<16}", hex(word)) == bundle_id;
    ["alpha", "beta", "gamma"].into_iter().find(of).unwrap()
}

/// What a model writes: its word, and letters that depend on the row's seed.
fn text(word: &str) -> Text {
    let word = word.to_owned();
    Arc::new(move |_, seed| {
        let letters = |shift: u32| {
            let letter = |at: u32| char::from(b'a' + (seed.rotate_right(shift + 5 * at) % 26) as u8);
            (0..4).map(letter).collect::<String>()
        };
        ["one", "two", "three"]
            .map(|which| format!("{word} {which} {}", letters(which.len() as u32)))
            .join("\n")
    })
}

struct Living {
    script: Script,
    _alive: Arc<()>,
}

impl Generator for Living {
    fn splits_prompts(&self) -> bool {
        false
    }

    fn step_beside(&mut self, _: &mut GroupRequest, _: usize) -> Result<Vec<FinishedRow>, DecodeError> {
        self.step()
    }

    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> {
        self.script.admit(request)
    }

    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> {
        self.script.step()
    }

    fn cancel(&mut self, group: GroupId) -> usize {
        self.script.cancel(group)
    }

    fn n_rows_of(&self, group: GroupId) -> usize {
        self.script.n_rows_of(group)
    }

    fn n_rows(&self) -> usize {
        self.script.n_rows()
    }

    fn kv_bytes(&self) -> usize {
        self.script.kv_bytes()
    }
}
