//! Training readers at moments of their past, and the prompts that a server would have built for them then.
use super::{
    events::{self, Event, Reader, World},
    examples::cuts,
    rewards::{
        Judge,
        hit::{Clicked, Hits},
        view::View,
    },
};
use crate::{
    lexicon::interests::Interests,
    signals::UserSignals,
    text::{prompt, tokens::Tokens},
};

/// A reader at a moment.
#[derive(Clone, Debug)]
pub struct Asker<'a> {
    /// Her place among the readers given.
    pub reader_idx: usize,
    reader: &'a Reader,
    /// The traces that her prompt shows, oldest first.
    shown: Vec<&'a Event>,
    at_unix_s: i64,
}

/// How often, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// Moments per reader.
    pub cuts_per_reader: usize,
    /// Budget of a prompt in tokens.
    pub prompt_tokens: usize,
}

impl<'a> Asker<'a> {
    /// What a reader's prompt would show at a moment, with the prompt's ids; none where there is nothing to show.
    pub fn of(
        (reader_idx, reader): (usize, &'a Reader),
        at_unix_s: i64,
        (tokens, prompt_tokens): (&Tokens, usize),
    ) -> Option<(Vec<u32>, Self)> {
        let past: Vec<usize> = (0..reader.events_until(at_unix_s).len()).collect();
        let readable: Vec<&Event> =
            reader.readable(&past).into_iter().map(|idx| &reader.events[idx]).collect();
        let signals = events::signals(readable.iter().copied())?;
        let prompt = prompt::build(&signals, tokens, prompt_tokens);
        // The oldest are left out where the prompt has no room.
        let shown = readable[readable.len().saturating_sub(prompt.signal_ends.len())..].to_vec();
        Some((prompt.ids, Self { reader_idx, reader, shown, at_unix_s }))
    }

    /// What a judge compares her lists with: by what the prompt shows, since a writer can know no more.
    pub fn view(&self, judge: &Judge<'_>) -> View {
        judge.view_of(self.shown.iter().copied(), self.at_unix_s)
    }

    /// What she is interested in, by what the prompt shows.
    pub fn interests(&self, judge: &Judge<'_>) -> Interests {
        judge.interests_of(self.shown.iter().copied(), self.at_unix_s)
    }

    /// What she clicked within a day; none where there is nothing to know.
    pub fn clicked(&self, hits: &Hits<'_>) -> Option<Clicked> {
        hits.clicked(self.reader, self.at_unix_s)
    }

    /// What the prompt shows; none where that is nothing.
    pub fn signals(&self) -> Option<UserSignals> {
        events::signals(self.shown.iter().copied())
    }

    /// What this reader at this moment is called outside of the program; it tells nobody who she is.
    pub fn label(&self) -> String {
        format!("{}@{}", self.reader_idx, self.at_unix_s)
    }

    /// Texts of the traces that her prompt shows.
    pub fn texts(&self) -> impl Iterator<Item = &'a str> {
        self.shown.iter().map(|event| event.text.as_str())
    }
}

/// The prompts of readers at their cuts ([`cuts`]), each with its asker.
pub fn askers<'a>(
    world: &World,
    readers: impl Iterator<Item = &'a Reader>,
    tokens: &Tokens,
    asking: Asking,
) -> (Vec<Vec<u32>>, Vec<Asker<'a>>) {
    readers
        .enumerate()
        .flat_map(|(reader_idx, reader)| {
            let cuts = cuts(reader, world.cutoff_unix_s, asking.cuts_per_reader).into_iter();
            cuts.map(move |at_unix_s| ((reader_idx, reader), at_unix_s))
        })
        .filter_map(|(reader, at_unix_s)| Asker::of(reader, at_unix_s, (tokens, asking.prompt_tokens)))
        .unzip()
}
