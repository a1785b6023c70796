//! What needs no classifier: addresses, broken input, personal data and secrets.
//!
//! Rules hold for texts unlike any that a classifier was trained on. They are narrow: what they leave, the classifier judges,
//! but a rule that is wrong hides a search from the model. Numbers count as personal only in the shapes in which people write
//! phone, card, account and social security numbers; check digits are computed where there are any.
use super::Verdict;
use unicode_normalization::UnicodeNormalization;

/// Digits of a phone number with its country code (ITU-T E.164).
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 8..=15;
/// Digits of a phone number that begins with 0.
const DOMESTIC_DIGITS: std::ops::RangeInclusive<usize> = 9..=12;
/// Digits of a French phone number, which is written in pairs: one of few that do not begin with a longer group.
const PAIRED_DIGITS: usize = 10;
/// Digits of a number that stands alone, nothing else beside it, and does not begin with 0: what people look up so is most often a phone.
const ALONE_DIGITS: std::ops::RangeInclusive<usize> = 9..=12;
/// The groups in which it is written, and the digits of each: scores, dates and numbers of lotteries have more groups, or shorter ones.
const ALONE_GROUPS_MAX: usize = 3;
const ALONE_GROUP_DIGITS_MIN: usize = 3;
/// Digits of a Chinese mobile phone, which is written in one piece.
const CHINESE_DIGITS: usize = 11;
/// Characters of an account number (ISO 13616).
const IBAN_CHARS: std::ops::RangeInclusive<usize> = 15..=34;
/// A word of letters and digits as long as this is a key or a token, not something to read.
const SECRET_CHARS_MIN: usize = 20;
/// What stands before a secret, whatever it looks like.
const PASSWORDS: [&str; 6] = ["password", "passwd", "pwd", "api_key", "apikey", "contraseña"];
/// What stands before a secret only if that mixes letters and digits: titles of films have these words too.
const TOKENS: [&str; 4] = ["token", "access_token", "secret", "key"];
/// The same among the parameters of an address; elsewhere they are words like others.
const PARAMETERS: [&str; 9] =
    ["session", "sessionid", "session_id", "sid", "code", "auth", "auth_token", "sig", "signature"];

/// Judges a text where a rule applies.
pub fn verdict(text: &str) -> Option<Verdict> {
    if is_personal(text) {
        return Some(Verdict::Personal);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    if let [address] = words[..]
        && is_address(address)
    {
        return Some(if has_host(address) { Verdict::Navigational } else { Verdict::Malformed });
    }
    let says_nothing = words.iter().all(|word| !says_something(word));
    says_nothing.then_some(Verdict::Malformed)
}

/// A web address: a scheme, `www.`, or a name and a top-level domain with a path.
fn is_address(word: &str) -> bool {
    let lower = word.to_lowercase();
    let has_path =
        lower.split_once('/').is_some_and(|(host, _)| host.contains('.') && has_top_level_domain(host));
    lower.contains("://") || lower.starts_with("www.") || has_path
}

fn has_host(address: &str) -> bool {
    let host = address.split_once("://").map_or(address, |(_, rest)| rest);
    host.split(['/', '?', '#']).next().is_some_and(|host| !host.contains('%') && host.contains('.'))
}

fn has_top_level_domain(host: &str) -> bool {
    host.rsplit('.').next().is_some_and(|top| top.len() >= 2 && top.chars().all(char::is_alphabetic))
}

/// A letter or a digit that is no escape such as `%2F` and no parameter of an address.
fn says_something(word: &str) -> bool {
    if word.contains("://") || (word.contains('=') && word.contains(['?', '&'])) {
        return false;
    }
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        if c == '%' {
            chars.nth(1);
        } else if c.is_alphanumeric() {
            return true;
        }
    }
    false
}

fn is_personal(text: &str) -> bool {
    // A digit or a letter of full width says what any other says.
    let lower = text.nfkc().collect::<String>().to_lowercase();
    let words: Vec<&str> = lower.split_whitespace().collect();
    let of_word = |idx: usize| {
        is_mail_address(words[idx])
            || is_key(words[idx])
            || has_secret_parameter(words[idx])
            || is_account(&words[idx..])
            || is_secret(&words[idx..])
    };
    (0..words.len()).any(of_word) || has_number(&lower) || is_alone(&lower)
}

fn is_mail_address(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    let Some((name, host)) = word.split_once('@') else { return false };
    !name.is_empty() && host.contains('.') && has_top_level_domain(host)
}

