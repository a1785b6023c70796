//! Documents and examples to micro-batches.
use super::{fit::MicroBatch, order::Order};
use crate::model::transformer::{Beginning, Packed};

/// A prompt and what should follow it, the stop token included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Read, without loss.
    pub prompt: Vec<u32>,
    /// Learned.
    pub completion: Vec<u32>,
    /// What is to be said at some places of the prompt already: the place, and the id that is learned there.
    pub notes: Vec<(usize, u32)>,
}

impl Example {
    fn len(&self) -> usize {
        self.prompt.len() + self.completion.len()
    }
}

/// Joins documents in a seeded order, one separator after each, and cuts the stream into rows of `row_tokens + 1`
/// ids: neighbours share one id, so that every id but the first is a target once. A rest shorter than a row is left out.
pub fn pack(documents: &[Vec<u32>], separator: u32, row_tokens: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut stream = vec![separator];
    for idx in Order::new(seed, documents.len()).items(0, documents.len()) {
        stream.extend(&documents[idx]);
        stream.push(separator);
    }
    let row_tokens = row_tokens.max(1);
    (0..(stream.len() - 1) / row_tokens)
        .map(|row| stream[row * row_tokens..=(row + 1) * row_tokens].to_vec())
        .collect()
}

/// Makes a micro-batch of packed rows: every position predicts the next id.
pub fn packed_batch<'a>(rows: impl Iterator<Item = &'a [u32]>) -> MicroBatch {
    let mut batch = MicroBatch { ids: Vec::new(), n_rows: 0, predictors: Vec::new(), targets: Vec::new() };
    for row in rows {
        batch.ids.extend(&row[..row.len() - 1]);
        batch.targets.extend(&row[1..]);
        batch.n_rows += 1;
    }
    batch.predictors = (0..u32::try_from(batch.ids.len()).unwrap_or(u32::MAX)).collect();
    batch
}

/// Sorts examples by length and cuts them into groups of at most `micro_batch_tokens`, padding included; one example
/// at least. Examples of like length share a micro-batch, so little of it is padding.
pub fn buckets(examples: &[Example], micro_batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut sorted: Vec<usize> = (0..examples.len()).collect();
    sorted.sort_by_key(|&idx| (examples[idx].len(), idx));
    let mut buckets: Vec<Vec<usize>> = Vec::new();
    for idx in sorted {
        match buckets.last_mut() {
            // The newest is the longest, so it sets the width.
            Some(bucket) if (bucket.len() + 1) * examples[idx].len() <= micro_batch_tokens => {
                bucket.push(idx)
            }
            _ => buckets.push(vec![idx]),
        }
    }
    buckets
}

/// Makes a micro-batch of examples, padded on the right; only notes and ids of completions are targets.
pub fn example_batch(examples: &[&Example], padding: u32) -> MicroBatch {
    // The last id of a row is a target only, so it needs no column.
    let width = examples.iter().map(|example| example.len() - 1).max().unwrap_or(0);
    let mut batch =
        MicroBatch { ids: Vec::new(), n_rows: examples.len(), predictors: Vec::new(), targets: Vec::new() };
    for (row_idx, example) in examples.iter().enumerate() {
        let row = example.prompt.iter().chain(&example.completion).take(example.len() - 1);
        batch.ids.extend(row);
        batch.ids.resize((row_idx + 1) * width, padding);
        for &(place, id) in &example.notes {
            batch.predictors.push(u32::try_from(row_idx * width + place).unwrap_or(u32::MAX));
            batch.targets.push(id);
        }
        let first = row_idx * width + example.prompt.len() - 1;
        let positions = first..first + example.completion.len();
        batch.predictors.extend(positions.map(|position| u32::try_from(position).unwrap_or(u32::MAX)));
        batch.targets.extend(&example.completion);
    }
    batch
}

