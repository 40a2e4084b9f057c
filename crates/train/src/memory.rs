//! What training leaves in a package's `training/` folder, so that normal pictures can be added without the old ones.
//!
//! `training.json` says of each picture that was learnt from by which hash it is known again and how many patches are kept
//! of it; `patches.f16` holds those patches one picture after the other, as 16-bit floats in little-endian order. Of up to
//! [`WHOLE_PICTURES`] pictures every patch is kept in the grid's order: they are scored again whenever pictures are added,
//! and tell how far the others' scores have moved. Of all others together there are about as many patches as a bank is picked
//! from. That is at most 19 MB for 2,000 pictures, and 25 MB for the 16,000 that a data set may have.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use half::f16;
use linewarden_model::ModelInfo;
use linewarden_model::package::sha256_hex;
use serde::{Deserialize, Serialize};

use crate::bank::Pool;
use crate::dataset::Picture;
use crate::features::{Features, PATCHES};

/// Pictures that are kept whole, at most.
pub const WHOLE_PICTURES: usize = 24;
/// The folder within the package.
pub const FOLDER: &str = "training";
const INDEX: &str = "training.json";
const PATCHES_FILE: &str = "patches.f16";
/// The schema of `training.json` that this version writes and reads.
const SCHEMA: u32 = 1;

/// The normal pictures that a model was trained on, as far as they are needed again.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// Length of a patch.
    pub channels: usize,
    /// In the order in which they were learnt from.
    pub pictures: Vec<Remembered>,
}

/// One picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Remembered {
    /// By which it is known again, see [`hash_of`].
    pub sha256: String,
    /// Every patch in the grid's order where `is_whole`, else some in random order.
    pub patches: Vec<f16>,
    /// Whether every patch is there.
    pub is_whole: bool,
    /// The raw score that it got while it was held out, if it was.
    pub held_out_raw: Option<f64>,
}

/// Why a package's training data cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The package has none.
    #[error("`{0}` is missing: {1}")]
    Missing(PathBuf, &'static str),
    /// A file cannot be read.
    #[error("cannot read `{path}`: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is damaged or belongs to another model.
    #[error("`{path}`: {reason}; train again with all pictures")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    schema: u32,
    /// The graph that was made of these patches.
    onnx_sha256: String,
    patches_sha256: String,
    channels: usize,
    pictures: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sha256: String,
    patches: usize,
    is_whole: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_out_raw: Option<f64>,
}

/// SHA-256 over a picture's size and pixels: the same picture is known again under another name or date.
pub fn hash_of(picture: &Picture) -> String {
    let size = [picture.width_px as u64, picture.height_px as u64].map(u64::to_le_bytes).concat();
    sha256_hex(&[size.as_slice(), &picture.rgb].concat())
}

impl Remembered {
    /// All of a picture.
    pub(crate) fn whole(sha256: String, features: &Features, held_out_raw: Option<f64>) -> Self {
        Self { sha256, patches: halved(&features.values), is_whole: true, held_out_raw }
    }

    /// Some patches of a picture.
    pub(crate) fn thinned(sha256: String, patches: &[f32], held_out_raw: Option<f64>) -> Self {
        Self { sha256, patches: halved(patches), is_whole: false, held_out_raw }
    }

    /// The picture's features, if all of them are there.
    pub(crate) fn features(&self, channels: usize) -> Option<Features> {
        self.is_whole.then(|| Features { channels, values: self.values(self.patches.len()) })
    }

    /// Up to so many of its patches in random order.
    pub(crate) fn drawn(&self, channels: usize, count: usize, seed: u64) -> Vec<f32> {
        match self.features(channels) {
            Some(features) => Pool::draw(&features, count, seed),
            None => self.values(self.patches.len().min(count * channels)),
        }
    }

    fn values(&self, count: usize) -> Vec<f32> {
        self.patches[..count].iter().map(|value| value.to_f32()).collect()
    }
}

