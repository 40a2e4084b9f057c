//! Data sets in folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::listed;
use super::{
    ANOMALY_LABEL, Class, ColorMap, Dataset, LabelColor, Loaded, MaskColors, MaskSource, Origin, Problem, Sample,
    add_labels, name_of,
};

const COLORS_FILE: &str = "colors.json";
/// Far more than 255 names and colours need.
const MAXIMUM_COLORS_BYTES: u64 = 1 << 20;
const MASKS_FOLDER: &str = "masks";
const ALLOWED: &str = "allowed are `normal/` and `anomaly/` with .jpg, .jpeg and .png files, `masks/` with a .png of \
                       the same name for each anomaly, and `colors.json`";
/// Colour of `anomaly` where the masks' own colours mean nothing: the guide's own for `cracked`.
const ANOMALY_COLOR: &str = "#23A436";

pub(super) fn load(root: &Path) -> Result<Loaded, Problem> {
    let full_root = root.canonicalize().ok();
    let mut folder = Folder { root, full_root, problems: Vec::new(), warnings: BTreeSet::new() };
    let known = folder.known_entries()?;
    let mut samples = Vec::new();
    for class in [Class::Normal, Class::Anomaly] {
        if known.contains(class.as_str()) {
            samples.extend(folder.pictures(class)?);
        }
    }
    if samples.is_empty() && folder.problems.is_empty() {
        folder.problems.push(Problem::new(root, format!("has no pictures; {ALLOWED}")));
    }
    let mut labels = Vec::new();
    if known.contains(MASKS_FOLDER) {
        let colors = folder.mask_colors(known.contains(COLORS_FILE), &mut labels)?;
        folder.add_masks(&mut samples, &colors)?;
    }
    let warnings = folder.warnings.into_iter().collect();
    let dataset = Dataset { name: name_of(root), root: root.to_owned(), samples, labels, warnings };
    Ok(Loaded { dataset, problems: folder.problems })
}

struct Folder<'a> {
    root: &'a Path,
    /// Without links, so that paths can be compared.
    full_root: Option<PathBuf>,
    problems: Vec<Problem>,
    warnings: BTreeSet<String>,
}

