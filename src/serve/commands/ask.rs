//! `ask`: one request to a running server.
use super::{CommandError, reach::ReachArgs, tour};
use crate::{
    serve::{
        demo,
        experiments::enrolment::Entrant,
        rpc::client::{Ask, Client},
    },
    signals::{SignalDraft, Stream},
};
use clap::Args;
use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Whom to ask for what.
#[derive(Clone, Debug, Args)]
pub struct AskArgs {
    /// Key of the reader
    #[arg(long)]
    pub user: String,
    /// Address of the server
    #[arg(long, default_value = "127.0.0.1:50051")]
    pub addr: String,
    /// A signal such as `search:rain jacket`, `page:...` or `click:...`, oldest first; without any, those of the demo reader
    #[arg(long)]
    pub signal: Vec<String>,
    /// Number of candidates
    #[arg(long)]
    pub n: Option<u32>,
    /// Seed of the samples
    #[arg(long)]
    pub seed: Option<u64>,
    /// Locale that experiments see, such as en-US
    #[arg(long)]
    pub locale: Option<String>,
    /// Tier that experiments see
    #[arg(long)]
    pub tier: Option<String>,
    /// Tenant that experiments see
    #[arg(long)]
    pub tenant: Option<String>,
    /// Arm of an experiment, as `experiment=arm`, where the experiment lets requests choose
    #[arg(long)]
    pub arm: Vec<String>,
    /// Leaves the cache alone
    #[arg(long)]
    pub no_cache: bool,
    /// How long to wait, in milliseconds
    #[arg(long, default_value_t = 30_000)]
    pub timeout_ms: u64,
    /// What to show.
    #[command(flatten)]
    pub reach: ReachArgs,
}

/// Asks and writes the lists.
///
/// # Errors
/// If a signal is malformed, the reader unknown, or the server refuses.
pub async fn ask(args: AskArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let signals =
        if args.signal.is_empty() { of_demo(&args.user)? } else { drafts(&args.signal, now_unix_s())? };
    let entrant =
        Entrant { locale: args.locale, tier: args.tier, tenant: args.tenant, forced: forced(&args.arm)? };
    let client = Client::connect(&args.reach.to(&args.addr)?).await?;
    let ask = Ask {
        user_key: args.user,
        signals,
        n_candidates: args.n,
        seed: args.seed,
        bypass_cache: args.no_cache,
        all_candidates: true,
        lowest_rung: None,
        entrant,
        timeout: Duration::from_millis(args.timeout_ms),
    };
    let reply = client.ask(ask).await?;
    Ok(writeln!(out, "{}", tour::lists(&reply))?)
}

/// Experiments and the arms that are chosen.
fn forced(arms: &[String]) -> Result<Vec<(String, String)>, CommandError> {
    let pair = |text: &String| {
        let (experiment, arm) = text.split_once('=')?;
        Some((experiment.to_owned(), arm.to_owned()))
    };
    let pairs = arms.iter().map(pair).collect::<Option<Vec<_>>>();
    pairs.ok_or_else(|| CommandError::Usage("an arm is chosen as experiment=arm".to_owned()))
}

fn of_demo(user_key: &str) -> Result<Vec<SignalDraft>, CommandError> {
    let users = demo::users()?;
    let known: Vec<String> = users.iter().map(|user| user.user_key.clone()).collect();
    let found = users.into_iter().find(|user| user.user_key == user_key);
    found.map(|user| user.signals).ok_or_else(|| {
        let known = known.join(", ");
        CommandError::Usage(format!("{user_key} is no demo reader ({known}); give signals with --signal"))
    })
}

/// Signals a minute apart, the last one a minute ago.
fn drafts(signals: &[String], now_unix_s: i64) -> Result<Vec<SignalDraft>, CommandError> {
    let n_signals = i64::try_from(signals.len()).unwrap_or(i64::MAX);
    let draft = |(signal, ago): (&String, i64)| {
        let (stream, text) = signal.split_once(':')?;
        let stream = Stream::of_word(stream)?;
        let (category, source, dwell_ms, weight) = (None, None, None, None);
        let time_unix_s = now_unix_s - 60 * ago;
        Some(SignalDraft { stream, text: text.to_owned(), time_unix_s, category, source, dwell_ms, weight })
    };
    let drafts = signals.iter().zip((1..=n_signals).rev()).map(draft).collect::<Option<Vec<_>>>();
    drafts.ok_or_else(|| {
        CommandError::Usage("a signal is `search:`, `page:` or `click:` and a text".to_owned())
    })
}

fn now_unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_order_a_minute_apart() {
        let signals = ["search:rain jacket".to_owned(), "click:storm: what we know".to_owned()];
        let drafts = drafts(&signals, 1000).unwrap();
        assert_eq!((drafts[0].stream, drafts[0].time_unix_s), (Stream::Search, 880));
        assert_eq!((drafts[1].text.as_str(), drafts[1].time_unix_s), ("storm: what we know", 940));
    }

    #[test]
    fn an_arm_is_chosen_by_experiment_and_name() {
        let chosen = forced(&["best-of=sixteen".to_owned()]).unwrap();
        assert_eq!(chosen, [("best-of".to_owned(), "sixteen".to_owned())]);
        assert!(forced(&["sixteen".to_owned()]).is_err());
    }

    #[test]
    fn a_signal_without_a_known_stream_is_refused() {
        for wrong in ["rain jacket", "news:storm"] {
            assert!(drafts(&[wrong.to_owned()], 1000).is_err(), "{wrong}");
        }
    }
}
