//! Everything that is known of a data set before training: what `linewarden dataset check` says.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::listed;
use super::training::{most_frequent, problem_of, size_problems};
use super::{Class, Dataset, LabelColor, Picture, Problem, Sample, load, read_mask};

// The guide's quotas.
const MAXIMUM_FILE_BYTES: u64 = 8 << 20;
const MAXIMUM_MANIFEST_BYTES: u64 = 1 << 30;
const MAXIMUM_LABELS: usize = 100;
const MAXIMUM_LABELS_IN_A_MASK: usize = 20;
const MAXIMUM_CLASSIFICATION_IMAGES: usize = 16_000;
const MAXIMUM_SEGMENTATION_IMAGES: usize = 8_000;
const MINIMUM_NORMALS: usize = 10;
const MINIMUM_NORMALS_ALONE: usize = 20;
const MINIMUM_ANOMALIES_ALONE: usize = 10;
const MINIMUM_IMAGES_OF_A_LABEL: usize = 10;

/// How many pictures show a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabelCount {
    /// The label.
    pub name: String,
    /// `#RRGGBB`.
    pub hex_color: String,
    /// Pictures whose masks show it.
    pub images: usize,
    /// Those of them that show no other label, as the guide counts.
    pub images_with_only_this: usize,
}

/// What is known of a data set. Serialises as the `--json` answer of `dataset check`; displays as text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The folder or manifest.
    pub path: PathBuf,
    /// Pictures that were found.
    pub images: usize,
    /// Labelled normal.
    pub normals: usize,
    /// Labelled anomalous.
    pub anomalies: usize,
    /// Without a label.
    pub unlabeled: usize,
    /// Pictures with a mask.
    pub masks: usize,
    /// Width and height that most pictures have.
    pub image_size: Option<(usize, usize)>,
    /// The labels of the masks.
    pub labels: Vec<LabelCount>,
    /// What keeps the data set from being used.
    pub problems: Vec<Problem>,
    /// What is odd, and what the guide's quotas would not have allowed.
    pub warnings: Vec<String>,
}

impl Report {
    /// Whether the data set can be used.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Looks at everything: each line, each picture's pixels, each mask. `progress` hears how many pictures of how many
/// are done.
pub fn check(path: &Path, mut progress: impl FnMut(usize, usize)) -> Report {
    let (dataset, problems) = match load(path) {
        Ok(loaded) => (loaded.dataset, loaded.problems),
        Err(error) => (Dataset::empty(path), error.problems),
    };
    let mut look = Look { problems, sizes: Vec::new(), large: Vec::new(), counts: BTreeMap::new() };
    for (index, sample) in dataset.samples.iter().enumerate() {
        look.at(sample, &dataset.labels);
        progress(index + 1, dataset.samples.len());
    }
    look.report(path, &dataset)
}

/// What the pictures so far have shown.
struct Look<'a> {
    problems: Vec<Problem>,
    sizes: Vec<(&'a Path, (usize, usize))>,
    large: Vec<String>,
    /// For each label number: pictures with it, and pictures with it alone.
    counts: BTreeMap<u8, (usize, usize)>,
}

impl<'a> Look<'a> {
    fn at(&mut self, sample: &'a Sample, labels: &[LabelColor]) {
        if fs::metadata(&sample.path).is_ok_and(|metadata| metadata.len() > MAXIMUM_FILE_BYTES) {
            self.large.push(sample.source_ref.clone());
        }
        match Picture::read(&sample.path) {
            Ok(picture) => self.sizes.push((&sample.path, (picture.width_px, picture.height_px))),
            Err(error) => {
                self.problems.push(problem_of(&error));
                return;
            }
        }
        if sample.mask.is_some() {
            self.at_mask(sample, labels);
        }
    }

    fn at_mask(&mut self, sample: &Sample, labels: &[LabelColor]) {
        let found = match read_mask(sample, labels) {
            Ok(mask) => mask.found(),
            Err(error) => {
                self.problems.push(problem_of(&error));
                return;
            }
        };
        if found.len() > MAXIMUM_LABELS_IN_A_MASK {
            let message = format!("mask shows {} labels, the most allowed is {MAXIMUM_LABELS_IN_A_MASK}", found.len());
            self.problems.push(Problem::new(&sample.path, message));
        }
        for &label in &found {
            let (images, alone) = self.counts.entry(label).or_default();
            *images += 1;
            *alone += usize::from(found.len() == 1);
        }
    }

