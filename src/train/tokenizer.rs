//! Trains the byte-level BPE tokenizer of a student.
use super::{checkpoint::write_file, error::TrainError, events::World};
use crate::{
    bundle::load::TOKENIZER_FILE,
    text::tokens::{Tokens, TokensError},
};
use std::path::Path;
use tokenizers::{
    AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerBuilder,
    models::bpe::{BPE, BpeTrainerBuilder},
    normalizers::{Sequence as NormalizerSequence, unicode::NFC, utils::Lowercase},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
    processors::roberta::RobertaProcessing,
};

/// Control tokens, in the order of their ids, which follow all others.
const CONTROLS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Control tokens of an encoder, by id, with RoBERTa's names.
const ENCODER_CONTROLS: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
/// The id that pads an encoder's rows.
pub const ENCODER_PAD_ID: u32 = 1;

/// Words, single digits, punctuation and white space: the pieces within which bytes may merge.
///
/// The pattern of the Qwen2 family, but for line feeds, which are split off before: a query always ends with a token
/// of its own.
const PIECES: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Trains a tokenizer on article texts and training readers' signals; returns the `tokenizer.json`.
///
/// The same world and size give the same bytes.
/// # Errors
/// If the trainer fails, or the size leaves no room beside bytes and control tokens.
pub fn train(world: &World, vocab_size: usize) -> Result<Vec<u8>, TrainError> {
    let n_merged =
        vocab_size.checked_sub(CONTROLS.len()).filter(|n| *n >= 256).ok_or_else(|| TrainError::Settings {
            reason: format!("vocabulary of {vocab_size} is less than bytes and control tokens"),
        })?;
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC))
        .with_pre_tokenizer(Some(pieces()?))
        .with_post_processor(Some(ByteLevel::new(false, false, false)))
        .with_decoder(Some(ByteLevel::new(false, false, false)))
        .build()
        .map_err(failed)?;
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(n_merged)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, corpus(world).into_iter()).map_err(failed)?;
    tokenizer.add_special_tokens(CONTROLS.map(|name| AddedToken::from(name, true))).map_err(failed)?;
    let mut json = tokenizer.to_string(true).map_err(failed)?.into_bytes();
    json.push(b'\n');
    // What was written must be readable by the only reader there is.
    Tokens::from_bytes(&json)?;
    Ok(json)
}

/// Trains the tokenizer of an encoder on texts: as [`train`], in lower case, with `<s>` and `</s>` around every text.
///
/// Control tokens have the first ids, as RoBERTa counts its positions from that of `<pad>`.
/// # Errors
/// If the trainer fails, or the size leaves no room beside bytes and control tokens.
pub fn train_encoder(
    texts: impl Iterator<Item = String> + Send,
    vocab_size: usize,
) -> Result<Vec<u8>, TrainError> {
    if vocab_size < 256 + ENCODER_CONTROLS.len() {
        let reason = format!("vocabulary of {vocab_size} is less than bytes and control tokens");
        return Err(TrainError::Settings { reason });
    }
    let lower_case = NormalizerSequence::new(vec![NFC.into(), Lowercase.into()]);
    let [start, _, end, _] = ENCODER_CONTROLS;
    let id =
        |name: &str| (0..).zip(ENCODER_CONTROLS).find(|(_, known)| *known == name).map_or(0, |(id, _)| id);
    let around = RobertaProcessing::new((end.to_owned(), id(end)), (start.to_owned(), id(start)));
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(lower_case))
        .with_pre_tokenizer(Some(pieces()?))
        .with_post_processor(Some(around.trim_offsets(false).add_prefix_space(false)))
        .with_decoder(Some(ByteLevel::new(false, false, false)))
        .build()
        .map_err(failed)?;
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .show_progress(false)
        .special_tokens(ENCODER_CONTROLS.map(|name| AddedToken::from(name, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, texts).map_err(failed)?;
    let mut json = tokenizer.to_string(true).map_err(failed)?.into_bytes();
    json.push(b'\n');
    Ok(json)
}

fn failed(error: tokenizers::Error) -> TokensError {
    TokensError::Unreadable { reason: error.to_string() }
}

/// Cuts a text into the pieces within which bytes may merge.
fn pieces() -> Result<Sequence, TokensError> {
    let split = |pattern: &str| {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map(PreTokenizerWrapper::from)
    };
    Ok(Sequence::new(vec![
        split("\\n").map_err(failed)?,
        split(PIECES).map_err(failed)?,
        ByteLevel::new(false, false, false).into(),
    ]))
}

/// Trains a tokenizer and writes it into a folder as `tokenizer.json`.
/// # Errors
/// As [`train`], or if the disk refuses.
pub fn run(world: &World, vocab_size: usize, out: &Path) -> Result<(), TrainError> {
    write_file(&out.join(TOKENIZER_FILE), &train(world, vocab_size)?)
}

/// Reads a tokenizer: a `tokenizer.json`, or the folder that holds one. Returns its bytes too.
/// # Errors
/// If there is none or it is broken.
pub fn read(path: &Path) -> Result<(Tokens, Vec<u8>), TrainError> {
    let path = if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_owned() };
    let json = std::fs::read(&path).map_err(TrainError::disk(&path, "read"))?;
    Ok((Tokens::from_bytes(&json)?, json))
}

/// Texts that merges are learned from: what was published before the cutoff, and what training readers did.
///
/// Every text starts with a space, as it does wherever the student reads or writes one: a word then has one
/// spelling in tokens, not two.
fn corpus(world: &World) -> Vec<String> {
    let articles = world.published().map(|article| format!(" {}\n {}\n", article.title, article.summary));
    let signals = world
        .training_readers()
        .flat_map(|reader| reader.events.iter().map(|event| format!(" {}\n", event.text)));
    articles.chain(signals).collect()
}
