//! `bench engine`: how many readers per second the model answers under load, without a server around it.
mod load;
mod returning;
mod roofline;
mod subject;
mod sweep;

use super::CommandError;
use crate::{
    decode::{
        adaptive::Adaptive,
        batch::{Batch, GroupId, GroupRequest, Known},
        sampler::SamplerSettings,
    },
    experiment::policy::{Draw, EarlyStopping},
    model::{
        device::{self, DeviceChoice},
        precision::Precision,
        transformer::Transformer,
        weights::ModelError,
        workers::{awake, workers},
    },
};
use clap::Args;
use load::{Load, Stopped};
use rand::{Rng, SeedableRng};
use returning::Returning;
use roofline::Limits;
use serde::Serialize;
use std::{
    io::Write,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use subject::Subject;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct EngineArgs {
    /// Folder of the bundle; without it and without --model, the demo's
    #[arg(long, conflicts_with = "model")]
    pub bundle: Option<PathBuf>,
    /// Model folder in Hugging Face layout, no tokenizer needed, or a GGUF file; a folder with config.json alone gets random weights
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Tokens of each prompt; they are random
    #[arg(long, default_value_t = 512)]
    pub prompt_tokens: usize,
    /// Tokens of each candidate
    #[arg(long, default_value_t = 80)]
    pub new_tokens: usize,
    /// Candidates per reader
    #[arg(long, default_value_t = 8)]
    pub n: usize,
    /// Readers in all
    #[arg(long, default_value_t = 32)]
    pub users: usize,
    /// Readers answered together; the next joins as soon as one has all candidates
    #[arg(long, default_value_t = 8)]
    pub concurrency: usize,
    /// Where the network computes: auto, cpu or cuda
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// How the network's numbers are held: f32, bf16, f16 or int8 (q8_0 is another word for it)
    #[arg(long, default_value = "f32", value_parser = precision)]
    pub dtype: Precision,
    /// Tokens with which every prompt begins alike; they are computed once
    #[arg(long, default_value_t = 0)]
    pub shared_prefix: usize,
    /// Likeliest tokens that are drawn from; 0: all that hold 0.95 together
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Temperature of the draw, 0 for the likeliest token; unless it is said otherwise the one that the server draws with, where other engines
    /// often have 1
    #[arg(long, default_value_t = SamplerSettings::SERVING.temperature)]
    pub temperature: f32,
    /// Tokens of the prompt of a reader who comes when half of the others have come; 0: nobody does
    #[arg(long, default_value_t = 0)]
    pub late_prompt_tokens: usize,
    /// Tokens that a reader brings who comes back: what her prompt costs then is measured too; 0: nobody does
    #[arg(long, default_value_t = 0)]
    pub returning_tokens: usize,
    /// No token ends a candidate, so that every run does the same work
    #[arg(long)]
    pub ignore_eos: bool,
    /// Candidates of each reader that are stopped after --stopped-at tokens, as early stopping would if there were a head to say so
    #[arg(long, default_value_t = 0, requires = "stopped_at")]
    pub stopped_lists: usize,
    /// Tokens after which they are stopped: at least 2, and fewer than candidates have
    #[arg(long, default_value_t = 0, requires = "stopped_lists")]
    pub stopped_at: usize,
    /// Stops weak candidates by the bundle's reward head: off, safe or aggressive
    #[arg(long, default_value = "off", conflicts_with = "stopped_lists")]
    pub early_stopping: EarlyStopping,
    /// Which candidates are written: all, or as_needed, where the second half follows only if the first disagrees
    #[arg(long, default_value = "all")]
    pub draw: Draw,
    /// Also draws, into this file as SVG, readers per second over candidates, over readers at a time and over prompt tokens
    #[arg(long)]
    pub plot: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    dtype: String,
    prompt_tokens: usize,
    new_tokens: usize,
    n: usize,
    users: usize,
    concurrency: usize,
    temperature: f32,
    /// Candidates that were written to their end, and those that were stopped.
    lists: usize,
    lists_stopped: usize,
    /// Rows that decode together at most.
    rows: usize,
    seconds: f64,
    users_per_s: f64,
    /// Prompt tokens over the time that prompts took.
    prefill_tokens_per_s: f64,
    /// Sampled tokens over the time that steps took.
    decode_tokens_per_s: f64,
    /// From the start of a reader's prompt to the last candidate.
    latency_ms_p50: f64,
    latency_ms_p95: f64,
    /// From one token of a row to its next, with what is computed of prompts in between.
    step_ms_p50: f64,
    step_ms_p95: f64,
    /// Readers per second over those that the machine could answer at best; none where that is not known, and where readers do not all take the
    /// same work.
    roofline_share: Option<f64>,
    /// What that was computed from.
    machine: Option<Limits>,
    /// What a reader's prompt costs who comes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    returning: Option<Returning>,
    kv_bytes_peak: usize,
    /// Most memory of the process on the host; none where the system does not say.
    host_bytes_peak: Option<u64>,
}

/// Answers all readers once, after a first one that is not counted, and reports.
///
/// Prompts are random.
/// # Errors
/// If device, bundle or model cannot be used, the numbers make no sense, or the model fails.
pub fn engine(args: &EngineArgs, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    args.check()?;
    let subject = Subject::of(args)?;
    let model = &subject.model;
    let requests = requests(args, &subject)?;
    let (load, took) = as_a_server_does(|| answer(args, &subject, &requests))??;
    let report = report(load, args, device::name(model.device()), took);
    let returning = (args.returning_tokens > 0)
        .then(|| as_a_server_does(|| returning::measure(model, &requests, args.returning_tokens)))
        .transpose()?
        .transpose()?;
    // Last: what is read for it is no memory of the engine.
    let machine = if model.device().is_cpu() {
        as_a_server_does(|| awake(|| Limits::measure(args.dtype)))?.map_err(ModelError::Forward)?
    } else {
        None
    };
    let best = machine.filter(|_| args.is_even()).map(|limits| limits.users_per_s(model.config(), args));
    let roofline_share = best.map(|best| report.users_per_s / best);
    let report = Report { roofline_share, machine, returning, ..report };
    if let Some(path) = &args.plot {
        sweep::draw(args, &subject, report.users_per_s, path)?;
    }
    if json {
        writeln!(out, "{}", serde_json::to_string(&report).map_err(std::io::Error::from)?)?;
        return Ok(());
    }
    write_table(&report, out)?;
    Ok(())
}

impl EngineArgs {
    fn check(&self) -> Result<(), CommandError> {
        let numbers = [self.prompt_tokens, self.new_tokens, self.n, self.users, self.concurrency];
        let wrong = if numbers.contains(&0) {
            "numbers must be at least 1"
        } else if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            "--temperature must be a number from 0 on"
        } else if self.stopped_lists > 0 && !(2..self.new_tokens).contains(&self.stopped_at) {
            "--stopped-at must be at least 2 and below --new-tokens"
        } else if self.stopped_lists >= self.n {
            "--stopped-lists must be fewer than --n"
        } else if self.stopped_lists > 0 && self.draw == Draw::AsNeeded {
            "--stopped-lists needs --draw all"
        } else {
            return Ok(());
        };
        Err(CommandError::Usage(wrong.to_owned()))
    }

    /// Whether every reader takes the same work, which is all that the floor is computed for.
    fn is_even(&self) -> bool {
        let all_written = self.stopped_lists == 0 && self.early_stopping == EarlyStopping::Off;
        self.ignore_eos && self.late_prompt_tokens == 0 && all_written && self.draw == Draw::All
    }
}

