//! A model package: a folder, or a `.tar` of it, with everything that detection needs.
//!
//! `model.onnx` (input `image`: RGB888 `uint8 [N, H, W, 3]`; outputs `anomaly_score` `float [N]` and `anomaly_map`
//! `float [N, h, w]`, and `label_maps` `float [N, labels, h, w]` where labels were learnt), `model.json` ([`ModelInfo`]), `golden/` (pictures with the scores they must get), and the pictures
//! that [`Framing`] names.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use linewarden_core::ModelRef;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::ModelError;
use crate::framing::{Framer, Framing, FramingFiles, PackageFile};

/// The schema of `model.json` that this version writes and reads.
pub const SCHEMA: u32 = 1;
/// Name of the graph's input.
pub const INPUT: &str = "image";
/// Name of the graph's output with the calibrated score.
pub const SCORE_OUTPUT: &str = "anomaly_score";
/// Name of the graph's output with the calibrated map.
pub const MAP_OUTPUT: &str = "anomaly_map";

/// Name of the graph's output with a map for each label, which models that learnt labels have.
pub const LABELS_OUTPUT: &str = "label_maps";

/// What a model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelType {
    /// Normal or anomalous.
    Classification,
    /// Normal or anomalous, with a label for each anomalous pixel.
    Segmentation,
}

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Width.
    pub width_px: u32,
    /// Height.
    pub height_px: u32,
}

/// An anomaly label and its colour in masks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// The label.
    pub name: String,
    /// `#RRGGBB`.
    pub hex_color: String,
}

/// The network that computes the features.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackboneInfo {
    /// Its name, or its file's.
    pub name: String,
    /// SHA-256 of its weights.
    pub sha256: String,
    /// Strides of the feature maps in use.
    pub strides: Vec<u32>,
}

/// How raw distances became calibrated scores: `sigmoid(ln 9 * (ln s - ln tau) / (ln tau - median))`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Raw score that becomes 0.5.
    pub tau: f64,
    /// Median of `ln s` over held-out normals; it becomes 0.1.
    pub median_ln: f64,
    /// Raw map value that becomes 0.5.
    pub pixel_tau: f64,
    /// Median of `ln` of the map over held-out normals; it becomes 0.1.
    pub pixel_median_ln: f64,
    /// How many held-out scores stand behind these numbers.
    pub held_out: usize,
}

/// What training tried, and how good it was on pictures that it was not fitted to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CandidateInfo {
    /// As `algorithm` has it.
    pub name: String,
    /// ROC AUC over the pictures.
    pub held_out_roc_auc: f64,
    /// F1, each fold at a threshold that was chosen on the others.
    pub held_out_f1: f64,
    /// Distance of the classes' mean scores, in deviations within the classes.
    pub separation: f64,
}

/// The pictures that a model was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// Name of the folder or manifest.
    pub name: String,
    /// SHA-256 over the pictures and their labels.
    pub sha256: String,
    /// Normal pictures used.
    pub normal: usize,
    /// Labelled anomalies in the set.
    pub anomaly: usize,
}

/// What `model.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Project that the model belongs to.
    pub project: String,
    /// Version within the project.
    pub version: String,
    /// What the model answers.
    #[serde(rename = "type")]
    pub model_type: ModelType,
    /// What was trained, such as `memory_bank`.
    pub algorithm: String,
    /// What was compared to choose it, itself among them; empty where nothing could be compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<CandidateInfo>,
    /// Size of the training pictures.
    pub image_size: Size,
    /// Size to which pictures are brought before the network sees them.
    pub input_size: Size,
    /// Which part of a picture counts and how it is cut, unless pictures are looked at whole. What is cut is brought to
    /// `input_size`, view by view: `model.onnx` on its own scores one view.
    #[serde(default, skip_serializing_if = "Framing::is_whole")]
    pub framing: Framing,
    /// Labels, for segmentation models.
    pub labels: Vec<Label>,
    /// Scores from here on are anomalous.
    pub threshold: f64,
    /// How scores were calibrated.
    pub calibration: Calibration,
    /// Calibrated scores of normal pictures that were held out in training, in ascending order: what a line's scores are
    /// compared with. At most [`MOST_NORMAL_SCORES`], evenly drawn from all; older packages have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub normal_scores: Vec<f64>,
    /// The feature network.
    pub backbone: BackboneInfo,
    /// The training pictures.
    pub dataset: DatasetInfo,
    /// Seed of everything random in training.
    pub seed: u64,
    /// SHA-256 of `model.onnx`.
    pub onnx_sha256: String,
    /// What training measured, by name.
    pub metrics: serde_json::Map<String, serde_json::Value>,
    /// When the model was trained, RFC 3339.
    pub time: String,
    /// SHA-256 of the graph of the model that this one began with and has seen more pictures than.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_from: Option<String>,
}

