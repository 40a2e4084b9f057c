//! Writing manifests in the guide's form.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::mask::{WHITE, drawn_colors, hex};

use super::{Class, Dataset, DatasetError, LabelColor, MaskColors, MaskSource, Problem, dates};

/// More colours than this in a mask without a colour map are noise, not labels: the guide's most labels in a mask.
const MAXIMUM_COLORS: usize = 20;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManifestSummary {
    /// The manifest.
    pub path: PathBuf,
    /// Lines.
    pub images: usize,
    /// Lines that say normal.
    pub normals: usize,
    /// Lines that say anomaly.
    pub anomalies: usize,
    /// Lines with a mask.
    pub masks: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Line {
    pub(super) source_ref: String,
    #[serde(flatten)]
    pub(super) label: Option<LabelPart>,
    #[serde(flatten)]
    mask: Option<MaskPart>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LabelPart {
    anomaly_label: u8,
    anomaly_label_metadata: LabelMetadata,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct LabelMetadata {
    confidence: u8,
    job_name: &'static str,
    class_name: &'static str,
    human_annotated: &'static str,
    creation_date: String,
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct MaskPart {
    anomaly_mask_ref: String,
    anomaly_mask_ref_metadata: MaskMetadata,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct MaskMetadata {
    internal_color_map: BTreeMap<usize, ColorEntry>,
    r#type: &'static str,
    human_annotated: &'static str,
    creation_date: String,
    job_name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ColorEntry {
    class_name: String,
    hex_color: String,
    confidence: f32,
}

impl LabelPart {
    pub(super) fn new(class: Class, labeled_at: Timestamp) -> Self {
        Self {
            anomaly_label: u8::from(class == Class::Anomaly),
            anomaly_label_metadata: LabelMetadata {
                confidence: 1,
                job_name: "labeling-job/anomaly-classification",
                class_name: class.as_str(),
                human_annotated: "yes",
                creation_date: dates::format(labeled_at),
                r#type: "groundtruth/image-classification",
            },
        }
    }
}

impl Line {
    pub(super) fn classified(source_ref: String, class: Class, labeled_at: Timestamp) -> Self {
        Self { source_ref, label: Some(LabelPart::new(class, labeled_at)), mask: None }
    }
}

/// Writes the data set as a manifest. Paths below its folder are relative, so that both can be moved together; others
/// are full ones (`file:///`), since a relative path may not lead out of the manifest's folder. Samples without a class
/// are kept; those without a date of their own get `created_at`.
pub fn write_manifest(dataset: &Dataset, out: &Path, created_at: Timestamp) -> Result<ManifestSummary, DatasetError> {
    let folder = folder_of(out)?;
    let mut lines = Vec::with_capacity(dataset.samples.len());
    let mut problems = Vec::new();
    for sample in &dataset.samples {
        let labeled_at = sample.labeled_at.unwrap_or(created_at);
        let mask = sample.mask.as_ref().map(|mask| mask_part(mask, &dataset.labels, &folder, labeled_at)).transpose();
        match (reference(&sample.path, &folder), mask) {
            (Ok(source_ref), Ok(mask)) => {
                let label = sample.class.map(|class| LabelPart::new(class, labeled_at));
                lines.push(Line { source_ref, label, mask });
            }
            (place, mask) => problems.extend(place.err().into_iter().chain(mask.err())),
        }
    }
    DatasetError::unless_empty(problems)?;
    write_lines(out, &lines)?;
    Ok(ManifestSummary {
        path: out.to_owned(),
        images: lines.len(),
        normals: dataset.normals().count(),
        anomalies: dataset.anomalies().count(),
        masks: lines.iter().filter(|line| line.mask.is_some()).count(),
    })
}

pub(super) fn write_lines(out: &Path, lines: &[Line]) -> Result<(), Problem> {
    let mut text = String::new();
    for line in lines {
        let json = serde_json::to_string(line).map_err(|error| Problem::new(out, format!("cannot write: {error}")))?;
        text.push_str(&json);
        text.push('\n');
    }
    fs::write(out, text).map_err(|error| Problem::new(out, format!("cannot write: {error}")))
}

/// The existing folder that `out` will lie in.
pub(super) fn folder_of(out: &Path) -> Result<PathBuf, Problem> {
    let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder.canonicalize().map_err(|error| Problem::new(folder, format!("cannot write here: {error}")))
}

/// How a manifest in `folder` (canonical) names an existing file.
fn reference(file: &Path, folder: &Path) -> Result<String, Problem> {
    // The file's folder without links, but the file as it is called: a link in the data set stays one.
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize().map_err(|error| Problem::new(file, format!("cannot find: {error}")))?;
    reference_to(&parent.join(file.file_name().unwrap_or_default()), folder)
        .ok_or_else(|| Problem::new(file, "has a name that is not UTF-8, which a manifest cannot hold"))
}

/// How a manifest in `folder` names a file, both absolute: relative if it lies below. Nothing if it is not UTF-8.
pub(super) fn reference_to(file: &Path, folder: &Path) -> Option<String> {
    match file.strip_prefix(folder) {
        Ok(below) => below.to_str().map(str::to_owned),
        Err(_) => Some(format!("file://{}", file.to_str()?)),
    }
}

fn mask_part(
    mask: &MaskSource,
    labels: &[LabelColor],
    folder: &Path,
    labeled_at: Timestamp,
) -> Result<MaskPart, Problem> {
    let colors: Vec<([u8; 3], String)> = match &mask.colors {
        MaskColors::Map { labels, .. } => labels.clone(),
        MaskColors::AnyVisible { label } => {
            let drawn = drawn_colors(&mask.path, MAXIMUM_COLORS)
                .map_err(|error| Problem::new(&error.path, error.fault.to_string()))?;
            let message = "has more than 20 colours; a manifest needs one colour a label, so save it without smoothing";
            let drawn = drawn.ok_or_else(|| Problem::new(&mask.path, message))?;
            drawn.into_iter().map(|color| (color, label.clone())).collect()
        }
    };
    let declared = match &mask.colors {
        MaskColors::Map { background, .. } => *background,
        MaskColors::AnyVisible { .. } => None,
    };
    // The guide wants white, but masks drawn in white lie on black.
    let white_is_free = !colors.iter().any(|(color, _)| *color == WHITE);
    let background = declared.unwrap_or(if white_is_free { WHITE } else { [0, 0, 0] });
    let mut entries = vec![("BACKGROUND".to_owned(), hex(background).to_lowercase())];
    entries.extend(colors.into_iter().map(|(color, name)| (name, hex(color))));
    if entries.len() == 1 {
        // An empty mask still tells which labels there are.
        entries.extend(labels.iter().map(|label| (label.name.clone(), label.hex_color.clone())));
    }
    let entries =
        entries.into_iter().map(|(class_name, hex_color)| ColorEntry { class_name, hex_color, confidence: 0.0 });
    Ok(MaskPart {
        anomaly_mask_ref: reference(&mask.path, folder)?,
        anomaly_mask_ref_metadata: MaskMetadata {
            internal_color_map: entries.enumerate().collect(),
            r#type: "groundtruth/semantic-segmentation",
            human_annotated: "yes",
            creation_date: dates::format(labeled_at),
            job_name: "labeling-job/segmentation-job",
        },
    })
}