/// Does work on threads of its own, as the server's model thread does.
pub(super) fn as_a_server_does<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R, CommandError> {
    Ok(workers("model").map_err(std::io::Error::other)?.run(work))
}

/// Answers all readers; returns what was seen and how long it took.
fn answer(
    args: &EngineArgs,
    subject: &Subject,
    requests: &[GroupRequest],
) -> Result<(Load, Duration), CommandError> {
    let stopped =
        (args.stopped_lists > 0).then_some(Stopped { n_rows: args.stopped_lists, at: args.stopped_at });
    let (batch, adaptive) = (|| Batch::new(Arc::clone(&subject.model)), subject.adaptive(args.draw)?);
    // It loads kernels, warms caches and starts thread pools.
    Load::new(stopped, adaptive.clone()).run(&mut batch(), requests.iter().take(1), 1)?;
    let mut load = Load::new(stopped, adaptive);
    let started = Instant::now();
    load.run(&mut batch(), requests.iter(), args.concurrency)?;
    Ok((load, started.elapsed()))
}

fn write_table(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let Report { device, dtype, users_per_s, latency_ms_p50, latency_ms_p95, .. } = report;
    writeln!(out, "on {device} in {dtype}, {} readers at a time, {} rows", report.concurrency, report.rows)?;
    writeln!(out, "  {users_per_s:.2} readers per second in {:.1} s", report.seconds)?;
    if let Some(share) = report.roofline_share {
        writeln!(
            out,
            "  roofline     {:.0} % of what products and memory of this machine allow",
            share * 100.0
        )?;
    }
    writeln!(out, "  latency      p50 {latency_ms_p50:.1} ms, p95 {latency_ms_p95:.1} ms")?;
    writeln!(out, "  next token   p50 {:.1} ms, p95 {:.1} ms", report.step_ms_p50, report.step_ms_p95)?;
    writeln!(out, "  prompts      {:.0} tokens per second", report.prefill_tokens_per_s)?;
    writeln!(out, "  candidates   {:.0} tokens per second", report.decode_tokens_per_s)?;
    if report.lists_stopped > 0 {
        writeln!(out, "  stopped      {} beside {} that were written", report.lists_stopped, report.lists)?;
    }
    writeln!(out, "  keys, values {:.1} MB at most", mega(report.kv_bytes_peak as u64))?;
    if let Some(returning) = &report.returning {
        let (time, tokens) = (returning.share_of_time * 100.0, returning.share_of_tokens * 100.0);
        writeln!(out, "  come back    {time:.1} % of the first prompt's time, {tokens:.1} % of its tokens")?;
    }
    if let Some(bytes) = report.host_bytes_peak {
        writeln!(out, "  host memory  {:.1} MB at most", mega(bytes))?;
    }
    Ok(())
}

