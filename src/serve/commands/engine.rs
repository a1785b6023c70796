//! `bench engine`: how many readers per second the model answers under load, without a server around it.
mod load;
mod returning;
mod roofline;
mod sweep;

use super::CommandError;
use crate::{
    bundle::load::{self as bundle, BundleSource, CONFIG_FILE},
    decode::{
        batch::{Batch, GroupId, GroupRequest, Known},
        sampler::SamplerSettings,
    },
    model::{
        config::DecoderConfig,
        device::{self, DeviceChoice},
        gguf::Gguf,
        precision::Precision,
        transformer::Transformer,
        weights::{Checkpoint, ModelError, Parameters, TensorSource},
    },
    serve::demo,
};
use candle_core::{DType, Device, Tensor};
use clap::Args;
use load::Load;
use rand::{Rng, SeedableRng};
use returning::Returning;
use roofline::Limits;
use serde::Serialize;
use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

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
    /// Tokens of the prompt of a reader who comes when half of the others have come; 0: nobody does
    #[arg(long, default_value_t = 0)]
    pub late_prompt_tokens: usize,
    /// Tokens that a reader brings who comes back: what her prompt costs then is measured too; 0: nobody does
    #[arg(long, default_value_t = 0)]
    pub returning_tokens: usize,
    /// No token ends a candidate, so that every run does the same work
    #[arg(long)]
    pub ignore_eos: bool,
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
    /// Readers per second over those that the machine could answer at best; none where that is not known.
    roofline_share: Option<f64>,
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
    let numbers = [args.prompt_tokens, args.new_tokens, args.n, args.users, args.concurrency];
    if numbers.contains(&0) {
        return Err(CommandError::Usage("numbers must be at least 1".to_owned()));
    }
    let subject = subject(args)?;
    let (model, _) = &subject;
    let requests = requests(args, &subject)?;
    let (load, took) = answer(args, model, &requests)?;
    let report = report(load, args, device::name(model.device()), took);
    let returning = (args.returning_tokens > 0)
        .then(|| returning::measure(model, &requests, args.returning_tokens))
        .transpose()?;
    // Last: what is read for it is no memory of the engine.
    let limits = if model.device().is_cpu() {
        Limits::measure(args.dtype).map_err(ModelError::Forward)?
    } else {
        None
    };
    let best = limits.map(|limits| limits.users_per_s(model.config(), args));
    let roofline_share = best.map(|best| report.users_per_s / best);
    let report = Report { roofline_share, returning, ..report };
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

/// Answers all readers; returns what was seen and how long it took.
fn answer(
    args: &EngineArgs,
    model: &Arc<Transformer>,
    requests: &[GroupRequest],
) -> Result<(Load, Duration), CommandError> {
    // It loads kernels, warms caches and starts thread pools.
    Load::default().run(&mut Batch::new(Arc::clone(model)), requests.iter().take(1), 1)?;
    let mut load = Load::default();
    let started = Instant::now();
    load.run(&mut Batch::new(Arc::clone(model)), requests.iter(), args.concurrency)?;
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

fn requests(args: &EngineArgs, (model, boundary_ids): &Subject) -> Result<Vec<GroupRequest>, CommandError> {
    let config = model.config();
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
        pruning: None,
        n_held: 0,
        seeds: (0..args.n as u64).map(|row| ((user as u64) << 32) + row).collect(),
        sampler: SamplerSettings { top_k: args.top_k, ..SamplerSettings::SERVING },
        max_new_tokens: args.new_tokens,
        stop_ids: Arc::clone(&stop_ids),
        boundary_ids: Arc::clone(boundary_ids),
    };
    let mut requests: Vec<_> = (0..args.users + usize::from(late.is_some())).map(request).collect();
    if let Some(known) = shared(args, model, &requests)? {
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
        users: args.users,
        concurrency: args.concurrency,
        rows: args.n * args.concurrency.min(args.users),
        seconds: took.as_secs_f64(),
        users_per_s: rate(args.users, took),
        prefill_tokens_per_s: rate(load.prefill_tokens, load.prefill_time),
        decode_tokens_per_s: rate(load.decode_tokens, load.decode_time),
        latency_ms_p50: percentile_ms(&load.latencies, 50),
        latency_ms_p95: percentile_ms(&load.latencies, 95),
        step_ms_p50: percentile_ms(&load.intervals, 50),
        step_ms_p95: percentile_ms(&load.intervals, 95),
        roofline_share: None,
        returning: None,
        kv_bytes_peak: load.kv_bytes_peak,
        host_bytes_peak: host_bytes_peak(),
    }
}

type Subject = (Arc<Transformer>, Arc<[u32]>);

