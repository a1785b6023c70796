//! Signals to prompt ids: instructions first, then signals oldest to newest, so that a new signal extends the prefix.
use super::tokens::Tokens;
use crate::{
    queries::QueryList,
    signals::{Signal, Stream, UserSignals},
};

/// Changes whenever the same signals give other ids.
pub const PROMPT_VERSION: u32 = 2;

/// What the model is told. Short, since the smallest model reads it with every request.
const INSTRUCTION: &str = "Write news search queries for this reader.";

/// Tokens that a budget leaves at least for signals: `search: ` and the first words of one.
const SIGNAL_TOKENS_MIN: usize = 16;

/// A prompt ready for the model.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Token ids, control tokens included; the last ones open the assistant's turn.
    pub ids: Vec<u32>,
    /// Signals left out (oldest first) or cut because the budget was full.
    pub n_truncated_signals: usize,
    /// Place in `ids` of the last token of each signal that is not left out, oldest first.
    pub signal_ends: Vec<usize>,
}

impl Prompt {
    /// Of the signals that it was built of, those that it shows.
    pub fn shown<'a>(&self, signals: &'a UserSignals) -> &'a [Signal] {
        let signals = signals.as_slice();
        &signals[signals.len().saturating_sub(self.signal_ends.len())..]
    }
}

/// Builds the prompt within a budget of tokens (control tokens and instructions included).
///
/// Each signal is a line, `search: text | category`, and is tokenised by itself: ids are joined, never strings. As long as
/// all fit, the ids of a reader's signals are thereby a prefix of the ids with a newer signal added, up to the closing
/// control tokens; and no text of a reader can become a control token. A newest signal that alone exceeds the budget loses
/// its end, so that no reader's prompt is empty. `budget_tokens` is at least `budget_min(tokens)`.
pub fn build(signals: &UserSignals, tokens: &Tokens, budget_tokens: usize) -> Prompt {
    let mut ids = opening(tokens);
    let closing = closing(tokens);
    let ids_of =
        |signal: &Signal| tokens.encode_text(&line(signal.stream(), signal.text(), signal.category()));
    let mut lines: Vec<Vec<u32>> = signals.as_slice().iter().map(ids_of).collect();
    let mut room = budget_tokens.saturating_sub(ids.len() + closing.len());
    let mut is_cut = false;
    if let Some(newest) = lines.last_mut().filter(|line| line.len() > room) {
        is_cut = true;
        let line_feed = tokens.encode_text("\n");
        newest.truncate(room.saturating_sub(line_feed.len()));
        newest.extend(line_feed);
    }
    let n_kept = lines
        .iter()
        .rev()
        .take_while(|line| match room.checked_sub(line.len()) {
            Some(rest) => {
                room = rest;
                true
            }
            None => false,
        })
        .count();
    let n_left_out = lines.len() - n_kept;
    let mut signal_ends = Vec::with_capacity(n_kept);
    for line in lines.into_iter().skip(n_left_out) {
        ids.extend(line);
        signal_ends.push(ids.len() - 1);
    }
    ids.extend(closing);
    Prompt { ids, n_truncated_signals: n_left_out + usize::from(is_cut && n_kept > 0), signal_ends }
}

/// The smallest budget of a prompt, in tokens: the frame, and room for the beginning of one signal.
pub fn budget_min(tokens: &Tokens) -> usize {
    opening(tokens).len() + closing(tokens).len() + SIGNAL_TOKENS_MIN
}

/// Ids that a perfect model would write for a list: one query a line, each after a space, ended by `<|im_end|>`.
///
/// Words of signals stand after spaces too, so a word that is copied has the same token in both places. The joined text
/// is encoded as a whole, line feeds included: training sees the ids that the tokenizer itself prefers.
pub fn completion_ids(list: &QueryList, tokens: &Tokens) -> Vec<u32> {
    let lines: Vec<String> = list.as_slice().iter().map(|query| format!(" {}", query.as_str())).collect();
    let mut ids = tokens.encode_text(&lines.join("\n"));
    ids.push(tokens.im_end());
    ids
}

/// The ids with which every prompt begins: the system turn, and the head of the user's turn.
pub fn opening(tokens: &Tokens) -> Vec<u32> {
    let mut ids = vec![tokens.im_start()];
    ids.extend(tokens.encode_text(&format!("system\n{INSTRUCTION}")));
    ids.push(tokens.im_end());
    ids.extend(tokens.encode_text("\n"));
    ids.push(tokens.im_start());
    ids.extend(tokens.encode_text("user\n"));
    ids
}

/// The end of the user's turn, and the head of the assistant's.
fn closing(tokens: &Tokens) -> Vec<u32> {
    let mut ids = vec![tokens.im_end()];
    ids.extend(tokens.encode_text("\n"));
    ids.push(tokens.im_start());
    ids.extend(tokens.encode_text("assistant\n"));
    ids
}

/// One signal as a line, `search: text | category`.
pub fn line(stream: Stream, text: &str, category: Option<&str>) -> String {
    let stream = stream.word();
    match category {
        Some(category) => format!("{stream}: {text} | {category}\n"),
        None => format!("{stream}: {text}\n"),
    }
}