/// What all prompts begin with, computed once, as the server does with its instructions.
fn shared(
    args: &EngineArgs,
    model: &Transformer,
    requests: &[GroupRequest],
) -> Result<Option<Known>, CommandError> {
    // The last token of a prompt is always computed.
    let n_positions = args.shared_prefix.min(args.prompt_tokens - 1);
    let Some(first) = requests.first().filter(|_| n_positions > 0) else { return Ok(None) };
    let (prefix, _) = model.prefill(&first.prompt[..n_positions])?;
    Ok(Some(Known { prefix: Arc::new(prefix), n_positions }))
}

fn requests(args: &EngineArgs, subject: &Subject) -> Result<Vec<GroupRequest>, CommandError> {
    let config = subject.model.config();
    let (temperature, top_k) = (args.temperature, args.top_k);
    let pruning = subject.pruning(args.early_stopping)?;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let vocab_size = u32::try_from(config.vocab_size).unwrap_or(u32::MAX);
    let stop_ids: Arc<[u32]> = if args.ignore_eos { [].into() } else { config.eos_ids.as_slice().into() };
    let mut words =
        |n_tokens: usize| (0..n_tokens).map(|_| random.random_range(0..vocab_size)).collect::<Vec<u32>>();
    let opening = words(args.shared_prefix.min(args.prompt_tokens));
    let mut prompt =
        |n_tokens: usize| [&opening[..], &words(n_tokens.saturating_sub(opening.len()))].concat();
    let late = (args.late_prompt_tokens > 0).then_some(args.users / 2);
    let request = |user: usize| GroupRequest {
        id: GroupId(user as u64),
        prompt: prompt(if late == Some(user) { args.late_prompt_tokens } else { args.prompt_tokens }),
        known: None,
        pruning: pruning.clone(),
        n_held: if args.draw == Draw::AsNeeded { Adaptive::n_held(args.n) } else { 0 },
        seeds: (0..args.n as u64).map(|row| ((user as u64) << 32) + row).collect(),
        // Without boundaries nothing would count as a query, and no row could end.
        sampler: SamplerSettings {
            temperature,
            top_k,
            constrained: !subject.boundary_ids.is_empty(),
            ..SamplerSettings::SERVING
        },
        max_new_tokens: args.new_tokens,
        stop_ids: Arc::clone(&stop_ids),
        boundary_ids: Arc::clone(&subject.boundary_ids),
    };
    let mut requests: Vec<_> = (0..args.users + usize::from(late.is_some())).map(request).collect();
    if let Some(known) = shared(args, &subject.model, &requests)? {
        requests.iter_mut().for_each(|request| request.known = Some(known.clone()));
    }
    Ok(requests)
}

