//! Encryption at rest: whose keys there are, and the chunks that an encrypted object consists of.
//!
//! An encrypted object is a header of 256 bytes and chunks of 64 KiB, each sealed with AES-256-GCM. Every object has a key
//! of its own, derived from the named key and a random salt, so a chunk's nonce is just its number and whether it is the
//! last. The header is authenticated with every chunk: none can be moved to another object, another place, or dropped
//! from the end without being noticed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Nonce};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::ObjectError;

/// What one chunk holds.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
const TAG_BYTES: usize = 16;
/// A chunk as it is stored.
pub(crate) const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;

pub(crate) const HEADER_BYTES: usize = 256;
const MAGIC: &[u8; 8] = b"LWSEAL01";
const SALT: std::ops::Range<usize> = 8..40;
const CHECK: std::ops::Range<usize> = 40..56;
const NAME_LENGTH: usize = 56;
const NAME: std::ops::Range<usize> = 57..HEADER_BYTES;

/// The store's own key, for whoever asks for encryption and names no key, as in `ServerSideEncryption="AES256"`.
pub(crate) const MANAGED: &str = "managed-by-linewarden";

/// The encryption keys, by name.
#[derive(Debug, Clone)]
pub struct Vault {
    inner: Arc<Inner>,
}

struct Inner {
    keys: BTreeMap<String, [u8; 32]>,
    /// Looked into again for a key that is not known yet: a new one needs no restart.
    folder: Option<PathBuf>,
    default: Option<String>,
    /// The file of the store's own key, which is made when somebody first needs it.
    managed: Option<PathBuf>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Keys")
            .field("names", &self.keys.keys().collect::<Vec<_>>())
            .field("default", &self.default)
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// Without keys: objects are stored as they come.
    #[must_use]
    pub fn plain() -> Self {
        Self { inner: Arc::new(Inner { keys: BTreeMap::new(), folder: None, default: None, managed: None }) }
    }

