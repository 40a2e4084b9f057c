//! Everything that is known of a data set before training: what `linewarden dataset check` says, and what training looks
//! at first.
//!
//! A problem keeps training from using the pictures: it cannot read them, or not bring them together. A warning is what
//! the user would want to know: what the troubleshooting chapter of the guide lists, what the old service's quotas would
//! not have allowed (they bind its successor no more, but a model from fewer pictures is worse), and pictures that are
//! there twice.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::duplicates::{ALIKE_SHARE, Alike, Duplicate, Printed, duplicates};
use super::error::{listed, shown};
use super::look::{Seen, look_at};
use super::picture::{Oddity, size_text};
use super::training::{Sized, most_frequent, nothing_labelled, size_problems, too_few_normals};
use super::{Class, Dataset, DatasetError, LabelColor, Origin, Places, Problem, Sample, load};
use crate::progress::Progress;

// The guide's quotas.
const MAXIMUM_FILE_BYTES: u64 = 8 << 20;
const MAXIMUM_MANIFEST_BYTES: u64 = 1 << 30;
const MAXIMUM_LABELS: usize = 100;
const MAXIMUM_LABELS_IN_A_MASK: usize = 20;

/// From this share of the picture on a mask does not follow an anomaly closely, as the guide asks.
const LARGE_MASK: f64 = 0.5;
/// How many findings of a kind are told one by one.
const TOLD: usize = 10;

/// What the guide allows of a data set in its place.
struct Quotas {
    minimum_normals: usize,
    minimum_anomalies: usize,
    /// Pictures that show one label and no other.
    minimum_of_a_label: usize,
    maximum_classification: usize,
    maximum_segmentation: usize,
    /// Which data set this is, for a message.
    role: &'static str,
}

const SINGLE: Quotas = Quotas {
    minimum_normals: 20,
    minimum_anomalies: 10,
    minimum_of_a_label: 20,
    maximum_classification: 16_000,
    maximum_segmentation: 8_000,
    role: "data set that serves for training and test alike",
};
const TRAIN: Quotas = Quotas {
    minimum_normals: 10,
    minimum_anomalies: 0,
    minimum_of_a_label: 10,
    role: "data set for training",
    ..SINGLE
};
const TEST: Quotas = Quotas {
    minimum_normals: 10,
    minimum_anomalies: 10,
    minimum_of_a_label: 10,
    maximum_classification: 4_000,
    maximum_segmentation: 800,
    role: "data set for the test",
};

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

/// What is in a data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counts {
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
}

/// What is known of a data set. Serialises as the `--json` answer of `dataset check`; displays as text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The data set, for training if there is another one for the test.
    #[serde(flatten)]
    pub train: Counts,
    /// The data set for the test, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Counts>,
    /// Pictures that are there twice.
    pub duplicates: Vec<Duplicate>,
    /// What keeps the data sets from being used.
    pub problems: Vec<Problem>,
    /// What is odd, and what the guide's quotas would not have allowed.
    pub warnings: Vec<String>,
}

/// Data sets that training can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Width and height of every labelled picture.
    pub size: (usize, usize),
    /// What the user should know, besides the warnings of the data sets themselves.
    pub warnings: Vec<String>,
}

