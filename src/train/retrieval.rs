//! What a list of queries finds: BM25 for each query, fused by reciprocal rank.
use super::error::TrainError;
use crate::{
    news::{article::Article, fuse, index::NewsIndex},
    queries::QueryList,
};

/// Hits taken of each query before fusion.
const HITS_PER_QUERY: usize = 50;
/// Length of a ranking: as deep as anything measured looks.
pub const RANKING_LENGTH: usize = 100;
/// The k of the recall that lists are rewarded and compared by: what a reader sees at once.
pub const RECALL_K: usize = 10;

/// The catalogue as a platform would search it.
#[derive(Debug)]
pub struct Retrieval {
    index: NewsIndex,
    /// Position in the whole catalogue of each article of the index.
    article_idxs: Vec<usize>,
}

impl Retrieval {
    /// Indexes the articles of a catalogue that `stored` takes; article indices are those of the slice.
    ///
    /// Word statistics are those of the stored articles, so nothing is known of the others.
    /// # Errors
    /// If the index cannot be built.
    pub fn of(articles: &[Article], stored: impl Fn(&Article) -> bool) -> Result<Self, TrainError> {
        let article_idxs: Vec<usize> = (0..articles.len()).filter(|&idx| stored(&articles[idx])).collect();
        let chosen: Vec<Article> = article_idxs.iter().map(|&idx| articles[idx].clone()).collect();
        Ok(Self { index: NewsIndex::build(&chosen)?, article_idxs })
    }

    /// Returns the articles that queries find among those alive at a moment, best first, [`RANKING_LENGTH`] at most.
    /// # Errors
    /// If the search fails.
    pub fn ranking<'a>(
        &self,
        queries: impl Iterator<Item = &'a str>,
        alive_at: i64,
    ) -> Result<Vec<usize>, TrainError> {
        let ranked = queries.map(|query| self.hits(query, alive_at)).collect::<Result<Vec<_>, _>>()?;
        Ok(fuse::reciprocal_rank(&ranked, RANKING_LENGTH))
    }

    /// Returns the articles that a list finds, best first.
    /// # Errors
    /// If the search fails.
    pub fn list_ranking(&self, list: &QueryList, alive_at: i64) -> Result<Vec<usize>, TrainError> {
        self.ranking(list.as_slice().iter().map(|query| query.as_str()), alive_at)
    }

    /// Returns what one query finds, best first.
    /// # Errors
    /// If the search fails.
    pub fn hits(&self, query: &str, alive_at: i64) -> Result<Vec<usize>, TrainError> {
        Ok(self.scored_hits(query, alive_at)?.into_iter().map(|(article_idx, _)| article_idx).collect())
    }

    /// As [`Retrieval::hits`], each with its score.
    /// # Errors
    /// If the search fails.
    pub fn scored_hits(&self, query: &str, alive_at: i64) -> Result<Vec<(usize, f32)>, TrainError> {
        let hits = self.index.search(query, Some(alive_at), HITS_PER_QUERY)?;
        Ok(hits.into_iter().map(|hit| (self.article_idxs[hit.article_idx], hit.score)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn article(id: &str, title: &str) -> Article {
        Article {
            id: id.to_owned(),
            story_id: id.to_owned(),
            title: title.to_owned(),
            summary: String::new(),
            category: String::new(),
            language: "en".to_owned(),
            published_unix_s: 0,
            expires_unix_s: 10,
        }
    }

    #[test]
    fn hits_are_places_in_the_whole_catalogue_and_articles_left_out_are_not_found() {
        let catalogue =
            [article("a", "port strike"), article("b", "port strike ends"), article("c", "bus fares")];
        let retrieval = Retrieval::of(&catalogue, |article| article.id != "a").unwrap();
        assert_eq!(retrieval.hits("strike", 5).unwrap(), [1]);
        assert_eq!(retrieval.hits("fares", 5).unwrap(), [2]);
        assert_eq!(retrieval.hits("fares", 10).unwrap(), [0; 0], "it has expired");
    }
}
