//! The one definition of a valid list: both sides of each of its limits.
use newshound::{
    signals::characters::clean,
    text::parse::{Malformed, comparable, parse, queries_so_far},
};
use proptest::prelude::*;

/// `line` in place of the second of three good queries.
fn with(line: &str) -> Result<(), Malformed> {
    parse(&format!("port strike oslo\n{line}\nheat pump subsidies")).map(|_| ())
}

#[test]
fn lists_of_3_to_8_queries_are_valid() {
    let of = |n: usize| (0..n).map(|i| format!("query number{i}")).collect::<Vec<_>>().join("\n");
    for n in [3, 8] {
        assert_eq!(parse(&of(n)).unwrap().as_slice().len(), n);
    }
    for n in [0, 1, 2, 9, 200] {
        assert_eq!(parse(&of(n)), Err(Malformed::QueryCount { got: n }));
    }
}

#[test]
fn queries_of_2_to_12_words_are_valid() {
    let of = |n: usize| with(&vec!["word"; n].join(" "));
    assert_eq!((of(2), of(12)), (Ok(()), Ok(())));
    assert_eq!(of(1), Err(Malformed::WordCount { idx: 1, got: 1 }));
    assert_eq!(of(13), Err(Malformed::WordCount { idx: 1, got: 13 }));
    assert_eq!(with("!? .. ,"), Err(Malformed::WordCount { idx: 1, got: 0 }));
}

#[test]
fn queries_of_up_to_160_characters_are_valid() {
    let of = |n: usize| with(&format!("{} b", "é".repeat(n - 2)));
    assert_eq!((of(160), of(161)), (Ok(()), Err(Malformed::Length { idx: 1, got: 161 })));
}

#[test]
fn one_line_feed_at_the_end_is_tolerated_and_blank_lines_are_not() {
    assert!(parse("port strike\nbus fares\nheat pump\n").is_ok());
    assert_eq!(parse("port strike\nbus fares\nheat pump\n\n"), Err(Malformed::Blank { idx: 3 }));
    assert_eq!((with(""), with("  ")), (Err(Malformed::Blank { idx: 1 }), Err(Malformed::Blank { idx: 1 })));
}

#[test]
fn white_space_is_folded() {
    let list = parse("  port   strike \nbus\u{a0}fares\nheat pump").unwrap();
    assert_eq!(list.to_text(), "port strike\nbus fares\nheat pump");
}

#[test]
fn bullets_and_numbers_are_markers() {
    for line in [
        "- bus fares",
        "* bus fares",
        "• bus fares",
        "1. bus fares",
        "12) bus fares",
        "-bus fares",
        "3.bus fares",
    ] {
        assert_eq!(with(line), Err(Malformed::Marker { idx: 1 }), "{line}");
    }
    for line in
        ["-5 degrees oslo", "1.5 million votes", "5G rollout oslo", "2026 budget vote", "24/7 bus fares"]
    {
        assert_eq!(with(line), Ok(()), "{line}");
    }
}

#[test]
fn addresses_are_refused_and_words_with_dots_are_not() {
    for line in [
        "see https://news.example/a today",
        "see www.bus.zz today",
        "bus foo.com",
        "bus (Foo.COM)",
        "bus foo.zz/a",
        "bus news.co.uk",
        "mail a.b@bus.zz now",
        "bus ｆｏｏ．ｃｏｍ",
        "bus foo.com:80",
    ] {
        assert_eq!(with(line), Err(Malformed::Url { idx: 1 }), "{line}");
    }
    for line in [
        "U.S. port strike",
        "Node.js security",
        "bus No.10 fares",
        "St.Petersburg marathon",
        "he said @ noon",
    ] {
        assert_eq!(with(line), Ok(()), "{line}");
    }
}

#[test]
fn repetitions_are_found_through_case_and_punctuation() {
    for line in ["Port Strike OSLO", "\"port strike\" oslo!", "port  strike - oslo", "ｐｏｒｔ strike oslo"]
    {
        assert_eq!(with(line), Err(Malformed::Duplicate { idx: 1 }), "{line}");
    }
    assert_eq!(with("oslo port strike"), Ok(()));
}

#[test]
fn control_invisible_and_broken_characters_are_refused() {
    for c in
        ['\0', '\t', '\r', '\u{7f}', '\u{85}', '\u{200b}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{fffd}']
    {
        assert_eq!(with(&format!("bus{c} fares")), Err(Malformed::Control { idx: 1 }), "{c:?}");
    }
}

#[test]
fn every_reason_has_its_own_label() {
    let mut labels: Vec<_> = ["", "- a b", "a", "www.a.b c", "port strike oslo", "a\0 b"]
        .iter()
        .filter_map(|line| with(line).err())
        .chain([Malformed::QueryCount { got: 0 }, Malformed::Length { idx: 0, got: 0 }])
        .map(|malformed| malformed.reason())
        .collect();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), 8);
}

#[test]
fn of_a_list_that_is_being_written_what_is_a_query_is_read() {
    let texts = |written: &str| -> Vec<String> {
        queries_so_far(written).iter().map(|query| query.as_str().to_owned()).collect()
    };
    assert!(texts("").is_empty());
    assert_eq!(texts("port strike oslo"), ["port strike oslo"]);
    let written = "port strike oslo\n- heat pump\none\nPort strike, Oslo\nheat pump subsidies\n";
    assert_eq!(texts(written), ["port strike oslo", "heat pump subsidies"]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_parsed_or_malformed(text in "(?s).*") {
        let _ = parse(&text).map_err(|malformed| malformed.reason());
    }

    #[test]
    fn a_parsed_list_reads_back_unchanged(text in "((\\PC{1,6}|[a-z]{1,6}|[ .,'-]){1,9}\n){3,6}") {
        if let Ok(list) = parse(&text) {
            prop_assert_eq!(parse(&list.to_text()), Ok(list));
        }
    }

    #[test]
    fn plain_words_make_a_list(queries in proptest::collection::hash_set("[a-z]{2,8}( [a-z]{2,8}){1,11}", 3..=8)) {
        let text = queries.into_iter().collect::<Vec<_>>().join("\n");
        prop_assert_eq!(parse(&text).unwrap().to_text(), text);
    }

    #[test]
    fn cleaning_twice_changes_nothing(text in "(?s).{0,60}", chars_max in 0usize..40) {
        let once = clean(&text, chars_max);
        prop_assert!(once.chars().count() <= chars_max);
        prop_assert_eq!(&clean(&once, chars_max), &once);
    }

    #[test]
    fn comparable_form_is_stable(text in "\\PC{0,40}") {
        let once = comparable(&text);
        prop_assert_eq!(&comparable(&once), &once);
    }
}