/// Cuts examples, in their order, into groups for [`share_prompts`]: of at most `micro_batch_tokens` where neighbours with one prompt fit
/// together, and else of at most so many tokens of completions.
pub fn shared_buckets(examples: &[Example], micro_batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut buckets: Vec<Vec<usize>> = Vec::new();
    let (mut first, mut n_tokens) = (0, 0);
    for group in examples.chunk_by(|one, next| one.prompt == next.prompt) {
        let places = first..first + group.len();
        first = places.end;
        let n_prompt = group.first().map_or(0, |example| example.prompt.len());
        let n_group = n_prompt + group.iter().map(|example| example.completion.len()).sum::<usize>();
        if let Some(bucket) = buckets.last_mut().filter(|_| n_tokens + n_group <= micro_batch_tokens) {
            bucket.extend(places);
            n_tokens += n_group;
            continue;
        }
        let mut bucket = Vec::new();
        let mut n_completions = 0;
        for (place, example) in places.zip(group) {
            if !bucket.is_empty() && n_completions + example.completion.len() > micro_batch_tokens {
                buckets.push(std::mem::take(&mut bucket));
                n_completions = 0;
            }
            bucket.push(place);
            n_completions += example.completion.len();
        }
        buckets.push(bucket);
        n_tokens = n_prompt + n_completions;
    }
    buckets
}

/// Examples behind one another.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Prompts and completions.
    pub packed: Packed,
    /// Positions from which a target is predicted.
    pub predictors: Vec<u32>,
    /// The target of each predictor.
    pub targets: Vec<u32>,
}

/// Makes a micro-batch of examples without notes; neighbours with one prompt share it. Only ids of completions are targets.
pub fn share_prompts(examples: &[&Example]) -> Shared {
    let mut shared = Shared { packed: Packed::default(), predictors: Vec::new(), targets: Vec::new() };
    let mut prompt: Option<(&[u32], Beginning)> = None;
    for example in examples {
        let beginning = match prompt.take() {
            Some((ids, beginning)) if ids == example.prompt => beginning,
            _ => shared.packed.begin(&example.prompt),
        };
        // The first id is predicted from the prompt's last; the last id is a target only.
        if let Some((_, read)) = example.completion.split_last() {
            let own = shared.packed.behind(&beginning, read);
            let places = beginning.places().last().into_iter().chain(own);
            shared.predictors.extend(places.map(|place| u32::try_from(place).unwrap_or(u32::MAX)));
            shared.targets.extend(&example.completion);
        }
        prompt = Some((&example.prompt, beginning));
    }
    shared
}