/// Scores of normal pictures that a package keeps: enough for what is told from them, and 4 KB.
pub const MOST_NORMAL_SCORES: usize = 200;

/// A picture of the package and the score that it must get.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// PNG file within `golden/`, of the network's input size.
    pub file: String,
    /// The calibrated score.
    pub anomaly_score: f64,
    /// Whether it is one view as the network sees it, not a picture that is still to be cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_view: bool,
}

/// A package that has been read, but not run.
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    info: ModelInfo,
    onnx: Vec<u8>,
    golden: Vec<(Golden, Vec<u8>)>,
    framing_files: FramingFiles,
}

impl ModelInfo {
    /// The reference that results carry.
    pub fn model_ref(&self) -> ModelRef {
        ModelRef { project: self.project.clone(), version: self.version.clone(), sha256: self.onnx_sha256.clone() }
    }

    /// What the package at `path` says of itself, without its graph: enough to tell which model it is.
    ///
    /// # Errors
    /// When there is no `model.json`, or it is malformed or of another schema.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let failed = |reason: String| ModelError::Package { path: path.to_owned(), reason };
        let info: Self = parse(&PackageFiles::open(path).map_err(&failed)?, "model.json").map_err(&failed)?;
        check_info(&info).map_err(&failed)?;
        Ok(info)
    }
}

