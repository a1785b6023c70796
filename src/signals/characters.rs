//! Which characters of foreign text are kept: what a reader can see, in one normal form, on one line.
use unicode_normalization::UnicodeNormalization;

/// Strips control and invisible characters, normalises to NFC, folds white space, and cuts after `chars_max` characters: one
/// line without space at either end.
///
/// Invisible characters go before normalisation: one left between a letter and its accent would keep them apart.
pub fn clean(raw: &str, chars_max: usize) -> String {
    let is_kept = |c: &char| c.is_whitespace() || !(c.is_control() || is_invisible(*c));
    // ASCII is in every normal form, and most texts of most platforms are nothing else.
    if raw.is_ascii() {
        return folded(raw.chars().filter(|c| c.is_whitespace() || !c.is_control()), raw.len(), chars_max);
    }
    folded(raw.chars().filter(is_kept).nfc(), raw.len(), chars_max)
}

/// Folds white space and cuts. `n_bytes`: about how long what is kept may be.
fn folded(characters: impl Iterator<Item = char>, n_bytes: usize, chars_max: usize) -> String {
    let mut kept = String::with_capacity(n_bytes.min(chars_max));
    let mut n_chars = 0;
    let mut space_due = false;
    for c in characters {
        if c.is_whitespace() {
            space_due = n_chars > 0;
            continue;
        }
        if n_chars + usize::from(space_due) >= chars_max {
            return kept;
        }
        if space_due {
            kept.push(' ');
            n_chars += 1;
            space_due = false;
        }
        kept.push(c);
        n_chars += 1;
    }
    kept
}

/// Whether a character has no visible form of its own: bidi controls, zero-width characters, other format characters,
/// variation selectors, tag characters, and letters that are drawn as nothing.
///
/// They carry text that a person cannot see, or show text in an order that it does not have.
/// Source: Unicode 16, general category Cf, `Default_Ignorable_Code_Point`, `Variation_Selector`.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
        | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_is_cleaned_as_all_else_is() {
        for text in
            ["plain words", " two  spaces\tand\na line ", "\u{0}nul\u{7f}", "", "  ", "a\u{b}b\u{1b}[0m"]
        {
            for chars_max in [0, 1, 3, 4, 256] {
                let n_bytes = text.len();
                let long_way =
                    text.chars().filter(|c| c.is_whitespace() || !(c.is_control() || is_invisible(*c)));
                assert_eq!(clean(text, chars_max), folded(long_way.nfc(), n_bytes, chars_max), "{text:?}");
            }
        }
    }
}