impl Memory {
    /// Writes it into the folder of the package whose graph has this hash.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, package: &Path, onnx_sha256: &str) -> io::Result<()> {
        let folder = package.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let values = self.pictures.iter().flat_map(|picture| &picture.patches);
        let bytes: Vec<u8> = values.flat_map(|value| value.to_le_bytes()).collect();
        let entry = |picture: &Remembered| Entry {
            sha256: picture.sha256.clone(),
            patches: picture.patches.len() / self.channels.max(1),
            is_whole: picture.is_whole,
            held_out_raw: picture.held_out_raw,
        };
        let index = Index {
            schema: SCHEMA,
            onnx_sha256: onnx_sha256.to_owned(),
            patches_sha256: sha256_hex(&bytes),
            channels: self.channels,
            pictures: self.pictures.iter().map(entry).collect(),
        };
        fs::write(folder.join(PATCHES_FILE), bytes)?;
        fs::write(folder.join(INDEX), serde_json::to_string_pretty(&index)? + "\n")
    }

    /// Reads what a package's training left.
    ///
    /// # Errors
    /// When it left nothing, or files are damaged or of another model.
    pub fn read(package: &Path, info: &ModelInfo) -> Result<Self, MemoryError> {
        let folder = package.join(FOLDER);
        if !folder.is_dir() {
            return Err(MemoryError::Missing(folder, why_missing(package, info)));
        }
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|error| MemoryError::Read { path, error })
        };
        let damaged = |name: &str, reason: String| MemoryError::Damaged { path: folder.join(name), reason };
        let index: Index = serde_json::from_slice(&read(INDEX)?).map_err(|error| damaged(INDEX, error.to_string()))?;
        let bytes = read(PATCHES_FILE)?;
        if index.schema != SCHEMA {
            return Err(damaged(INDEX, format!("has schema {}, this version reads schema {SCHEMA}", index.schema)));
        }
        if index.onnx_sha256 != info.onnx_sha256 {
            return Err(damaged(INDEX, "belongs to another `model.onnx`".to_owned()));
        }
        let found = sha256_hex(&bytes);
        if found != index.patches_sha256 {
            return Err(damaged(
                PATCHES_FILE,
                format!("has SHA-256 {found}, but `{INDEX}` says {}", index.patches_sha256),
            ));
        }
        let lengths = index.pictures.iter().map(|entry| {
            let is_possible = if entry.is_whole { entry.patches == PATCHES } else { entry.patches <= PATCHES };
            is_possible.then(|| entry.patches.checked_mul(index.channels)).flatten()
        });
        let lengths = lengths.collect::<Option<Vec<usize>>>().unwrap_or_default();
        let (values, rest) = bytes.as_chunks::<2>();
        if index.channels == 0
            || lengths.iter().try_fold(0_usize, |sum, &length| sum.checked_add(length)) != Some(values.len())
            || !rest.is_empty()
            || lengths.len() != index.pictures.len()
        {
            return Err(damaged(INDEX, format!("does not describe the {} bytes of `{PATCHES_FILE}`", bytes.len())));
        }
        let mut values = values.iter().map(|&bytes| f16::from_le_bytes(bytes));
        let remembered = |(entry, length): (Entry, usize)| Remembered {
            sha256: entry.sha256,
            patches: values.by_ref().take(length).collect(),
            is_whole: entry.is_whole,
            held_out_raw: entry.held_out_raw,
        };
        let pictures = index.pictures.into_iter().zip(lengths).map(remembered).collect();
        Ok(Self { channels: index.channels, pictures })
    }
}

fn why_missing(package: &Path, info: &ModelInfo) -> &'static str {
    if !package.is_dir() {
        "unpack the archive, as only folders can be extended"
    } else if info.framing.tiles.is_some() {
        "models with tiles cannot be extended; train again with all pictures"
    } else if !info.candidates.is_empty() {
        "models that learnt from labelled anomalies cannot be extended; train again with all pictures"
    } else {
        "the model was trained by an older version, or is a copy without it; train again with all pictures"
    }
}

fn halved(values: &[f32]) -> Vec<f16> {
    values.iter().map(|&value| f16::from_f32(value)).collect()
}