    /// Reads keys from the files `NAME.key` of a folder (32 bytes, or 64 hexadecimal digits), and from the text
    /// `name=digits,name=digits` of an environment variable. The default key is used where nobody names one.
    ///
    /// # Errors
    /// When a key cannot be read, is no key, or the default one is not among them.
    pub fn load(folder: Option<&Path>, environment: Option<&str>, default: Option<&str>) -> Result<Self, ObjectError> {
        let mut keys = BTreeMap::new();
        if let Some(folder) = folder {
            for entry in std::fs::read_dir(folder).map_err(ObjectError::storage("read the folder of keys"))? {
                let path = entry.map_err(ObjectError::storage("read the folder of keys"))?.path();
                if path.extension().is_some_and(|extension| extension == "key")
                    && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
                {
                    keys.insert(key_name(name)?.to_owned(), key_of_file(&path, name)?);
                }
            }
        }
        for pair in environment.unwrap_or_default().split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, digits) = pair
                .split_once('=')
                .ok_or(ObjectError::Refused("a key in the environment is written `name=64 hexadecimal digits`"))?;
            keys.insert(key_name(name.trim())?.to_owned(), key_of_bytes(digits.trim().as_bytes(), name.trim())?);
        }
        let default = default.map(|name| key_name(name).map(str::to_owned)).transpose()?;
        let vault =
            Self { inner: Arc::new(Inner { keys, folder: folder.map(Path::to_owned), default, managed: None }) };
        if let Some(name) = vault.default_key() {
            vault.key(name)?;
        }
        Ok(vault)
    }

    /// The same with a key of the store's own in this file, for objects that are to be encrypted without a key that has a
    /// name. The file is made when it is first needed; who has both it and the objects can read them.
    #[must_use]
    pub fn with_managed(self, path: PathBuf) -> Self {
        let Inner { keys, folder, default, .. } = &*self.inner;
        let (keys, folder, default) = (keys.clone(), folder.clone(), default.clone());
        Self { inner: Arc::new(Inner { keys, folder, default, managed: Some(path) }) }
    }

    /// The name of the store's own key, if it has one.
    pub(crate) fn managed_key(&self) -> Option<&'static str> {
        self.inner.managed.as_ref().map(|_| MANAGED)
    }

    /// The key of objects for which nobody names one.
    #[must_use]
    pub fn default_key(&self) -> Option<&str> {
        self.inner.default.as_deref()
    }

    /// Whether there is such a key. `name` is an id, an alias or an ARN of either.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        key_name(name).is_ok_and(|name| self.key(name).is_ok())
    }

    /// Whether any object may be encrypted.
    pub(crate) fn is_used(&self) -> bool {
        let Inner { keys, folder, managed, .. } = &*self.inner;
        !keys.is_empty() || folder.is_some() || managed.as_ref().is_some_and(|path| path.exists())
    }

    /// What encrypts a new object; `None` when it is stored plain.
    pub(crate) fn sealer(&self, name: Option<&str>) -> Result<Option<Sealer>, ObjectError> {
        let Some(name) = name.or(self.default_key()) else { return Ok(None) };
        let name = key_name(name)?;
        Ok(Some(Sealer::new(name, &self.key(name)?)))
    }

    /// What decrypts an object with this header.
    pub(crate) fn opener(&self, header: &[u8; HEADER_BYTES]) -> Result<Opener, ObjectError> {
        let damaged = || ObjectError::Damaged("the header of an encrypted object".to_owned());
        if !header.starts_with(MAGIC) {
            return Err(damaged());
        }
        let name = header[NAME].get(..usize::from(header[NAME_LENGTH])).ok_or_else(damaged)?;
        let name = std::str::from_utf8(name).map_err(|_| damaged())?;
        let key = self.key(key_name(name)?)?;
        let object_key = derive(&key, b"object", &header[SALT]);
        if !bool::from(derive(&key, b"check", &header[SALT])[..CHECK.len()].ct_eq(&header[CHECK])) {
            return Err(ObjectError::WrongKey { name: name.to_owned() });
        }
        Ok(Opener { cipher: Aes256Gcm::new(&object_key.into()), header: *header })
    }

    fn key(&self, name: &str) -> Result<[u8; 32], ObjectError> {
        if let Some(key) = self.inner.keys.get(name) {
            return Ok(*key);
        }
        if let Some(path) = self.inner.managed.as_ref().filter(|_| name == MANAGED) {
            return managed_key_of(path);
        }
        let wrong = || ObjectError::WrongKey { name: name.to_owned() };
        let path = self.inner.folder.as_ref().ok_or_else(wrong)?.join(format!("{name}.key"));
        if !path.is_file() {
            return Err(wrong());
        }
        key_of_file(&path, name)
    }
}

/// The name in an id, an alias or an ARN: `arn:aws:kms:eu-west-1:123456789012:key/line-1` is `line-1`.
fn key_name(given: &str) -> Result<&str, ObjectError> {
    let name = given.rsplit(['/', ':']).next().unwrap_or(given);
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if name.is_empty() || name.len() > NAME.len() || name.starts_with('.') || !is_plain {
        return Err(ObjectError::bad_name(given, "a key's name has letters, digits, `-`, `_` and `.` only"));
    }
    Ok(name)
}

fn key_of_file(path: &Path, name: &str) -> Result<[u8; 32], ObjectError> {
    key_of_bytes(&std::fs::read(path).map_err(ObjectError::storage("read an encryption key"))?, name)
}

