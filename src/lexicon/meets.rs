//! What rows of a prompt meet of what its reader's signals ask for.
use super::{
    Lexicon,
    affinity::affinity,
    interests::{Interests, Said},
};
use crate::{
    decode::{
        batch::{FinishedRow, QueryEnd},
        features::Meets,
    },
    signals::Signal,
    text::tokens::Tokens,
};
use std::sync::Arc;

/// Reads rows of a prompt that shows these signals.
pub fn meets(lexicon: &Arc<Lexicon>, shown: &[Signal], tokens: &Tokens) -> Meets {
    let said: Vec<Said> = shown.iter().filter_map(|signal| lexicon.signal(signal)).collect();
    // Signals are compared by age with each other alone, so the moment of the newest is as good as any later one.
    let at_unix_s = said.iter().map(|said| said.time_unix_s).max().unwrap_or(0);
    let interests = Interests::of(&said, at_unix_s);
    let (lexicon, tokens) = (Arc::clone(lexicon), tokens.clone());
    let text = move |row: &FinishedRow, end: &QueryEnd| tokens.decode(&row.ids[end.start..end.n_ids]);
    Arc::new(move |row| affinity(row.query_ends.iter().map(|end| text(row, end)), &lexicon, &interests))
}
