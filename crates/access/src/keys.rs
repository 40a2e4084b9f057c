//! Access keys, in a file that only its owner may read.
//!
//! A signature can only be verified by who knows the secret, so secrets are kept, encrypted (AES-256-GCM) with a master key
//! that lies in another file or in the environment: the file of the keys alone gives nobody away. The same file says which
//! policies users have.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::credentials::Credentials;
use crate::managed::{managed, managed_names};
use crate::policy::Policy;

/// The environment variable with the master key.
const MASTER_KEY: &str = "LINEWARDEN_MASTER_KEY";
const NONCE_BYTES: usize = 12;
const HEAD: &str = "# Access keys of Linewarden, written by `linewarden keys`. Secrets are encrypted; to take a key away, remove its table.\n";

/// Why keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("`{}`: {told}", path.display())]
    Wrong {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what is allowed.
        told: String,
    },
    /// There is no such key.
    #[error("there is no access key `{0}`")]
    Unknown(String),
    /// An access key or its secret is nowhere.
    #[error("set {variable}, or name {file_is}")]
    NotSet {
        /// The environment's variable that it may be in.
        variable: String,
        /// How a user names the file that it may be in.
        file_is: &'static str,
    },
    /// A user has no such policy.
    #[error("the user `{user}` does not have the policy `{policy}`")]
    NotAttached {
        /// Whose.
        user: String,
        /// Which.
        policy: String,
    },
}

/// What a user may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name that access keys say.
    pub name: String,
    /// Names of managed policies, or paths of policy files from the folder of the keys' file on.
    pub policies: Vec<String>,
}

/// An access key as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// `AKIA` and 16 letters and digits.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether its signatures count.
    pub enabled: bool,
    /// Nonce and encrypted secret.
    secret: String,
}

/// The keys of a file, which is read again when it has changed.
pub struct Keys {
    path: PathBuf,
    cipher: Aes256Gcm,
    read: Mutex<Read>,
    policies: Mutex<BTreeMap<PathBuf, (SystemTime, Arc<Policy>)>>,
}

/// What the file said, and when that was written.
#[derive(Default)]
struct Read {
    changed: Option<SystemTime>,
    written: Written,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    key: Vec<AccessKey>,
    #[serde(default)]
    user: Vec<User>,
}