/// Reads the store's own key, or makes it: on the disk, and readable by us alone, before anything is encrypted with it.
fn managed_key_of(path: &Path) -> Result<[u8; 32], ObjectError> {
    let failed = || ObjectError::storage("make the store's own encryption key");
    match key_of_file(path, MANAGED) {
        Err(ObjectError::Storage { .. }) if !path.exists() => {}
        key => return key,
    }
    let random: Vec<u8> = (0..4).flat_map(|_| Uuid::new_v4().into_bytes()).collect();
    let digits: String = Sha256::digest(&random).iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = path.parent().unwrap_or(Path::new("."));
    let scratch = folder.join(format!(".{}.key", Uuid::new_v4()));
    let make = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&scratch)?;
        file.write_all(digits.as_bytes())?;
        file.sync_all()?;
        // Whoever was first has made it.
        match std::fs::hard_link(&scratch, path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => std::fs::remove_file(&scratch)?,
        }
        std::fs::File::open(folder)?.sync_all()
    };
    make().map_err(failed())?;
    key_of_file(path, MANAGED)
}

fn key_of_bytes(bytes: &[u8], name: &str) -> Result<[u8; 32], ObjectError> {
    if let Ok(key) = bytes.try_into() {
        return Ok(key);
    }
    let no_key = || ObjectError::bad_name(name, "a key has 32 bytes, or 64 hexadecimal digits");
    let digits = std::str::from_utf8(bytes).map_err(|_| no_key())?.trim();
    if digits.len() != 64 || !digits.is_ascii() {
        return Err(no_key());
    }
    let mut key = [0; 32];
    for (place, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[place * 2..place * 2 + 2], 16).map_err(|_| no_key())?;
    }
    Ok(key)
}

fn derive(key: &[u8; 32], purpose: &[u8], salt: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(b"linewarden ");
    mac.update(purpose);
    mac.update(salt);
    mac.finalize().into_bytes().into()
}

fn nonce(chunk: u64, is_last: bool) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&chunk.to_be_bytes());
    bytes[11] = u8::from(is_last);
    bytes.into()
}

/// How long the content of so many encrypted bytes is, header included.
pub(crate) fn plain_size(stored: u64) -> Option<u64> {
    let sealed = stored.checked_sub(HEADER_BYTES as u64)?;
    let chunks = sealed.div_ceil(SEALED_CHUNK_BYTES as u64).max(1);
    sealed.checked_sub(chunks * TAG_BYTES as u64)
}

/// Encrypts one object, chunk by chunk.
pub(crate) struct Sealer {
    cipher: Aes256Gcm,
    header: [u8; HEADER_BYTES],
    next_chunk: u64,
}

impl Sealer {
    fn new(name: &str, key: &[u8; 32]) -> Self {
        let mut header = [0; HEADER_BYTES];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        header[SALT][..16].copy_from_slice(Uuid::new_v4().as_bytes());
        header[SALT][16..].copy_from_slice(Uuid::new_v4().as_bytes());
        let check = derive(key, b"check", &header[SALT]);
        header[CHECK].copy_from_slice(&check[..CHECK.len()]);
        header[NAME_LENGTH] = u8::try_from(name.len()).unwrap_or(u8::MAX);
        header[NAME][..name.len()].copy_from_slice(name.as_bytes());
        let object_key = derive(key, b"object", &header[SALT]);
        Self { cipher: Aes256Gcm::new(&object_key.into()), header, next_chunk: 0 }
    }

    pub(crate) fn header(&self) -> &[u8; HEADER_BYTES] {
        &self.header
    }

    pub(crate) fn key_name(&self) -> String {
        String::from_utf8_lossy(&self.header[NAME][..usize::from(self.header[NAME_LENGTH])]).into_owned()
    }

    /// Encrypts a chunk where it is. Every chunk but the last is full.
    pub(crate) fn seal(&mut self, chunk: &mut Vec<u8>, is_last: bool) -> Result<(), ObjectError> {
        self.cipher
            .encrypt_in_place(&nonce(self.next_chunk, is_last), &self.header, chunk)
            .map_err(|_| ObjectError::Refused("a chunk is too long to be encrypted"))?;
        self.next_chunk += 1;
        Ok(())
    }
}

/// Decrypts the chunks of one object, in any order.
pub(crate) struct Opener {
    cipher: Aes256Gcm,
    header: [u8; HEADER_BYTES],
}

