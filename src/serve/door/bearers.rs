//! Tokens and whom they stand for.
//!
//! A file has a line for each token: a name and the sha256 of the token in hex. Empty lines and what begins with `#` are passed over.
//! The same name may stand on several lines, so that an old token and a new one are good at the same time. Digests need no salt and no
//! slow hash where tokens are 32 random bytes, as those of `newshound-server token` are: nobody can try them.
use super::{AccessError, read, told};
use crate::{
    bundle::manifest::sha256_hex,
    serve::{
        metrics::Metrics,
        watched::{FilesDigest, Watched},
    },
};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};
use subtle::ConstantTimeEq;

/// Most tokens of a file: each is compared with every token that comes.
pub const BEARERS_MAX: usize = 1024;
/// Longest name, as the proto promises of a tenant.
const NAME_BYTES_MAX: usize = 64;

/// A token that may be shown once, and the line that stands for it.
#[derive(Clone)]
pub struct Issued {
    /// The token.
    pub token: String,
    /// The line for the file.
    pub line: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Issued").field("line", &self.line).finish_non_exhaustive()
    }
}

/// Makes a token for a name; none where it is no name.
pub fn issue(name: &str) -> Option<Issued> {
    let (first, second): (u128, u128) = rand::random();
    let token = format!("nh_{first:032x}{second:032x}");
    let line = format!("{name} {}", sha256_hex(token.as_bytes()));
    is_name(name).then_some(Issued { token, line })
}

#[derive(Debug)]
struct Bearer {
    name: String,
    /// In lower-case hex.
    digest: String,
}

/// The tokens of one file.
#[derive(Debug)]
pub struct Bearers {
    current: Watched<Vec<Bearer>>,
    file: PathBuf,
    metrics: Arc<Metrics>,
}

impl Bearers {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or a line is wrong.
    pub fn open(file: &Path, metrics: Arc<Metrics>) -> Result<Self, AccessError> {
        let text = read(file)?;
        let current = Watched::new(parse(&text, file)?, FilesDigest::of([&*text]));
        Ok(Self { current, file: file.to_owned(), metrics })
    }

    /// Whom a token stands for. Every token of the file is compared, and each for as long whatever it is.
    pub fn name_of(&self, token: &str) -> Option<String> {
        let digest = sha256_hex(token.as_bytes());
        let bearers = self.current.now();
        let mut found = None;
        for bearer in bearers.iter() {
            if bool::from(bearer.digest.as_bytes().ct_eq(digest.as_bytes())) {
                found = Some(bearer.name.clone());
            }
        }
        found
    }

    /// Puts the file in force if it has changed and is right; otherwise says once what is wrong with it.
    pub(super) fn look(&self) {
        let make = |text: Vec<u8>| parse(&text, &self.file);
        let looked = self.current.look(read(&self.file), |text| FilesDigest::of([&**text]), make);
        told("tokens", looked, &self.metrics);
    }
}

fn parse(text: &[u8], file: &Path) -> Result<Vec<Bearer>, AccessError> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().enumerate().map(|(idx, line)| (idx + 1, line.trim()));
    let bearers = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(line, text)| bearer(text).ok_or_else(|| AccessError::Line { path: file.to_owned(), line }));
    let bearers = bearers.collect::<Result<Vec<_>, _>>()?;
    if !(1..=BEARERS_MAX).contains(&bearers.len()) {
        return Err(AccessError::Count { path: file.to_owned(), got: bearers.len(), most: BEARERS_MAX });
    }
    Ok(bearers)
}

fn bearer(line: &str) -> Option<Bearer> {
    let (name, digits) = line.split_once(char::is_whitespace)?;
    let digest = digits.trim().to_ascii_lowercase();
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_name(name) && is_digest).then(|| Bearer { name: name.to_owned(), digest })
}

/// A name that fits into metadata and into a line.
fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('#')
        && name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearers(text: &str) -> Result<Bearers, AccessError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        std::fs::write(&file, text).unwrap();
        Bearers::open(&file, Arc::new(Metrics::new().unwrap()))
    }

    #[test]
    fn a_token_stands_for_the_name_of_its_line_and_nothing_else_does() {
        let (daily, weekly, newer) =
            (issue("daily").unwrap(), issue("weekly").unwrap(), issue("daily").unwrap());
        let text = format!("# who may ask\n\n{}\n {}  \n{}\n", daily.line, weekly.line, newer.line);
        assert!(!text.contains(&daily.token), "the file does not hold the token");
        let bearers = bearers(&text).unwrap();
        for (issued, name) in [(&daily, "daily"), (&weekly, "weekly"), (&newer, "daily")] {
            assert_eq!(bearers.name_of(&issued.token).as_deref(), Some(name));
            let digest = issued.line.split(' ').next_back().unwrap();
            for wrong in [&issued.token[1..], digest, &format!("{} ", issued.token)] {
                assert_eq!(bearers.name_of(wrong), None, "{wrong}");
            }
        }
        assert_eq!(bearers.name_of(""), None);
    }

    #[test]
    fn a_file_with_a_mistake_is_refused_without_its_text() {
        let good = issue("daily").unwrap();
        for wrong in ["daily", "daily nh_0123", &format!("daily {}", &good.line[6..69]), "a b c"] {
            let error = bearers(&format!("{}\n{wrong}", good.line)).unwrap_err();
            assert!(matches!(error, AccessError::Line { line: 2, .. }), "{error}");
            assert!(!error.to_string().contains("nh_0123"), "{error}");
        }
        assert!(matches!(bearers("# nobody\n").unwrap_err(), AccessError::Count { got: 0, .. }));
        let long = format!("{}\n#{}", good.line, "x".repeat(1 << 20));
        assert!(matches!(bearers(&long).unwrap_err(), AccessError::File { .. }), "too large");
        let name = "n".repeat(NAME_BYTES_MAX);
        assert!(bearers(&issue(&name).unwrap().line).is_ok());
        assert!(issue(&format!("{name}n")).is_none() && issue("two words").is_none() && issue("").is_none());
    }
}
