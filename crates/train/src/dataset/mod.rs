//! Data sets: labelled pictures in folders or in a Ground Truth manifest.
//!
//! A path comes in, a [`Dataset`] goes out: which pictures there are, which are normal, where the masks lie. All that
//! is wrong comes out at once as a [`DatasetError`]. This module reads and writes files and knows nothing of models.
//!
//! Folders: `DIR/normal/*`, `DIR/anomaly/*` and, where there are masks, `DIR/masks/<same name>.png`. Every visible
//! colour of such a mask is the label `anomaly`, unless `DIR/colors.json` names the labels by colour:
//! `{"scratch": "#2CA02C", "dent": "#1F77B4"}`.

mod check;
mod csv;
mod dates;
mod duplicates;
mod error;
mod folder;
#[cfg(test)]
mod fuzz;
mod look;
mod manifest;
mod mask;
mod picture;
mod resolve;
mod split;
mod training;
mod write;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use check::{Checked, Counts, LabelCount, Report, check, check_sets};
pub use csv::{CsvError, CsvSummary, from_csv};
pub(crate) use dates::format as format_date;
pub use duplicates::{Alike, Duplicate};
use error::shown;
pub use error::{DatasetError, Place, Problem};
pub use manifest::{Entry, read_entries};
pub use mask::{LabelPicture, MaskColors, MaskSource, read_mask};
pub use picture::{MAXIMUM_SIDE_PX, MINIMUM_SIDE_PX, Picture, PictureError, PictureFault, picture_size};
pub use resolve::{Mapping, Places};
pub use split::TEST_SHARE;
pub use training::MINIMUM_NORMALS;
pub use write::{ManifestSummary, write_manifest};

/// The label of masks whose colours have no names.
pub const ANOMALY_LABEL: &str = "anomaly";
/// A mask's pixel holds the number of its label in a byte, and 0 is the background.
const MAXIMUM_LABELS: usize = 255;

/// What a person said of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A good part.
    Normal,
    /// Something is wrong with it.
    Anomaly,
}

impl Class {
    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Anomaly => "anomaly",
        }
    }

    /// The class that a manifest or a CSV file names, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Normal, Self::Anomaly].into_iter().find(|class| name.eq_ignore_ascii_case(class.as_str()))
    }
}

/// Where a sample was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file in the folder of its class.
    Folder,
    /// A line of a manifest.
    Manifest {
        /// The manifest.
        file: Arc<Path>,
        /// Line in it, from 1.
        line: usize,
    },
}

/// One picture of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The picture's file.
    pub path: PathBuf,
    /// How the data set itself calls it: `source-ref` as written, or the path below the folder.
    pub source_ref: String,
    /// Normal, anomalous, or nobody has said yet.
    pub class: Option<Class>,
    /// Which of its pixels are anomalous.
    pub mask: Option<MaskSource>,
    /// Where it was found.
    pub origin: Origin,
    /// When it was labelled, where the manifest says so readably.
    pub labeled_at: Option<Timestamp>,
}

impl Sample {
    /// What is wrong with a file of this sample: its picture or its mask.
    pub(crate) fn problem(&self, file: &Path, message: impl Into<String>) -> Problem {
        Problem { named_in: self.named_in(), ..Problem::new(file, message) }
    }

    /// The error of the picture or the mask as a problem of the data set.
    pub(crate) fn unreadable(&self, error: &PictureError) -> Problem {
        self.problem(&error.path, error.fault.to_string())
    }

    fn named_in(&self) -> Option<Place> {
        match &self.origin {
            Origin::Folder => None,
            Origin::Manifest { file, line } => Some(Place { file: file.to_path_buf(), line: *line }),
        }
    }
}

/// An anomaly label and its colour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelColor {
    /// The label.
    pub name: String,
    /// `#RRGGBB`.
    pub hex_color: String,
}

/// Labelled pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Name of the folder, or of the manifest without its extension.
    pub name: String,
    /// The folder, or the folder of the manifest.
    pub root: PathBuf,
    /// Folders: normals, then anomalies, each by file name. Manifests: by line.
    pub samples: Vec<Sample>,
    /// The labels of the masks, in the order of their first appearance.
    pub labels: Vec<LabelColor>,
    /// What is odd but does no harm.
    pub warnings: Vec<String>,
}

/// As much of a data set as could be loaded, and what could not.
struct Loaded {
    dataset: Dataset,
    problems: Vec<Problem>,
}

impl Dataset {
    /// Loads a folder, or a manifest whose pictures lie beside it. Pictures are looked for but not opened; every
    /// problem is reported at once.
    pub fn load(path: &Path) -> Result<Self, DatasetError> {
        Self::load_from(path, &Places::default())
    }

    /// Loads a folder, or a manifest whose pictures lie beside it or in one of these places.
    pub fn load_from(path: &Path, places: &Places) -> Result<Self, DatasetError> {
        let loaded = load(path, places)?;
        DatasetError::unless_empty(loaded.problems)?;
        Ok(loaded.dataset)
    }