fn report(mut load: Load, args: &EngineArgs, device: String, took: Duration) -> Report {
    load.latencies.sort_unstable();
    load.intervals.sort_unstable();
    Report {
        device,
        dtype: args.dtype.to_string(),
        prompt_tokens: args.prompt_tokens,
        new_tokens: args.new_tokens,
        n: args.n,
        users: load.latencies.len(),
        concurrency: args.concurrency,
        temperature: args.temperature,
        lists: load.n_ended,
        lists_stopped: load.n_stopped,
        rows: args.n * args.concurrency.min(args.users),
        seconds: took.as_secs_f64(),
        users_per_s: rate(load.latencies.len(), took),
        prefill_tokens_per_s: rate(load.prefill_tokens, load.prefill_time),
        decode_tokens_per_s: rate(load.decode_tokens, load.decode_time),
        latency_ms_p50: percentile_ms(&load.latencies, 50),
        latency_ms_p95: percentile_ms(&load.latencies, 95),
        step_ms_p50: percentile_ms(&load.intervals, 50),
        step_ms_p95: percentile_ms(&load.intervals, 95),
        roofline_share: None,
        machine: None,
        returning: None,
        kv_bytes_peak: load.kv_bytes_peak,
        host_bytes_peak: host_bytes_peak(),
    }
}

