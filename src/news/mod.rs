//! The news side: articles, catalogues of them, the indices a platform would search.
pub mod article;
pub mod catalogue;
pub mod embed;
pub mod folder;
pub mod fuse;
mod graph;
pub mod index;
pub mod nearest;
#[cfg(feature = "train")]
mod parquet_file;
mod sketch;
mod tsv;
pub mod vectors;
