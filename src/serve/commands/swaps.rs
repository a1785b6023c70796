//! `bench swaps`: what changing the model of a running server costs those who ask it meanwhile.
//!
//! The same open-loop load runs twice: calmly, and while models are loaded and swapped in one after the other. Whoever is asked again of
//! the same bundle must get the same list, since each reader has a seed of her own.
use super::{
    CommandError,
    bench::{
        BenchArgs, CONNECTIONS, LoadArgs, OK, Tally,
        bars::{Bar, Bars},
        load::{self, Pace},
        memory::ProcessMemory,
    },
    reach::ReachArgs,
};
use crate::serve::rpc::{
    admin_client::AdminClient,
    client::{Ask, Client, ClientError, Reply},
};
use clap::Args;
use std::{
    collections::HashMap,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What to change, and under what load.
#[derive(Clone, Debug, Args)]
pub struct SwapsArgs {
    /// Address of the server's admin port
    #[arg(long, default_value = "127.0.0.1:50052")]
    pub admin: String,
    /// File with the token that is shown there
    #[arg(long)]
    pub admin_token_file: Option<PathBuf>,
    /// Folder in admin.models_dir; give two or more, which take turns
    #[arg(long, required = true)]
    pub folder: Vec<String>,
    /// Changes of the model
    #[arg(long, default_value_t = 100)]
    pub swaps: usize,
    /// How long the load runs before the first change, in seconds
    #[arg(long, default_value_t = 30.0)]
    pub calm_s: f64,
    /// How long each model answers before the next is loaded, in milliseconds
    #[arg(long, default_value_t = 200)]
    pub pause_ms: u64,
    /// Requests per second
    #[arg(long, default_value_t = 20.0)]
    pub rate: f64,
    /// Candidates per request
    #[arg(long, default_value_t = 8)]
    pub n: u32,
    /// Different readers; few enough that each is asked of each model more than once
    #[arg(long, default_value_t = 16)]
    pub readers: u64,
    /// Signals per reader
    #[arg(long, default_value_t = 12)]
    pub signals: u64,
    /// Id of the server's process, on this machine, whose memory is watched; for Linux
    #[arg(long)]
    pub pid: Option<u32>,
}

/// Loads a server while its model is changed, and reports.
///
/// # Errors
/// If nobody answers, a change is refused, no request is answered, or the load makes no sense.
pub async fn swaps(args: SwapsArgs, common: BenchArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    if !(args.calm_s > 0.0 && args.calm_s <= 86_400.0) || args.folder.len() < 2 || args.swaps == 0 {
        let usage = "calm must be above 0 and at most 86400 s, there must be two folders and one swap";
        return Err(CommandError::Usage(usage.to_owned()));
    }
    let load = LoadArgs {
        rate: args.rate,
        duration_s: args.calm_s,
        n: args.n,
        readers: args.readers,
        signals: args.signals,
        connections: CONNECTIONS,
        ..common.load
    };
    let load = BenchArgs { load, ..common };
    let json = load.json;
    load.load.check()?;
    let operator = ReachArgs { token_file: args.admin_token_file.clone(), ..load.reach.clone() };
    let mut admin = AdminClient::connect(&operator.to(&args.admin)?).await?;
    let process = args.pid.map(ProcessMemory::start).transpose()?;
    let largest = || process.as_ref().map(ProcessMemory::largest);
    let calm = Load::start(&load).await?;
    tokio::time::sleep(Duration::from_secs_f64(args.calm_s)).await;
    let calm = Replies { memory: largest(), ..calm.end().await? };
    let changing = Load::start(&load).await?;
    let (mut loading, mut swapping) = (Duration::ZERO, Duration::ZERO);
    for folder in args.folder.iter().cycle().take(args.swaps) {
        let started = Instant::now();
        let loaded = admin.load(folder, "", None).await?;
        loading += started.elapsed();
        let started = Instant::now();
        admin.swap(loaded.model.generation, None).await?;
        swapping += started.elapsed();
        tokio::time::sleep(Duration::from_millis(args.pause_ms)).await;
    }
    let changing = Replies { memory: largest(), ..changing.end().await? };
    let n_swaps = u32::try_from(args.swaps).unwrap_or(u32::MAX);
    let report = Report { calm, changing, loading: loading / n_swaps, swapping: swapping / n_swaps, args };
    if json {
        writeln!(out, "{}", report.json())?
    } else {
        write!(out, "{}", report.words())?
    }
    report.changing.tally.verdict()
}

/// Requests that are being sent until it is told to end.
struct Load {
    stop: CancellationToken,
    sending: JoinHandle<Result<Replies, CommandError>>,
}

impl Load {
    async fn start(args: &BenchArgs) -> Result<Self, CommandError> {
        let clients = args.clients().await?;
        let stop = CancellationToken::new();
        let sending = tokio::spawn(send(clients, args.clone(), stop.clone()));
        Ok(Self { stop, sending })
    }

    async fn end(self) -> Result<Replies, CommandError> {
        self.stop.cancel();
        self.sending.await.map_err(|_| CommandError::Panicked)?
    }
}

async fn send(
    clients: Vec<Client>,
    args: BenchArgs,
    stop: CancellationToken,
) -> Result<Replies, CommandError> {
    let BenchArgs { load: args, .. } = args;
    let (readers, mut replies) = (args.readers(), Replies::new()?);
    let mut clients = clients.iter().cycle();
    let call = |number| {
        let (client, ask) = (clients.next().cloned(), Ask { bypass_cache: true, ..readers.ask(number) });
        async move { Some(client?.ask(ask).await) }
    };
    let pace = Pace { n_requests: u64::MAX, ..Pace::during(args.rate, Duration::ZERO) };
    load::open(pace, &stop, call, |ended| {
        let reader = ended.number % args.readers;
        // Without connections nothing leaves.
        ended.outcome.into_iter().for_each(|outcome| replies.add((reader, outcome, ended.took)));
    })
    .await?;
    Ok(replies)
}

/// What came back.
struct Replies {
    tally: Tally,
    /// The first list of a bundle for a reader.
    lists: HashMap<(String, u64), Vec<String>>,
    /// Answers that are not what their bundle wrote for the reader before.
    n_mixed: u64,
    /// The most memory that the server had, in bytes, if it was watched.
    memory: Option<u64>,
}

impl Replies {
    fn new() -> Result<Self, CommandError> {
        Ok(Self { tally: Tally::new()?, lists: HashMap::new(), n_mixed: 0, memory: None })
    }

    fn add(&mut self, (reader, outcome, took): (u64, Result<Reply, ClientError>, Duration)) {
        if let Ok(reply) = &outcome {
            let list: Vec<String> = reply.best.queries.iter().map(|(query, _)| query.clone()).collect();
            let known =
                self.lists.entry((reply.model.bundle_id.clone(), reader)).or_insert_with(|| list.clone());
            self.n_mixed += u64::from(*known != list);
        }
        self.tally.add((outcome.map(|reply| (reply.cache, reply.cost)), took));
    }

    fn n_failed(&self) -> u64 {
        self.tally.codes.iter().filter(|(code, _)| *code != OK).map(|(_, n)| n).sum()
    }
}

struct Report {
    args: SwapsArgs,
    calm: Replies,
    changing: Replies,
    /// Of one model, on average.
    loading: Duration,
    swapping: Duration,
}

impl Report {
    fn bars(&self) -> Bars {
        #[allow(clippy::cast_precision_loss, reason = "counts and bytes stay far below 2^52")]
        let float = |n: u64| n as f64;
        let [calm, changing] = [&self.calm, &self.changing];
        let p99 = changing.tally.latencies.ms(99.0) / calm.tally.latencies.ms(99.0);
        let n_failed = calm.n_failed() + changing.n_failed();
        let mut bars = vec![
            Bar::at_most("p99 while models change, to that without", p99, 2.0),
            Bar::at_most("requests that failed", float(n_failed), 0.0),
            Bar::at_most("answers that are mixed", float(calm.n_mixed + changing.n_mixed), 0.0),
        ];
        // All that the server has, and not its model alone, so that twice that has room for two models.
        let memory = calm.memory.zip(changing.memory).map(|(calm, most)| float(most) / float(calm));
        bars.extend(memory.map(|share| Bar::at_most("most memory, to that with one model", share, 2.0)));
        Bars(bars)
    }

    fn json(&self) -> serde_json::Value {
        let of = |replies: &Replies| {
            serde_json::json!({
                "codes": replies.tally.codes,
                "mixed": replies.n_mixed,
                "memory_bytes": replies.memory,
                "latency_ms": replies.tally.latencies.percentiles(),
            })
        };
        serde_json::json!({
            "swaps": self.args.swaps,
            "rate_per_s": self.args.rate,
            "candidates": self.args.n,
            "load_s": self.loading.as_secs_f64(),
            "swap_s": self.swapping.as_secs_f64(),
            "calm": of(&self.calm),
            "changing": of(&self.changing),
            "bars": self.bars().json(),
        })
    }

    fn words(&self) -> String {
        let SwapsArgs { swaps, rate, n, .. } = &self.args;
        let mut text = format!(
            "{swaps} swaps under {rate} requests per second of {n} candidates; loading takes {:.2} s, swapping {:.1} ms\n",
            self.loading.as_secs_f64(),
            self.swapping.as_secs_f64() * 1000.0
        );
        for (name, replies) in [("calm", &self.calm), ("changing", &self.changing)] {
            let n_answered = replies.tally.codes.get(OK).copied().unwrap_or_default();
            let (n_failed, n_mixed) = (replies.n_failed(), replies.n_mixed);
            text.push_str(&format!("  {name:<9} {n_answered} answered, {n_failed} failed, {n_mixed} mixed;"));
            for (percentile, latency) in replies.tally.latencies.percentiles() {
                text.push_str(&format!("  {percentile} {latency:.0} ms"));
            }
            if let Some(memory) = replies.memory {
                text.push_str(&format!("  {} MiB", memory >> 20));
            }
            text.push('\n');
        }
        text.push_str(&self.bars().to_string());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::rpc::client::{ReplyList, ReplyModel};

    fn reply(bundle_id: &str, query: &str) -> Reply {
        let best = ReplyList {
            index: 0,
            valid: true,
            list_score: None,
            mean_logprob: 0.0,
            consensus: None,
            queries: vec![(query.to_owned(), None)],
        };
        let (name, bundle_id) = (String::new(), bundle_id.to_owned());
        Reply {
            best,
            candidates: Vec::new(),
            cache: "BYPASS",
            rerank: "NONE",
            arms: Vec::new(),
            prompt_tokens: 1,
            output_tokens: 1,
            total: Duration::ZERO,
            cost: None,
            model: ReplyModel { generation: 1, name, bundle_id },
        }
    }

    #[test]
    fn an_answer_is_mixed_that_its_bundle_did_not_write_for_the_reader_before() {
        let mut replies = Replies::new().unwrap();
        let mut n_mixed = |reader, bundle: &str, query: &str| {
            replies.add((reader, Ok(reply(bundle, query)), Duration::ZERO));
            replies.n_mixed
        };
        assert_eq!(n_mixed(1, "a", "solar storm"), 0);
        assert_eq!(n_mixed(1, "b", "train strike"), 0);
        assert_eq!(n_mixed(2, "a", "city council"), 0);
        assert_eq!(n_mixed(1, "a", "solar storm"), 0);
        assert_eq!(n_mixed(1, "a", "train strike"), 1, "that is what b writes");
    }
}
