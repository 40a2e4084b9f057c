//! The versions of one key. The newest lies where the object lies without versions, so that reading and listing are the
//! same; the earlier ones, and delete markers, lie in a folder of the key's own, each under its stamp.
//!
//! A write keeps what lies in the key's place by a second name, then puts the new version there with one rename. What lies
//! in the place decides, so that every cut between two steps reads as before the change or as after it: a version with two
//! names is one; a marker behind what lies in the place marks nothing (its change was cut off, or the cut was while it was
//! taken back); of several versions `null` the last counts. The next change of the key removes what counts no more.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::file::{self, Known, NoWatch, Scratch, Stored, Writer};
use crate::folder::{Folder, make_folder, make_folders, prune, sync};
use crate::version::{Stamp, Wanted};
use crate::{Deletion, ObjectError, Versioning, name};

/// Folders come and go with their versions, so a write may find one gone that was there just now.
const KEEPING_ATTEMPTS: u32 = 100;

/// A key's versions.
pub(crate) struct History {
    /// What lies in the key's place.
    pub(crate) placed: Option<Stored>,
    /// The others that count, newest first.
    pub(crate) earlier: Vec<Stamp>,
    /// What counts no more.
    leftovers: Vec<Stamp>,
}

impl History {
    /// The place is read first: what is replaced there meanwhile has its second name by then.
    pub(crate) fn read(placed: &Path, earlier: &Path) -> Result<Self, ObjectError> {
        let placed = match Stored::open(placed) {
            Err(error @ ObjectError::Damaged(_)) => {
                tracing::warn!(%error, "object is none of its key's versions");
                None
            }
            opened => opened?,
        };
        let mut stamps = stamps_in(earlier).map_err(ObjectError::storage("list an object's versions"))?;
        stamps.sort_by_key(|stamp| Reverse(stamp.order));
        Ok(Self::of(placed, stamps))
    }

    fn of(placed: Option<Stored>, newest_first: Vec<Stamp>) -> Self {
        let in_place = placed.as_ref().map(|stored| Stamp::of(&stored.known));
        let mut last_null = in_place.filter(|stamp| stamp.is_null);
        let (mut earlier, mut leftovers) = (Vec::new(), Vec::new());
        for stamp in newest_first {
            if Some(stamp) == in_place {
                continue;
            }
            let marks_nothing = stamp.is_marker && in_place.is_some_and(|placed| stamp.is_behind(placed));
            let is_replaced = stamp.is_null && last_null.is_some();
            if marks_nothing || is_replaced {
                leftovers.push(stamp);
                continue;
            }
            if stamp.is_null {
                last_null = Some(stamp);
            }
            earlier.push(stamp);
        }
        Self { placed, earlier, leftovers }
    }

    pub(crate) fn in_place(&self) -> Option<Stamp> {
        self.placed.as_ref().map(|stored| Stamp::of(&stored.known))
    }

    /// The marker that says that the object was deleted.
    fn marker(&self) -> Option<Stamp> {
        self.earlier.first().copied().filter(|stamp| self.placed.is_none() && stamp.is_marker)
    }

    fn next(&self, versioning: Versioning, is_marker: bool) -> Stamp {
        let others = self.earlier.iter().chain(&self.leftovers).copied().chain(self.in_place());
        Stamp::behind(others, versioning == Versioning::Suspended, is_marker)
    }
}

/// In no order. What we did not name is left alone.
fn stamps_in(earlier: &Path) -> io::Result<Vec<Stamp>> {
    let entries = match fs::read_dir(earlier) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut stamps = Vec::new();
    for entry in entries {
        stamps.extend(entry?.file_name().to_str().and_then(|name| name.parse::<Stamp>().ok()));
    }
    Ok(stamps)
}

/// Where the versions of one key lie.
struct Slot {
    bucket: PathBuf,
    /// The folder of all keys' earlier versions.
    keys: PathBuf,
    /// Below both.
    path: PathBuf,
}

impl Slot {
    fn placed(&self) -> PathBuf {
        self.bucket.join(&self.path)
    }

