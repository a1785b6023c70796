//! Approximate search among unit vectors: a navigable small-world graph (HNSW), built and searched by the library usearch.
//!
//! Why usearch: its one other dependency at run time is the bridge to C++, it filters while it walks, and what it stores it reads
//! back in one call. hnsw_rs, the other candidate, is Rust, but brings a logger, memory maps and thirteen packages more, ends the
//! process for one wrong setting, can panic in a filtered search that has thinned out its hits, and reads a graph back only
//! for as long as its reader lives.
//!
//! One thread inserts row after row, and the level of each comes from a generator that always starts alike: one build of the
//! program makes one graph of the same rows. Another compiler may sum the products of a distance in another order and so choose
//! another neighbour; cosines that readers see are not its own but those of the exact search.
//! Source: Malkov, Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World
//! graphs", arXiv 1603.09320.
use super::nearest::VectorsError;
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

/// Neighbours of a vector on the upper levels, twice as many on the lowest; the source advises 5 to 48.
const NEIGHBOURS: usize = 16;
/// Vectors that are kept in view while neighbours of a new one are sought: more is slower to build and loses fewer.
const VIEW_BUILD: usize = 128;
/// Vectors that are kept in view while a query is answered: more is slower and loses fewer.
const VIEW_SEARCH: usize = 96;
/// Vectors that a search without a filter looks at: those in view times their neighbours on the lowest level, seldom more.
pub(super) const LOOKED_AT: usize = VIEW_SEARCH * 2 * NEIGHBOURS;
/// Searches that may run at once. One more is an error: each has its own memory in the library.
const SEARCHES_MAX: usize = 64;

/// A graph over rows of vectors; it holds them too.
pub(super) struct Graph(Index);

impl std::fmt::Debug for Graph {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Graph").field("n_rows", &self.0.size()).finish_non_exhaustive()
    }
}

impl Graph {
    /// Inserts rows of `width` numbers, one after another.
    pub(super) fn build(width: usize, vectors: &[f32]) -> Result<Self, VectorsError> {
        let index = empty(width)?;
        let n_rows = vectors.len().checked_div(width).unwrap_or(0);
        // Memory of one thread while rows go in, so that all levels come from the one generator.
        index.reserve_capacity_and_threads(n_rows, 1).map_err(|error| failed("reserve", &error))?;
        for (key, row) in (0..).zip(vectors.chunks_exact(width.max(1))) {
            index.add::<f32>(key, row).map_err(|error| failed("insert", &error))?;
        }
        ready(index, n_rows)
    }

    /// Finds rows near to a query, `k` at most, of those that `keep` takes; in no promised order.
    pub(super) fn search(
        &self,
        query: &[f32],
        k: usize,
        keep: Option<impl Fn(usize) -> bool>,
    ) -> Result<Vec<usize>, VectorsError> {
        let k = k.min(self.0.size());
        let found = match keep {
            // Keys are row numbers. A key that is none is kept out: a panic could not pass through the library.
            Some(keep) => self.0.filtered_search(query, k, |key| usize::try_from(key).is_ok_and(&keep)),
            None => self.0.search(query, k),
        };
        let found = found.map_err(|error| failed("search", &error))?;
        Ok(found.keys.into_iter().filter_map(|key| usize::try_from(key).ok()).collect())
    }

    /// Returns the graph as [`Graph::from_bytes`] reads it.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, VectorsError> {
        let mut bytes = vec![0; self.0.serialized_length()];
        self.0.save_to_buffer(&mut bytes).map_err(|error| failed("store", &error))?;
        Ok(bytes)
    }

    /// Reads a graph over `n_rows` rows of `width` numbers. The bytes must be those that [`Graph::to_bytes`] made: the library
    /// checks their head, not each of their links, so the caller compares digests first.
    pub(super) fn from_bytes(bytes: &[u8], width: usize, n_rows: usize) -> Result<Self, VectorsError> {
        let index = empty(width)?;
        index.load_from_buffer(bytes).map_err(|error| failed("read", &error))?;
        let (got_width, got_rows) = (index.dimensions(), index.size());
        if (got_width, got_rows) != (width, n_rows) {
            let reason = format!("{got_rows} rows of {got_width}, expected {n_rows} rows of {width}");
            return Err(VectorsError::Graph { doing: "read", reason });
        }
        ready(index, n_rows)
    }
}

fn empty(width: usize) -> Result<Index, VectorsError> {
    let options = IndexOptions {
        dimensions: width,
        // Rows are unit vectors: their scalar product is their cosine.
        metric: MetricKind::IP,
        quantization: ScalarKind::F32,
        connectivity: NEIGHBOURS,
        expansion_add: VIEW_BUILD,
        expansion_search: VIEW_SEARCH,
        multi: false,
    };
    Index::new(&options).map_err(|error| failed("start", &error))
}

/// Takes no more rows, and as many searches at once as are allowed.
fn ready(index: Index, n_rows: usize) -> Result<Graph, VectorsError> {
    index.reserve_capacity_and_threads(n_rows, SEARCHES_MAX).map_err(|error| failed("reserve", &error))?;
    index.change_expansion_search(VIEW_SEARCH);
    Ok(Graph(index))
}

fn failed(doing: &'static str, error: &dyn std::fmt::Display) -> VectorsError {
    VectorsError::Graph { doing, reason: error.to_string() }
}
