//! A process of the server, on ports of its own, with a limit on its life.
use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Longer than a debug build takes for anything here; only a test that fails waits so long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Any free ports; the server says which it got.
pub const ANY_PORTS: [&str; 4] = ["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];

pub struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Dropped with the process: whoever waits at the other end then stops to watch it.
    _watched: mpsc::Sender<()>,
}

/// What is left of a process.
#[derive(Debug)]
pub struct Remains {
    pub status: ExitStatus,
    pub stderr: String,
}

impl Process {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_in(&[("", ""); 0], arguments)
    }

    /// Starts the server with these variables besides those of the tests. It is killed when patience ends, so that a test
    /// which waits for it fails.
    pub fn start_in(environment: &[(&str, impl AsRef<OsStr>)], arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_newshound-server"))
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value.as_ref())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (watched, watch) = mpsc::channel();
        let id = child.id();
        std::thread::spawn(move || {
            if watch.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                signal(id, "KILL");
            }
        });
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout, _watched: watched }
    }

    /// Reads lines until one starts with `start`; returns all of them.
    pub fn read_to(&mut self, start: &str) -> String {
        let mut text = String::new();
        loop {
            let begun = text.len();
            if self.stdout.read_line(&mut text).unwrap() == 0 {
                let mut stderr = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
                panic!("it ended before it wrote {start:?}: {text}{stderr}");
            }
            if text[begun..].starts_with(start) {
                return text;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for the end. What it says is short enough for the pipes' buffers.
    pub fn ended(mut self) -> Remains {
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        Remains { status: self.child.wait().unwrap(), stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended, or the test has failed and nobody needs it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(id: u32, name: &str) {
    // Every shell knows `kill`; as a program of its own it is missing on small systems.
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {id}")).status().unwrap();
    assert!(sent.success(), "{name} could not be sent");
}

/// An address that nobody listens on.
pub fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Connects as soon as somebody listens.
pub fn connected(addr: SocketAddr) -> TcpStream {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(addr) {
            Ok(stream) => return stream,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{addr}: {error}"),
        }
        std::thread::yield_now();
    }
}