/// `password: ..`, `password is ..`, or `token=..` with something that no dictionary has.
fn is_secret(words: &[&str]) -> bool {
    let next = || words.get(1).copied().unwrap_or_default();
    let (name, value) = match words[0].split_once('=').or_else(|| words[0].split_once(':')) {
        Some((name, "")) => (name, next()),
        Some((name, value)) => (name, value),
        None if next() == "is" => (words[0], words.get(2).copied().unwrap_or_default()),
        None => return false,
    };
    let name = name.rsplit(['?', '&', ';', '/']).next().unwrap_or(name);
    (PASSWORDS.contains(&name) && !value.is_empty()) || (TOKENS.contains(&name) && is_mixed(value))
}

fn is_mixed(value: &str) -> bool {
    value.contains(|c: char| c.is_ascii_digit()) && value.contains(char::is_alphabetic)
}

/// A parameter of an address, whichever, that is a secret.
fn has_secret_parameter(word: &str) -> bool {
    let parameters = word.split(['?', '&', ';', '#']).skip(1).filter_map(|part| part.split_once('='));
    parameters.into_iter().any(|(name, value)| {
        (PASSWORDS.contains(&name) && !value.is_empty())
            || ((TOKENS.contains(&name) || PARAMETERS.contains(&name)) && is_mixed(value))
    })
}

/// Letters and digits mixed in one long word.
fn is_key(word: &str) -> bool {
    let is_long =
        |piece: &str| piece.len() >= SECRET_CHARS_MIN / 2 && piece.contains(|c: char| c.is_ascii_digit());
    let part = |part: &str| {
        part.chars().count() >= SECRET_CHARS_MIN
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
            && part.chars().filter(char::is_ascii_digit).count() >= 4
            && part.chars().any(|c| c.is_ascii_alphabetic())
            // Words of a title joined by hyphens are an address, not a key.
            && part.split('-').any(is_long)
    };
    word.split(['/', '=', '&', '?', ':', '.', ',']).any(part)
}

/// An account number at the beginning of some words, in one piece or in groups, with its right check digits (ISO 7064, mod 97).
fn is_account(words: &[&str]) -> bool {
    let first = words[0].as_bytes();
    let begins = first.len() >= 4
        && first[..2].iter().all(u8::is_ascii_lowercase)
        && first[2..4].iter().all(u8::is_ascii_digit);
    let mut joined = String::new();
    begins
        && words.iter().take_while(|word| word.chars().all(|c| c.is_ascii_alphanumeric())).any(|word| {
            joined.push_str(word);
            IBAN_CHARS.contains(&joined.len()) && mod_97(&joined) == 1
        })
}

/// The country and check digits go to the end, letters count 10 to 35.
fn mod_97(account: &str) -> u32 {
    let moved = account[4..].chars().chain(account[..4].chars());
    moved
        .filter_map(|c| c.to_digit(36))
        .fold(0, |rest, value| if value < 10 { (rest * 10 + value) % 97 } else { (rest * 100 + value) % 97 })
}

/// One group of digits, and what stands between it and the one before.
struct Group<'a> {
    joint: &'a str,
    digits: &'a str,
    /// Whether no letter touches it: digits in a word are part of a name.
    is_free: bool,
}

/// Phone, card and social security numbers among the groups of digits of a text.
fn has_number(text: &str) -> bool {
    let groups = groups(text);
    (0..groups.len()).any(|start| {
        let mut digits = String::new();
        groups[start..].iter().enumerate().any(|(n_more, group)| {
            let joint = group.joint.trim();
            // A number goes on over a space, a hyphen, a bracket, a dot or a slash, and over nothing else.
            let goes_on = n_more == 0 || matches!(joint, "" | "-" | "–" | "(" | ")" | ") -" | "." | "/");
            // What failed once fails for every longer window: an empty text is no number.
            if !goes_on || !group.is_free || (n_more > 0 && digits.is_empty()) {
                digits.clear();
                return false;
            }
            digits.push_str(group.digits);
            is_number(&groups[start..=start + n_more], &digits)
        })
    })
}

