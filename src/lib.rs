#![doc = include_str!("ARCHITECTURE.md")]

pub mod queries;
pub mod signals;

pub mod text;

pub mod model;

pub mod cleaner;

pub mod decode;

pub mod bundle;

pub mod news;

#[cfg(feature = "serve")]
pub mod experiment;

#[cfg(feature = "serve")]
pub mod serve;

#[cfg(feature = "train")]
pub mod world;

#[cfg(feature = "train")]
pub mod train;

#[cfg(any(feature = "serve", feature = "train"))]
pub mod plot;
pub mod settings;
pub mod start;
pub mod telemetry;