    fn report(mut self, path: &Path, dataset: &Dataset) -> Report {
        self.problems.extend(size_problems(&self.sizes));
        let labels = dataset.labels.iter().enumerate().map(|(index, label)| {
            let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
            let (images, images_with_only_this) = self.counts.get(&number).copied().unwrap_or_default();
            let LabelColor { name, hex_color } = label.clone();
            LabelCount { name, hex_color, images, images_with_only_this }
        });
        let count = |class| dataset.samples.iter().filter(|sample| sample.class == class).count();
        let mut report = Report {
            path: path.to_owned(),
            images: dataset.samples.len(),
            normals: count(Some(Class::Normal)),
            anomalies: count(Some(Class::Anomaly)),
            unlabeled: count(None),
            masks: dataset.samples.iter().filter(|sample| sample.mask.is_some()).count(),
            image_size: most_frequent(&self.sizes),
            labels: labels.collect(),
            problems: self.problems,
            warnings: dataset.warnings.clone(),
        };
        report.warnings.extend(quota_warnings(&report, &self.large));
        report
    }
}

/// What the guide's quotas say of these counts.
fn quota_warnings(report: &Report, large: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |message: String| warnings.push(format!("quota: {message}"));
    if report.normals < MINIMUM_NORMALS {
        warn(format!("training needs at least {MINIMUM_NORMALS} normal pictures, this has {}", report.normals));
    } else if report.normals < MINIMUM_NORMALS_ALONE || report.anomalies < MINIMUM_ANOMALIES_ALONE {
        let wanted = format!("{MINIMUM_NORMALS_ALONE} normal and {MINIMUM_ANOMALIES_ALONE} anomalous pictures");
        let found = format!("{} and {}", report.normals, report.anomalies);
        warn(format!("a data set that serves for training and test alike needs {wanted}, this has {found}"));
    }
    let (most, kind) = match report.masks {
        0 => (MAXIMUM_CLASSIFICATION_IMAGES, "classification"),
        _ => (MAXIMUM_SEGMENTATION_IMAGES, "segmentation"),
    };
    if report.images > most {
        warn(format!("a {kind} data set has at most {most} pictures, this has {}", report.images));
    }
    if report.unlabeled > 0 {
        warn(format!("{} pictures have no label and are ignored in training", report.unlabeled));
    }
    if !large.is_empty() {
        warn(format!("{} pictures are larger than 8 MB: {}", large.len(), listed(large)));
    }
    if report.labels.len() > MAXIMUM_LABELS {
        warn(format!("a project has at most {MAXIMUM_LABELS} anomaly labels, this has {}", report.labels.len()));
    }
    for label in report.labels.iter().filter(|label| label.images_with_only_this < MINIMUM_IMAGES_OF_A_LABEL) {
        let (name, images) = (&label.name, label.images_with_only_this);
        let wanted = format!("at least {MINIMUM_IMAGES_OF_A_LABEL} pictures with no other label");
        warn(format!("label `{name}` needs {wanted}, this has {images}"));
    }
    let is_long = |metadata: fs::Metadata| metadata.is_file() && metadata.len() > MAXIMUM_MANIFEST_BYTES;
    if fs::metadata(&report.path).is_ok_and(is_long) {
        warn("a manifest has at most 1 GB".to_owned());
    }
    warnings
}

impl Dataset {
    /// For a path that holds none.
    fn empty(path: &Path) -> Self {
        let name = super::name_of(path);
        Self { name, root: path.to_owned(), samples: Vec::new(), labels: Vec::new(), warnings: Vec::new() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, normals, anomalies, unlabeled, masks, .. } = self;
        write!(out, "{}: {images} pictures: {normals} normal, {anomalies} anomalous", self.path.display())?;
        write!(out, ", {unlabeled} unlabelled; {masks} masks")?;
        if let Some((width, height)) = self.image_size {
            write!(out, "; {width}x{height} pixels")?;
        }
        for LabelCount { name, hex_color, images, .. } in &self.labels {
            write!(out, "\nlabel `{name}` {hex_color}: {images} pictures")?;
        }
        for warning in &self.warnings {
            write!(out, "\nwarning: {warning}")?;
        }
        for problem in &self.problems {
            write!(out, "\nproblem: {problem}")?;
        }
        Ok(())
    }
}