impl Folder<'_> {
    /// Those entries of the root that have a meaning. An error if none holds pictures.
    fn known_entries(&mut self) -> Result<BTreeSet<&'static str>, Problem> {
        let mut known = BTreeSet::new();
        let mut others = Vec::new();
        for (name, path) in entries(self.root)? {
            let is_dir = path.is_dir();
            match ["normal", "anomaly", MASKS_FOLDER, COLORS_FILE].into_iter().find(|known| *known == name) {
                Some(folder) if is_dir != (folder == COLORS_FILE) => {
                    known.insert(folder);
                }
                _ => others.push(if is_dir { format!("{name}/") } else { name }),
            }
        }
        if !known.contains("normal") && !known.contains("anomaly") {
            let found = if others.is_empty() { "nothing".to_owned() } else { listed(&others) };
            return Err(Problem::new(
                self.root,
                format!("has neither `normal/` nor `anomaly/`; found {found}; {ALLOWED}"),
            ));
        }
        self.warn_of_ignored(self.root, &others);
        Ok(known)
    }

    fn pictures(&mut self, class: Class) -> Result<Vec<Sample>, Problem> {
        let folder = self.root.join(class.as_str());
        let mut samples = Vec::new();
        let mut ignored = Vec::new();
        let mut outside = Vec::new();
        for (name, path) in entries(&folder)? {
            let is_named_as_picture = has_extension(&path, &["jpg", "jpeg", "png"]);
            if is_named_as_picture && !path.exists() {
                self.problems.push(Problem::new(&path, "is a link to a file that is not there"));
                continue;
            }
            if !is_named_as_picture || !path.is_file() {
                ignored.push(name);
                continue;
            }
            if self.leads_out(&path) {
                outside.push(format!("{}/{name}", class.as_str()));
            }
            let source_ref = format!("{}/{name}", class.as_str());
            let origin = Origin::Folder;
            samples.push(Sample { path, source_ref, class: Some(class), mask: None, origin, labeled_at: None });
        }
        self.warn_of_ignored(&folder, &ignored);
        if !outside.is_empty() {
            let (folder, count, names) = (folder.display(), outside.len(), listed(&outside));
            self.warnings.insert(format!("`{folder}`: {count} pictures are links that lead out of it: {names}"));
        }
        Ok(samples)
    }

    /// Whether a file is reached by a link from outside the data set.
    fn leads_out(&self, path: &Path) -> bool {
        let Some(root) = &self.full_root else { return false };
        path.canonicalize().is_ok_and(|full| !full.starts_with(root))
    }

    fn mask_colors(&mut self, named: bool, labels: &mut Vec<LabelColor>) -> Result<MaskColors, Problem> {
        if !named {
            labels.push(LabelColor { name: ANOMALY_LABEL.to_owned(), hex_color: ANOMALY_COLOR.to_owned() });
            return Ok(MaskColors::AnyVisible { label: ANOMALY_LABEL.to_owned() });
        }
        let file = self.root.join(COLORS_FILE);
        let broken = |message: String| {
            Problem::new(&file, format!("{message}; allowed is an object such as {{\"scratch\": \"#2CA02C\"}}"))
        };
        let length = fs::metadata(&file).map_or(0, |metadata| metadata.len());
        if length > MAXIMUM_COLORS_BYTES {
            return Err(broken(format!("has {length} bytes, the most allowed is {MAXIMUM_COLORS_BYTES}")));
        }
        let content = fs::read(&file).map_err(|error| broken(format!("cannot read: {error}")))?;
        let colors: BTreeMap<String, String> =
            serde_json::from_slice(&content).map_err(|error| broken(error.to_string()))?;
        let entries = colors.into_iter().map(|(name, color)| (name.clone(), name, color)).collect();
        let mut problems = Vec::new();
        let map = ColorMap::new(entries, &mut problems);
        for (key, message) in problems {
            let key = Some(key).filter(|key| !key.is_empty());
            self.problems.push(Problem { key, ..Problem::new(&file, message) });
        }
        if let Err(message) = add_labels(labels, &map, &mut self.warnings) {
            self.problems.push(Problem::new(&file, message));
        }
        Ok(MaskColors::Map { background: map.background, labels: map.labels })
    }

    /// Gives each anomaly the mask that has its name.
    fn add_masks(&mut self, samples: &mut [Sample], colors: &MaskColors) -> Result<(), Problem> {
        let folder = self.root.join(MASKS_FOLDER);
        let mut masks = self.masks_by_stem(&folder)?;
        let mut owners: BTreeMap<String, PathBuf> = BTreeMap::new();
        let mut without = Vec::new();
        for sample in samples.iter_mut().filter(|sample| sample.class == Some(Class::Anomaly)) {
            let stem = stem(&sample.path);
            if let Some(other) = owners.get(&stem) {
                let message =
                    format!("has the mask of `{}`: their names differ only in the extension", other.display());
                self.problems.push(Problem::new(&sample.path, message));
            } else if let Some(path) = masks.remove(&stem) {
                sample.mask = Some(MaskSource { path, colors: colors.clone() });
                owners.insert(stem, sample.path.clone());
            } else {
                without.push(sample.source_ref.clone());
            }
        }
        if !without.is_empty() {
            let count = without.len();
            self.warnings.insert(format!(
                "`{}`: {count} anomalies have no mask: {}",
                folder.display(),
                listed(&without)
            ));
        }
        if !masks.is_empty() {
            let names: Vec<String> = masks.into_keys().map(|stem| format!("{stem}.png")).collect();
            let (count, names) = (names.len(), listed(&names));
            self.warnings.insert(format!("`{}`: {count} masks belong to no anomaly: {names}", folder.display()));
        }
        Ok(())
    }

    fn masks_by_stem(&mut self, folder: &Path) -> Result<BTreeMap<String, PathBuf>, Problem> {
        let mut masks = BTreeMap::new();
        let mut ignored = Vec::new();
        for (name, path) in entries(folder)? {
            if path.is_file() && has_extension(&path, &["png"]) {
                masks.insert(stem(&path), path);
            } else if path.is_file() && has_extension(&path, &["jpg", "jpeg"]) {
                let message = "masks must be PNG, because their colours must be exact";
                self.problems.push(Problem::new(&path, message));
            } else {
                ignored.push(name);
            }
        }
        self.warn_of_ignored(folder, &ignored);
        Ok(masks)
    }

    fn warn_of_ignored(&mut self, folder: &Path, names: &[String]) {
        if !names.is_empty() {
            self.warnings.insert(format!("`{}`: ignored {}", folder.display(), listed(names)));
        }
    }
}

/// Names and paths in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, Problem> {
    let read = || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    let mut paths = read().map_err(|error| Problem::new(folder, format!("cannot list: {error}")))?;
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(paths.into_iter().map(|path| (name(&path), path)).collect())
}

fn has_extension(path: &Path, allowed: &[&str]) -> bool {
    let extension = path.extension().unwrap_or_default();
    allowed.iter().any(|allowed| extension.eq_ignore_ascii_case(allowed))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
