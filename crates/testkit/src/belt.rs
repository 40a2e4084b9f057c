//! The synthetic belt as tests run it: by the calendar, past cameras that show its parts, with a model that knows them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use linewarden_synthetic::{BeltSpec, Defect, Part, normals, render_part_with_defect};

use crate::process::run;

/// Parts of another belt, to learn from.
const NORMALS: usize = 40;
const ANOMALIES: usize = 30;

/// The belt's clock: part N is under the cameras so long after the belt's start.
#[derive(Debug, Clone, Copy)]
pub struct Belt {
    /// When part 0 comes.
    pub start: Timestamp,
    /// How fast the belt runs.
    pub parts_a_second: f64,
}

impl Belt {
    /// When a part is under the cameras.
    pub fn comes_at(&self, part: u64) -> Timestamp {
        self.start + SignedDuration::from_secs_f64(part as f64 / self.parts_a_second)
    }

    /// The first part that comes this long from now or later.
    pub fn first_after(&self, time: Duration) -> u64 {
        let from = (Timestamp::now() + time).duration_since(self.start).as_secs_f64().max(0.0);
        (from * self.parts_a_second).ceil() as u64
    }

    /// A launch line of a camera over it with one view of `views`; each part stands under it for half of its time.
    pub fn camera(&self, spec: &BeltSpec, frames_a_second: u32, view: u32, views: u32) -> String {
        let BeltSpec { width_px, height_px, seed, defect_rate } = spec;
        let (start, rate) = (self.start.as_microsecond(), self.parts_a_second);
        format!(
            "syntheticline seed={seed} defect-rate={defect_rate} width={width_px} height={height_px} rate={rate} \
             frame-rate={frames_a_second} dwell=0.5 belt-start={start} view={view} views={views}"
        )
    }
}

/// Trains a real model of such parts, good and bad, with the program `binary`, in an empty `folder`; gives the model's.
///
/// # Errors
/// When it cannot be trained.
pub fn train_model(binary: &Path, folder: &Path, spec: &BeltSpec) -> Result<PathBuf> {
    let save = |kind: &str, index: usize, part: Part| -> Result<()> {
        let kind = folder.join("train").join(kind);
        std::fs::create_dir_all(&kind)?;
        let picture = image::RgbImage::from_raw(part.width_px, part.height_px, part.rgb).context("a whole picture")?;
        Ok(picture.save(kind.join(format!("{index:02}.png")))?)
    };
    let other = BeltSpec { seed: spec.seed.wrapping_add(73), ..spec.clone() };
    for (index, part) in normals(&other, NORMALS).enumerate() {
        save("normal", index, part)?;
    }
    for (index, defect) in Defect::ALL.into_iter().cycle().take(ANOMALIES).enumerate() {
        save("anomaly", index, render_part_with_defect(&other, index as u64, defect))?;
    }
    let model = folder.join("model");
    let mut train = Command::new(binary);
    train.args(["train", "--type", "classification", "--dataset"]).arg(folder.join("train")).arg("--out").arg(&model);
    let finished = run(&mut train)?;
    ensure!(finished.status.success(), "{}", finished.stderr);
    Ok(model)
}
