//! A page of all versions in a bucket: what lies in the keys' places and what they were before, walked side by side.

use std::path::{Path, PathBuf};

use crate::file::{Known, Stored};
use crate::folder::{Folder, names_in};
use crate::history::History;
use crate::page::{Ask, Item, Page, Pager};
use crate::version::Stamp;
use crate::{Head, ObjectError};

/// A line of a listing of versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedVersion {
    pub(crate) key: String,
    pub(crate) is_latest: bool,
    pub(crate) is_marker: bool,
    /// Goes on behind this version on the next page, also when it is gone by then.
    pub(crate) place: String,
    pub(crate) head: Head,
}

/// A version that was met on the way.
struct Met {
    key: String,
    is_latest: bool,
    stamp: Stamp,
    /// Read already for what lies in its key's place: it may be another one there soon.
    known: Option<Known>,
    path: PathBuf,
}

impl Folder {
    /// The versions behind `ask.after`: behind that key, or behind the version of it that `within` names.
    pub(crate) fn version_page(
        &self,
        bucket: &str,
        ask: Ask<'_>,
        within: Option<&str>,
    ) -> Result<Page<ListedVersion>, ObjectError> {
        let placed = self.existing(bucket)?;
        let earlier = self.earlier_of(bucket)?;
        let pager = if within.is_some() { Pager::resuming(ask) } else { Pager::new(ask) };
        let mut walk = Walk { pager, within };
        walk.folder(&placed, &earlier, "")?;
        let page = walk.pager.finish();
        let items = page.items.into_iter().filter_map(|item| match item {
            Item::Prefix(prefix) => Some(Item::Prefix(prefix)),
            Item::Object(met) => listed(met).map(Item::Object),
        });
        Ok(Page { items: items.collect(), next: page.next })
    }
}

struct Walk<'a> {
    pager: Pager<'a, Met>,
    within: Option<&'a str>,
}

impl Walk<'_> {
    /// In the order of the keys' bytes. `false`: enough.
    fn folder(&mut self, placed: &Path, earlier: &Path, key_of_folder: &str) -> Result<bool, ObjectError> {
        let failed = || ObjectError::storage("list a bucket's versions");
        let mut names = names_in(placed).map_err(failed())?;
        names.extend(names_in(earlier).map_err(failed())?);
        names.sort_unstable();
        names.dedup();
        for (segment, name) in names {
            let key = format!("{key_of_folder}{segment}");
            let (placed, earlier) = (placed.join(&name), earlier.join(&name));
            let wants_more = if name.ends_with('%') {
                !self.pager.wants_folder(&key) || self.folder(&placed, &earlier, &key)?
            } else {
                !self.pager.wants(&key) || self.key(&placed, &earlier, &key)?
            };
            if !wants_more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The versions of one key, newest first. `false`: enough.
    fn key(&mut self, placed: &Path, earlier: &Path, key: &str) -> Result<bool, ObjectError> {
        let history = History::read(placed, earlier)?;
        let in_place = history.placed.map(|stored| (Stamp::of(&stored.known), Some(stored.known)));
        let versions = in_place.into_iter().chain(history.earlier.into_iter().map(|stamp| (stamp, None)));
        let mut versions: Vec<(Stamp, Option<Known>)> = versions.collect();
        let newest = versions.first().map(|(stamp, _)| *stamp);
        if let Some(within) = self.within.filter(|_| self.pager.is_resumed(key)) {
            skip_through(within, &mut versions);
        }
        for (stamp, known) in versions {
            let path = earlier.join(stamp.to_string());
            let met = Met { key: key.to_owned(), is_latest: newest == Some(stamp), stamp, known, path };
            if !self.pager.take(key, met) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Leaves the versions behind the one that is named, by its id or by its place.
fn skip_through(within: &str, versions: &mut Vec<(Stamp, Option<Known>)>) {
    let is_it = |stamp: &Stamp| stamp.to_string() == within || stamp.id() == within;
    if let Some(place) = versions.iter().position(|(stamp, _)| is_it(stamp)) {
        versions.drain(..=place);
        return;
    }
    // Deleted since the last page, as programs do that empty a bucket page by page.
    if let Ok(gone) = within.parse::<Stamp>() {
        versions.retain(|(stamp, _)| gone.is_behind(*stamp));
    }
}

/// `None` for a version that is gone by now, or damaged: the others are listed all the same.
fn listed(met: Met) -> Option<ListedVersion> {
    let known = match met.known {
        Some(known) => known,
        None => match Stored::open(&met.path) {
            Ok(stored) => stored?.known,
            Err(error) => {
                tracing::warn!(%error, "version left out of a listing");
                return None;
            }
        },
    };
    let head = Head::from(Known { version: Some(met.stamp.id()), ..known });
    let place = met.stamp.to_string();
    Some(ListedVersion { key: met.key, is_latest: met.is_latest, is_marker: met.stamp.is_marker, place, head })
}
