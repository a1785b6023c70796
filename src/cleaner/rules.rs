//! What needs no classifier: addresses, broken input, personal data and secrets.
//!
//! Rules are exact where a classifier must guess, and hold for texts unlike any that it was trained on.
use super::Verdict;

/// Digits of a phone number at least: shorter runs are prices, years and sizes.
const PHONE_DIGITS_MIN: usize = 9;
/// Digits of a payment card (ISO/IEC 7812).
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
/// A word of letters and digits as long as this is a key or a token, not something to read.
const SECRET_CHARS_MIN: usize = 20;
/// What stands before a secret.
const SECRET_NAMES: [&str; 8] =
    ["password", "passwd", "pwd", "token", "api_key", "apikey", "secret", "contraseña"];

/// Judges a text where a rule applies.
pub fn verdict(text: &str) -> Option<Verdict> {
    if is_personal(text) {
        return Some(Verdict::Personal);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    if let [address] = words[..]
        && is_address(address)
    {
        let is_broken = address.contains(['%', '?', '#']);
        return Some(if is_broken { Verdict::Malformed } else { Verdict::Navigational });
    }
    let says_nothing = words.iter().all(|word| !is_word(word));
    says_nothing.then_some(Verdict::Malformed)
}

/// A web address: a scheme, `www.`, or a name and a top-level domain with a path.
fn is_address(word: &str) -> bool {
    let lower = word.to_lowercase();
    let has_path = lower.split_once('/').is_some_and(|(host, _)| host.contains('.') && !host.ends_with('.'));
    lower.contains("://") || lower.starts_with("www.") || has_path
}

/// Two letters in a row, escapes such as `%2F` aside, in something that is no parameter of an address.
fn is_word(word: &str) -> bool {
    if word.contains("://") || (word.contains('=') && word.contains(['?', '&'])) {
        return false;
    }
    let mut rest = String::with_capacity(word.len());
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        if c == '%' {
            chars.nth(1);
            rest.push(' ');
        } else {
            rest.push(c);
        }
    }
    let letters: Vec<bool> = rest.chars().map(char::is_alphabetic).collect();
    // Languages without spaces say a word in one character.
    letters.windows(2).any(|pair| pair[0] && pair[1]) || rest.chars().any(|c| c as u32 >= 0x3000)
}

fn is_personal(text: &str) -> bool {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    words.iter().any(|word| is_mail_address(word) || is_key(word))
        || digit_runs(text).iter().any(|run| is_phone(run) || is_card(run))
        || words.iter().enumerate().any(|(idx, word)| names_secret(word, words.get(idx + 1).copied()))
}

fn is_mail_address(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    let Some((name, host)) = word.split_once('@') else { return false };
    !name.is_empty() && host.split_once('.').is_some_and(|(host, top)| !host.is_empty() && top.len() >= 2)
}

/// `token=..`, or `password: ..` with the secret as the next word.
fn names_secret(word: &str, next: Option<&str>) -> bool {
    let named = |name: &str| SECRET_NAMES.contains(&name.rsplit(['?', '&', ';']).next().unwrap_or(name));
    if let Some((name, value)) = word.split_once(['=', ':'])
        && named(name)
    {
        return !value.is_empty() || next.is_some();
    }
    false
}

/// Letters and digits mixed in one long word.
fn is_key(word: &str) -> bool {
    let part = |part: &str| {
        part.chars().count() >= SECRET_CHARS_MIN
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
            && part.chars().filter(char::is_ascii_digit).count() >= 4
            && part.chars().any(|c| c.is_ascii_alphabetic())
            // Words of a title joined by hyphens are an address, not a key.
            && part.split('-').any(|piece| piece.len() >= SECRET_CHARS_MIN / 2 && piece.contains(|c: char| c.is_ascii_digit()))
    };
    word.split(['/', '=', '&', '?', ':', '.', ',']).any(part)
}

/// Runs of digits with what people write between them: spaces, hyphens, dots, brackets; a leading + is kept.
fn digit_runs(text: &str) -> Vec<String> {
    let (mut runs, mut run) = (Vec::new(), String::new());
    for c in text.chars() {
        match c {
            '0'..='9' => run.push(c),
            '+' if run.is_empty() => run.push(c),
            ' ' | '-' | '.' | '(' | ')' if !run.is_empty() => {}
            _ => runs.push(std::mem::take(&mut run)),
        }
    }
    runs.push(run);
    runs
}

/// Enough digits, written as a phone number is: with a + or a 0 in front.
fn is_phone(run: &str) -> bool {
    let n_digits = run.trim_start_matches('+').len();
    (PHONE_DIGITS_MIN..=15).contains(&n_digits) && run.starts_with(['+', '0'])
}

/// The right number of digits with a right check digit (Luhn).
fn is_card(run: &str) -> bool {
    let digits: Vec<u32> = run.chars().filter_map(|c| c.to_digit(10)).collect();
    if !CARD_DIGITS.contains(&digits.len()) {
        return false;
    }
    let doubled = |(place, &digit): (usize, &u32)| match (place % 2, digit * 2) {
        (0, _) => digit,
        (_, twice) if twice > 9 => twice - 9,
        (_, twice) => twice,
    };
    digits.iter().rev().enumerate().map(doubled).sum::<u32>().is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: Option<Verdict>, texts: &[&str]) {
        for text in texts {
            assert_eq!(verdict(text), expected, "{text}");
        }
    }

    #[test]
    fn personal_data_and_secrets_are_personal() {
        check(
            Some(Verdict::Personal),
            &[
                "mail to jane.doe@example.org",
                "(jane@example.co.uk)",
                "call +49 170 1234567",
                "0170-123-4567 who is this",
                "pay with 4539 1488 0343 6467",
                "https://example.org/?token=abc",
                "password: hunter2",
                "open 9f86d081884c7d659a2feaa0c55ad015",
            ],
        );
    }

    #[test]
    fn numbers_that_are_no_personal_data_are_left_to_the_classifier() {
        check(
            None,
            &[
                "olympics 2024 2028",
                "boeing 737 800 seats",
                "1000000 seconds in days",
                "password manager reviews",
                "token economy explained",
                "windows-11-update-2024-review-what-is-new",
                "order 4539 1488 0343 6468",
                "@nasa launch",
            ],
        );
    }

    #[test]
    fn addresses_are_navigation_and_broken_ones_malformed() {
        check(Some(Verdict::Navigational), &["www.mailbox.com", "https://example.org/", "example.org/news"]);
        check(
            Some(Verdict::Malformed),
            &["http://%2F%2F77", "??utm_id=8&ref", "#.#.#", "%20%20", "12", "? !"],
        );
    }

    #[test]
    fn texts_of_any_language_are_left_to_the_classifier() {
        check(
            None,
            &["cheap portable tent", "东京 天气", "天", "погода в москве", "c++ tutorial", "and/or gates"],
        );
    }
}