/// A text that is one long number and nothing else, in few groups, of which none is a year or the end of a round sum.
fn is_alone(text: &str) -> bool {
    let groups = groups(text);
    let digits: String = groups.iter().map(|group| group.digits).collect();
    let is_year = |digits: &str| digits.len() == 4 && (digits.starts_with("19") || digits.starts_with("20"));
    let is_of_phone = |Group { digits, .. }: &Group<'_>| {
        digits.len() >= ALONE_GROUP_DIGITS_MIN && !is_year(digits) && !digits.ends_with("000")
    };
    ALONE_DIGITS.contains(&digits.len())
        && !digits.starts_with('0')
        && groups.len() <= ALONE_GROUPS_MAX
        && groups.iter().all(is_of_phone)
        && text.chars().all(|c| c.is_ascii_digit() || c.is_whitespace() || matches!(c, '-' | '–' | '(' | ')'))
}

fn is_number(groups: &[Group<'_>], digits: &str) -> bool {
    let joints: Vec<&str> = groups[1..].iter().map(|group| group.joint.trim()).collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.digits.len()).collect();
    let is_international = groups[0].joint.ends_with('+') && PHONE_DIGITS.contains(&digits.len());
    // Not over dots: those are dates, decimals and versions.
    let is_domestic = digits.starts_with('0')
        && !digits.starts_with("000")
        && lengths[0] >= 3
        && DOMESTIC_DIGITS.contains(&digits.len())
        && joints.iter().all(|joint| matches!(*joint, "" | "-" | "–" | "/" | ")"));
    let is_hyphen = |joint: &str| matches!(joint, "-" | "–");
    let is_paired = digits.starts_with('0')
        && !digits.starts_with("00")
        && digits.len() == PAIRED_DIGITS
        && lengths.iter().all(|&length| length == 2)
        && joints.iter().all(|joint| *joint == joints[0] && matches!(*joint, "" | "." | "-"));
    let has_area = groups[0].joint.ends_with('(') && joints.first() == Some(&")");
    let is_american = lengths == [3, 3, 4] && (has_area || is_hyphen(joints[1]) || joints == [".", "."]);
    let is_spanish = lengths == [3, 2, 2, 2]
        && digits.starts_with(['6', '7', '8', '9'])
        && joints.iter().all(|joint| joint.is_empty());
    // Without a bracket or a hyphen it might be a sum and a year.
    let is_marked = || joints.iter().any(|joint| !joint.is_empty());
    let is_russian = digits.starts_with('8')
        && (lengths == [1, 3, 3, 2, 2] || (lengths == [1, 3, 3, 4] && is_marked()))
        && !joints.contains(&".");
    // With so many zeros it is a sum of money, and behind a point decimals.
    let is_chinese = lengths == [CHINESE_DIGITS]
        && !matches!(groups[0].joint, "." | ",")
        && digits.starts_with('1')
        && digits.as_bytes()[1] >= b'3'
        && !digits.ends_with("00000");
    let is_social_security = lengths == [3, 2, 4] && joints.iter().all(|joint| is_hyphen(joint));
    let is_card = is_issued(digits)
        && joints.iter().all(|joint| joint.is_empty() || is_hyphen(joint))
        && has_check_digit(digits);
    let is_phone =
        is_international || is_domestic || is_paired || is_american || is_spanish || is_russian || is_chinese;
    is_phone || is_social_security || is_card
}

/// A letter of Chinese or Japanese: numbers stand beside them as beside a space.
fn stands_without_space(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}')
}

/// Groups of digits in their order; `joint` is all that stands before a group and after the one before.
fn groups(text: &str) -> Vec<Group<'_>> {
    let mut groups = Vec::new();
    let (mut joint_at, mut at) = (0, 0);
    while let Some(found) = text[at..].find(|c: char| c.is_ascii_digit()) {
        let start = at + found;
        let end =
            text[start..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |length| start + length);
        let touches = |c: Option<char>| c.is_some_and(|c| c.is_alphabetic() && !stands_without_space(c));
        let is_free = !touches(text[..start].chars().next_back()) && !touches(text[end..].chars().next());
        groups.push(Group { joint: &text[joint_at..start], digits: &text[start..end], is_free });
        (joint_at, at) = (end, end);
    }
    groups
}

/// The first digits of a payment card's issuer with as many digits as its cards have (ISO/IEC 7812). Of those that begin with 2 all are above 2220, which
/// is no year yet.
fn is_issued(digits: &str) -> bool {
    let first_four = || digits.get(..4).and_then(|four| four.parse::<u32>().ok()).unwrap_or_default();
    match (digits.as_bytes()[0], digits.len()) {
        (b'2', 16) => (2221..=2720).contains(&first_four()),
        (b'3', 16) => (3528..=3589).contains(&first_four()),
        (b'3', n) => (14..=15).contains(&n),
        (b'4', n) => [13, 16, 19].contains(&n),
        (b'5', n) => n == 16,
        (b'6', n) => (16..=19).contains(&n),
        _ => false,
    }
}

