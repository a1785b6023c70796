//! `bench cost`: what more candidates cost the model, in one run, without a server around it.
use super::{
    CommandError,
    bench::{house::ModelArgs, seen},
    engine::as_a_server_does,
};
use crate::{
    decode::{
        batch::{Batch, GroupId, GroupRequest},
        sampler::SamplerSettings,
    },
    model::{device, precision::Precision},
};
use clap::Args;
use rand::{Rng, SeedableRng};
use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct CostArgs {
    /// Numbers of candidates with commas between; the first is what the others are compared with
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    pub n: Vec<usize>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512)]
    pub prompt_tokens: usize,
    /// Tokens of each candidate
    #[arg(long, default_value_t = 48)]
    pub new_tokens: usize,
    /// Repetitions; the numbers alternate in each
    #[arg(long, default_value_t = 5)]
    pub repetitions: usize,
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
}

/// Measures and reports the median time for each number of candidates, and its ratio to the first.
///
/// # Errors
/// If the bundle cannot be loaded or the model fails.
pub fn cost(args: &CostArgs, json: bool, out: &mut dyn Write) -> Result<(), CommandError> {
    if args.n.contains(&0) || args.n.is_empty() || args.repetitions == 0 || args.new_tokens == 0 {
        return Err(CommandError::Usage("numbers must be at least 1".to_owned()));
    }
    let bundle = args.model.load(Precision::F32)?;
    let device = device::name(bundle.model.device());
    let (model, boundary_ids) = (Arc::new(bundle.model), bundle.tokens.boundary_ids());
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let vocab_size = u32::try_from(model.config().vocab_size).unwrap_or(u32::MAX);
    let prompt: Vec<u32> = (0..args.prompt_tokens).map(|_| random.random_range(0..vocab_size)).collect();
    let mut times = vec![Vec::with_capacity(args.repetitions); args.n.len()];
    // The first round warms caches and thread pools and is not counted.
    for round in 0..=args.repetitions {
        for (times, &n) in times.iter_mut().zip(&args.n) {
            let request = GroupRequest {
                id: GroupId(0),
                prompt: prompt.clone(),
                known: None,
                pruning: None,
                n_held: 0,
                seeds: (0..n as u64).collect(),
                sampler: SamplerSettings::SERVING,
                max_new_tokens: args.new_tokens,
                stop_ids: Arc::new([]),
                boundary_ids: Arc::clone(&boundary_ids),
            };
            let took = as_a_server_does(|| once(&mut Batch::new(Arc::clone(&model)), request))??;
            if round > 0 {
                times.push(took.as_secs_f64() * 1000.0);
            }
        }
    }
    let medians: Vec<f64> = times.into_iter().map(seen::median).collect();
    if !json {
        writeln!(out, "on {device}")?;
    }
    for (&n, &median) in args.n.iter().zip(&medians) {
        let ratio = median / medians[0];
        if json {
            let (prompt_tokens, new_tokens) = (args.prompt_tokens, args.new_tokens);
            let row = serde_json::json!({
                "n": n, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens,
                "repetitions": args.repetitions, "median_ms": median, "ratio": ratio, "device": device,
            });
            writeln!(out, "{row}")?;
        } else {
            writeln!(out, "N={n:<3} median {median:9.1} ms  ratio to N={} {ratio:.2}", args.n[0])?;
        }
    }
    Ok(())
}

/// Time of one group from its prompt to its last token. It has no stop ids, so that no row ends before the others.
fn once(batch: &mut Batch, request: GroupRequest) -> Result<Duration, CommandError> {
    let started = Instant::now();
    batch.admit(request)?;
    while batch.n_rows() > 0 {
        batch.step()?;
    }
    Ok(started.elapsed())
}
