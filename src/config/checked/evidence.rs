//! `[evidence]`: which parts are kept, where, and for how long.

use std::path::PathBuf;
use std::time::Duration;

use linewarden_evidence::{Fsync, Keep, Key, PictureFormat, StoreConfig};

use super::Context;
use crate::config::raw::Section;

/// Evidence of the lines of this machine.
#[derive(Debug, Clone)]
pub struct EvidenceConfig {
    /// Where and how it is kept.
    pub store: StoreConfig,
    /// Which parts are kept.
    pub rules: EvidenceRules,
}

/// Which parts are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvidenceRules {
    /// Parts with a frame less sure than this, 0.5 to 1.
    pub uncertain_below: f64,
    /// Share of all other parts, 0 to 1.
    pub sample: f64,
}

/// `None` after noting what is wrong.
pub(super) fn read_evidence(section: &Section<'_>, context: &Context) -> Option<EvidenceConfig> {
    if section.value("folder").is_none() {
        section.missing("folder", "a folder, made when it is not there");
    }
    let folder = section.text("folder").map(|folder| context.path(&folder.value));
    let key = read_key(section, context);
    let fsync = section.choice("fsync", &[("always", Fsync::Always), ("interval", INTERVAL), ("never", Fsync::Never)]);
    let format = section.choice("format", &[("png", PictureFormat::Png), ("jpeg", PictureFormat::Jpeg)]);
    let keep = read_keep(section);
    let uncertain_below = section.number("uncertain_below", 0.5, 1.0).unwrap_or(UNCERTAIN_BELOW);
    let sample = section.number("sample", 0.0, 1.0).unwrap_or(SAMPLE);
    section.finish();
    let (fsync, format) = (fsync.unwrap_or(INTERVAL), format.unwrap_or_default());
    let store = StoreConfig { folder: folder?, key: key?, fsync, format, keep };
    Some(EvidenceConfig { store, rules: EvidenceRules { uncertain_below, sample } })
}

const INTERVAL: Fsync = Fsync::Every(Duration::from_secs(1));
const UNCERTAIN_BELOW: f64 = 0.6;
const SAMPLE: f64 = 0.01;

/// The outer `None` is a key that cannot be used.
fn read_key(section: &Section<'_>, context: &Context) -> Option<Option<Key>> {
    let Some(file) = section.text("key_file") else { return Some(None) };
    let path: PathBuf = context.path(&file.value);
    Key::read(&path).map(Some).map_err(|error| section.problem(file.at, format!("`key_file`: {error}"))).ok()
}

fn read_keep(section: &Section<'_>) -> Keep {
    let usual = Keep::default();
    let (least, most) = (Duration::from_secs(60), Duration::from_secs(100 * 365 * 24 * 3600));
    let megabytes = section.integer("keep_megabytes", 1, 1_000_000_000);
    let bytes = megabytes.and_then(|megabytes| u64::try_from(megabytes).ok()).map(|megabytes| megabytes * 1_000_000);
    Keep {
        age: section.duration("keep_pictures", least, most).unwrap_or(usual.age),
        bytes: bytes.unwrap_or(usual.bytes),
        log_age: section.duration("keep_log", least, most).unwrap_or(usual.log_age),
    }
}