fn precision(word: &str) -> Result<Precision, String> {
    // What other engines call 8-bit weights, so that one command line fits all.
    if word == "q8_0" { Ok(Precision::Int8) } else { word.parse() }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a measurement")]
pub(super) fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[allow(clippy::cast_precision_loss, reason = "megabytes are for people")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The smallest of `sorted` that at least `percent` of 100 do not exceed, in milliseconds; 0 of none.
fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
}

/// `VmHWM` of Linux, which is in kibibytes.
fn host_bytes_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::load::CONFIG_FILE;
    use std::path::Path;

    #[test]
    fn a_percentile_is_the_value_that_so_many_do_not_exceed() {
        let latencies: Vec<Duration> = (1..=40).map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&latencies, 50).round(), 20.0);
        assert_eq!(percentile_ms(&latencies, 95).round(), 38.0);
        assert_eq!(percentile_ms(&latencies[..1], 95).round(), 1.0);
        assert_eq!(percentile_ms(&[], 95), 0.0);
    }

    /// A model folder whose weights will be random.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24, "vocab_size": 40,
            "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
            "tie_word_embeddings": true, "eos_token_id": 1}"#;
        std::fs::write(dir.path().join(CONFIG_FILE), config).unwrap();
        dir
    }

    /// Five readers of two lists.
    fn of_five(dir: &Path) -> EngineArgs {
        EngineArgs {
            late_prompt_tokens: 0,
            returning_tokens: 0,
            bundle: None,
            model: Some(dir.to_owned()),
            prompt_tokens: 6,
            new_tokens: 3,
            n: 2,
            users: 5,
            concurrency: 2,
            device: DeviceChoice::Cpu,
            dtype: Precision::F32,
            shared_prefix: 2,
            top_k: 5,
            temperature: 1.0,
            ignore_eos: true,
            stopped_lists: 0,
            stopped_at: 0,
            early_stopping: EarlyStopping::Off,
            draw: Draw::All,
            plot: None,
        }
    }

    fn measured(args: &EngineArgs) -> Result<serde_json::Value, CommandError> {
        let mut out = Vec::new();
        engine(args, true, &mut out)?;
        Ok(serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn every_reader_is_answered_whatever_the_concurrency_and_dtype() {
        let dir = folder();
        for (concurrency, dtype) in
            [(1, Precision::F32), (2, Precision::Int8), (9, Precision::F32), (2, Precision::Bf16)]
        {
            let plot = Some(dir.path().join("plot.svg"));
            let args = EngineArgs { concurrency, dtype, returning_tokens: 2, plot, ..of_five(dir.path()) };
            let report = measured(&args).unwrap();
            assert_eq!(report["rows"], 2 * concurrency.min(5));
            assert!(report["users_per_s"].as_f64().unwrap() > 0.0, "{report}");
            assert_eq!((&report["users"], &report["lists"]), (&5.into(), &10.into()));
            // The floor is known where the machine was measured.
            assert_eq!(report["machine"].is_null(), dtype == Precision::Bf16);
            assert_eq!(report["roofline_share"].is_null(), dtype == Precision::Bf16);
            // Two of six tokens are shared by all.
            assert_eq!(report["returning"]["share_of_tokens"], 0.5);
            let plot = std::fs::read_to_string(dir.path().join("plot.svg")).unwrap();
            assert_eq!(plot.matches("readers per second").count(), 3);
            for x in ["candidates", "readers at a time", "prompt tokens"] {
                assert_eq!(plot.matches(x).count(), 1, "{x}");
            }
        }
    }
    #[test]
    fn a_reader_with_a_late_prompt_is_counted_too() {
        let dir = folder();
        let report = measured(&EngineArgs { late_prompt_tokens: 9, ..of_five(dir.path()) }).unwrap();
        assert_eq!((&report["users"], &report["lists"]), (&6.into(), &12.into()));
        assert!(report["roofline_share"].is_null() && !report["machine"].is_null(), "{report}");
    }

    #[test]
    fn lists_that_are_stopped_are_not_written_to_their_end() {
        let dir = folder();
        let stopping = |n, stopped_lists, stopped_at| {
            measured(&EngineArgs { n, new_tokens: 9, stopped_lists, stopped_at, ..of_five(dir.path()) })
        };
        let report = stopping(4, 3, 2).unwrap();
        assert_eq!((&report["lists"], &report["lists_stopped"]), (&5.into(), &15.into()));
        for (n, stopped_lists, stopped_at) in [(4, 4, 2), (4, 1, 1), (4, 1, 9)] {
            assert!(stopping(n, stopped_lists, stopped_at).is_err());
        }
        assert!(stopping(4, 3, 8).is_ok());
    }

    #[test]
    fn only_a_bundle_says_what_a_list_is_and_what_it_promises() {
        let dir = folder();
        let of_model = of_five(dir.path());
        assert!(measured(&EngineArgs { draw: Draw::AsNeeded, ..of_model.clone() }).is_err());
        assert!(measured(&EngineArgs { early_stopping: EarlyStopping::Safe, ..of_model.clone() }).is_err());
        // The demo's rows of random prompts are cut off, and such agree with none: all are drawn.
        let of_demo = EngineArgs { model: None, users: 1, n: 4, draw: Draw::AsNeeded, ..of_model };
        let report = measured(&EngineArgs { early_stopping: EarlyStopping::Safe, ..of_demo }).unwrap();
        assert_eq!((&report["users"], &report["lists"]), (&1.into(), &4.into()));
    }

    #[test]
    fn a_shorter_prompt_is_shared_as_far_as_the_longest() {
        let dir = folder();
        let shorter = sweep::shorter(&of_five(dir.path()), 3);
        assert_eq!((shorter.prompt_tokens, shorter.shared_prefix), (3, 1));
        let fewer = sweep::fewer(&EngineArgs { n: 8, stopped_lists: 4, ..of_five(dir.path()) }, 2);
        assert_eq!((fewer.n, fewer.stopped_lists), (2, 1));
    }
}
