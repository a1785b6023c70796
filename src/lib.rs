#![doc = include_str!("ARCHITECTURE.md")]

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "house")]
pub mod queries;
#[cfg(feature = "house")]
pub mod signals;

#[cfg(feature = "house")]
pub mod text;

#[cfg(feature = "house")]
pub mod model;

#[cfg(feature = "house")]
pub mod cleaner;

#[cfg(feature = "house")]
pub mod decode;

#[cfg(feature = "house")]
pub mod lexicon;

#[cfg(feature = "house")]
pub mod bundle;

#[cfg(feature = "house")]
pub mod news;

#[cfg(feature = "serve")]
pub mod experiment;

#[cfg(feature = "serve")]
pub mod serve;

#[cfg(feature = "train")]
pub mod world;

#[cfg(feature = "train")]
pub mod train;

#[cfg(feature = "house")]
pub mod plot;
#[cfg(feature = "house")]
pub mod settings;
#[cfg(feature = "house")]
pub mod start;
#[cfg(feature = "house")]
pub mod telemetry;
