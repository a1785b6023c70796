//! A real redis-server, in a process and a folder of its own. Not every machine has one: tests that start it are ignored unless asked for
//! (`cargo test shared_cache -- --ignored`), as `.ci/run` does.
use super::super::server::PATIENCE;
use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Instant,
};
use tempfile::TempDir;

/// Fields and values of a hash.
pub type Hash = Vec<(Vec<u8>, Vec<u8>)>;

pub struct Redis {
    child: Child,
    pub port: u16,
    _dir: TempDir,
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Redis {
    pub fn start() -> Self {
        Self::start_on(free_port(), &[])
    }

    /// An empty one, which answers when this returns.
    pub fn start_on(port: u16, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
            ])
            .arg(dir.path())
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed: install Debian's package redis-server");
        let redis = Self { child, port, _dir: dir };
        let begun = Instant::now();
        // One that wants a password answers too, and says so.
        while !redis.client().get_connection().is_ok_and(|mut link| sent(&mut link, "PING")) {
            assert!(begun.elapsed() < PATIENCE, "redis-server does not answer on port {port}");
            std::thread::yield_now();
        }
        redis
    }

    pub fn url(&self) -> String {
        url(self.port)
    }

    fn client(&self) -> redis::Client {
        redis::Client::open(self.url()).unwrap()
    }

    pub fn link(&self) -> redis::Connection {
        self.client().get_connection().unwrap()
    }

    pub fn signal(&self, name: &str) {
        // Every shell knows `kill`; as a program of its own it is missing on small systems.
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status();
        assert!(sent.unwrap().success(), "{name} could not be sent");
    }

    pub fn keys(&self) -> Vec<String> {
        redis::cmd("KEYS").arg("*").query(&mut self.link()).unwrap()
    }

    /// How many scripts were called.
    pub fn n_scripts(&self) -> usize {
        let text: String = redis::cmd("INFO").arg("commandstats").query(&mut self.link()).unwrap();
        let calls = text.split("cmdstat_evalsha:calls=").nth(1).and_then(|rest| rest.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    /// Fields and values of the only hash there is, which is what is kept of one reader.
    pub fn only_reader(&self) -> (String, Hash) {
        let keys = self.keys();
        let [key] = &keys[..] else { panic!("{keys:?}") };
        (key.clone(), redis::cmd("HGETALL").arg(key).query(&mut self.link()).unwrap())
    }

    /// Everything that it holds, names too.
    pub fn everything(&self) -> Vec<u8> {
        let mut link = self.link();
        let mut bytes = Vec::new();
        for key in self.keys() {
            let kind: String = redis::cmd("TYPE").arg(&key).query(&mut link).unwrap();
            let read = if kind == "hash" { "HGETALL" } else { "GET" };
            let value: redis::Value = redis::cmd(read).arg(&key).query(&mut link).unwrap();
            bytes.extend_from_slice(key.as_bytes());
            collect(&value, &mut bytes);
        }
        bytes
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It has ended, or nobody needs it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}/0")
}

/// Whether a command is answered, if only with an error of Redis' own.
fn sent(link: &mut redis::Connection, command: &str) -> bool {
    match redis::cmd(command).query::<redis::Value>(link) {
        Ok(_) => true,
        Err(error) => error.code().is_some(),
    }
}

fn collect(value: &redis::Value, bytes: &mut Vec<u8>) {
    match value {
        redis::Value::BulkString(text) => bytes.extend_from_slice(text),
        redis::Value::Array(values) => values.iter().for_each(|value| collect(value, bytes)),
        other => panic!("{other:?}"),
    }
}
