//! Signals and user keys: both sides of each limit, order, digest.
use super::{HOUR, draft};
use newshound::signals::{
    self, SignalDraft, SignalViolation, Stream, UserKey, UserSignals, characters::clean,
};

fn violations(draft: SignalDraft) -> Vec<SignalViolation> {
    UserSignals::new(vec![draft]).map_or_else(|violations| violations, |_| Vec::new())
}

#[test]
fn key_of_1_to_128_bytes_is_accepted() {
    assert_eq!(UserKey::new("u").unwrap().as_str(), "u");
    assert!(UserKey::new(&"k".repeat(128)).is_ok());
}

#[test]
fn empty_long_or_invisible_key_is_refused() {
    assert!(matches!(UserKey::new(""), Err(SignalViolation::Required { .. })));
    assert!(matches!(
        UserKey::new(&"k".repeat(129)),
        Err(SignalViolation::Length { got: 129, max: 128, .. })
    ));
    for key in ["a\nb", "a\u{200b}b", "a\u{202e}b"] {
        assert!(matches!(UserKey::new(key), Err(SignalViolation::Control { .. })));
    }
}

#[test]
fn debug_shows_no_key() {
    let shown = format!("{:?}", UserKey::new("maria@example.org").unwrap());
    assert!(!shown.contains("maria") && shown.starts_with("UserKey("), "{shown}");
}

#[test]
fn text_loses_what_cannot_be_seen_and_keeps_one_line() {
    let check = |raw: &str, expected: &str| assert_eq!(clean(raw, 256), expected);
    check("  port \t strike\r\n oslo ", "port strike oslo");
    check("a\u{202e}b\u{2066}c\u{200f}d", "abcd");
    check("a\u{200b}b\u{feff}c\u{ad}d\u{2060}e", "abcde");
    check("a\u{0}b\u{7}c\u{1b}[31m", "abc[31m");
    check("e\u{301}", "\u{e9}");
    check("e\u{200d}\u{301}", "\u{e9}");
    check("a\u{e0041}\u{e0042}b", "ab");
    check("\u{200b} \u{2028}", "");
}

#[test]
fn text_is_cut_after_256_characters() {
    let long = |n: usize| UserSignals::new(vec![draft(Stream::Page, &"é".repeat(n), HOUR)]).unwrap();
    for (n, expected) in [(255, 255), (256, 256), (257, 256)] {
        assert_eq!(long(n).as_slice()[0].text().chars().count(), expected);
    }
}

#[test]
fn category_is_cut_after_64_characters_and_an_invisible_one_is_absent() {
    let category = |raw: String| {
        let draft = SignalDraft { category: Some(raw), ..draft(Stream::Click, "text", HOUR) };
        UserSignals::new(vec![draft]).unwrap().as_slice()[0].category().map(str::to_owned)
    };
    assert_eq!(category("c".repeat(65)), Some("c".repeat(64)));
    assert_eq!(category("\u{200b} ".to_owned()), None);
}

#[test]
fn times_from_1970_to_2199_are_accepted() {
    let at = |time| violations(draft(Stream::Search, "text", time));
    assert!(at(0).is_empty() && at(signals::TIME_UNIX_S_MAX - 1).is_empty());
    for time in [-1, signals::TIME_UNIX_S_MAX, i64::MIN, i64::MAX] {
        assert!(matches!(at(time)[..], [SignalViolation::Time { got, .. }] if got == time));
    }
}

#[test]
fn weights_from_0_to_10_are_accepted() {
    let of = |weight| violations(SignalDraft { weight: Some(weight), ..draft(Stream::Search, "text", HOUR) });
    assert!(of(0.0).is_empty() && of(10.0).is_empty());
    for weight in [-0.1, 10.1, f32::NAN, f32::INFINITY] {
        assert!(matches!(of(weight)[..], [SignalViolation::Range { .. }]));
    }
    assert!(
        (UserSignals::new(vec![draft(Stream::Search, "text", HOUR)]).unwrap().as_slice()[0].weight() - 1.0)
            .abs()
            < f32::EPSILON
    );
}

#[test]
fn every_violation_is_reported_at_once_with_its_path() {
    let broken = SignalDraft { weight: Some(-1.0), ..draft(Stream::Page, "\u{200b}", -5) };
    let found = UserSignals::new(vec![draft(Stream::Search, "fine", HOUR), broken]).unwrap_err();
    let paths: Vec<_> = found.iter().map(SignalViolation::field).collect();
    assert_eq!(paths, ["signals[1].text", "signals[1].time", "signals[1].weight"]);
}

#[test]
fn no_draft_or_more_than_512_are_refused() {
    let many = |n| UserSignals::new(vec![draft(Stream::Search, "text", HOUR); n]).map(|_| ());
    assert!(matches!(many(0).unwrap_err()[..], [SignalViolation::Count { got: 0, .. }]));
    assert!(many(512).is_ok());
    assert!(matches!(many(513).unwrap_err()[..], [SignalViolation::Count { got: 513, max: 512, .. }]));
}

#[test]
fn newest_24_of_each_stream_are_kept_and_the_rest_counted() {
    let of = |n: i64| {
        let mut drafts: Vec<_> = (0..n).map(|i| draft(Stream::Search, &format!("s{i}"), i)).collect();
        drafts.push(draft(Stream::Click, "old click", 0));
        UserSignals::new(drafts).unwrap()
    };
    assert_eq!((of(24).as_slice().len(), of(24).truncated_count()), (25, 0));
    let full = of(26);
    assert_eq!((full.as_slice().len(), full.truncated_count()), (25, 2));
    assert_eq!((full.as_slice()[0].text(), full.as_slice()[1].text()), ("old click", "s2"));
}

#[test]
fn order_is_by_time_then_stream_then_text() {
    let drafts = vec![
        draft(Stream::Click, "b", 5),
        draft(Stream::Search, "z", 5),
        draft(Stream::Page, "old", 1),
        draft(Stream::Click, "a", 5),
    ];
    let signals = UserSignals::new(drafts).unwrap();
    let texts: Vec<_> = signals.as_slice().iter().map(signals::Signal::text).collect();
    assert_eq!(texts, ["old", "z", "a", "b"]);
}

#[test]
fn digest_ignores_order_of_arrival_and_notices_every_field() {
    let base = || vec![draft(Stream::Search, "port strike", 5), draft(Stream::Page, "bus fares", 5)];
    let digest = |drafts| UserSignals::new(drafts).unwrap().digest();
    let expected = digest(base());
    assert_eq!(digest(base().into_iter().rev().collect()), expected);
    let changes: [fn(&mut SignalDraft); 7] = [
        |draft| draft.stream = Stream::Click,
        |draft| draft.text.push('s'),
        |draft| draft.time_unix_s += 1,
        |draft| draft.category = Some("c".to_owned()),
        |draft| draft.source = Some("c".to_owned()),
        |draft| draft.dwell_ms = Some(1),
        |draft| draft.weight = Some(2.0),
    ];
    let mut digests: Vec<_> = changes
        .iter()
        .map(|change| {
            let mut drafts = base();
            change(&mut drafts[0]);
            digest(drafts)
        })
        .collect();
    digests.push(expected);
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 8);
}
