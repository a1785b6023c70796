//! What the machine could do at best with the work of a reader: the floor that a measured engine is compared with.
//!
//! Three limits are measured on the spot, products by the engine's own kernels: of matrices in cache, in f32, and reads of memory. Attention has as many
//! products as f32, or twice as many where the processor multiplies pairs in bf16 and the network is in 8 bits. In f32 the
//! library's product is measured too, and the faster one counts: a kernel alone would hide that it is slow. Prompts are bound by products; a step of all rows by products or by reading every weight and all keys and values once, whichever takes longer.
#![allow(clippy::cast_precision_loss, reason = "counts of a measurement")]
use super::EngineArgs;
use crate::model::{
    config::DecoderConfig,
    int8, kv_cache, packed,
    precision::Precision,
    products::{Job, Layer, Panelled, compute},
};
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use serde::Serialize;
use std::{hint::black_box, time::Instant};

/// Width of the matrices that are multiplied: their bytes stay in a core's cache.
const WIDTH: usize = 512;
/// Rows that they are multiplied with: enough that nothing else counts.
const ROWS: usize = 384;
/// Multiplications and additions of such a product.
const OPERATIONS: f64 = (2 * ROWS * WIDTH * WIDTH) as f64;
/// Bytes that are read: far more than caches hold.
const READ_BYTES: usize = 256 << 20;
/// Each limit is measured so often; the best counts, since a machine is never faster than it is.
const TRIES: usize = 40;
/// Limits of the machine, per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Limits {
    /// Multiplications and additions of matrix products.
    #[serde(rename = "operations_per_s")]
    products: f64,
    /// The same in f32.
    #[serde(rename = "f32_operations_per_s")]
    f32_products: f64,
    /// Bytes read.
    #[serde(rename = "bytes_per_s")]
    bytes: f64,
    /// Those of attention for each of f32.
    #[serde(skip)]
    attended_at_once: f64,
    /// Bytes of a weight.
    #[serde(skip)]
    weight_bytes: f64,
    /// Bytes of a number of keys and values.
    #[serde(skip)]
    kv_bytes: f64,
}

impl Limits {
    /// Measures them on the CPU for f32 or 8 bits; none for what is computed in other ways.
    /// # Errors
    /// If a product fails.
    pub(super) fn measure(precision: Precision) -> Result<Option<Self>> {
        let weight = Tensor::randn(0.0_f32, 1.0, (WIDTH, WIDTH), &Device::Cpu)?;
        let rows = Tensor::randn(0.0_f32, 1.0, (ROWS, WIDTH), &Device::Cpu)?;
        let stock = OPERATIONS / best(|| black_box(&rows).matmul(&weight))?;
        let rows = rows.flatten_all()?.to_vec1::<f32>()?;
        let packed = packed::Matrix::pack(&weight).map_err(candle_core::Error::wrap)?;
        let f32_products = products(&packed, &packed::Rows::new(&rows, WIDTH))?.max(stock);
        let (products, attended_at_once, weight_bytes, kv_bytes) = match precision {
            Precision::F32 => (f32_products, 1.0, 4.0, 4.0),
            Precision::Int8 => {
                let matrix = int8::Matrix::round(&weight).map_err(candle_core::Error::wrap)?;
                let products = products(&matrix, &int8::Rows::round(&rows, WIDTH))?;
                (products, f64::from(kv_cache::rounded_at_once()), 1.0, 2.0)
            }
            Precision::Bf16 | Precision::F16 => return Ok(None),
        };
        let memory = vec![1_u64; READ_BYTES / size_of::<u64>()];
        let read =
            || Ok(black_box(memory.par_chunks(1 << 16).map(|part| part.iter().sum::<u64>()).sum::<u64>()));
        let bytes = READ_BYTES as f64 / best(read)?;
        Ok(Some(Self { products, f32_products, bytes, attended_at_once, weight_bytes, kv_bytes }))
    }

