//! The secret that makes a chain unforgeable: without it, whoever can write the folder can also write a new chain.

use std::fmt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// Shorter secrets can be guessed.
const LEAST_BYTES: usize = 16;

/// A secret for the chain's hashes (HMAC-SHA-256, RFC 2104).
#[derive(Clone)]
pub struct Key(Vec<u8>);

/// Why a key file cannot be used. Never quotes its content.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// There is too little in it.
    #[error("`{}` must hold a secret of at least {LEAST_BYTES} bytes, got {got}", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// How many bytes it holds without white space around them.
        got: usize,
    },
}

impl Key {
    /// Reads a secret; white space around it does not count.
    ///
    /// # Errors
    /// When the file cannot be read or holds less than 16 bytes.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let content = std::fs::read(path).map_err(|error| KeyError::Read { path: path.to_owned(), error })?;
        let secret = content.trim_ascii();
        if secret.len() < LEAST_BYTES {
            return Err(KeyError::Short { path: path.to_owned(), got: secret.len() });
        }
        Ok(Self(secret.to_owned()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(***)")
    }
}

/// HMAC-SHA-256 with a key, SHA-256 without; lower-case hexadecimal.
pub(crate) fn seal(key: Option<&Key>, bytes: &[u8]) -> String {
    let Some(Key(secret)) = key else { return hexadecimal(&Sha256::digest(bytes)) };
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes secrets of any length");
    mac.update(bytes);
    hexadecimal(&mac.finalize().into_bytes())
}

/// SHA-256, lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_are_those_of_the_standards() {
        // FIPS 180-4's "abc", and RFC 4231's second case.
        let plain = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(seal(None, b"abc"), plain);
        let keyed = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(seal(Some(&Key(b"Jefe".to_vec())), b"what do ya want for nothing?"), keyed);
    }

    #[test]
    fn a_key_that_can_be_guessed_is_refused_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "  short\n").unwrap();
        let message = Key::read(&path).unwrap_err().to_string();
        assert!(message.ends_with("must hold a secret of at least 16 bytes, got 5"), "{message}");
        std::fs::write(&path, "correct horse battery staple\n").unwrap();
        assert_eq!(format!("{:?}", Key::read(&path).unwrap()), "Key(***)");
        assert!(Key::read(&folder.path().join("none")).unwrap_err().to_string().starts_with("cannot read `"));
    }
}