    fn earlier(&self) -> PathBuf {
        self.keys.join(&self.path)
    }

    fn history(&self) -> Result<History, ObjectError> {
        History::read(&self.placed(), &self.earlier())
    }

    /// The key's versions, with nothing else beside them.
    fn tidied(&self) -> Result<History, ObjectError> {
        let mut history = self.history()?;
        let leftovers = std::mem::take(&mut history.leftovers);
        if !leftovers.is_empty() {
            self.remove(|stamp| leftovers.contains(&stamp))?;
        }
        Ok(history)
    }

    /// Gives what lies in the key's place its second name, unless `next` replaces it.
    fn keep_placed(&self, history: &History, next: Stamp) -> Result<(), ObjectError> {
        let Some(stamp) = history.in_place() else { return Ok(()) };
        if stamp.is_null && next.is_null {
            return Ok(());
        }
        let placed = self.placed();
        self.keep(stamp, |target| match fs::hard_link(&placed, target) {
            // Since it was brought back, or since a change that was cut off.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        })
    }

    /// Has a version among the earlier ones, whatever happens from now on.
    fn keep(&self, stamp: Stamp, give_name: impl Fn(&Path) -> io::Result<()>) -> Result<(), ObjectError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let keep = || -> io::Result<()> {
                make_folder(&self.keys)?;
                let folder = make_folders(&self.keys, &self.path)?;
                give_name(&folder.join(stamp.to_string()))?;
                sync(&folder)
            };
            match keep() {
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < KEEPING_ATTEMPTS => {}
                kept => return kept.map_err(ObjectError::storage("keep a version of an object")),
            }
        }
    }

    /// Removes earlier versions, the oldest first: one that counts no more must not outlive the one it was replaced by.
    fn remove(&self, is_unwanted: impl Fn(Stamp) -> bool) -> Result<(), ObjectError> {
        let folder = self.earlier();
        let remove = || -> io::Result<()> {
            let mut stamps = stamps_in(&folder)?;
            stamps.retain(|stamp| is_unwanted(*stamp));
            stamps.sort_by_key(|stamp| stamp.order);
            if stamps.is_empty() {
                return Ok(());
            }
            for stamp in stamps {
                fs::remove_file(folder.join(stamp.to_string()))?;
            }
            prune(&self.keys, Some(&self.path))
        };
        remove().map_err(ObjectError::storage("remove a version of an object"))
    }
}

impl Folder {
    fn slot(&self, bucket: &str, key: &str) -> Result<Slot, ObjectError> {
        Ok(Slot { bucket: self.existing(bucket)?, keys: self.earlier_of(bucket)?, path: name::file_of(key)? })
    }

    /// Makes a complete object the newest version of its key, and tells which one it is.
    pub(crate) fn place_version(
        &self,
        (scratch, mut known): (Scratch, Known),
        (bucket, key): (&str, &str),
        versioning: Versioning,
    ) -> Result<Known, ObjectError> {
        let slot = self.slot(bucket, key)?;
        let history = slot.tidied()?;
        let stamp = history.next(versioning, false);
        known.stamp = Some(stamp);
        known.version = Some(stamp.id());
        file::rewrite_known(&scratch, &known)?;
        slot.keep_placed(&history, stamp)?;
        self.move_in(scratch.path(), bucket, key)?;
        if stamp.is_null {
            slot.remove(|other| other.is_null)?;
        }
        Ok(known)
    }

    /// Deletes an object so that it can be brought back: by a version that says so.
    pub(crate) fn lay_marker(&self, bucket: &str, key: &str, versioning: Versioning) -> Result<Deletion, ObjectError> {
        let slot = self.slot(bucket, key)?;
        let history = slot.tidied()?;
        let stamp = history.next(versioning, true);
        let known = Known { stamp: Some(stamp), ..Known::default() };
        let (marker, _) = Writer::new(&self.scratch, None, Box::new(NoWatch))?.finish(known)?;
        slot.keep_placed(&history, stamp)?;
        slot.keep(stamp, |target| fs::rename(marker.path(), target))?;
        let was_there = self.remove_placed(bucket, key)?;
        if stamp.is_null {
            slot.remove(|other| other.is_null && other != stamp)?;
        }
        Ok(Deletion { was_there, is_marker: true, version: Some(stamp.id()) })
    }