impl Report {
    /// Whether the data sets can be used.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Looks at everything: each line, each picture's pixels, each mask, of one data set or of one for training and one for
/// the test.
pub fn check(path: &Path, test: Option<&Path>, places: &Places, progress: &dyn Progress) -> Report {
    let (train, mut problems) = load_as_far_as_possible(path, places);
    let test = test.map(|path| {
        let (dataset, of_test) = load_as_far_as_possible(path, places);
        problems.extend(of_test);
        (path, dataset)
    });
    let sets = Sets::look(&train, test.as_ref().map(|(_, dataset)| dataset), progress);
    problems.extend(sets.problems());
    let mut warnings = train.warnings.clone();
    warnings.extend(test.iter().flat_map(|(_, dataset)| dataset.warnings.clone()));
    let duplicates = sets.duplicates();
    warnings.extend(sets.warnings(&duplicates));
    for path in [Some(path), test.as_ref().map(|&(path, _)| path)].into_iter().flatten() {
        let is_long = |metadata: fs::Metadata| metadata.is_file() && metadata.len() > MAXIMUM_MANIFEST_BYTES;
        if fs::metadata(path).is_ok_and(is_long) {
            warnings.push(format!("quota: a manifest has at most 1 GB, `{}` is larger", path.display()));
        }
    }
    let counts = test.as_ref().and_then(|&(path, _)| Some(sets.test.as_ref()?.counts(path)));
    Report { train: sets.train.counts(path), test: counts, duplicates, problems, warnings }
}

/// The same for data sets that are loaded already: the size of their pictures if training can use every labelled one,
/// and otherwise one error that names all that it cannot use. Pictures without a class are not needed and do no harm.
///
/// # Errors
/// When there are fewer normals than `minimum_normals`, pictures or masks cannot be read, or sizes differ.
pub fn check_sets(
    train: &Dataset,
    test: Option<&Dataset>,
    minimum_normals: usize,
    progress: &dyn Progress,
) -> Result<Checked, DatasetError> {
    let labelled: Vec<&Sample> = train.samples.iter().filter(|sample| sample.class.is_some()).collect();
    let mut problems: Vec<Problem> = too_few_normals(&labelled, minimum_normals).into_iter().collect();
    let sets = Sets::look(train, test, progress);
    problems.extend(sets.problems());
    DatasetError::unless_empty(problems)?;
    let size = most_frequent(&sets.train.sizes()).ok_or_else(nothing_labelled)?;
    Ok(Checked { size, warnings: sets.warnings(&sets.duplicates()) })
}

fn load_as_far_as_possible(path: &Path, places: &Places) -> (Dataset, Vec<Problem>) {
    match load(path, places) {
        Ok(loaded) => (loaded.dataset, loaded.problems),
        Err(error) => (Dataset::empty(path), error.problems),
    }
}

/// One data set, or one for training and one for the test.
struct Sets<'a> {
    train: Set<'a>,
    test: Option<Set<'a>>,
}

/// A data set with what its pictures have shown.
struct Set<'a> {
    dataset: &'a Dataset,
    seen: Vec<Seen>,
}

impl<'a> Sets<'a> {
    fn look(train: &'a Dataset, test: Option<&'a Dataset>, progress: &dyn Progress) -> Self {
        progress.stage("checking pictures", train.samples.len() + test.map_or(0, |test| test.samples.len()));
        let set = |dataset| Set { dataset, seen: look_at(dataset, progress) };
        Self { train: set(train), test: test.map(set) }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.train.unreadable(true);
        problems.extend(size_problems(&self.train.sizes()));
        let Some(test) = &self.test else { return problems };
        problems.extend(test.unreadable(true));
        let sizes = test.sizes();
        match most_frequent(&self.train.sizes()) {
            None => problems.extend(size_problems(&sizes)),
            Some(trained) => {
                for (sample, size) in sizes.into_iter().filter(|&(_, size)| size != trained) {
                    let (size, trained) = (size_text(size), size_text(trained));
                    let message = format!("is {size}, but the training pictures are {trained}");
                    problems.push(sample.problem(&sample.path, message));
                }
            }
        }
        problems
    }

    fn duplicates(&self) -> Vec<Duplicate> {
        let test = self.test.as_ref().map(Set::printed).unwrap_or_default();
        duplicates(&self.train.printed(), &test)
    }

    fn warnings(&self, duplicates: &[Duplicate]) -> Vec<String> {
        let mut warnings = Vec::new();
        let is_segmentation = self.train.dataset.has_masks();
        match &self.test {
            None => self.train.warn(&SINGLE, is_segmentation, &mut warnings),
            Some(test) => {
                self.train.warn(&TRAIN, is_segmentation, &mut warnings);
                test.warn(&TEST, is_segmentation, &mut warnings);
                self.warn_of_labels(test, is_segmentation, &mut warnings);
            }
        }
        self.warn_of_duplicates(duplicates, &mut warnings);
        warnings
    }

