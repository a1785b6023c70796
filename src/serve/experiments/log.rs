//! The log of exposures and outcomes: lines in files that roll over, written by a thread of its own.
//!
//! Serving never waits for a disk: what the queue has no place for, and what cannot be written, is counted and gone.
use crate::{
    experiment::record::Record,
    serve::{metrics::Metrics, settings::LogSettings},
    signals::UserKey,
};
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tracing::{info, warn};

/// Lines that are written at once.
const BATCH_LINES_MAX: usize = 256;
/// How long a disk that failed is left alone; lines that come meanwhile are counted as failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Names of our files: `records-`, when the file was begun in milliseconds since 1970, and the numbers of the writer and the file,
/// so that names sort by age. Whoever begins a file takes away the oldest of the folder, whoever wrote it: a server that starts
/// again bounds what it left before, and a folder is for one server at a time.
const PREFIX: &str = "records-";
const SUFFIX: &str = ".jsonl";

/// What the writer is told.
#[derive(Debug)]
pub(in crate::serve) enum Entry {
    Line(String),
    End,
}

/// The way to the log.
#[derive(Debug)]
pub struct RecordLog {
    entries: SyncSender<Entry>,
    thread: Mutex<Option<JoinHandle<()>>>,
    salt: String,
    metrics: Arc<Metrics>,
}

impl RecordLog {
    /// Opens a log in a folder, which is made if it is not there. A disk that takes nothing is told of at once, and tried again with later lines: a
    /// server that is started again where its disk is full or gone must serve all the same.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn open(settings: &LogSettings, metrics: Arc<Metrics>) -> io::Result<Self> {
        let mut files = Files::new(settings);
        if let Err(error) = files.probe() {
            files.fail(&error);
        }
        let of_thread = Arc::clone(&metrics);
        let (log, inbox) = Self::queue(settings, metrics);
        let thread = thread::Builder::new()
            .name("newshound-records".to_owned())
            .spawn(move || write(&inbox, files, &of_thread))?;
        *log.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(log)
    }

    /// A log and what a writer takes from it.
    pub(in crate::serve) fn queue(settings: &LogSettings, metrics: Arc<Metrics>) -> (Self, Receiver<Entry>) {
        let (entries, inbox) = mpsc::sync_channel(settings.queue_max);
        let (thread, salt) = (Mutex::default(), settings.reader_salt.0.clone());
        (Self { entries, thread, salt, metrics }, inbox)
    }

    /// Queues a record; says whether there was place for it.
    pub fn offer(&self, record: &Record) -> bool {
        // Our own records have no keys or numbers that JSON cannot hold; one that had would be counted like others that are lost.
        let line = serde_json::to_string(record);
        let is_queued = line.is_ok_and(|line| self.entries.try_send(Entry::Line(line)).is_ok());
        if !is_queued {
            self.metrics.records("dropped", 1);
        }
        is_queued
    }

    /// What stands in the log for a reader of a tenant, if one is told: 128 bits of sha256 over the salt, the key and the tenant, in hex.
    pub fn reader(&self, tenant: Option<&str>, key: &UserKey) -> String {
        let mut hash = Sha256::new();
        hash.update(b"newshound reader 1");
        let parts = [self.salt.as_bytes(), key.as_str().as_bytes()];
        // Two tenants may call different people by the same key.
        for part in parts.into_iter().chain(tenant.map(str::as_bytes)) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().iter().take(16).fold(String::new(), |mut digits, byte| {
            let _ = write!(digits, "{byte:02x}");
            digits
        })
    }

    /// Writes what is queued and ends the thread. It blocks for as long as the disk does.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A thread that has ended already needs no word.
            let _ = self.entries.send(Entry::End);
            if thread.join().is_err() {
                warn!("writer of records panicked");
            }
        }
    }
}

/// Milliseconds since 1970.
pub fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Writes lines until the end, as many at once as are there.
fn write(inbox: &Receiver<Entry>, mut files: Files, metrics: &Metrics) {
    let mut ended = false;
    while !ended {
        let Ok(first) = inbox.recv() else { return };
        let (mut batch, mut n_lines) = (String::new(), 0);
        for entry in std::iter::once(first).chain(inbox.try_iter().take(BATCH_LINES_MAX)) {
            match entry {
                Entry::Line(line) => {
                    batch.push_str(&line);
                    batch.push('\n');
                    n_lines += 1;
                }
                Entry::End => {
                    ended = true;
                    break;
                }
            }
        }
        let result = if files.append(batch.as_bytes()) { "written" } else { "failed" };
        metrics.records(result, n_lines);
    }
}

