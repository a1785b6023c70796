//! Which reader gets which policy, and what came of it: pure, without clock and files.
//!
//! `flags` reads an experiments file, `assign` finds a reader's arms in it, `record` is a line of the log of exposures and
//! outcomes, `readers` reads such lines back, `statistics` compares arms, `report` says what they show.
//!
//! # The file
//! A subset of flagd's flag definitions (<https://flagd.dev/schema/v0/flags.json>), so that flagd and this server can read the same
//! file. Flags whose key starts with `newshound.` are experiments of ours; all others are somebody else's and left alone.
//!
//! ```json
//! {
//!   "$schema": "https://flagd.dev/schema/v0/flags.json",
//!   "metadata": {"version": "7"},
//!   "flags": {
//!     "newshound.best-of": {
//!       "state": "ENABLED",
//!       "variants": {"eight": {}, "sixteen": {"candidate_count": 16, "temperature": 0.9}},
//!       "defaultVariant": "eight",
//!       "targeting": {"if": [
//!         {"in": [{"var": "locale"}, ["en-US", "en-GB"]]},
//!         {"fractional": [["eight", 50], ["sixteen", 50]]}
//!       ]},
//!       "metadata": {"hash_version": 2, "salt": "best-of spring", "phase": "1", "allow_forced_arm": true}
//!     }
//!   }
//! }
//! ```
//!
//! - `state`: with `DISABLED` nobody gets an arm, not even one that is asked for: the kill switch.
//! - `variants`: the arms, 1 to 8, each a policy; see `policy`. An empty one is what the server does anyway. The `bundle` of one must be
//!   resident when the file is read, unless the experiment is off.
//! - `targeting`: see `targeting`. Whoever it names no arm for gets `defaultVariant`, or takes no part where that is absent.
//! - `metadata.hash_version`: 1 (the default) buckets as flagd does; 2 keeps readers where they are when weights of other arms
//!   change. See `hash`.
//! - `metadata.salt`: what version 2 hashes beside the reader's key; default the flag's key. Experiments with different salts are
//!   independent.
//! - `metadata.phase`: up to 64 characters, default `1`. With version 2 a new phase shuffles all readers anew; with both, records
//!   tell phases apart. A change to a running experiment is a new phase.
//! - `metadata.allow_forced_arm`: whether a request may choose its arm; default false.
//! - Everything else is refused, all mistakes at once, except flagd's own `$evaluators` and metadata for other flags.
//!
//! What a request sets itself wins over what an arm sets, field by field. Such a request is left out when arms are compared, whichever
//! arm it has, if any arm of the experiment sets what it set.
//!
//! Up to 8 experiments run side by side. No two of them may set the same field of a policy: what a reader gets would depend on
//! their order, and neither could tell its own effect.
pub mod assign;
pub mod flags;
pub mod hash;
mod notes;
pub mod policy;
pub mod readers;
pub mod record;
pub mod report;
pub mod statistics;
pub mod targeting;
