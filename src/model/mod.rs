//! Networks: ids in, tensors out; no text, no users, no clock.
mod attention;
pub mod config;
#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod encoder;
mod fused;
pub mod gguf;
pub mod int8;
pub mod kv_cache;
pub mod linear;
pub mod lora;
pub mod ops;
pub mod outline;
pub mod packed;
mod panels;
mod parameters;
pub mod perceptron;
pub mod precision;
pub mod products;
pub mod reward_head;
pub mod room;
mod rotary;
pub mod scorer;
mod stored;
pub mod transformer;
pub mod weights;
pub mod workers;