impl Keys {
    /// Opens the file of the keys, which need not be there yet. The master key is that of the environment, or of
    /// `<path>.master`, which is made when it is not there.
    ///
    /// # Errors
    /// When a file cannot be read, is not what it should be, or somebody else may read it.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let master = match std::env::var(MASTER_KEY) {
            Ok(digits) => bytes_of(&digits).ok_or_else(|| KeyError::Wrong {
                path: MASTER_KEY.into(),
                told: "must be 64 hexadecimal digits".to_owned(),
            })?,
            Err(_) => master_of(path)?,
        };
        let cipher = Aes256Gcm::new(&master.into());
        let keys = Self { path: path.to_owned(), cipher, read: Mutex::default(), policies: Mutex::default() };
        keys.list()?;
        Ok(keys)
    }

    /// All keys.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn list(&self) -> Result<Vec<AccessKey>, KeyError> {
        Ok(self.refreshed()?.written.key.clone())
    }

    /// User and secret of a key whose signatures count.
    ///
    /// # Errors
    /// When the file cannot be read, or its secrets are of another master key.
    pub fn find(&self, id: &str) -> Result<Option<(String, String)>, KeyError> {
        let read = self.refreshed()?;
        let Some(key) = read.written.key.iter().find(|key| key.id == id && key.enabled) else { return Ok(None) };
        let wrong = || KeyError::Wrong {
            path: self.path.clone(),
            told: format!("the secret of the access key `{id}` is not encrypted with this master key"),
        };
        let sealed = STANDARD.decode(&key.secret).map_err(|_| wrong())?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(wrong)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| wrong())?;
        let payload = Payload { msg: sealed, aad: key.id.as_bytes() };
        let secret = self.cipher.decrypt(&Nonce::from(nonce), payload).map_err(|_| wrong())?;
        Ok(Some((key.user.clone(), String::from_utf8(secret).map_err(|_| wrong())?)))
    }

    /// All users that have policies.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn users(&self) -> Result<Vec<User>, KeyError> {
        Ok(self.refreshed()?.written.user.clone())
    }

    /// The policies of a user; none for a stranger, who may do nothing.
    ///
    /// # Errors
    /// When a file cannot be read, or is no policy.
    pub fn policies(&self, user: &str) -> Result<Vec<Arc<Policy>>, KeyError> {
        let names = {
            let read = self.refreshed()?;
            read.written.user.iter().find(|known| known.name == user).map(|known| known.policies.clone())
        };
        names.unwrap_or_default().iter().map(|name| self.policy(name)).collect()
    }

    /// Gives a user a policy: a managed one by its name, or a file, which must be one.
    ///
    /// # Errors
    /// When it is no policy, or the file of the keys cannot be written.
    pub fn attach(&self, user: &str, policy: &str) -> Result<(), KeyError> {
        self.policy(policy)?;
        self.change(|written| {
            let place = written.user.iter().position(|known| known.name == user).unwrap_or_else(|| {
                written.user.push(User { name: user.to_owned(), policies: Vec::new() });
                written.user.len() - 1
            });
            if let Some(known) = written.user.get_mut(place)
                && !known.policies.iter().any(|known| known == policy)
            {
                known.policies.push(policy.to_owned());
            }
            Ok(())
        })
    }

    /// Takes a policy from a user.
    ///
    /// # Errors
    /// When the user does not have it, or the file cannot be written.
    pub fn detach(&self, user: &str, policy: &str) -> Result<(), KeyError> {
        let missing = || KeyError::NotAttached { user: user.to_owned(), policy: policy.to_owned() };
        self.change(|written| {
            let known = written.user.iter_mut().find(|known| known.name == user).ok_or_else(missing)?;
            let place = known.policies.iter().position(|known| known == policy).ok_or_else(missing)?;
            known.policies.remove(place);
            Ok(())
        })
    }

    /// A managed policy, or that of a file, which is read again when it has changed.
    fn policy(&self, name: &str) -> Result<Arc<Policy>, KeyError> {
        if let Some(policy) = managed(name) {
            return Ok(policy);
        }
        let path = self.folder().join(name);
        let failed = |source| KeyError::Io { path: path.clone(), source };
        let changed = match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(changed) => changed,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !name.contains(['/', '.']) => {
                let told = format!(
                    "there is no policy of that name: {} are there, or name a file",
                    managed_names().join(", ")
                );
                return Err(KeyError::Wrong { path: name.into(), told });
            }
            Err(error) => return Err(failed(error)),
        };
        let mut known = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, policy)) = known.get(&path)
            && *at == changed
        {
            return Ok(Arc::clone(policy));
        }
        let text = fs::read_to_string(&path).map_err(failed)?;
        let policy = Policy::parse(&text);
        let policy = policy.map_err(|error| KeyError::Wrong { path: path.clone(), told: error.to_string() })?;
        let policy = Arc::new(policy);
        known.insert(path, (changed, Arc::clone(&policy)));
        Ok(policy)
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Makes a key: the only time that its secret is shown.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(&self, user: &str) -> Result<Credentials, KeyError> {
        let letters = |count: usize, from: &[u8]| -> String {
            let mut text = String::with_capacity(count);
            while text.len() < count {
                // 122 random bits of the system's in each.
                for byte in *uuid::Uuid::new_v4().as_bytes() {
                    // What is above the last whole multiple would make some letters likelier.
                    let place = usize::from(byte);
                    if place < 256 / from.len() * from.len() && text.len() < count {
                        text.extend(from.get(place % from.len()).map(|letter| char::from(*letter)));
                    }
                }
            }
            text
        };
        let id = format!("AKIA{}", letters(16, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"));
        let secret = letters(40, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
        let random = uuid::Uuid::new_v4();
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(random.as_bytes().get(..NONCE_BYTES).unwrap_or(&[0; NONCE_BYTES]));
        let payload = Payload { msg: secret.as_bytes(), aad: id.as_bytes() };
        let sealed = self.cipher.encrypt(&Nonce::from(nonce), payload);
        let sealed =
            sealed.map_err(|_| KeyError::Wrong { path: self.path.clone(), told: "cannot encrypt".to_owned() })?;
        let key = AccessKey {
            id: id.clone(),
            user: user.to_owned(),
            created_at: Timestamp::now(),
            enabled: true,
            secret: STANDARD.encode([nonce.as_slice(), &sealed].concat()),
        };
        self.change(|written| {
            written.key.push(key);
            Ok(())
        })?;
        Ok(Credentials { id, secret })
    }

    /// Lets a key's signatures count, or not.
    ///
    /// # Errors
    /// When there is no such key, or the file cannot be written.
    pub fn enable(&self, id: &str, enabled: bool) -> Result<(), KeyError> {
        self.change(|written| {
            let key =
                written.key.iter_mut().find(|key| key.id == id).ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
            key.enabled = enabled;
            Ok(())
        })
    }

    /// Removes a key for good.
    ///
    /// # Errors
    /// When there is no such key, or the file cannot be written.
    pub fn delete(&self, id: &str) -> Result<(), KeyError> {
        self.change(|written| {
            let keys = &mut written.key;
            let place = keys.iter().position(|key| key.id == id).ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
            keys.remove(place);
            Ok(())
        })
    }

    /// Reads, changes and replaces the file as a whole, while no other process does.
    fn change(&self, change: impl FnOnce(&mut Written) -> Result<(), KeyError>) -> Result<(), KeyError> {
        let failed = |source| KeyError::Io { path: self.path.clone(), source };
        let folder = self.folder();
        fs::create_dir_all(folder).map_err(failed)?;
        let guard = File::open(folder).map_err(failed)?;
        rustix::fs::flock(&guard, rustix::fs::FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let mut written = read(&self.path)?;
        change(&mut written)?;
        let text = toml::to_string(&written).map_err(|error| failed(io::Error::other(error)))?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(format!("{HEAD}\n{text}").as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        guard.sync_all().map_err(failed)?;
        // Two changes within one tick of the file's clock are two all the same.
        self.lock().changed = None;
        Ok(())
    }

    fn refreshed(&self) -> Result<MutexGuard<'_, Read>, KeyError> {
        let changed = fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        let mut known = self.lock();
        if known.changed.is_none() || known.changed != changed {
            *known = Read { changed, written: read(&self.path)? };
        }
        Ok(known)
    }

    /// Locks even after a panic elsewhere: the list is replaced as a whole.
    fn lock(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None when there is no file.
fn read(path: &Path) -> Result<Written, KeyError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Written::default()),
        Err(source) => return Err(KeyError::Io { path: path.to_owned(), source }),
    };
    must_be_ours_alone(path)?;
    toml::from_str(&text)
        .map_err(|error| KeyError::Wrong { path: path.to_owned(), told: error.to_string().trim_end().to_owned() })
}

fn must_be_ours_alone(path: &Path) -> Result<(), KeyError> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = fs::metadata(path).map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let told = format!("has the mode {mode:o}: others may read it; run `chmod 600` on it");
        return Err(KeyError::Wrong { path: path.to_owned(), told });
    }
    Ok(())
}

