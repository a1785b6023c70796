//! Outlines of logits; the kernel stands in `outline.cu`.
use super::{
    super::{
        outline::{Ask, Classes, Outline, TOKENS_MAX},
        room::Room,
    },
    Kernel, address, number, ptx, unwritten,
};
use candle_core::{
    DType, Device, Result, Tensor, bail,
    cuda::cudarc::driver::{LaunchConfig, PushKernelArg},
};
use std::sync::Arc;

/// As in `outline.cu`.
const THREADS: u32 = 1024;
/// Words of an outline and of a token.
const OUTLINE_WORDS: usize = 8;
const TOKEN_WORDS: usize = 2;

/// Classes on their way to a GPU, and there.
#[derive(Debug)]
pub(in super::super) struct Laid {
    classes: Classes,
    on_gpu: Tensor,
}

/// Calls `take` with hidden states and outlines of logits (n, C).
pub(in super::super) fn read<R>(
    [hidden, logits]: [&Tensor; 2],
    (asks, classes): (&[Ask], &Classes),
    room: &mut Room,
    take: impl FnOnce(&[f32], &[Outline]) -> Result<R>,
) -> Result<R> {
    let (n_rows, n_columns) = logits.dims2()?;
    if asks.len() != n_rows || !(classes.bits.is_empty() || classes.bits.len() == n_columns) {
        bail!("{} asks and {} classes for logits {:?}", asks.len(), classes.bits.len(), logits.dims())
    }
    let words: Vec<u32> = asks.iter().flat_map(words_of).collect();
    let asks = Tensor::from_vec(words, n_rows * 4, logits.device())?;
    let output = unwritten(logits, DType::F32, n_rows * (OUTLINE_WORDS + TOKEN_WORDS * TOKENS_MAX))?;
    let tokens = output.narrow(0, n_rows * OUTLINE_WORDS, n_rows * TOKEN_WORDS * TOKENS_MAX)?;
    let (logits_at, classes_at) = (address(logits)?, room.classes_on(classes, logits.device())?);
    let (asks_at, output_at, tokens_at) = (address(&asks)?, address(&output)?, address(&tokens)?);
    let columns = number(n_columns)?;
    let kernel = Kernel::of(logits, ("newshound_outline", ptx::OUTLINE), "outline")?;
    let mut launch = kernel.builder();
    launch.arg(&logits_at).arg(&classes_at).arg(&asks_at).arg(&output_at).arg(&tokens_at).arg(&columns);
    let grid_dim = (u32::try_from(n_rows)?, 1, 1);
    let config = LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    #[allow(unsafe_code, reason = "what a kernel does is out of the compiler's sight")]
    // SAFETY: arguments are those of `outline.cu`, as long as the shapes say, and live until the one stream is past them.
    unsafe { launch.launch(config) }.map_err(candle_core::Error::wrap)?;
    room.staging.read([hidden, &output], |hidden, words| {
        let (outlines, tokens) = words.split_at(n_rows * OUTLINE_WORDS);
        let rows = outlines.chunks_exact(OUTLINE_WORDS).zip(tokens.chunks_exact(TOKEN_WORDS * TOKENS_MAX));
        let outlines: Vec<Outline> = rows.map(|(outline, tokens)| outline_of(outline, tokens)).collect();
        take(hidden, &outlines)
    })
}

fn words_of(ask: &Ask) -> [u32; 4] {
    let top_k = u32::try_from(ask.top_k).unwrap_or(u32::MAX >> 1);
    [ask.scale.to_bits(), top_k, ask.top_p.to_bits(), u32::from(ask.forbidden)]
}

fn outline_of(words: &[f32], tokens: &[f32]) -> Outline {
    let n_tokens = words[4].to_bits() as usize;
    let tokens = (n_tokens <= TOKENS_MAX).then(|| {
        let pairs = tokens.chunks_exact(TOKEN_WORDS).take(n_tokens);
        let mut tokens: Vec<(u32, f32)> = pairs.map(|pair| (pair[0].to_bits(), pair[1])).collect();
        tokens.sort_unstable_by_key(|&(column, _)| column);
        tokens
    });
    Outline { most: words[0], total: words[1], most_allowed: words[2], total_allowed: words[3], tokens }
}

impl Room {
    /// Where classes lie on a GPU, 0 where there are none; they are sent when they are others than before.
    fn classes_on(&mut self, classes: &Classes, device: &Device) -> Result<u64> {
        if classes.bits.is_empty() {
            return Ok(0);
        }
        let is_same = |laid: &Laid| Arc::ptr_eq(&laid.classes.bits, &classes.bits);
        if !self.classes.as_ref().is_some_and(is_same) {
            let on_gpu = Tensor::from_slice(&classes.bits, classes.bits.len(), device)?;
            self.classes = Some(Laid { classes: classes.clone(), on_gpu });
        }
        match &self.classes {
            Some(laid) => address(&laid.on_gpu),
            None => bail!("classes are nowhere"),
        }
    }
}