/// The right check digit (Luhn).
fn has_check_digit(digits: &str) -> bool {
    let doubled = |(place, digit): (usize, u32)| match (place % 2, digit * 2) {
        (0, _) => digit,
        (_, twice) if twice > 9 => twice - 9,
        (_, twice) => twice,
    };
    let values = digits.chars().rev().filter_map(|c| c.to_digit(10));
    values.enumerate().map(doubled).sum::<u32>().is_multiple_of(10)
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
                "ｊａｎｅ＠example.org",
                "call ＋４９ 170 1234567",
                "415 555 2671",
                "who calls from (415) 555 2671",
                "3471234567",
                "98765 43210",
                "13812345678",
                "call 13812345678 now",
                "联系13812345678",
                "llamar al 612 34 56 78",
                "612 345 678",
                "8 916 123-45-67",
                "звонить 8 (916) 123-45-67",
                "card 3530111333300000",
                "pay with 2223 0031 2200 3222",
                "flat 5 +49 170 1234567",
                "0170-123-4567 who is this",
                "room 12 0170 1234567",
                "0170 1234567 0171 7654321",
                "06 12 34 56 78",
                "appeler le 01.42.68.53.00 demain",
                "06-12-34-56-78",
                "https://example.org/login?session=a1b2c3",
                "https://example.org/back?state=on&code=4f0adx4",
                "example.org/file?expires=1700000000&sig=x9y8z7",
                "https://example.org/#auth=abc123&lang=en",
                "https://example.org/?lang=en&password=hunter",
                "(415) 555-2671",
                "415-555-2671 area code",
                "123-45-6789",
                "pay with 4539 1488 0343 6467",
                "pin 1234 4539 1488 0343 6467",
                "4539148803436467",
                "DE89 3704 0044 0532 0130 00",
                "send to GB82WEST12345698765432 now",
                "https://example.org/?token=a1b2c3",
                "password: hunter2",
                "my password is hunter",
                "open 9f86d081884c7d659a2feaa0c55ad015",
            ],
        );
    }

    #[test]
    fn what_people_search_for_is_left_to_the_classifier() {
        check(
            None,
            &[
                "olympics 2024 2028",
                "boeing 737 800 2024",
                "1000000 seconds in days",
                "2020 2024 2028",
                "2023-24 2024-25",
                "6-4 3-6 7-6 6-7 10-8",
                "12 23 34 41 45 7",
                "1000000000",
                "100 000 000",
                "911 2001 2021",
                "12-07-2024 15",
                "1914-18 1939-45",
                "pi 3.14159265358",
                "phi 0,14142135623",
                "budget 8 500 000 2025",
                "население 8 000 000 2024",
                "13000000000 won in usd",
                "65000 75000 salary",
                "415 555 2671 steam locomotive",
                "8 100 200 300 calories",
                "2024 2028 2032 2036",
                "2024年7月12日",
                "password manager reviews",
                "token economy explained",
                "victoria's secret: angels film",
                "windows-11-update-2024-review-what-is-new",
                "order 4539 1488 0343 6468",
                "2021 2022 2023 2024",
                "@nasa launch",
                "react@18.2.0",
                "0.00000001 btc to usd",
                "isbn 0-13-468599-7",
                "01.02.2024 18",
                "06 12 34 56",
                "00 12 34 56 78",
                "06 12.34 56-78",
                "score 06 12 34 56 7",
                "session 5 recap",
                "discount code a1b2 shoes",
                "code: 5g masts explained",
                "score 0-0 2024 2025",
                "NL92ABNA0417164300",
                "F-35",
                "H5N1",
                "9/11",
                "1984",
                "5G",
                "R&B",
            ],
        );
    }

    #[test]
    fn addresses_are_navigation_and_what_has_no_letter_and_no_digit_is_malformed() {
        let addresses = [
            "www.mailbox.com",
            "https://example.org/",
            "example.org/news",
            "https://example.org/watch?v=abc#t",
        ];
        check(Some(Verdict::Navigational), &addresses);
        check(Some(Verdict::Malformed), &["http://%2F%2F77", "??utm_id=8&ref", "%20%20", "? !"]);
    }

    #[test]
    fn texts_of_any_language_are_left_to_the_classifier() {
        check(
            None,
            &["cheap portable tent", "东京 天气", "天", "погода в москве", "c++ tutorial", "and/or gates"],
        );
    }
}
