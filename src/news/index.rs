//! BM25 over titles and summaries (tantivy in memory; term queries only, never its query language).
use super::article::Article;
use std::collections::BTreeSet;
use std::sync::Arc;
use tantivy::collector::{Collector, SegmentCollector};
use tantivy::query::{BooleanQuery, BoostQuery, Occur, Query, TermQuery};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{PreTokenizedString, Token};
use tantivy::{
    DocId, Index, IndexReader, ReloadPolicy, Score, SegmentOrdinal, SegmentReader, TantivyDocument, Term,
};
use thiserror::Error;
use unicode_normalization::UnicodeNormalization;

/// A word in a title counts this many times a word in a summary.
const TITLE_BOOST: Score = 2.0;
/// Words of a query beyond this many distinct ones are ignored, so that a hostile query stays cheap.
const QUERY_WORDS_MAX: usize = 64;
/// Tantivy flushes nothing before this; an index of one segment never flushes early.
const BUILD_MEMORY_BYTES: usize = 64 << 20;

/// Why an index could not be built or searched.
#[derive(Debug, Error)]
pub enum IndexError {
    /// Tantivy refused; in memory this means a document or an index beyond its limits.
    #[error("index could not be built or searched")]
    Tantivy(#[from] tantivy::TantivyError),
}

/// One article found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Position in the slice that the index was built from.
    pub article_idx: usize,
    /// BM25, title twice the weight of the summary; above 0.
    pub score: f32,
}

/// Articles, searchable by words. Its word statistics are those of all its articles, alive or not.
pub struct NewsIndex {
    reader: IndexReader,
    title: Field,
    summary: Field,
    /// (published, expires) of each article, in index order.
    lifetimes: Arc<[(i64, i64)]>,
}

impl std::fmt::Debug for NewsIndex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NewsIndex").field("n_articles", &self.lifetimes.len()).finish_non_exhaustive()
    }
}

impl NewsIndex {
    /// Builds the index in memory, in one segment and one thread, so that scores never depend on timing.
    /// # Errors
    /// If tantivy refuses an article.
    pub fn build(articles: &[Article]) -> Result<Self, IndexError> {
        let mut schema = Schema::builder();
        let indexing = TextFieldIndexing::default().set_index_option(IndexRecordOption::WithFreqs);
        let options = TextOptions::default().set_indexing_options(indexing);
        let title = schema.add_text_field("title", options.clone());
        let summary = schema.add_text_field("summary", options);
        let mut writer = Index::builder()
            .schema(schema.build())
            .single_segment_index_writer(tantivy::directory::RamDirectory::create(), BUILD_MEMORY_BYTES)?;
        for article in articles {
            let mut document = TantivyDocument::default();
            document.add_pre_tokenized_text(title, tokenized(&article.title));
            document.add_pre_tokenized_text(summary, tokenized(&article.summary));
            writer.add_document(document)?;
        }
        let reader = writer.finalize()?.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        let lifetimes =
            articles.iter().map(|article| (article.published_unix_s, article.expires_unix_s)).collect();
        Ok(Self { reader, title, summary, lifetimes })
    }

    /// Finds the best articles for a query, best first; ties by lower `article_idx`.
    ///
    /// An article matches if it has any word of the query. `alive_at`: only articles with
    /// published <= time < expires. A query without words finds nothing. A repeated word counts once.
    /// # Errors
    /// If tantivy fails.
    pub fn search(&self, query: &str, alive_at: Option<i64>, n_hits: usize) -> Result<Vec<Hit>, IndexError> {
        let mut clauses: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        let mut seen = BTreeSet::new();
        for word in words(query) {
            if seen.len() == QUERY_WORDS_MAX {
                break;
            }
            if !seen.insert(word.clone()) {
                continue;
            }
            let in_title = self.term_query(self.title, &word);
            clauses.push((Occur::Should, Box::new(BoostQuery::new(in_title, TITLE_BOOST))));
            clauses.push((Occur::Should, self.term_query(self.summary, &word)));
        }
        if clauses.is_empty() || n_hits == 0 {
            return Ok(Vec::new());
        }
        let alive = Alive { lifetimes: Arc::clone(&self.lifetimes), alive_at };
        let mut hits = self.reader.searcher().search(&BooleanQuery::new(clauses), &alive)?;
        let best_first = |left: &Hit, right: &Hit| {
            right.score.total_cmp(&left.score).then(left.article_idx.cmp(&right.article_idx))
        };
        if n_hits < hits.len() {
            hits.select_nth_unstable_by(n_hits, best_first);
            hits.truncate(n_hits);
        }
        hits.sort_unstable_by(best_first);
        Ok(hits)
    }

    fn term_query(&self, field: Field, word: &str) -> Box<dyn Query> {
        Box::new(TermQuery::new(Term::from_field_text(field, word), IndexRecordOption::WithFreqs))
    }
}

/// Yields the words of a text: compatibility-normalised (NFKC), lower-case, split at everything but letters and digits.
fn words(text: &str) -> impl Iterator<Item = String> {
    let normalised: String = text.nfkc().flat_map(char::to_lowercase).collect();
    let words: Vec<String> = normalised
        .split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    words.into_iter()
}

/// Hands our words to tantivy, so that documents and queries cannot be split by different rules.
fn tokenized(text: &str) -> PreTokenizedString {
    let tokens = words(text)
        .enumerate()
        .map(|(position, word)| Token {
            offset_from: 0,
            offset_to: 0,
            position,
            text: word,
            position_length: 1,
        })
        .collect();
    PreTokenizedString { text: String::new(), tokens }
}

/// Collects every living article that matches. Filtering here, before the best are chosen, is exact for any number of hits.
struct Alive {
    lifetimes: Arc<[(i64, i64)]>,
    alive_at: Option<i64>,
}

struct AliveInSegment {
    lifetimes: Arc<[(i64, i64)]>,
    alive_at: Option<i64>,
    hits: Vec<Hit>,
}

impl Collector for Alive {
    type Fruit = Vec<Hit>;
    type Child = AliveInSegment;

    fn for_segment(
        &self,
        _ordinal: SegmentOrdinal,
        _reader: &SegmentReader,
    ) -> tantivy::Result<AliveInSegment> {
        Ok(AliveInSegment {
            lifetimes: Arc::clone(&self.lifetimes),
            alive_at: self.alive_at,
            hits: Vec::new(),
        })
    }

    fn requires_scoring(&self) -> bool {
        true
    }

    fn merge_fruits(&self, segments: Vec<Vec<Hit>>) -> tantivy::Result<Vec<Hit>> {
        Ok(segments.into_iter().flatten().collect())
    }
}

impl SegmentCollector for AliveInSegment {
    type Fruit = Vec<Hit>;

    fn collect(&mut self, document: DocId, score: Score) {
        // One segment, filled in order, never deleted from: the document's number is the article's.
        let Ok(article_idx) = usize::try_from(document) else { return };
        let Some(&(published, expires)) = self.lifetimes.get(article_idx) else { return };
        if self.alive_at.is_none_or(|time| published <= time && time < expires) {
            self.hits.push(Hit { article_idx, score });
        }
    }

    fn harvest(self) -> Vec<Hit> {
        self.hits
    }
}
