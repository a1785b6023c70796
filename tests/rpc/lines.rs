//! What the process logs at the level that shows most of what a server does, other crates included.
use std::{
    io::{self, Write},
    sync::{Mutex, Once},
};

struct Log {
    bytes: Vec<u8>,
    n_listeners: usize,
}

/// Of the whole process, because the model has a thread of its own: a listener also hears servers of other tests.
static LOG: Mutex<Log> = Mutex::new(Log { bytes: Vec::new(), n_listeners: 0 });

struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut log = LOG.lock().unwrap();
        if log.n_listeners > 0 {
            log.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged is kept as long as somebody listens.
pub struct Listener {
    from: usize,
}

impl Listener {
    pub fn new() -> Self {
        static TAKEN: Once = Once::new();
        TAKEN.call_once(|| {
            let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
            subscriber.with_writer(|| Writer).try_init().expect("nobody else takes the log");
        });
        let mut log = LOG.lock().unwrap();
        log.n_listeners += 1;
        Self { from: log.bytes.len() }
    }

    /// All lines since it listens.
    pub fn heard(&self) -> String {
        String::from_utf8(LOG.lock().unwrap().bytes[self.from..].to_vec()).unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut log = LOG.lock().unwrap();
        log.n_listeners -= 1;
        if log.n_listeners == 0 {
            log.bytes = Vec::new();
        }
    }
}
