//! The way to Redis: the only room that names its client.
//!
//! A link is one connection that all requests share. What must happen at once is a script on Redis' side, so that no other server comes
//! in between; scripts/ has them.
pub mod opener;

use super::record::RECORD_BYTES_MAX;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, aio::MultiplexedConnection};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

const LOOK: &str = concat!(include_str!("scripts/find.lua"), include_str!("scripts/look.lua"));
const LEAD: &str = concat!(include_str!("scripts/find.lua"), include_str!("scripts/lead.lua"));
const STORE: &str = include_str!("scripts/store.lua");
const RELEASE: &str = include_str!("scripts/release.lua");

/// Most answers that are kept of one reader: she asks with other signals every time she does something, and what she did before is asked
/// for no more.
const ANSWERS_MAX: usize = 16;
/// How long a claim can be used: longer than a request may wait and generate with the default settings. What takes longer is not stored.
const CLAIM_MS: u64 = 120_000;

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was asked: too much had failed before.
    Open,
    /// It took longer than its budget.
    Timeout,
    /// There is no connection, none any more, or one to a Redis that has forgotten the scripts.
    Connection,
    /// Name, password or rights are wrong.
    Access,
    /// Redis does not do it now: it loads, has no memory, or follows another.
    Refused,
    /// What it holds is not what we store.
    Value,
}

impl Failure {
    /// All that are counted.
    pub const COUNTED: [Self; 5] =
        [Self::Timeout, Self::Connection, Self::Access, Self::Refused, Self::Value];

    /// Its word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Access => "access",
            Self::Refused => "refused",
            Self::Value => "value",
        }
    }

    /// Whether the connection is of no use any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Connection | Self::Access)
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let code = error.code().unwrap_or_default();
        // Before version 7 errors of a script come with the code of all others, and say their own in the text.
        let is_type = code == "WRONGTYPE" || error.detail().is_some_and(|text| text.contains("WRONGTYPE"));
        let kind = error.kind();
        if error.is_timeout() {
            Self::Timeout
        } else if is_type || kind == ErrorKind::UnexpectedReturnType {
            Self::Value
        } else if matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM") || kind == ErrorKind::AuthenticationFailed
        {
            Self::Access
        } else if kind == ErrorKind::Server(ServerErrorKind::NoScript) {
            Self::Connection
        } else if matches!(kind, ErrorKind::Extension | ErrorKind::Server(_)) {
            Self::Refused
        } else {
            Self::Connection
        }
    }
}

/// What Redis calls the scripts.
#[derive(Debug)]
struct Scripts {
    look: String,
    lead: String,
    store: String,
    release: String,
}

/// Names of what is stored of one question.
#[derive(Clone, Debug)]
pub struct Names {
    /// Of everything that is kept of the reader.
    pub reader: String,
    /// Of the question's lease.
    pub lease: String,
    /// Of the question among hers.
    pub question: Vec<u8>,
}

/// A stored record and its age.
#[derive(Debug, PartialEq, Eq)]
pub struct FoundRecord {
    /// The record; empty where it is too large.
    pub record: Vec<u8>,
    /// Its age, by Redis' clock.
    pub age: Duration,
}

/// Whose a lease is.
pub type Holder = [u8; 16];

/// A record for the rest of its life.
#[derive(Debug)]
pub struct Storing {
    /// The epoch of the claim.
    pub epoch: Vec<u8>,
    /// Whose lease ends with it; none where there is no lease.
    pub holder: Option<Holder>,
    /// When it was made, by Redis' clock in ms.
    pub made_ms: u64,
    /// When it ends.
    pub ends_ms: u64,
    /// The record.
    pub record: Vec<u8>,
}

/// What a claim is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The reader's epoch in Redis.
    pub epoch: Vec<u8>,
    /// Redis' clock, in ms.
    pub clock_ms: u64,
    /// When that was heard.
    pub heard: Instant,
}

/// What `Link::lead` finds.
#[derive(Debug)]
pub enum Reply {
    /// The answer is there.
    Found(FoundRecord),
    /// The caller generates it.
    Led(Grant),
    /// Another server generates it.
    Busy(Grant),
}

/// A connection.
#[derive(Clone)]
pub struct Link {
    connection: MultiplexedConnection,
    scripts: Arc<Scripts>,
}