impl Package {
    /// Reads a package and checks that its parts belong together.
    ///
    /// # Errors
    /// When a part is missing, malformed, of another schema, or does not match its hash.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let failed = |reason: String| ModelError::Package { path: path.to_owned(), reason };
        let files = PackageFiles::open(path).map_err(&failed)?;
        let info: ModelInfo = parse(&files, "model.json").map_err(&failed)?;
        check_info(&info).map_err(&failed)?;
        let onnx = files.read("model.onnx").map_err(&failed)?;
        let found = sha256_hex(&onnx);
        if found != info.onnx_sha256 {
            let promised = &info.onnx_sha256;
            return Err(failed(format!("`model.onnx` has SHA-256 {found}, but `model.json` says {promised}")));
        }
        let list: Vec<Golden> = parse(&files, "golden/golden.json").map_err(&failed)?;
        if list.is_empty() {
            return Err(failed("`golden/golden.json` names no picture".to_owned()));
        }
        let golden = list.into_iter().map(|entry| {
            if !is_name(&entry.file) {
                return Err(format!("`golden/golden.json`: `{}` is no name of a file beside it", entry.file));
            }
            let picture = files.read(&format!("golden/{}", entry.file))?;
            Ok((entry, picture))
        });
        let golden = golden.collect::<Result<Vec<_>, String>>().map_err(&failed)?;
        let framing_files = read_framing_files(&files, &info.framing).map_err(&failed)?;
        Ok(Self { path: path.to_owned(), info, onnx, golden, framing_files })
    }

    /// A package that has just been trained. Without golden pictures it can be run, but not read back once written.
    pub fn from_parts(path: PathBuf, info: ModelInfo, onnx: Vec<u8>, golden: Vec<(Golden, Vec<u8>)>) -> Self {
        Self { path, info, onnx, golden, framing_files: FramingFiles::default() }
    }

    /// The same with the files that its framing names.
    #[must_use]
    pub fn with_framing_files(self, framing_files: FramingFiles) -> Self {
        Self { framing_files, ..self }
    }

    /// The same with another graph, and the golden scores that come with it.
    #[must_use]
    pub fn with_graph(&self, onnx: Vec<u8>, golden: Vec<(Golden, Vec<u8>)>) -> Self {
        let info = ModelInfo { onnx_sha256: sha256_hex(&onnx), ..self.info.clone() };
        Self { path: self.path.clone(), info, onnx, golden, framing_files: self.framing_files.clone() }
    }

    /// Says what training measured.
    pub fn set_metrics(&mut self, metrics: serde_json::Map<String, serde_json::Value>) {
        self.info.metrics = metrics;
    }

    /// Says what scores normal pictures get: of more than [`MOST_NORMAL_SCORES`] so many quantiles.
    pub fn set_normal_scores(&mut self, scores: Vec<f64>) {
        self.info.normal_scores = thinned(scores);
    }

    /// Gives the package another threshold.
    pub fn set_threshold(&mut self, threshold: f64) {
        self.info.threshold = threshold;
    }

    /// Writes the package's files into an existing folder.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_to(&self, folder: &Path) -> std::io::Result<()> {
        let golden_folder = folder.join("golden");
        std::fs::create_dir_all(&golden_folder)?;
        std::fs::write(folder.join("model.onnx"), &self.onnx)?;
        std::fs::write(folder.join("model.json"), json(&self.info)?)?;
        for (named, content) in framing_files(&self.info.framing, &self.framing_files) {
            std::fs::write(folder.join(&named.file), content)?;
        }
        for (golden, picture) in &self.golden {
            std::fs::write(golden_folder.join(&golden.file), picture)?;
        }
        let list: Vec<&Golden> = self.golden.iter().map(|(golden, _)| golden).collect();
        std::fs::write(golden_folder.join("golden.json"), json(&list)?)
    }

    /// Where the package was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `model.json` says.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The graph.
    pub fn onnx(&self) -> &[u8] {
        &self.onnx
    }

    /// The files that the framing names.
    pub fn framing_files(&self) -> &FramingFiles {
        &self.framing_files
    }

    /// What goes from frames to the network's pixels and back, as this package has it.
    ///
    /// # Errors
    /// When a file that the framing names is missing or does not fit.
    pub fn framer(&self) -> Result<Framer, ModelError> {
        Framer::new(self.info.image_size, self.info.input_size, &self.info.framing, &self.framing_files)
            .map_err(|reason| ModelError::Package { path: self.path.clone(), reason })
    }

    /// The golden pictures (PNG) and their scores.
    pub fn golden(&self) -> &[(Golden, Vec<u8>)] {
        &self.golden
    }
}

/// In ascending order, and of too many the middle one of each of so many equal shares.
fn thinned(mut scores: Vec<f64>) -> Vec<f64> {
    scores.retain(|score| score.is_finite());
    scores.sort_unstable_by(f64::total_cmp);
    let count = scores.len();
    if count <= MOST_NORMAL_SCORES {
        return scores;
    }
    (0..MOST_NORMAL_SCORES).map(|share| scores[(2 * share + 1) * count / (2 * MOST_NORMAL_SCORES)]).collect()
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Readable JSON with a line end, as all our files are.
fn json<T: Serialize>(value: &T) -> std::io::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn parse<T: for<'de> Deserialize<'de>>(files: &PackageFiles, name: &str) -> Result<T, String> {
    serde_json::from_slice(&files.read(name)?).map_err(|error| format!("`{name}`: {error}"))
}

/// Each file that a framing names, with its content.
fn framing_files<'a>(
    framing: &'a Framing,
    files: &'a FramingFiles,
) -> impl Iterator<Item = (&'a PackageFile, &'a Vec<u8>)> {
    let ignore = framing.ignore.as_ref().zip(files.ignore.as_ref());
    let reference = framing.registration.as_ref().map(|registration| &registration.reference);
    ignore.into_iter().chain(reference.zip(files.reference.as_ref()))
}

