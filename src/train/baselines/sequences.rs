//! Readers as sequences of articles.
use super::{
    super::{
        events::{Reader, World},
        order::Order,
    },
    CLICKS_MAX,
};

/// Sequences that are read side by side.
const BATCH: usize = 64;

/// Sequences of like length, padded on the right: models look back only, so that padding changes nothing before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Articles read, row after row (B x T).
    pub articles: Vec<u32>,
    /// Rows, B.
    pub n_rows: usize,
    /// Columns, T.
    pub width: usize,
    /// The article after each; padding has none.
    pub next: Vec<Option<u32>>,
}

/// Articles that a reader clicked until a moment, oldest first, `n` of the newest at most.
pub fn clicked(reader: &Reader, until_unix_s: i64, n: usize) -> Vec<u32> {
    let clicks = reader.clicks_between(i64::MIN, until_unix_s);
    let articles: Vec<u32> = clicks.filter_map(|click| u32::try_from(click.article_idx?).ok()).collect();
    articles[articles.len().saturating_sub(n)..].to_vec()
}

/// Training readers with at least two clicks: [`CLICKS_MAX`] that are read, and the one that follows.
pub fn training(world: &World) -> Vec<Vec<u32>> {
    let sequences =
        world.training_readers().map(|reader| clicked(reader, world.cutoff_unix_s, CLICKS_MAX + 1));
    sequences.filter(|sequence| sequence.len() > 1).collect()
}

/// One pass over the sequences in batches of like length, in a seeded order of its own.
pub fn batches(sequences: &[Vec<u32>], seed: u64, pass: u64) -> Vec<Batch> {
    let mut sorted: Vec<&Vec<u32>> = sequences.iter().collect();
    sorted.sort_by_key(|sequence| sequence.len());
    let groups: Vec<&[&Vec<u32>]> = sorted.chunks(BATCH).collect();
    let order = Order::new(seed, groups.len()).items(pass * groups.len() as u64, groups.len());
    order.into_iter().map(|idx| batch(groups[idx])).collect()
}

fn batch(sequences: &[&Vec<u32>]) -> Batch {
    let width = sequences.iter().map(|sequence| sequence.len() - 1).max().unwrap_or(0);
    let mut batch = Batch { articles: Vec::new(), n_rows: sequences.len(), width, next: Vec::new() };
    for (row, sequence) in (1..).zip(sequences) {
        batch.articles.extend(&sequence[..sequence.len() - 1]);
        batch.articles.resize(row * width, 0);
        batch.next.extend(sequence[1..].iter().copied().map(Some));
        batch.next.resize(row * width, None);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_click_is_the_target_of_the_one_before_and_padding_of_none() {
        let sequences = [vec![4, 5, 6], vec![7, 8]];
        let got = batch(&sequences.iter().collect::<Vec<_>>());
        assert_eq!((got.n_rows, got.width), (2, 2));
        assert_eq!(got.articles, [4, 5, 7, 0]);
        assert_eq!(got.next, [Some(5), Some(6), Some(8), None]);
    }

    #[test]
    fn a_pass_reads_every_sequence_once_and_the_next_in_another_order() {
        let sequences: Vec<Vec<u32>> = (2..300).map(|n| (0..n % 9 + 2).collect()).collect();
        let (one, two) = (batches(&sequences, 1, 0), batches(&sequences, 1, 1));
        assert_eq!(one.iter().map(|batch| batch.n_rows).sum::<usize>(), sequences.len());
        assert_ne!(one, two);
        let mut sorted = [one, two];
        sorted.iter_mut().for_each(|pass| pass.sort_by_key(|batch| (batch.width, batch.articles.clone())));
        assert_eq!(sorted[0], sorted[1]);
    }
}
