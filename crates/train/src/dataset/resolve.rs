//! Where the file that a manifest names lies on this machine.
//!
//! Manifests come from elsewhere, so what they name must lie below their own folder or below a folder that the user
//! names ([`Places`]). A relative path or an S3 key that climbs out with `..` is refused; a full path (`/x`,
//! `file:///x`) or a link that leads out is followed, since somebody of this machine made it, and told.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::error::shown;

const ALLOWED: &str = "allowed are `s3://bucket/key` (looked for beside the manifest and in `--images`), `file:///path` \
                       and a path relative to the manifest";
/// S3 allows keys of 1024 bytes, Linux paths of 4096; each `/` is one more place to look.
const MAXIMUM_REFERENCE_BYTES: usize = 4096;

/// Folders of this machine in which the pictures of manifests may lie, besides the manifest's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Searched in this order, before the manifest's folder.
    pub mappings: Vec<Mapping>,
}

/// A folder, for every reference or for those that begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Such as `s3://bucket/line-1`. What follows it in a reference is the path below the folder.
    pub prefix: Option<String>,
    /// The folder.
    pub folder: PathBuf,
}

impl FromStr for Mapping {
    type Err = String;

    /// `DIR` or `s3://bucket/prefix=DIR`.
    fn from_str(text: &str) -> Result<Self, String> {
        let prefixed = text.rsplit_once('=').filter(|(prefix, _)| prefix.contains("://"));
        let (prefix, folder) = match prefixed {
            Some((prefix, folder)) => (Some(prefix.trim_end_matches('/').to_owned()), folder),
            None => (None, text),
        };
        if folder.is_empty() || folder.contains("://") {
            return Err("allowed are `DIR` and `s3://bucket/prefix=DIR`".to_owned());
        }
        Ok(Self { prefix, folder: PathBuf::from(folder) })
    }
}

impl Mapping {
    /// What follows the prefix, if this reference begins with it.
    fn below_prefix<'a>(&self, reference: &'a str) -> Option<&'a str> {
        let rest = reference.strip_prefix(self.prefix.as_deref()?)?;
        rest.strip_prefix('/')
    }
}

/// A file that is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// It lies neither below the manifest's folder nor in one that the user named.
    pub(super) is_outside: bool,
}

/// Finds the files of one manifest.
pub(super) struct Resolver<'a> {
    root: &'a Path,
    places: &'a Places,
    /// Without links, so that paths can be compared.
    roots: Vec<PathBuf>,
}

/// Where to look, and what to say if the file may not be used.
#[derive(Debug)]
struct Candidates {
    paths: Vec<PathBuf>,
    climbs_out: bool,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(root: &'a Path, places: &'a Places) -> Self {
        let folders = places.mappings.iter().map(|mapping| mapping.folder.as_path());
        let roots = [root].into_iter().chain(folders).filter_map(|folder| folder.canonicalize().ok()).collect();
        Self { root, places, roots }
    }

    /// The existing file that a reference means. The error says what was tried.
    pub(super) fn resolve(&self, reference: &str) -> Result<Found, String> {
        let Candidates { paths, climbs_out } = self.candidates(reference)?;
        let found = paths.iter().find(|candidate| candidate.is_file());
        let is_outside = found.is_some_and(|path| self.is_outside(path));
        match found {
            Some(path) if !(climbs_out && is_outside) => Ok(Found { path: path.clone(), is_outside }),
            _ if climbs_out => Err(format!(
                "`{}` leads out of the manifest's folder; `--images DIR` names the folder that pictures may lie in",
                shown(reference)
            )),
            _ => Err(format!("no file for `{}`; tried {}", shown(reference), tried(&paths))),
        }
    }

    fn is_outside(&self, path: &Path) -> bool {
        path.canonicalize().is_ok_and(|full| !self.roots.iter().any(|root| full.starts_with(root)))
    }

    fn candidates(&self, reference: &str) -> Result<Candidates, String> {
        if reference.is_empty() {
            return Err(format!("is empty; {ALLOWED}"));
        }
        if reference.len() > MAXIMUM_REFERENCE_BYTES {
            let length = reference.len();
            return Err(format!("has {length} bytes, the most allowed is {MAXIMUM_REFERENCE_BYTES}"));
        }
        if let Some((mapping, rest)) =
            self.places.mappings.iter().find_map(|mapping| Some((mapping, mapping.below_prefix(reference)?)))
        {
            return Ok(Candidates { paths: vec![mapping.folder.join(rest)], climbs_out: climbs_out(Path::new(rest)) });
        }
        if let Some(location) = reference.strip_prefix("s3://") {
            return self.of_key(location).ok_or_else(|| format!("`{}` has no key; {ALLOWED}", shown(reference)));
        }
        if let Some(location) = reference.strip_prefix("file://") {
            return full_path(location).ok_or_else(|| format!("`{}` is not absolute; {ALLOWED}", shown(reference)));
        }
        if let Some((scheme, _)) = reference.split_once("://") {
            return Err(format!("cannot read from `{}://`; {ALLOWED}", shown(scheme)));
        }
        let path = Path::new(reference);
        let paths = self.folders().map(|folder| folder.join(path)).collect();
        Ok(Candidates { paths, climbs_out: path.is_relative() && climbs_out(path) })
    }

