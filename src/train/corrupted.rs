//! Lists made worse on purpose. Which of two is better is known then by how they were made, whoever judges them.
//!
//! | corruption | what becomes worse |
//! |---|---|
//! | dropped | nothing is asked about one interest that counts |
//! | swapped | it is the list of another reader |
//! | generalised | the most telling half of each query's words is replaced by words that stand everywhere |
//! | repeated | half of the queries say what the others say, in another order |
//! | shuffled | words change places between queries |
//!
//! Source: RecGPT-V2 (arXiv 2512.14503), whose judge learns an order that is known by construction. Departs from it in what is corrupted: lists
//! of queries, by rules.
use super::{
    events::World,
    rewards::{meaning::Meaning, rubric::WEIGHT_MIN},
    salient::Salience,
};
use crate::{
    lexicon::interests::Interests,
    queries::{QUERIES_MIN, QueryList},
    text::{parse::parse, words::words},
};
use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};

/// How a list is made worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// The queries about one interest are left out.
    Dropped,
    /// Another reader's list stands in its place.
    Swapped,
    /// Telling words become common ones.
    Generalised,
    /// Half of the queries repeat the others.
    Repeated,
    /// Words change places between queries.
    Shuffled,
}

impl Corruption {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Dropped, Self::Swapped, Self::Generalised, Self::Repeated, Self::Shuffled];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Swapped => "swapped",
            Self::Generalised => "generalised",
            Self::Repeated => "repeated",
            Self::Shuffled => "shuffled",
        }
    }
}

/// Whose list is made worse, and whose may stand in its place.
#[derive(Clone, Copy, Debug)]
pub struct Between<'a> {
    /// What its reader is interested in.
    pub interests: &'a Interests,
    /// The list of a reader who is another, where there is one.
    pub other: Option<&'a QueryList>,
}

/// Makes lists worse.
#[derive(Debug)]
pub struct Corrupter<'a> {
    meaning: &'a Meaning,
    /// Words of titles that tell nothing, each as often as it stands there.
    common: Vec<&'a str>,
}

impl<'a> Corrupter<'a> {
    /// Gathers the common words of what was published.
    pub fn of(world: &'a World, meaning: &'a Meaning) -> Self {
        let salience = Salience::of(world.published());
        let titles = world.published().flat_map(|article| words(&article.title));
        Self { meaning, common: titles.filter(|word| !salience.is_rare(word)).collect() }
    }

    /// Makes a list worse; none where what would come of it is no list or the same.
    pub fn corrupted(
        &self,
        list: &QueryList,
        how: Corruption,
        between: Between<'_>,
        rng: &mut impl Rng,
    ) -> Option<QueryList> {
        let queries: Vec<&str> = list.as_slice().iter().map(|query| query.as_str()).collect();
        let worse = match how {
            Corruption::Dropped => self.without_an_interest(&queries, between.interests, rng)?,
            Corruption::Swapped => vec![between.other?.to_text()],
            Corruption::Generalised => queries.iter().map(|query| self.generalised(query, rng)).collect(),
            Corruption::Repeated => repeated(&queries),
            Corruption::Shuffled => shuffled(&queries, rng),
        };
        parse(&worse.join("\n")).ok().filter(|worse| worse != list)
    }

    /// Without the queries that are nearest to one of the interests; none where too few are left or all are about one.
    fn without_an_interest(
        &self,
        queries: &[&str],
        interests: &Interests,
        rng: &mut impl Rng,
    ) -> Option<Vec<String>> {
        let about: Vec<Option<usize>> =
            queries.iter().map(|query| nearest(interests, self.meaning, query)).collect();
        let n_left = |interest: &usize| about.iter().filter(|about| **about != Some(*interest)).count();
        let counts = |interest: &usize| interests.clusters[*interest].1 >= WEIGHT_MIN;
        let may_go: Vec<usize> =
            about.iter().flatten().copied().filter(counts).filter(|i| n_left(i) >= QUERIES_MIN).collect();
        let gone = *may_go.choose(rng)?;
        let left = queries.iter().zip(&about).filter(|(_, about)| **about != Some(gone));
        Some(left.map(|(query, _)| (*query).to_owned()).collect())
    }

    fn generalised(&self, query: &str, rng: &mut impl Rng) -> String {
        let mut words: Vec<&str> = query.split_whitespace().collect();
        let mut order: Vec<usize> = (0..words.len()).collect();
        // A word that the news does not have finds nothing, and tells nothing.
        let rarity = |idx: usize| self.meaning.rarity(words[idx]).unwrap_or(0.0);
        order.sort_by(|&a, &b| rarity(b).total_cmp(&rarity(a)));
        let telling = &order[..words.len().div_ceil(2)];
        for &idx in telling {
            if let Some(common) = self.common.choose(rng) {
                words[idx] = common;
            }
        }
        words.join(" ")
    }
}

/// The place of another list for the one at `idx` of `n`: half of them away, or the next behind it that is fit.
pub fn another(idx: usize, n: usize, is_fit: impl Fn(usize) -> bool) -> Option<usize> {
    (0..n).map(|step| (idx + n / 2 + step) % n).find(|&other| is_fit(other))
}

/// The interest that a query is nearest to; none where it means nothing.
fn nearest(interests: &Interests, meaning: &Meaning, query: &str) -> Option<usize> {
    let unit = meaning.text(query)?;
    let cosines = interests.clusters.iter().map(|(centre, _)| centre.cosine(&unit)).enumerate();
    cosines.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(idx, _)| idx)
}

fn repeated(queries: &[&str]) -> Vec<String> {
    let kept = &queries[..queries.len().div_ceil(2)];
    let again = kept.iter().take(queries.len() - kept.len()).map(|query| {
        let mut words: Vec<&str> = query.split_whitespace().collect();
        words.rotate_left(1);
        words.join(" ")
    });
    kept.iter().map(|query| (*query).to_owned()).chain(again).collect()
}

fn shuffled(queries: &[&str], rng: &mut impl Rng) -> Vec<String> {
    let mut words: Vec<&str> = queries.iter().flat_map(|query| query.split_whitespace()).collect();
    words.shuffle(rng);
    let mut words = words.into_iter();
    let lengths = queries.iter().map(|query| query.split_whitespace().count());
    lengths.map(|n_words| words.by_ref().take(n_words).collect::<Vec<_>>().join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn repeated_queries_hold_the_words_of_the_kept_ones_and_shuffled_ones_all_words() {
        let queries = ["a b c", "d e", "f g", "h i j"];
        assert_eq!(repeated(&queries), ["a b c", "d e", "b c a", "e d"]);
        assert_eq!(repeated(&queries[..3]), ["a b c", "d e", "b c a"]);
        let mixed = shuffled(&queries, &mut ChaCha8Rng::seed_from_u64(1));
        let lengths: Vec<usize> = mixed.iter().map(|query| query.split(' ').count()).collect();
        assert_eq!(lengths, [3, 2, 2, 3]);
        let mut words: Vec<&str> = mixed.iter().flat_map(|query| query.split(' ')).collect();
        words.sort_unstable();
        assert_eq!(words.concat(), "abcdefghij");
        assert_ne!(mixed, queries);
    }
}
