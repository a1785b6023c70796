//! The news side: articles, catalogues of them, the index a platform would search.
pub mod article;
pub mod catalogue;
pub mod fuse;
pub mod index;
#[cfg(feature = "train")]
mod parquet_file;
pub mod vectors;
