//! What rows of a prompt meet of what its reader's signals ask for.
use super::{
    Lexicon, asked,
    interests::{Interests, Said},
    unit::Unit,
};
use crate::{
    decode::{
        batch::{FinishedRow, QueryEnd},
        features::Meets,
    },
    model::reward_head::Affinity,
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
    Arc::new(move |row| affinity(row, &lexicon, &interests, &tokens))
}

fn affinity(row: &FinishedRow, lexicon: &Lexicon, interests: &Interests, tokens: &Tokens) -> Affinity {
    let text = |end: &QueryEnd| tokens.decode(&row.ids[end.start..end.n_ids]);
    let units: Vec<Option<Unit>> = row.query_ends.iter().map(|end| lexicon.text(&text(end))).collect();
    let met = |unit: &Option<Unit>| unit.as_ref().map_or(0.0, |unit| asked::met(unit, interests));
    let of_list = asked::asked(&units.iter().map(Option::as_ref).collect::<Vec<_>>(), interests);
    #[allow(clippy::cast_possible_truncation, reason = "numbers from 0 to 1")]
    let queries = units.iter().map(|unit| met(unit) as f32).collect();
    #[allow(clippy::cast_possible_truncation, reason = "a number from 0 to 1")]
    let list = of_list as f32;
    Affinity { queries, list }
}