/// Files of one folder, the newest of them open.
struct Files {
    dir: PathBuf,
    bytes_max: u64,
    files_max: usize,
    /// Drawn at random: containers share the numbers of their processes.
    writer: u32,
    n_begun: u64,
    open: Option<(File, u64)>,
    /// When the disk failed last.
    failed_at: Option<Instant>,
}

impl Files {
    fn new(settings: &LogSettings) -> Self {
        Self {
            dir: settings.dir.clone(),
            bytes_max: settings.file_bytes_max,
            files_max: settings.files_max,
            writer: rand::random(),
            n_begun: 0,
            open: None,
            failed_at: None,
        }
    }

    /// Finds out whether files can be written. Records' own files begin with their first line: a server that starts again and
    /// again must not push those with something in them out.
    fn probe(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let path = self.dir.join(format!(".probe-{}", self.writer));
        fs::write(&path, b"a line")?;
        fs::remove_file(path)
    }

    /// Appends whole lines; says whether they are written.
    fn append(&mut self, lines: &[u8]) -> bool {
        if lines.is_empty() {
            return true;
        }
        if self.failed_at.is_some_and(|failed| failed.elapsed() < RETRY_AFTER) {
            return false;
        }
        match self.try_append(lines) {
            Ok(()) => {
                if self.failed_at.take().is_some() {
                    info!(dir = %self.dir.display(), "records can be written again");
                }
                true
            }
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// Leaves the disk alone for a while.
    fn fail(&mut self, error: &io::Error) {
        if self.failed_at.is_none() {
            warn!(dir = %self.dir.display(), %error, "records cannot be written; serving goes on");
        }
        // A file that took a part of a line gets no other one.
        self.open = None;
        self.failed_at = Some(Instant::now());
    }

    fn try_append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(_, n_bytes)| *n_bytes >= self.bytes_max) {
            self.begin()?;
        }
        if let Some((file, n_bytes)) = &mut self.open {
            file.write_all(lines)?;
            *n_bytes += lines.len() as u64;
        }
        Ok(())
    }

    /// Begins a file, and takes away the oldest where there are too many.
    fn begin(&mut self) -> io::Result<()> {
        // Later a folder that is gone is a disk that is gone, and another disk is none to write to.
        if self.n_begun == 0 {
            fs::create_dir_all(&self.dir)?;
        }
        let name = format!("{PREFIX}{:013}-{}-{:06}{SUFFIX}", now_unix_ms(), self.writer, self.n_begun);
        let file = OpenOptions::new().create_new(true).append(true).open(self.dir.join(name))?;
        self.n_begun += 1;
        self.open = Some((file, 0));
        let files = files(&self.dir)?;
        for oldest in files.iter().take(files.len().saturating_sub(self.files_max)) {
            match fs::remove_file(oldest) {
                // Whoever looks after the disk was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => warn!(path = %oldest.display(), %error, "old records cannot be taken away"),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

/// The files of records in a folder, oldest first.
///
/// # Errors
/// If the folder cannot be read.
pub fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
    };
    let entries: io::Result<Vec<PathBuf>> =
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut found: Vec<_> = entries?.into_iter().filter(is_ours).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{experiment::record::Outcomes, serve::settings::Salt};

    fn settings(dir: &Path) -> LogSettings {
        LogSettings {
            dir: dir.to_owned(),
            queue_max: 16,
            file_bytes_max: 100,
            files_max: 2,
            reader_salt: Salt("a salt of sixteen or more".to_owned()),
        }
    }

    fn record(number: usize) -> Record {
        let (response_id, request_id) = ("00-1".to_owned(), number.to_string());
        Record::Outcomes(Outcomes { time_unix_ms: 1, response_id, request_id, events: Vec::new() })
    }

    fn lines(dir: &Path) -> Vec<String> {
        let texts = files(dir).unwrap().into_iter().map(|path| fs::read_to_string(path).unwrap());
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    fn count(metrics: &Metrics, result: &str) -> f64 {
        let series = format!("newshound_records_total{{result=\"{result}\"}} ");
        let text = metrics.render();
        text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0.0, |value| value.parse().unwrap())
    }

    #[test]
    fn what_was_offered_is_written_when_the_log_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let log = RecordLog::open(&settings(&dir.path().join("new")), Arc::clone(&metrics)).unwrap();
        assert!(log.offer(&record(0)));
        log.close();
        let expected = serde_json::to_string(&record(0)).unwrap();
        assert_eq!(lines(&dir.path().join("new")), [expected]);
        assert_eq!(count(&metrics, "written"), 1.0);
        assert!(!log.offer(&record(1)), "nobody writes any more");
        assert_eq!(count(&metrics, "dropped"), 1.0);
    }

    #[test]
    fn a_log_that_takes_nothing_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        RecordLog::open(&settings(dir.path()), Arc::clone(&metrics)).unwrap().close();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// As where a volume is full or gone when a server starts.
    #[test]
    fn a_folder_that_cannot_be_written_at_the_start_costs_lines_and_is_used_when_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("log");
        fs::write(&place, "no folder").unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let log = RecordLog::open(&settings(&place), Arc::clone(&metrics)).unwrap();
        assert!(log.offer(&record(0)));
        log.close();
        assert_eq!(count(&metrics, "failed"), 1.0);
        let mut files_of = Files::new(&settings(&place));
        files_of.fail(&io::Error::other("of a test"));
        assert!(!files_of.append(b"line\n"), "left alone for now");
        fs::remove_file(&place).unwrap();
        files_of.failed_at = Instant::now().checked_sub(RETRY_AFTER);
        assert!(files_of.append(b"line\n"));
        assert_eq!(lines(&place), ["line"]);
    }

