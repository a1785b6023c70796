//! From a world's articles and traces to a student, its reward head and a bundle.
//!
//! Stages are commands of the trainer: `tokenizer`, `pretrain`, `sft`, `teacher`, `student`, `head`, `bundle`. Each reads what a platform would
//! have (texts, signals and clicks of training readers), never a test reader and never the world's hidden truth, but that `cleaner` may
//! take its tags of noise for a platform's labels.
pub mod arguments;
pub mod askers;
pub mod baselines;
pub mod checkpoint;
pub mod cleaner;
pub mod commands;
pub mod demo;
pub mod descent;
pub mod embedder;
pub mod encoder_fit;
pub mod error;
pub mod evaluate;
pub mod events;
pub mod examples;
pub mod expansion;
pub mod figures;
pub mod fit;
pub mod foresight;
pub mod gates;
pub mod generate;
pub mod gradients;
pub mod head;
pub mod head_fit;
pub mod import;
pub mod journal;
pub mod losses;
pub mod model_folder;
pub mod optimizer;
pub mod order;
pub mod pack_bundle;
pub mod packing;
pub mod pipeline;
pub mod pretrain;
pub mod probe;
pub mod ranking;
pub mod retrieval;
pub mod rewards;
pub mod rollout;
pub mod salient;
pub mod schedule;
pub mod score;
pub mod search;
pub mod settings;
pub mod sft;
pub mod statistics;
pub mod student;
pub mod teacher;
pub mod tokenizer;
pub mod watch;
pub mod word_vectors;