impl Opener {
    /// Decrypts a chunk where it is.
    pub(crate) fn open(&self, number: u64, chunk: &mut Vec<u8>, is_last: bool) -> Result<(), ObjectError> {
        self.cipher
            .decrypt_in_place(&nonce(number, is_last), &self.header, chunk)
            .map_err(|_| ObjectError::Damaged(format!("chunk {number} of an encrypted object")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn vault() -> Vault {
        Vault::load(None, Some(&format!("line-1={DIGITS}")), Some("line-1")).unwrap()
    }

    #[test]
    fn a_key_is_meant_by_id_alias_and_arn() {
        let vault = vault();
        for name in ["line-1", "alias/line-1", "arn:aws:kms:eu-west-1:123456789012:key/line-1"] {
            assert!(vault.has(name), "{name}");
        }
        for name in ["line-2", "", "..", "alias/", "line 1"] {
            assert!(!vault.has(name), "{name}");
        }
    }

    #[test]
    fn keys_come_from_files_as_bytes_and_as_digits_also_while_running() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("raw.key"), [7; 32]).unwrap();
        let vault = Vault::load(Some(folder.path()), None, None).unwrap();
        assert!(vault.has("raw") && !vault.has("late"));
        std::fs::write(folder.path().join("late.key"), format!("{DIGITS}\n")).unwrap();
        assert!(vault.has("late"));
        std::fs::write(folder.path().join("short.key"), "abc").unwrap();
        assert!(matches!(Vault::load(Some(folder.path()), None, None), Err(ObjectError::BadName { .. })));
        assert!(matches!(Vault::load(None, None, Some("gone")), Err(ObjectError::WrongKey { name }) if name == "gone"));
    }

    #[test]
    fn a_chunk_opens_only_in_its_place_and_whole() {
        let vault = vault();
        let mut sealer = vault.sealer(None).unwrap().unwrap();
        let (mut first, mut last) = (vec![1; CHUNK_BYTES], vec![2; 10]);
        sealer.seal(&mut first, false).unwrap();
        sealer.seal(&mut last, true).unwrap();
        assert_eq!(first.len(), SEALED_CHUNK_BYTES);
        assert_eq!(plain_size((HEADER_BYTES + first.len() + last.len()) as u64), Some(CHUNK_BYTES as u64 + 10));

        let opener = vault.opener(sealer.header()).unwrap();
        opener.open(1, &mut last.clone(), true).unwrap();
        assert!(opener.open(1, &mut last.clone(), false).is_err(), "cut at a chunk's end");
        assert!(opener.open(0, &mut last.clone(), true).is_err(), "moved");
        first[77] ^= 1;
        assert!(matches!(opener.open(0, &mut first, false), Err(ObjectError::Damaged(_))));
    }

    #[test]
    fn a_key_of_the_stores_own_is_made_once_and_is_nobody_elses_to_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("managed.key");
        assert_eq!((Vault::plain().managed_key(), Vault::plain().has(MANAGED)), (None, false));
        let vault = Vault::plain().with_managed(path.clone());
        assert!(!vault.is_used() && !path.exists(), "nobody has needed it");
        let sealers: Vec<Sealer> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| vault.sealer(vault.managed_key()).unwrap().unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(vault.is_used());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let later = Vault::plain().with_managed(path);
        for sealer in sealers {
            assert_eq!(sealer.key_name(), MANAGED);
            later.opener(sealer.header()).unwrap();
        }
    }

    #[test]
    fn another_key_of_the_same_name_is_told_from_damage() {
        let sealer = vault().sealer(None).unwrap().unwrap();
        let other = Vault::load(None, Some(&format!("line-1={}", DIGITS.replace('0', "1"))), None).unwrap();
        assert!(matches!(other.opener(sealer.header()), Err(ObjectError::WrongKey { name }) if name == "line-1"));
        assert!(matches!(Vault::plain().opener(sealer.header()), Err(ObjectError::WrongKey { .. })));
    }
}
