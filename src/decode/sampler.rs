//! One seeded stream per row; processors in the order of Hugging Face transformers.

/// How a token is drawn. Neutral values switch a stage off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerSettings {
    /// 0 means greedy.
    pub temperature: f32,
    /// 0: off.
    pub top_k: usize,
    /// 1: off.
    pub top_p: f32,
    /// 0: off.
    pub min_p: f32,
    /// 1: off.
    pub repetition_penalty: f32,
}

/// A drawn token and its log-probability (nats) under the plain model: temperature 1, nothing cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled { pub id: u32, pub logprob: f32 }

#[derive(Debug)]
pub struct Sampler {}

impl Sampler {
    pub fn new(settings: SamplerSettings, seed: u64) -> Self { todo!() }
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Sampled { todo!() }
}