    /// The samples labelled normal.
    pub fn normals(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| sample.class == Some(Class::Normal))
    }

    /// The samples labelled anomalous.
    pub fn anomalies(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(|sample| sample.class == Some(Class::Anomaly))
    }

    /// Whether any sample has a mask.
    pub fn has_masks(&self) -> bool {
        self.samples.iter().any(|sample| sample.mask.is_some())
    }

    /// The same data set with only the samples that `keep` (given index and sample) says yes to.
    pub fn subset(&self, mut keep: impl FnMut(usize, &Sample) -> bool) -> Self {
        let kept = self.samples.iter().enumerate().filter(|(index, sample)| keep(*index, sample));
        Self { samples: kept.map(|(_, sample)| sample.clone()).collect(), ..self.clone() }
    }

    /// SHA-256 over the pictures' and masks' contents, the classes and the labels, in order; lower-case hexadecimal.
    /// File names and places do not count: the same data elsewhere has the same hash.
    pub fn sha256(&self) -> Result<String, DatasetError> {
        let mut all = Sha256::new();
        let mut problems = Vec::new();
        for label in &self.labels {
            all.update(format!("label {} {}\n", label.name, label.hex_color));
        }
        for sample in &self.samples {
            all.update(format!("sample {}\n", sample.class.map_or("unlabeled", Class::as_str)));
            for path in [Some(&sample.path), sample.mask.as_ref().map(|mask| &mask.path)].into_iter().flatten() {
                match fs::read(path) {
                    Ok(content) => all.update(Sha256::digest(content)),
                    Err(error) => problems.push(Problem::new(path, format!("cannot read: {error}"))),
                }
            }
        }
        DatasetError::unless_empty(problems)?;
        Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn load(path: &Path, places: &Places) -> Result<Loaded, DatasetError> {
    let allowed = "a data set is a folder with `normal/` and `anomaly/`, or a manifest file";
    let metadata =
        fs::metadata(path).map_err(|error| Problem::new(path, format!("cannot open: {error}; {allowed}")))?;
    if metadata.is_dir() {
        return Ok(folder::load(path)?);
    }
    // A pipe or a device may never end.
    if !metadata.is_file() {
        return Err(Problem::new(path, format!("is neither a folder nor a file; {allowed}")).into());
    }
    Ok(manifest::load(path, places)?)
}

/// Name of a file or folder, also for `.` and `..`.
fn name_of(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if full.is_dir() { full.file_name() } else { full.file_stem() };
    name.map_or_else(|| "dataset".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Reads one colour map: labels with their colours, in order, and the colour of the background.
struct ColorMap {
    background: Option<[u8; 3]>,
    labels: Vec<([u8; 3], String)>,
}

impl ColorMap {
    /// From (key, label, hex colour) in the order of the map; problems as (key, message).
    fn new(entries: Vec<(String, String, String)>, problems: &mut Vec<(String, String)>) -> Self {
        let mut map = Self { background: None, labels: Vec::new() };
        if entries.len() > MAXIMUM_LABELS + 1 {
            let message = format!("has {} colours, the most allowed is {MAXIMUM_LABELS} labels", entries.len());
            problems.push((String::new(), message));
            return map;
        }
        for (key, name, hex_color) in entries {
            let Some(color) = mask::parse_hex(&hex_color) else {
                problems.push((key, format!("`{}` is no colour; allowed is `#RRGGBB`", shown(&hex_color))));
                continue;
            };
            if name.eq_ignore_ascii_case("background") {
                map.background = Some(color);
                continue;
            }
            match map.labels.iter().find(|(taken, _)| *taken == color) {
                Some((_, other)) if *other != name => {
                    let (other, name) = (shown(other), shown(&name));
                    let color = mask::hex(color);
                    problems.push((key, format!("labels `{other}` and `{name}` have one colour, {color}")));
                }
                Some(_) => {}
                None => map.labels.push((color, name)),
            }
        }
        if let Some((_, name)) = map.labels.iter().find(|(color, _)| Some(*color) == map.background) {
            problems.push((String::new(), format!("label `{}` has the colour of the background", shown(name))));
        }
        map
    }
}

/// Adds a map's labels to those of the data set; the first colour of a label is its colour. An error says that there
/// are too many.
fn add_labels(labels: &mut Vec<LabelColor>, map: &ColorMap, warnings: &mut BTreeSet<String>) -> Result<(), String> {
    let mut of_this_map = BTreeSet::new();
    for (color, name) in &map.labels {
        let hex_color = mask::hex(*color);
        let first_here = of_this_map.insert(name);
        match labels.iter().find(|label| label.name == *name) {
            None if labels.len() == MAXIMUM_LABELS => {
                return Err(format!("label `{}` is one too many, the most allowed is {MAXIMUM_LABELS}", shown(name)));
            }
            None => labels.push(LabelColor { name: name.clone(), hex_color }),
            Some(label) if first_here && label.hex_color != hex_color => {
                let used = &label.hex_color;
                let name = shown(name);
                warnings.insert(format!("label `{name}` has several colours, {used} is used, not {hex_color}"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