impl fmt::Debug for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    /// A link over a connection, on which Redis has learned the scripts.
    async fn taught(mut connection: MultiplexedConnection) -> Result<Self, Failure> {
        let mut teach = async |script: &str| -> Result<String, Failure> {
            let mut teaching = redis::cmd("SCRIPT");
            teaching.arg("LOAD").arg(script);
            Ok(teaching.query_async(&mut connection).await?)
        };
        let scripts = Scripts {
            look: teach(LOOK).await?,
            lead: teach(LEAD).await?,
            store: teach(STORE).await?,
            release: teach(RELEASE).await?,
        };
        Ok(Self { connection, scripts: Arc::new(scripts) })
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// If there is none.
    pub async fn ping(mut self) -> Result<(), Failure> {
        Ok(redis::cmd("PING").query_async::<()>(&mut self.connection).await?)
    }

    /// The stored answer to a question, if it is not older than `age_max`.
    ///
    /// # Errors
    /// If Redis cannot be asked.
    pub async fn look(self, names: Names, age_max: Duration) -> Result<Option<FoundRecord>, Failure> {
        let mut call = called(&self.scripts.look, &[&names.reader]);
        sought(&mut call, &names, Some(age_max));
        match self.reply::<Option<Vec<Vec<u8>>>>(call).await?.as_deref() {
            None => Ok(None),
            Some([record, age]) => found(record, age).map(Some),
            Some(_) => Err(Failure::Value),
        }
    }

    /// The stored answer, if it is not older than `age_max`, or else a claim to store one: with a lease of `lease`, where that is not zero,
    /// unless another server has it. Without `age_max` no stored answer is wanted.
    ///
    /// # Errors
    /// If Redis cannot be asked.
    pub async fn lead(
        self,
        names: Names,
        age_max: Option<Duration>,
        holder: Holder,
        lease: Duration,
    ) -> Result<Reply, Failure> {
        let mut call = called(&self.scripts.lead, &[&names.reader, &names.lease]);
        sought(&mut call, &names, age_max);
        let epoch: [u8; 16] = rand::random();
        call.arg(&epoch).arg(&holder).arg(milliseconds(lease)).arg(CLAIM_MS);
        let reply = self.reply::<Vec<Vec<u8>>>(call).await?;
        match reply.as_slice() {
            [word, record, age] if word == b"found" => found(record, age).map(Reply::Found),
            [word, epoch, clock_ms] => {
                let clock_ms = number(clock_ms)?;
                // After the reply: whatever is made until now seems older than it is, never newer.
                let grant = Grant { epoch: epoch.clone(), clock_ms, heard: Instant::now() };
                match word.as_slice() {
                    b"led" => Ok(Reply::Led(grant)),
                    b"busy" => Ok(Reply::Busy(grant)),
                    _ => Err(Failure::Value),
                }
            }
            _ => Err(Failure::Value),
        }
    }

    /// Stores a record; says whether the epoch of its claim still was the reader's.
    ///
    /// # Errors
    /// If Redis cannot be asked; then it may or may not be stored.
    pub async fn store(self, names: Names, storing: Storing) -> Result<bool, Failure> {
        let Storing { epoch, holder, made_ms, ends_ms, record } = storing;
        let mut call = called(&self.scripts.store, &[&names.reader, &names.lease]);
        call.arg(&names.question).arg(epoch).arg(holder.as_ref().map_or(&[][..], |holder| holder));
        call.arg(made_ms).arg(ends_ms).arg(record).arg(ANSWERS_MAX);
        Ok(self.reply::<String>(call).await? == "stored")
    }

    /// Gives up a lease, if it is still the holder's.
    ///
    /// # Errors
    /// If Redis cannot be asked; then it runs out by itself.
    pub async fn release(self, names: Names, holder: Holder) -> Result<(), Failure> {
        let mut call = called(&self.scripts.release, &[&names.lease]);
        call.arg(&holder);
        self.reply::<u64>(call).await.map(|_| ())
    }

    /// Removes everything that is kept of a reader, and her epoch with it.
    ///
    /// # Errors
    /// If Redis cannot be asked; then it may or may not be removed.
    pub async fn remove(self, reader: String) -> Result<(), Failure> {
        let mut call = redis::cmd("UNLINK");
        call.arg(reader);
        self.reply::<u64>(call).await.map(|_| ())
    }

    async fn reply<T: FromRedisValue>(mut self, call: Cmd) -> Result<T, Failure> {
        Ok(call.query_async(&mut self.connection).await?)
    }
}

/// What find.lua is told.
fn sought(call: &mut Cmd, names: &Names, age_max: Option<Duration>) {
    // No age is as small as that of what is not wanted.
    let age_max = age_max.map_or_else(|| "-1".to_owned(), |age| milliseconds(age).to_string());
    call.arg(&names.question).arg(age_max).arg(RECORD_BYTES_MAX);
}

fn called(script: &str, keys: &[&str]) -> Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(script).arg(keys.len()).arg(keys);
    call
}

fn found(record: &[u8], age: &[u8]) -> Result<FoundRecord, Failure> {
    Ok(FoundRecord { record: record.to_vec(), age: Duration::from_millis(number(age)?) })
}

fn number(digits: &[u8]) -> Result<u64, Failure> {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Failure::Value)
}

/// Whole milliseconds, rounded down.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
