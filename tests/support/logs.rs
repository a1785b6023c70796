//! What a call logs on its own thread.
use std::{fs::File, sync::Arc};

pub fn logged<R>(call: impl FnOnce() -> R) -> (R, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let file = Arc::new(File::create(&path).unwrap());
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(file).finish();
    let result = tracing::subscriber::with_default(subscriber, call);
    (result, std::fs::read_to_string(&path).unwrap())
}