/// Joins micro-batches into one, whose rows are as wide as the widest; what fills them up is read by no predictor.
pub fn join(batches: &[MicroBatch]) -> MicroBatch {
    let width_of = |batch: &MicroBatch| batch.ids.len() / batch.n_rows.max(1);
    let width = batches.iter().map(width_of).max().unwrap_or(0);
    let mut joined = MicroBatch { ids: Vec::new(), n_rows: 0, predictors: Vec::new(), targets: Vec::new() };
    for batch in batches {
        let own_width = width_of(batch).max(1);
        let moved = |position: usize| (joined.n_rows + position / own_width) * width + position % own_width;
        let predictors = batch.predictors.iter().map(|&position| moved(position as usize));
        joined.predictors.extend(predictors.map(|position| u32::try_from(position).unwrap_or(u32::MAX)));
        joined.targets.extend(&batch.targets);
        joined.n_rows += batch.n_rows;
        for row in batch.ids.chunks(own_width) {
            joined.ids.extend(row);
            joined.ids.resize(joined.ids.len() + width - row.len(), 0);
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_rows_make_every_id_a_target_once() {
        let rows = pack(&[vec![1, 2, 3], vec![4, 5]], 0, 3, 7);
        let batch = packed_batch(rows.iter().map(Vec::as_slice));
        assert_eq!(batch.n_rows, 2);
        let mut targets = batch.targets.clone();
        targets.sort_unstable();
        assert!(targets == [0, 1, 2, 3, 4, 5] || targets == [0, 0, 1, 2, 3, 4], "{targets:?}");
    }

    #[test]
    fn only_notes_and_completions_are_targets_and_each_id_is_predicted_from_the_one_before() {
        let long = Example { prompt: vec![1, 2, 3], completion: vec![4, 5], notes: vec![(1, 9)] };
        let short = Example { prompt: vec![6], completion: vec![7], notes: vec![] };
        let batch = example_batch(&[&short, &long], 0);
        assert_eq!(batch.ids, [6, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(batch.predictors, [0, 5, 6, 7]);
        assert_eq!(batch.targets, [7, 9, 4, 5]);
    }

    #[test]
    fn neighbours_with_one_prompt_share_it_and_each_id_is_predicted_from_the_one_before() {
        let example = |prompt: &[u32], completion: &[u32]| Example {
            prompt: prompt.to_vec(),
            completion: completion.to_vec(),
            notes: vec![],
        };
        let examples = [
            example(&[1, 2, 3], &[4, 5]),
            example(&[1, 2, 3], &[6]),
            example(&[1, 2, 3], &[7, 8, 9]),
            example(&[10], &[11, 12]),
        ];
        let shared = share_prompts(&examples.iter().collect::<Vec<_>>());
        assert_eq!(shared.packed.ids(), [1, 2, 3, 4, 7, 8, 10, 11]);
        assert_eq!(shared.predictors, [2, 3, 2, 2, 4, 5, 6, 7]);
        assert_eq!(shared.targets, [4, 5, 6, 7, 8, 9, 11, 12]);
    }

    #[test]
    fn examples_of_one_prompt_stay_together_where_they_fit() {
        let group = |prompt: u32, n: usize| {
            let example =
                move |_| Example { prompt: vec![prompt; 10], completion: vec![1; 5], notes: vec![] };
            (0..n).map(example)
        };
        let examples: Vec<_> = group(1, 2).chain(group(2, 2)).chain(group(3, 5)).collect();
        let cut = |micro_batch_tokens| {
            let buckets = shared_buckets(&examples, micro_batch_tokens);
            assert_eq!(buckets.concat(), (0..examples.len()).collect::<Vec<_>>());
            buckets.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(cut(1_000), [9]);
        assert_eq!(cut(40), [4, 5], "two groups of 20 tokens, then one of 35");
        assert_eq!(cut(20), [2, 2, 4, 1], "at most 20 tokens of completions beside a prompt");
        assert_eq!(cut(1), [1; 9]);
    }

    #[test]
    fn joined_rows_keep_their_ids_and_what_is_predicted_from_each() {
        let example =
            |ids: [u32; 3], completion: Vec<u32>| Example { prompt: ids.to_vec(), completion, notes: vec![] };
        let (short, long) = (example([1, 2, 3], vec![4]), example([5, 6, 7], vec![8, 9, 10]));
        let batches = [example_batch(&[&short, &short], 0), example_batch(&[&long], 0)];
        let joined = join(&batches);
        assert_eq!(joined.ids, [1, 2, 3, 0, 0, 1, 2, 3, 0, 0, 5, 6, 7, 8, 9]);
        assert_eq!((joined.n_rows, joined.predictors), (3, vec![2, 7, 12, 13, 14]));
        assert_eq!(joined.targets, [4, 4, 8, 9, 10]);
    }

    #[test]
    fn buckets_hold_every_example_once_and_stay_below_the_limit() {
        let examples: Vec<_> =
            (1..20).map(|n| Example { prompt: vec![1; n], completion: vec![2], notes: vec![] }).collect();
        let buckets = buckets(&examples, 40);
        let mut all: Vec<_> = buckets.concat();
        all.sort_unstable();
        assert_eq!(all, (0..19).collect::<Vec<_>>());
        for bucket in &buckets {
            let longest = bucket.iter().map(|&idx| examples[idx].len()).max().unwrap();
            assert!(bucket.len() == 1 || bucket.len() * longest <= 40);
        }
    }
}