    /// Readers per second at best.
    pub(super) fn users_per_s(self, config: &DecoderConfig, args: &EngineArgs) -> f64 {
        let work = Work::of(config);
        let concurrency = args.concurrency.min(args.users) as f64;
        let n_shared = args.shared_prefix.min(args.prompt_tokens - 1);
        let n_new = (args.prompt_tokens - n_shared) as f64;
        let seen: f64 = (n_shared..args.prompt_tokens).map(|position| (position + 1) as f64).sum();
        // The last layer has more than keys and values only of the last position.
        let computed = work.body * n_new - work.body_unread * (n_new - 1.0) + work.head;
        let unseen = work.attention / config.n_layers as f64 * (seen - args.prompt_tokens as f64);
        let attended_per_s = self.f32_products * self.attended_at_once;
        let prefill = 2.0 * computed / self.products + (work.attention * seen - unseen) / attended_per_s;
        // The first token of a row follows from the prompt.
        let n_steps = (args.new_tokens - 1) as f64;
        let (n_rows, mean_tail) = (concurrency * args.n as f64, args.new_tokens as f64 / 2.0);
        let context = args.prompt_tokens as f64 + mean_tail;
        let computed = n_rows
            * (2.0 * (work.body + work.head) / self.products + work.attention * context / attended_per_s);
        let kept = concurrency * args.prompt_tokens as f64 + n_rows * mean_tail;
        let read = (work.body + work.head) * self.weight_bytes + work.kv * self.kv_bytes * kept;
        let step = computed.max(read / self.bytes);
        (prefill + n_steps * step / concurrency).recip()
    }
}

/// Multiplications and additions per second of rows with a matrix.
fn products<M: Panelled>(matrix: &M, rows: &M::Rows<'_>) -> Result<f64> {
    let layer = Layer { matrix, bias: None };
    let mut output = vec![0.0; ROWS * WIDTH];
    let seconds = best(|| compute(rows, vec![(Job::Set(layer), black_box(&mut output))]))?;
    Ok(OPERATIONS / seconds)
}

/// What one token costs.
struct Work {
    /// Weights of all layers.
    body: f64,
    /// Weights of the last layer that positions which are not read go round.
    body_unread: f64,
    /// Weights of the output head.
    head: f64,
    /// Multiplications and additions of attention for each position that is seen.
    attention: f64,
    /// Numbers of keys and values.
    kv: f64,
}

impl Work {
    fn of(config: &DecoderConfig) -> Self {
        let (width, layers) = (config.hidden_size, config.n_layers);
        let (query, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let unread = 2 * width * query + 3 * width * config.intermediate_size;
        let layer = unread + 2 * width * kv;
        Self {
            body: (layers * layer) as f64,
            body_unread: unread as f64,
            head: (config.output_ids.n_of(config.vocab_size) * width) as f64,
            attention: (4 * layers * query) as f64,
            kv: (2 * layers * kv) as f64,
        }
    }
}

/// Seconds of the fastest of some tries.
fn best<R>(mut work: impl FnMut() -> Result<R>) -> Result<f64> {
    let mut fastest = f64::INFINITY;
    for _ in 0..TRIES {
        let started = Instant::now();
        work()?;
        fastest = fastest.min(started.elapsed().as_secs_f64());
    }
    Ok(fastest.max(f64::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Bench {
        #[command(flatten)]
        args: EngineArgs,
    }

    #[test]
    fn the_floor_of_the_reference_workload_is_the_one_computed_elsewhere() {
        let config = DecoderConfig::parse(
            br#"{"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
                "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936,
                "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
                "hidden_act": "silu", "tie_word_embeddings": true, "eos_token_id": 2}"#,
            "config.json",
        )
        .unwrap();
        let limits = Limits {
            products: 1340e9,
            f32_products: 317e9,
            bytes: 30.4e9,
            attended_at_once: 1.0,
            weight_bytes: 1.0,
            kv_bytes: 2.0,
        };
        let words = |n: &str| format!("bench --shared-prefix 160 --concurrency 8 --n {n}");
        let args = |n: &str| Bench::parse_from(words(n).split(' ')).args;
        // Computed apart: 2.51 and 1.28 readers per second.
        let (one, eight) = (limits.users_per_s(&config, &args("1")), limits.users_per_s(&config, &args("8")));
        assert!((one - 2.51).abs() < 0.2, "{one}");
        assert!((eight - 1.28).abs() < 0.1, "{eight}");
    }
}