    fn warn_of_labels(&self, test: &Set<'_>, is_segmentation: bool, warnings: &mut Vec<String>) {
        if is_segmentation && !test.dataset.has_masks() && test.dataset.anomalies().next().is_some() {
            warnings.push("the test's anomalies have no masks, unlike those for training".to_owned());
        }
        let known = &self.train.dataset.labels;
        let is_new = |label: &&LabelColor| known.iter().all(|other| other.name != label.name);
        let new: Vec<String> = test.dataset.labels.iter().filter(is_new).map(|label| label.name.clone()).collect();
        if is_segmentation && !new.is_empty() {
            warnings.push(format!("the test has labels that are not in training: {}", listed(&new)));
        }
        let labels = known.len() + new.len();
        if labels > MAXIMUM_LABELS && known.len() <= MAXIMUM_LABELS {
            warnings.push(format!("quota: a project has at most {MAXIMUM_LABELS} anomaly labels, this has {labels}"));
        }
    }

    fn warn_of_duplicates(&self, duplicates: &[Duplicate], warnings: &mut Vec<String>) {
        let of = |alike, across| duplicates.iter().filter(move |pair| pair.alike == alike && pair.across == across);
        let named = |pair: &Duplicate| format!("`{}` and `{}`", pair.first.display(), pair.second.display());
        let of_two_classes = duplicates.iter().filter(|pair| pair.alike == Alike::Exact && pair.classes_differ);
        tell(warnings, of_two_classes.map(|pair| format!("{}: one picture, but normal and anomalous", named(pair))));
        let same = |pair| format!("{}: the same picture twice", named(pair));
        tell(warnings, of(Alike::Exact, false).filter(|pair| !pair.classes_differ).map(same));
        let leaked = |pair| format!("{}: the same picture in training and in the test", named(pair));
        tell(warnings, of(Alike::Exact, true).filter(|pair| !pair.classes_differ).map(leaked));
        let pictures = self.train.seen.len() + self.test.as_ref().map_or(0, |test| test.seen.len());
        let near = duplicates.iter().filter(|pair| pair.alike == Alike::Near).count();
        if near as f64 > pictures as f64 * ALIKE_SHARE {
            warnings.push(format!(
                "{near} of {pictures} pictures look like another one: where parts and camera stand that still this is \
                 how they are, otherwise pictures were saved or taken twice"
            ));
            return;
        }
        tell(warnings, of(Alike::Near, false).map(|pair| format!("{}: nearly the same picture", named(pair))));
        let leaked = |pair| format!("{}: nearly the same picture in training and in the test", named(pair));
        tell(warnings, of(Alike::Near, true).map(leaked));
    }
}

/// Adds the first findings of a kind, and says how many more there are.
fn tell(warnings: &mut Vec<String>, findings: impl Iterator<Item = String>) {
    let mut findings = findings.peekable();
    warnings.extend(findings.by_ref().take(TOLD));
    if findings.peek().is_some() {
        warnings.push(format!("... and {} more like this", findings.count()));
    }
}

impl<'a> Set<'a> {
    fn each(&self) -> impl Iterator<Item = (&'a Sample, &Seen)> {
        self.dataset.samples.iter().zip(&self.seen)
    }

    /// What cannot be read among the pictures that have a class, or among the others.
    fn unreadable(&self, labelled: bool) -> Vec<Problem> {
        let of_kind = self.each().filter(|(sample, _)| sample.class.is_some() == labelled);
        of_kind.filter_map(|(sample, seen)| Some(sample.unreadable(seen.error.as_ref()?))).collect()
    }

