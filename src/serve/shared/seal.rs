//! How readers, questions and answers are written into a store that others may read.
//!
//! Without a secret, names are digests, and answers carry a checksum: that tells accidents, not forgers, and whoever can guess a reader's
//! key can tell that she is there. With one, names are keyed digests (HMAC-SHA256) and answers are encrypted (AES-256-GCM), each reader's
//! under a key of her own (HKDF-SHA256), and bound to the place where they stand: what was moved or changed does not open.
use crate::serve::owner::Owner;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
};
use sha2::{Digest, Sha256};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Bytes of a checksum: enough that no accident makes one.
const CHECKSUM_BYTES: usize = 16;

/// Why there is no secret.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cache.redis.secret_file {} cannot be read", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file holds something else. It is not shown.
    #[error("cache.redis.secret_file {} should hold {} hex digits", .path.display(), 2 * SECRET_BYTES)]
    Digits {
        /// The file.
        path: PathBuf,
    },
}

/// Names and wraps what is stored.
pub struct Seal(Option<Secret>);

struct Secret {
    root: hkdf::Prk,
    names: hmac::Key,
}

impl fmt::Debug for Seal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.0.is_some() { "Seal(secret)" } else { "Seal(none)" })
    }
}

impl Seal {
    /// Without a secret.
    pub fn plain() -> Self {
        Self(None)
    }

    /// With the secret of a file: 64 hex digits, and white space around them.
    ///
    /// # Errors
    /// If it cannot be read, or holds anything else.
    pub fn open(path: &Path) -> Result<Self, SecretError> {
        let text =
            fs::read_to_string(path).map_err(|source| SecretError::File { path: path.to_owned(), source })?;
        let secret = bytes_of(text.trim()).ok_or_else(|| SecretError::Digits { path: path.to_owned() })?;
        Ok(Self::with(&secret))
    }

    pub(super) fn with(secret: &[u8; SECRET_BYTES]) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"newshound shared cache 1").extract(secret);
        let names = hmac::Key::from(expanded(&root, &[b"names"], hmac::HMAC_SHA256));
        Self(Some(Secret { root, names }))
    }

    /// The name of something, which only those who know the secret can compute.
    pub fn name(&self, of: &[u8]) -> [u8; 32] {
        let mut name = [0; 32];
        match &self.0 {
            None => name.copy_from_slice(&Sha256::digest(of)),
            Some(secret) => name.copy_from_slice(hmac::sign(&secret.names, of).as_ref()),
        }
        name
    }

    /// Wraps what is stored of a reader. `place`: what tells where it stands; it opens there only.
    pub fn close(&self, owner: Owner, place: &[u8], mut content: Vec<u8>) -> Vec<u8> {
        let Some(secret) = &self.0 else {
            let mut closed = checksum(place, &content).to_vec();
            closed.append(&mut content);
            return closed;
        };
        // Of random nonces of 96 bits, two are alike too soon only where one key wraps billions; each reader has her own key.
        let nonce: [u8; NONCE_LEN] = rand::random();
        let sealed = secret.key(owner).seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place),
            &mut content,
        );
        sealed.expect("answers are far shorter than the 64 GiB that AES-GCM takes");
        [&nonce[..], &content].concat()
    }

    /// What was wrapped for this place; none where it was not, or was changed.
    pub fn opened(&self, owner: Owner, place: &[u8], closed: &[u8]) -> Option<Vec<u8>> {
        let Some(secret) = &self.0 else {
            let (sum, content) = closed.split_first_chunk::<CHECKSUM_BYTES>()?;
            return (*sum == checksum(place, content)).then(|| content.to_vec());
        };
        let (nonce, content) = closed.split_first_chunk::<NONCE_LEN>()?;
        let mut content = content.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let n_bytes = secret.key(owner).open_in_place(nonce, Aad::from(place), &mut content).ok()?.len();
        content.truncate(n_bytes);
        Some(content)
    }
}

impl Secret {
    fn key(&self, owner: Owner) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::from(expanded(&self.root, &[b"answers", &owner.0], &AES_256_GCM)))
    }
}

/// What HKDF derives for a purpose.
fn expanded<'a, L: hkdf::KeyType>(
    root: &'a hkdf::Prk,
    purpose: &'a [&'a [u8]],
    length: L,
) -> hkdf::Okm<'a, L> {
    root.expand(purpose, length).expect("a key is shorter than the 8160 bytes that HKDF-SHA256 gives")
}

fn checksum(place: &[u8], content: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash = Sha256::new();
    hash.update((place.len() as u64).to_le_bytes());
    hash.update(place);
    hash.update(content);
    let digest: [u8; 32] = hash.finalize().into();
    let (first, _) = digest.split_first_chunk().expect("16 of 32 bytes");
    *first
}

fn bytes_of(hex: &str) -> Option<[u8; SECRET_BYTES]> {
    let digits = hex.as_bytes();
    let mut bytes = [0; SECRET_BYTES];
    if digits.len() != 2 * SECRET_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..digits.len()).step_by(2)) {
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"what somebody reads";

    fn owner(name: &str) -> Owner {
        Owner::of(name.as_bytes())
    }

    #[test]
    fn what_was_wrapped_opens_at_its_place_and_nowhere_else() {
        for seal in [Seal::plain(), Seal::with(&[7; 32])] {
            let closed = seal.close(owner("one"), b"here", CONTENT.to_vec());
            assert_eq!(seal.opened(owner("one"), b"here", &closed).as_deref(), Some(CONTENT));
            assert_eq!(seal.opened(owner("one"), b"there", &closed), None);
            for at in 0..closed.len() {
                let mut broken = closed.clone();
                broken[at] ^= 1;
                assert_eq!(seal.opened(owner("one"), b"here", &broken), None, "byte {at}");
                assert_eq!(seal.opened(owner("one"), b"here", &closed[..at]), None, "cut at {at}");
            }
        }
    }

    #[test]
    fn a_secret_hides_content_and_names_and_another_secret_opens_nothing() {
        let (plain, one, other) = (Seal::plain(), Seal::with(&[7; 32]), Seal::with(&[8; 32]));
        let closed = one.close(owner("one"), b"here", CONTENT.to_vec());
        assert!(!closed.windows(4).any(|part| part == &CONTENT[..4]));
        assert_ne!(closed, one.close(owner("one"), b"here", CONTENT.to_vec()), "never twice the same");
        assert_eq!(one.opened(owner("other"), b"here", &closed), None, "each reader has a key");
        assert_eq!(other.opened(owner("one"), b"here", &closed), None);
        let names = [&plain, &one, &other].map(|seal| seal.name(b"one"));
        assert!(names[0] != names[1] && names[1] != names[2]);
        assert_eq!(names[1], Seal::with(&[7; 32]).name(b"one"), "every server finds it");
        assert!(!format!("{one:?}").contains('7'));
    }

    #[test]
    fn a_secret_is_64_hex_digits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let open = |text: &str| {
            fs::write(&path, text).unwrap();
            Seal::open(&path)
        };
        assert!(open(&format!(" {}\n", "0a".repeat(32))).is_ok());
        for wrong in ["", &"0a".repeat(31), &"0a".repeat(33), &"0g".repeat(32), &"é".repeat(32)] {
            let error = open(wrong).unwrap_err();
            assert!(matches!(error, SecretError::Digits { .. }), "{error}");
            assert!(wrong.is_empty() || !error.to_string().contains(wrong), "{error}");
        }
        assert!(matches!(Seal::open(&dir.path().join("none")), Err(SecretError::File { .. })));
    }
}
