//! The artefact that trainer and server share at run time: weights, tokenizer, head, catalogue, manifest.
pub mod load;
pub mod manifest;
pub mod save;