    /// Removes one version for good. When it was the newest, the one before comes to the front.
    pub(crate) fn delete_version(&self, bucket: &str, key: &str, version: &str) -> Result<Deletion, ObjectError> {
        let slot = self.slot(bucket, key)?;
        let wanted = Wanted::from_id(version).ok_or_else(|| ObjectError::no_version(bucket, key, version))?;
        let history = slot.tidied()?;
        let placed = history.in_place().filter(|stamp| wanted.is(*stamp));
        let found = placed.or_else(|| history.earlier.iter().copied().find(|stamp| wanted.is(*stamp)));
        let Some(found) = found else {
            return Ok(Deletion { version: Some(version.to_owned()), ..Deletion::default() });
        };
        let next = history.earlier.iter().copied().find(|stamp| !wanted.is(*stamp));
        let to_front = next.filter(|next| !next.is_marker);
        if placed.is_some() {
            // By its second name it would be there still.
            slot.remove(|stamp| wanted.is(stamp))?;
            match to_front {
                Some(next) => self.bring_back(&slot, next, bucket, key)?,
                None => {
                    self.remove_placed(bucket, key)?;
                }
            }
        } else {
            let is_newest = history.placed.is_none() && history.earlier.first() == Some(&found);
            if let Some(next) = to_front.filter(|_| is_newest) {
                self.bring_back(&slot, next, bucket, key)?;
            }
            slot.remove(|stamp| wanted.is(stamp))?;
        }
        Ok(Deletion { was_there: true, is_marker: found.is_marker, version: Some(version.to_owned()) })
    }

    /// Puts an earlier version into its key's place. It keeps its other name, by which somebody may just be reading it.
    fn bring_back(&self, slot: &Slot, stamp: Stamp, bucket: &str, key: &str) -> Result<(), ObjectError> {
        let scratch = Scratch::new(&self.scratch);
        let linked = fs::hard_link(slot.earlier().join(stamp.to_string()), scratch.path());
        linked.map_err(ObjectError::storage("bring back a version of an object"))?;
        self.move_in(scratch.path(), bucket, key)
    }

    /// Opens one version.
    pub(crate) fn open_version(&self, bucket: &str, key: &str, version: &str) -> Result<Stored, ObjectError> {
        let slot = self.slot(bucket, key)?;
        let none = || ObjectError::no_version(bucket, key, version);
        let wanted = Wanted::from_id(version).ok_or_else(none)?;
        if self.versioning(bucket)?.is_none() {
            return if wanted == Wanted::Null { self.open(bucket, key) } else { Err(none()) };
        }
        let history = slot.history()?;
        if let Some(stored) = history.placed.filter(|stored| wanted.is(Stamp::of(&stored.known))) {
            return Ok(named(stored));
        }
        let found = history.earlier.into_iter().find(|stamp| wanted.is(*stamp)).ok_or_else(none)?;
        if found.is_marker {
            let (bucket, key) = (bucket.to_owned(), key.to_owned());
            return Err(ObjectError::DeleteMarker { bucket, key, version: version.to_owned() });
        }
        let stored = Stored::open(&slot.earlier().join(found.to_string()))?;
        stored.map(named).ok_or_else(none)
    }

    /// The object is not there: was it deleted by a marker? Or has it come back meanwhile?
    pub(crate) fn open_absent(&self, bucket: &str, key: &str) -> Result<Stored, ObjectError> {
        let slot = self.slot(bucket, key)?;
        if self.versioning(bucket)?.is_none() {
            return Err(ObjectError::not_found(bucket, key));
        }
        let history = slot.history()?;
        let marker = history.marker().map(Stamp::id);
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        history.placed.map(named).ok_or(ObjectError::NotFound { bucket, key, marker })
    }
}

/// With the id that clients are told in a bucket with versions.
fn named(mut stored: Stored) -> Stored {
    stored.known.version = Some(Stamp::of(&stored.known).id());
    stored
}
