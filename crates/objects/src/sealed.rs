//! Files of a machine's own, beside the objects, that lie encrypted where there is a key: as objects do, and read by nobody
//! but their owner.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::file::{Known, NoWatch, Stored, Writer};
use crate::{ObjectError, Vault};

/// Writes a file that is encrypted with this key, or the default one; whole or not at all, and on the disk once this
/// answers. Blocks.
///
/// # Errors
/// When there is no such key, or the file cannot be written.
pub fn seal(
    vault: &Vault,
    key: Option<&str>,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), ObjectError> {
    let failed = || ObjectError::storage("write an encrypted file");
    let sealer = vault.sealer(key)?.ok_or(ObjectError::Refused("no key is named, and there is no default one"))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut sink = Sink { writer: Writer::new(folder, Some(sealer), Box::new(NoWatch))?, failed: None };
    let filled = fill(&mut sink);
    if let Some(error) = sink.failed {
        return Err(error);
    }
    filled.map_err(failed())?;
    let (scratch, _) = sink.writer.finish(Known::default())?;
    fs::rename(scratch.path(), path).and_then(|()| fs::File::open(folder)?.sync_all()).map_err(failed())
}

/// Reads such a file. Blocks.
///
/// # Errors
/// When it is not there, is damaged, or its key is not at hand.
pub fn unseal(vault: &Vault, path: &Path, out: &mut dyn Write) -> Result<(), ObjectError> {
    let stored = Stored::open(path)?
        .ok_or_else(|| ObjectError::storage("read an encrypted file")(io::Error::from(io::ErrorKind::NotFound)))?;
    for piece in stored.whole(vault)? {
        out.write_all(&piece?).map_err(ObjectError::storage("give an encrypted file's content"))?;
    }
    Ok(())
}

/// A writer for those that know no errors but their own.
struct Sink {
    writer: Writer,
    failed: Option<ObjectError>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.push(bytes).map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.failed = Some(error);
            told
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn what_is_sealed_is_read_with_its_key_only_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.sealed");
        let vault = Vault::load(None, Some(&format!("line-1={DIGITS}")), None).unwrap();
        let text = b"a model ".repeat(30_000);
        seal(&vault, Some("alias/line-1"), &path, |out| out.write_all(&text)).unwrap();
        let stored = fs::read(&path).unwrap();
        assert!(!stored.windows(8).any(|window| window == b"a model "), "in the clear");
        let mut read = Vec::new();
        unseal(&vault, &path, &mut read).unwrap();
        assert!(read == text);
        assert!(matches!(unseal(&Vault::plain(), &path, &mut Vec::new()), Err(ObjectError::WrongKey { .. })));
        let mut damaged = stored;
        damaged[100_000] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(matches!(unseal(&vault, &path, &mut Vec::new()), Err(ObjectError::Damaged(_))));

        assert!(matches!(seal(&vault, None, &path, |_| Ok(())), Err(ObjectError::Refused(_))));
        let unfinished = seal(&vault, Some("line-1"), &folder.path().join("2"), |_| Err(io::Error::other("no more")));
        assert!(unfinished.is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left behind");
    }
}