/// The network of a bundle or of a model folder, and the ids that end a query where there is a tokenizer to say.
fn subject(args: &EngineArgs) -> Result<Subject, CommandError> {
    let device = args.device.open()?;
    if let Some(dir) = &args.model {
        return Ok((Arc::new(model(dir, args.dtype, &device)?), Arc::new([])));
    }
    let bundle = match &args.bundle {
        Some(dir) => bundle::load(BundleSource::At(dir), args.dtype, &device)?,
        None => demo::bundle_in(args.dtype, &device)?,
    };
    Ok((Arc::new(bundle.model), bundle.tokens.boundary_ids()))
}

fn model(dir: &Path, precision: Precision, device: &Device) -> Result<Transformer, CommandError> {
    if Gguf::is_at(dir) {
        let mut source = Gguf::open(dir, precision.dtype(), device)?;
        let config = source.config.clone();
        return Ok(precision.load(&config, &mut source, device)?);
    }
    let path = dir.join(CONFIG_FILE);
    let json = std::fs::read(&path).map_err(|source| CommandError::File { path, source })?;
    let config = DecoderConfig::parse(&json, CONFIG_FILE)?;
    if Checkpoint::is_in(dir) {
        let mut source = Checkpoint::open(dir, precision.dtype(), device)?;
        return Ok(precision.load(&config, &mut source, device)?);
    }
    let parameters = Parameters::fresh(1, &Device::Cpu);
    let mut source = Random { parameters, width: config.hidden_size, dtype: precision.dtype(), device };
    Ok(precision.load(&config, &mut source, device)?)
}

/// Deviation of the logits of random weights. Trained models are about as sure; fresh ones are not sure at all, and a sampler that
/// keeps the likeliest tokens would have to sort the whole vocabulary.
const LOGIT_DEVIATION: f64 = 4.5;
/// The norm before the output head scales all logits.
const LAST_NORM: &str = "model.norm.weight";

/// Fresh weights in any dtype on any device.
struct Random<'a> {
    parameters: Parameters,
    width: usize,
    dtype: DType,
    device: &'a Device,
}

impl TensorSource for Random<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let tensor = self.parameters.tensor(name, shape)?.detach();
        #[allow(clippy::cast_precision_loss, reason = "widths are small")]
        let fresh_deviation = f64::from(Parameters::INITIAL_DEVIATION) * (self.width as f64).sqrt();
        let tensor = if name == LAST_NORM { (tensor * (LOGIT_DEVIATION / fresh_deviation))? } else { tensor };
        Ok(tensor.to_dtype(self.dtype)?.to_device(self.device)?)
    }

    fn contains(&self, name: &str) -> bool {
        self.parameters.contains(name)
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

    #[test]
    fn a_percentile_is_the_value_that_so_many_do_not_exceed() {
        let latencies: Vec<Duration> = (1..=40).map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&latencies, 50).round(), 20.0);
        assert_eq!(percentile_ms(&latencies, 95).round(), 38.0);
        assert_eq!(percentile_ms(&latencies[..1], 95).round(), 1.0);
        assert_eq!(percentile_ms(&[], 95), 0.0);
    }

    #[test]
    fn every_reader_is_answered_whatever_the_concurrency_and_dtype() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24, "vocab_size": 40,
            "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
            "tie_word_embeddings": true, "eos_token_id": 1}"#;
        std::fs::write(dir.path().join(CONFIG_FILE), config).unwrap();
        for (concurrency, dtype) in
            [(1, Precision::F32), (2, Precision::Int8), (9, Precision::F32), (2, Precision::Bf16)]
        {
            let args = EngineArgs {
                late_prompt_tokens: 0,
                returning_tokens: 2,
                bundle: None,
                model: Some(dir.path().to_owned()),
                prompt_tokens: 6,
                new_tokens: 3,
                n: 2,
                users: 5,
                concurrency,
                device: DeviceChoice::Cpu,
                dtype,
                shared_prefix: 2,
                top_k: 5,
                ignore_eos: true,
                plot: Some(dir.path().join("plot.svg")),
            };
            let mut out = Vec::new();
            engine(&args, true, &mut out).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(report["rows"], 2 * concurrency.min(5));
            assert!(report["users_per_s"].as_f64().unwrap() > 0.0, "{report}");
            // Two of six tokens are shared by all.
            assert_eq!(report["returning"]["share_of_tokens"], 0.5);
            let plot = std::fs::read_to_string(dir.path().join("plot.svg")).unwrap();
            assert_eq!(plot.matches("readers per second").count(), 3);
            for x in ["candidates", "readers at a time", "prompt tokens"] {
                assert_eq!(plot.matches(x).count(), 1, "{x}");
            }
        }
    }
}