/// The master key beside the file, made now if there is none.
fn master_of(path: &Path) -> Result<[u8; 32], KeyError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".master");
    let master = PathBuf::from(name);
    let failed = |source| KeyError::Io { path: master.clone(), source };
    if let Some(folder) = master.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&master) {
        Ok(mut file) => {
            let random = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
            let random: Vec<u8> = random.iter().flat_map(|one| *one.as_bytes()).collect();
            // Mixed, since a UUID has six bits that are not random.
            let digits = format!("{:x}\n", <sha2::Sha256 as sha2::Digest>::digest(&random));
            file.write_all(digits.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => must_be_ours_alone(&master)?,
        Err(error) => return Err(failed(error)),
    }
    let digits = fs::read_to_string(&master).map_err(failed)?;
    bytes_of(&digits)
        .ok_or_else(|| KeyError::Wrong { path: master.clone(), told: "must be 64 hexadecimal digits".to_owned() })
}

fn bytes_of(digits: &str) -> Option<[u8; 32]> {
    let digits = digits.trim();
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(place * 2..place * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_made_found_disabled_and_removed_and_their_secrets_do_not_lie_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let keys = Keys::open(&path).unwrap();
        assert_eq!(keys.find("AKIAABSENT").unwrap(), None);
        let (anna, ben) = (keys.create("anna").unwrap(), keys.create("ben").unwrap());
        assert!(anna.id != ben.id && anna.id.len() == 20 && anna.secret.len() == 40);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&anna.id) && !text.contains(&anna.secret), "{text}");
        for file in ["keys.toml", "keys.toml.master"] {
            assert_eq!(fs::metadata(folder.path().join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        // Another process, which sees what changes.
        let other = Keys::open(&path).unwrap();
        assert_eq!(other.find(&anna.id).unwrap(), Some(("anna".to_owned(), anna.secret.clone())));
        keys.enable(&anna.id, false).unwrap();
        keys.delete(&ben.id).unwrap();
        assert_eq!((keys.find(&anna.id).unwrap(), keys.find(&ben.id).unwrap()), (None, None));
        assert_eq!(Keys::open(&path).unwrap().list().unwrap().len(), 1);
        assert!(matches!(keys.delete(&ben.id), Err(KeyError::Unknown(id)) if id == ben.id));
        fs::write(folder.path().join("keys.toml.master"), "00".repeat(32)).unwrap();
        keys.enable(&anna.id, true).unwrap();
        let told = Keys::open(&path).unwrap().find(&anna.id).unwrap_err().to_string();
        assert!(told.contains("is not encrypted with this master key"), "{told}");
    }

    #[test]
    fn users_have_the_policies_that_were_given_to_them_and_files_are_read_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(&folder.path().join("keys.toml")).unwrap();
        assert!(keys.policies("anna").unwrap().is_empty());
        let file = folder.path().join("line.json");
        let written = |action: &str| format!(r#"{{"Effect": "Allow", "Action": "{action}", "Resource": "*"}}"#);
        fs::write(&file, written("s3:*")).unwrap();
        for policy in ["AmazonS3ReadOnlyAccess", "line.json", "line.json"] {
            keys.attach("anna", policy).unwrap();
        }
        let before = keys.policies("anna").unwrap();
        assert_eq!((before.len(), keys.users().unwrap()[0].policies.len()), (2, 2));
        fs::write(&file, written("lookoutvision:*")).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(2);
        File::open(&file).unwrap().set_modified(later).unwrap();
        let after = keys.policies("anna").unwrap();
        assert!(after[0] == before[0] && after[1] != before[1]);
        keys.detach("anna", "AmazonS3ReadOnlyAccess").unwrap();
        assert_eq!(keys.policies("anna").unwrap().len(), 1);
        fs::write(&file, "{}").unwrap();
        File::open(&file).unwrap().set_modified(later + std::time::Duration::from_secs(2)).unwrap();
        let told = keys.policies("anna").unwrap_err().to_string();
        assert!(told.contains("line.json`: Statement: must be"), "{told}");
        let told = keys.attach("anna", "AmazonS3").unwrap_err().to_string();
        assert!(told.contains("AmazonS3FullAccess"), "{told}");
        assert!(keys.attach("anna", "absent.json").unwrap_err().to_string().contains("absent.json"));
        assert!(keys.detach("ben", "line.json").unwrap_err().to_string().contains("`ben` does not have"));
    }

    #[test]
    fn a_file_that_is_wrong_or_that_others_may_read_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let keys = Keys::open(&path).unwrap();
        keys.create("anna").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let told = Keys::open(&path).err().unwrap().to_string();
        assert!(told.contains("keys.toml") && told.contains("640"), "{told}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "[[key]]\nid = 5\n").unwrap();
        let told = Keys::open(&path).err().unwrap().to_string();
        assert!(told.contains("line 2") && told.contains("id = 5"), "{told}");
    }
}
