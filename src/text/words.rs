//! Words of a text, as they are counted and compared.

/// Runs of letters and digits.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// A word in the form in which it is compared.
pub fn fold(word: &str) -> String {
    word.to_lowercase()
}
