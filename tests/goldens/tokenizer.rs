//! Goldens: tokenizer.