    #[test]
    fn full_files_are_followed_by_others_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut files_of = Files::new(&settings(dir.path()));
        let line = [b'x'; 99];
        for expected in [1, 1, 2, 2, 2] {
            assert!(files_of.append(&line));
            assert_eq!(files(dir.path()).unwrap().len(), expected);
        }
    }

    /// An old file that could not be taken away once cost every batch that began a new one.
    #[test]
    fn an_old_file_that_stays_costs_no_records() {
        let dir = tempfile::tempdir().unwrap();
        // A folder by that name is no file that could be removed.
        fs::create_dir(dir.path().join("records-0000000000001-1-000000.jsonl")).unwrap();
        let mut files_of = Files::new(&settings(dir.path()));
        for _ in 0..3 {
            assert!(files_of.append(&[b'x'; 100]));
        }
    }

    #[test]
    fn a_lost_disk_is_counted_and_used_again_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("records");
        fs::create_dir(&folder).unwrap();
        let mut files_of = Files::new(&settings(&folder));
        assert!(files_of.append(&[b'x'; 100]));
        fs::remove_dir_all(&folder).unwrap();
        // The file is full, so the next line begins another, for which there is no folder.
        assert!(!files_of.append(b"lost\n"));
        fs::create_dir(&folder).unwrap();
        assert!(!files_of.append(b"lost too: the disk is left alone for a while\n"));
        files_of.failed_at = Instant::now().checked_sub(RETRY_AFTER);
        assert!(files_of.append(b"kept\n"));
        assert_eq!(lines(&folder), ["kept"]);
    }

    #[test]
    fn readers_are_told_apart_and_not_known_without_the_salt() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let log = RecordLog::open(&settings(dir.path()), Arc::clone(&metrics)).unwrap();
        let other =
            LogSettings { reader_salt: Salt("another salt, as long".to_owned()), ..settings(dir.path()) };
        let other = RecordLog::open(&other, metrics).unwrap();
        let key = |key| UserKey::new(key).unwrap();
        let known = log.reader(None, &key("u1"));
        assert_eq!(known, log.reader(None, &key("u1")));
        let of_tenant = log.reader(Some("daily"), &key("u1"));
        for another in [
            log.reader(None, &key("u2")),
            other.reader(None, &key("u1")),
            of_tenant.clone(),
            log.reader(Some("weekly"), &key("u1")),
        ] {
            assert_ne!(known, another);
        }
        assert_ne!(of_tenant, log.reader(Some("weekly"), &key("u1")));
        assert_eq!(known.len(), 32);
    }
}
