//! Where the file that a manifest names lies on this machine.

use std::path::{Component, Path, PathBuf};

const ALLOWED: &str = "allowed are `s3://bucket/key` (looked for beside the manifest), `file:///path` and a path relative to the manifest";

/// The bucket of an `s3://` reference.
pub(super) fn bucket(reference: &str) -> Option<&str> {
    reference.strip_prefix("s3://")?.split('/').next()
}

/// The existing file that a reference means. The error says what was tried.
pub(super) fn resolve(reference: &str, root: &Path) -> Result<PathBuf, String> {
    let candidates = candidates(reference, root)?;
    if let Some(found) = candidates.iter().find(|candidate| candidate.is_file()) {
        return Ok(found.clone());
    }
    let tried = candidates.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ");
    Err(format!("no file for `{reference}`; tried {tried}"))
}

fn candidates(reference: &str, root: &Path) -> Result<Vec<PathBuf>, String> {
    if reference.is_empty() {
        return Err(format!("is empty; {ALLOWED}"));
    }
    if let Some(location) = reference.strip_prefix("s3://") {
        return beside_the_manifest(location, root).ok_or_else(|| format!("`{reference}` has no key; {ALLOWED}"));
    }
    if let Some(location) = reference.strip_prefix("file://") {
        let path = location.strip_prefix("localhost").unwrap_or(location);
        if !path.starts_with('/') {
            return Err(format!("`{reference}` is not absolute; {ALLOWED}"));
        }
        // Written by hand it is a plain path, written by a program it has its blanks as `%20`.
        let mut paths = vec![PathBuf::from(path)];
        paths.extend(percent_decoded(path).filter(|decoded| decoded != path).map(PathBuf::from));
        return Ok(paths);
    }
    if let Some((scheme, _)) = reference.split_once("://") {
        return Err(format!("cannot read from `{scheme}://`; {ALLOWED}"));
    }
    Ok(vec![root.join(reference)])
}

/// The key below the manifest's folder, then with one leading folder after the other left out.
fn beside_the_manifest(location: &str, root: &Path) -> Option<Vec<PathBuf>> {
    let (_bucket, key) = location.split_once('/')?;
    let key = Path::new(key);
    // A key is a name, not a path: `..` in it must not lead out of the folder.
    let parts: Vec<_> = key.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    if parts.is_empty() {
        return None;
    }
    Some((0..parts.len()).map(|skipped| root.join(parts[skipped..].iter().collect::<PathBuf>())).collect())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(reference: &str) -> Vec<String> {
        candidates(reference, Path::new("/m")).unwrap().iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_key_is_looked_for_with_ever_fewer_folders() {
        assert_eq!(tried("s3://bucket/a/b/c.jpg"), ["/m/a/b/c.jpg", "/m/b/c.jpg", "/m/c.jpg"]);
        assert_eq!(tried("s3://bucket/../../c.jpg"), ["/m/c.jpg"]);
        assert_eq!(tried("file:///x/a%20b.jpg"), ["/x/a%20b.jpg", "/x/a b.jpg"]);
        assert_eq!(tried("x/../a.jpg"), ["/m/x/../a.jpg"]);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for wrong in ["", "s3://bucket", "s3://bucket/", "file://x.jpg", "http://host/a.jpg"] {
            let message = candidates(wrong, Path::new("/m")).unwrap_err();
            assert!(message.contains("allowed are"), "{wrong}: {message}");
        }
    }
}
