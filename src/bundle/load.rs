//! Verified loading: nothing is used before every file's digest matched.
use super::manifest::{BundleId, Manifest};
use crate::{model::{reward_head::RewardHead, transformer::Transformer, weights::ModelError}, text::tokens::{Tokens, TokensError}};
use candle_core::{DType, Device};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where a bundle lies.
#[derive(Clone, Copy, Debug)]
pub enum BundleSource<'a> { Dir(&'a Path), Embedded(&'static [(&'static str, &'static [u8])]) }

#[derive(Debug, Error)]
pub enum BundleError {
    #[error("{file}: {reason}")]
    File { file: String, reason: String },
    #[error("{file}: sha256 is {got}, manifest says {expected}")]
    Digest { file: String, got: String, expected: String },
    #[error("model could not be loaded")]
    Model(#[from] ModelError),
    #[error("tokenizer could not be loaded")]
    Tokens(#[from] TokensError),
}

#[derive(Debug)]
pub struct Bundle {
    pub id: BundleId,
    pub manifest: Manifest,
    pub tokens: Tokens,
    pub model: Transformer,
    pub head: Option<RewardHead>,
}

pub fn load(source: BundleSource<'_>, dtype: DType, device: &Device) -> Result<Bundle, BundleError> { todo!() }
