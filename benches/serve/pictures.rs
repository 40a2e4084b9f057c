//! The parts that the model learns from, as files with a manifest, and entries of a large data set.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use linewarden_synthetic::{BeltSpec, Defect, Part, normals, render_part_with_defect};
use serde_json::{Value, json};

const GOOD: usize = 20;
const BAD: usize = 12;

/// Writes `train.manifest` and its pictures; gives one of them as a file.
pub(crate) fn write(folder: &Path) -> Result<Vec<u8>> {
    let spec = BeltSpec { seed: 1, width_px: 640, height_px: 480, ..BeltSpec::default() };
    std::fs::create_dir_all(folder.join("train"))?;
    let mut manifest = String::new();
    let mut save = |name: String, part: Part, class: &str| -> Result<()> {
        let picture = image::RgbImage::from_raw(part.width_px, part.height_px, part.rgb).context("a whole picture")?;
        picture.save(folder.join(&name))?;
        Ok(writeln!(manifest, "{}", line(&name, class))?)
    };
    for (index, part) in normals(&spec, GOOD).enumerate() {
        save(format!("train/good-{index}.png"), part, "normal")?;
    }
    for (index, defect) in Defect::ALL.into_iter().cycle().take(BAD).enumerate() {
        save(format!("train/bad-{index}.png"), render_part_with_defect(&spec, index as u64, defect), "anomaly")?;
    }
    std::fs::write(folder.join("train.manifest"), manifest)?;
    std::fs::read(folder.join("train/good-0.png")).context("the picture that was written")
}

/// An entry of the large data set.
pub(crate) fn entry(number: usize) -> String {
    line(
        &format!("s3://cap-pictures/large/{number:05}.png"),
        if number.is_multiple_of(5) { "anomaly" } else { "normal" },
    )
    .to_string()
}

fn line(name: &str, class: &str) -> Value {
    json!({ "source-ref": name, "anomaly-label": u8::from(class == "anomaly"), "anomaly-label-metadata": {
        "confidence": 1, "job-name": "labeling-job/anomaly-label", "class-name": class, "human-annotated": "yes",
        "creation-date": "2021-06-22T10:10:10.000", "type": "groundtruth/image-classification",
    } })
}
