//! Between words and token ids: prompts, the one parser of lists, the tokenizer wrapper.
pub mod parse;
pub mod prompt;
pub mod stitch;

pub mod chat;
pub mod tokens;
pub mod vocabulary;
pub mod words;