    fn sizes(&self) -> Vec<Sized<'a>> {
        let labelled = self.each().filter(|(sample, _)| sample.class.is_some());
        labelled.filter_map(|(sample, seen)| Some((sample, seen.size?))).collect()
    }

    fn printed(&self) -> Vec<Printed<'_>> {
        self.each().filter_map(|(sample, seen)| Some((sample, seen.fingerprint.as_ref()?))).collect()
    }

    fn counts(&self, path: &Path) -> Counts {
        let count = |class| self.dataset.samples.iter().filter(|sample| sample.class == class).count();
        Counts {
            path: path.to_owned(),
            images: self.dataset.samples.len(),
            normals: count(Some(Class::Normal)),
            anomalies: count(Some(Class::Anomaly)),
            unlabeled: count(None),
            masks: self.dataset.samples.iter().filter(|sample| sample.mask.is_some()).count(),
            image_size: most_frequent(&self.sizes()),
            labels: self.labels(),
        }
    }

    fn labels(&self) -> Vec<LabelCount> {
        // For each label number: pictures with it, and pictures with it alone.
        let mut counts: BTreeMap<u8, (usize, usize)> = BTreeMap::new();
        for mask in self.seen.iter().filter_map(|seen| seen.mask.as_ref()) {
            for &label in &mask.labels {
                let (images, alone) = counts.entry(label).or_default();
                *images += 1;
                *alone += usize::from(mask.labels.len() == 1);
            }
        }
        let count = |(index, label): (usize, &LabelColor)| {
            let number = u8::try_from(index + 1).unwrap_or(u8::MAX);
            let (images, images_with_only_this) = counts.get(&number).copied().unwrap_or_default();
            let LabelColor { name, hex_color } = label.clone();
            LabelCount { name, hex_color, images, images_with_only_this }
        };
        self.dataset.labels.iter().enumerate().map(count).collect()
    }

    fn warn(&self, quotas: &Quotas, is_segmentation: bool, warnings: &mut Vec<String>) {
        self.warn_of_counts(quotas, is_segmentation, warnings);
        self.warn_of_files(warnings);
        self.warn_of_masks(warnings);
        self.warn_of_pictures(warnings);
    }

    fn warn_of_counts(&self, quotas: &Quotas, is_segmentation: bool, warnings: &mut Vec<String>) {
        let Quotas { minimum_normals, minimum_anomalies, role, .. } = *quotas;
        let (images, unlabeled) = (self.dataset.samples.len(), self.unlabeled());
        let (normals, anomalies) = (self.dataset.normals().count(), self.dataset.anomalies().count());
        let mut warn = |message: String| warnings.push(format!("quota: {message}"));
        if normals < TRAIN.minimum_normals && role != TEST.role {
            warn(format!("training needs at least {} normal pictures, this has {normals}", TRAIN.minimum_normals));
        } else if normals < minimum_normals || anomalies < minimum_anomalies {
            let wanted = format!("{minimum_normals} normal and {minimum_anomalies} anomalous pictures");
            warn(format!("a {role} needs {wanted}, this has {normals} and {anomalies}"));
        }
        let (most, kind) = match is_segmentation {
            false => (quotas.maximum_classification, "classification"),
            true => (quotas.maximum_segmentation, "segmentation"),
        };
        if images > most {
            warn(format!("a {role} of {kind} has at most {most} pictures, this has {images}"));
        }
        if unlabeled > 0 {
            warn(format!("{unlabeled} pictures have no label and are ignored in training"));
        }
        let labels = self.labels();
        if labels.len() > MAXIMUM_LABELS {
            warn(format!("a project has at most {MAXIMUM_LABELS} anomaly labels, this has {}", labels.len()));
        }
        let wanted = quotas.minimum_of_a_label;
        for label in labels.iter().filter(|label| label.images_with_only_this < wanted) {
            let (name, images) = (shown(&label.name), label.images_with_only_this);
            warn(format!(
                "label `{name}` needs at least {wanted} pictures with no other label in a {role}, this has {images}"
            ));
        }
    }

    fn unlabeled(&self) -> usize {
        self.dataset.samples.iter().filter(|sample| sample.class.is_none()).count()
    }

    fn warn_of_files(&self, warnings: &mut Vec<String>) {
        let unused = self.unreadable(false).into_iter();
        tell(warnings, unused.map(|problem| format!("{problem}; it has no label and is not needed")));
        let large = self.each().filter(|(_, seen)| seen.file_bytes > MAXIMUM_FILE_BYTES);
        let message = |bytes: u64| format!("quota: a file has at most 8 MB, this or its mask has {} MB", bytes >> 20);
        tell(warnings, large.map(|(sample, seen)| of_picture(sample, message(seen.file_bytes))));
    }

    fn warn_of_masks(&self, warnings: &mut Vec<String>) {
        if self.dataset.has_masks() {
            // Folders say so when they are loaded, by the name that the mask should have.
            let is_without =
                |sample: &&Sample| sample.mask.is_none() && matches!(sample.origin, Origin::Manifest { .. });
            let without = self.dataset.anomalies().filter(is_without);
            tell(warnings, without.map(|sample| of_picture(sample, "is an anomaly without a mask")));
        }
        let masks = || self.each().filter_map(|(sample, seen)| Some((sample, seen.mask.as_ref()?)));
        let of = |class, wanted: fn(f64) -> bool| {
            masks().filter(move |(sample, mask)| sample.class == Some(class) && wanted(mask.share))
        };
        let empty = of(Class::Anomaly, |share| share == 0.0);
        tell(warnings, empty.map(|(sample, _)| of_mask(sample, "marks nothing, but the picture is an anomaly")));
        let marked = of(Class::Normal, |share| share > 0.0);
        tell(warnings, marked.map(|(sample, _)| of_mask(sample, "marks an anomaly, but the picture is normal")));
        let vast = of(Class::Anomaly, |share| share >= LARGE_MASK);
        tell(
            warnings,
            vast.map(|(sample, mask)| {
                let percent = mask.share * 100.0;
                of_mask(sample, format!("marks {percent:.0} % of the picture; masks must follow the anomaly closely"))
            }),
        );
        let crowded = masks().filter(|(_, mask)| mask.labels.len() > MAXIMUM_LABELS_IN_A_MASK);
        tell(
            warnings,
            crowded.map(|(sample, mask)| {
                let (most, labels) = (MAXIMUM_LABELS_IN_A_MASK, mask.labels.len());
                of_mask(sample, format!("quota: a mask has at most {most} labels, this has {labels}"))
            }),
        );
    }

    fn warn_of_pictures(&self, warnings: &mut Vec<String>) {
        let mut oddities: BTreeMap<Oddity, Vec<&Sample>> = BTreeMap::new();
        for (sample, seen) in self.each() {
            for &oddity in &seen.oddities {
                oddities.entry(oddity).or_default().push(sample);
            }
        }
        for (oddity, samples) in oddities {
            tell(warnings, samples.into_iter().map(|sample| of_picture(sample, oddity.to_string())));
        }
        let read = || self.each().filter(|(_, seen)| seen.size.is_some());
        if read().count() > 0 && read().all(|(_, seen)| seen.is_flat) {
            let path = self.dataset.root.display();
            warnings.push(format!("`{path}`: every picture shows one colour only; there is nothing to learn from"));
            return;
        }
        let flat = read().filter(|(_, seen)| seen.is_flat);
        tell(warnings, flat.map(|(sample, _)| of_picture(sample, "shows one colour only")));
    }
}

fn of_picture(sample: &Sample, message: impl Into<String>) -> String {
    sample.problem(&sample.path, message).to_string()
}

fn of_mask(sample: &Sample, message: impl Into<String>) -> String {
    let path = sample.mask.as_ref().map_or(&sample.path, |mask| &mask.path);
    sample.problem(path, message).to_string()
}

impl Dataset {
    /// For a path that holds none.
    fn empty(path: &Path) -> Self {
        let name = super::name_of(path);
        Self { name, root: path.to_owned(), samples: Vec::new(), labels: Vec::new(), warnings: Vec::new() }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, normals, anomalies, unlabeled, masks, .. } = self;
        write!(out, "{}: {images} pictures: {normals} normal, {anomalies} anomalous", self.path.display())?;
        write!(out, ", {unlabeled} unlabelled; {masks} masks")?;
        if let Some((width, height)) = self.image_size {
            write!(out, "; {width}x{height} pixels")?;
        }
        for LabelCount { name, hex_color, images, .. } in &self.labels {
            write!(out, "\nlabel `{}` {hex_color}: {images} pictures", shown(name))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.train)?;
        if let Some(test) = &self.test {
            write!(out, "\n{test}")?;
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
