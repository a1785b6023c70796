//! The artefact that trainer and server share at run time: weights, tokenizer, head, catalogue, manifest.
pub mod archive;
pub mod load;
pub mod manifest;
pub mod save;