fn read_framing_files(files: &PackageFiles, framing: &Framing) -> Result<FramingFiles, String> {
    let read = |named: &PackageFile| {
        // A name is a name: no other file of the machine becomes part of a package.
        if !is_name(&named.file) {
            return Err(format!("`model.json`: `framing`: `{}` is no name of a file within the package", named.file));
        }
        let content = files.read(&named.file)?;
        let found = sha256_hex(&content);
        let promised = &named.sha256;
        if found == *promised {
            Ok(content)
        } else {
            Err(format!("`{}` has SHA-256 {found}, but `model.json` says {promised}", named.file))
        }
    };
    Ok(FramingFiles {
        ignore: framing.ignore.as_ref().map(read).transpose()?,
        reference: framing.registration.as_ref().map(|registration| read(&registration.reference)).transpose()?,
    })
}

fn is_name(file: &str) -> bool {
    !file.is_empty() && !file.contains(['/', '\\']) && !file.starts_with('.')
}

fn check_info(info: &ModelInfo) -> Result<(), String> {
    if info.schema != SCHEMA {
        return Err(format!("`model.json` has schema {}, this version reads schema {SCHEMA}", info.schema));
    }
    if !(info.threshold > 0.0 && info.threshold <= 1.0) {
        return Err(format!("`model.json`: `threshold` must be above 0 and at most 1, got {}", info.threshold));
    }
    let Size { width_px, height_px } = info.input_size;
    if !(32..=4096).contains(&width_px) || !(32..=4096).contains(&height_px) {
        return Err(format!("`model.json`: `input_size` must be 32 to 4096 pixels, got {width_px}x{height_px}"));
    }
    if let Some(score) = info.normal_scores.iter().find(|score| !(0.0..=1.0).contains(*score)) {
        return Err(format!("`model.json`: `normal_scores` must be from 0 to 1, got {score}"));
    }
    info.framing.check(info.image_size).map_err(|reason| format!("`model.json`: `framing`: {reason}"))?;
    if info.labels.len() > usize::from(u8::MAX) {
        return Err(format!("`model.json`: at most 255 labels are allowed, got {}", info.labels.len()));
    }
    Ok(())
}

/// The files of a package, wherever they are.
enum PackageFiles {
    Folder(PathBuf),
    Archive(HashMap<String, Vec<u8>>),
}

impl PackageFiles {
    fn open(path: &Path) -> Result<Self, String> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if !path.exists() {
            return Err("there is no such folder or file".to_owned());
        }
        read_archive(path).map(Self::Archive).map_err(|error| format!("cannot read it as a tar archive: {error}"))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        match self {
            Self::Folder(folder) => {
                std::fs::read(folder.join(name)).map_err(|error| format!("cannot read `{name}`: {error}"))
            }
            Self::Archive(files) => files.get(name).cloned().ok_or_else(|| format!("`{name}` is missing")),
        }
    }
}

/// What training left for a later one, which nobody needs to run a model.
fn is_of_training(name: &str) -> bool {
    name.starts_with("training/") || name.contains("/training/")
}

/// Reads a whole archive; a package may lie in a folder of its own within it.
fn read_archive(path: &Path) -> std::io::Result<HashMap<String, Vec<u8>>> {
    let mut archive = tar::Archive::new(std::fs::File::open(path)?);
    let mut files = HashMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if is_of_training(&name) {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(name, bytes);
    }
    let root = files.keys().find_map(|name| name.strip_suffix("model.json")).unwrap_or("").to_owned();
    Ok(files.into_iter().filter_map(|(name, bytes)| Some((name.strip_prefix(&root)?.to_owned(), bytes))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_scores_so_many_quantiles_are_kept_and_of_few_all() {
        assert_eq!(thinned(vec![0.3, f64::NAN, 0.1, 0.2]), [0.1, 0.2, 0.3]);
        let kept = thinned((0..1000).rev().map(f64::from).collect());
        assert_eq!((kept.len(), kept[0], kept[100], kept[199]), (MOST_NORMAL_SCORES, 2.0, 502.0, 997.0));
        assert_eq!(thinned((0..=200).map(f64::from).collect()).len(), MOST_NORMAL_SCORES);
    }
}