    /// The manifest's folder, then those that serve for every reference.
    fn folders(&self) -> impl Iterator<Item = &Path> {
        let named = self.places.mappings.iter().filter(|mapping| mapping.prefix.is_none());
        named.map(|mapping| mapping.folder.as_path()).chain([self.root])
    }

    /// The key below each folder, then with one leading folder after the other left out.
    fn of_key(&self, location: &str) -> Option<Candidates> {
        let (_bucket, key) = location.split_once('/')?;
        let key = Path::new(key);
        let parts: Vec<_> = key.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        if parts.is_empty() {
            return None;
        }
        // A key is a name: looking for it without its `..` would find another file.
        if key.components().any(|part| part == Component::ParentDir) {
            return Some(Candidates { paths: Vec::new(), climbs_out: true });
        }
        let keys = || (0..parts.len()).map(|skipped| parts[skipped..].iter().collect::<PathBuf>());
        let paths = self.folders().flat_map(|folder| keys().map(|key| folder.join(key))).collect();
        Some(Candidates { paths, climbs_out: false })
    }
}

/// Of a `file://` location.
fn full_path(location: &str) -> Option<Candidates> {
    let path = location.strip_prefix("localhost").unwrap_or(location);
    if !path.starts_with('/') {
        return None;
    }
    // Written by hand it is a plain path, written by a program it has its blanks as `%20`.
    let mut paths = vec![PathBuf::from(path)];
    paths.extend(percent_decoded(path).filter(|decoded| decoded != path).map(PathBuf::from));
    Some(Candidates { paths, climbs_out: false })
}

/// Whether `..` leads above the folder at which the path begins, anywhere on its way.
pub(super) fn climbs_out(path: &Path) -> bool {
    let mut depth = 0_usize;
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            _ => {}
        }
    }
    false
}

/// The bucket of an `s3://` reference.
pub(super) fn bucket(reference: &str) -> Option<&str> {
    reference.strip_prefix("s3://")?.split('/').next()
}

fn tried(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 4;
    let first = paths.iter().take(SHOWN).map(|path| format!("`{}`", shown_path(path)));
    let mut text = first.collect::<Vec<_>>().join(", ");
    if let Some(more) = paths.len().checked_sub(SHOWN).filter(|&more| more > 0) {
        // Writing to a string cannot fail.
        let _ = write!(text, " and {more} more");
    }
    text
}

/// A path may be long, but must be told whole to be of use.
fn shown_path(path: &Path) -> String {
    path.display().to_string().chars().map(|character| if character.is_control() { '?' } else { character }).collect()
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

    fn mapped(mappings: &[&str]) -> Places {
        Places { mappings: mappings.iter().map(|mapping| mapping.parse().unwrap()).collect() }
    }

    fn tried_in(reference: &str, places: &Places) -> Vec<String> {
        let candidates = Resolver::new(Path::new("/m"), places).candidates(reference).unwrap();
        candidates.paths.iter().map(|path| path.display().to_string()).collect()
    }

    fn tried(reference: &str) -> Vec<String> {
        tried_in(reference, &Places::default())
    }

    #[test]
    fn a_key_is_looked_for_with_ever_fewer_folders() {
        assert_eq!(tried("s3://bucket/a/b/c.jpg"), ["/m/a/b/c.jpg", "/m/b/c.jpg", "/m/c.jpg"]);
        assert_eq!(tried("file:///x/a%20b.jpg"), ["/x/a%20b.jpg", "/x/a b.jpg"]);
        assert_eq!(tried("x/../a.jpg"), ["/m/x/../a.jpg"]);
        assert_eq!(tried("/x/a.jpg"), ["/x/a.jpg"]);
    }

    #[test]
    fn folders_of_the_user_s_come_first_and_a_prefix_decides() {
        let places = mapped(&["s3://bucket/line-1/=/one", "/all"]);
        assert_eq!(tried_in("s3://bucket/line-1/a/b.jpg", &places), ["/one/a/b.jpg"]);
        assert_eq!(tried_in("s3://bucket/line-10/b.jpg", &places)[..2], ["/all/line-10/b.jpg", "/all/b.jpg"]);
        assert_eq!(tried_in("b.jpg", &places), ["/all/b.jpg", "/m/b.jpg"]);
        assert_eq!(tried_in("http://host/x/b.jpg", &mapped(&["http://host=/h"])), ["/h/x/b.jpg"]);
        assert_eq!(mapped(&["s3://b/day=3=/x=y"]).mappings[0].folder, Path::new("y"));
        for wrong in ["", "s3://bucket", "s3://bucket="] {
            assert!(wrong.parse::<Mapping>().unwrap_err().contains("allowed are"), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let places = Places::default();
        for wrong in ["", "s3://bucket", "s3://bucket/", "file://x.jpg", "http://host/a.jpg"] {
            let message = Resolver::new(Path::new("/m"), &places).candidates(wrong).unwrap_err();
            assert!(message.contains("allowed are"), "{wrong}: {message}");
        }
        let long = format!("s3://b/{}", "a/".repeat(1 << 20));
        assert!(
            Resolver::new(Path::new("/m"), &places).resolve(&long).unwrap_err().contains("the most allowed is 4096")
        );
    }

    #[test]
    fn only_what_climbs_above_its_start_climbs_out() {
        for (path, expected) in [("a/../b", false), ("../a", true), ("a/../../b", true), ("./a/b/../..", false)] {
            assert_eq!(climbs_out(Path::new(path)), expected, "{path}");
        }
    }
}
