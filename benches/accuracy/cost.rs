//! What a training costs: time on all cores, and memory.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use image::DynamicImage;
use linewarden_testkit::process::run;

use crate::data::{files, shared};
use crate::say;

/// No tile is the same turned or mirrored, and none is taken for another's twin.
const TURNS: [fn(&DynamicImage) -> DynamicImage; 6] = [
    DynamicImage::clone,
    DynamicImage::fliph,
    DynamicImage::flipv,
    DynamicImage::rotate180,
    DynamicImage::rotate90,
    DynamicImage::rotate270,
];

/// 63 cookies with their masks.
pub(crate) fn cookies() -> Result<()> {
    let manifest = shared("cookies")?.join("train.manifest");
    measure("63 cookies with masks", &manifest, Duration::from_mins(3), Some(3.0))
}

/// 2,000 tiles, all of them good, and with 600 that have masks among them.
pub(crate) fn two_thousand_tiles() -> Result<()> {
    for (normals, anomalies) in [(2000, 0), (1400, 600)] {
        let folder = tempfile::tempdir()?;
        let root = shared("magnetic-tile")?;
        let good = [files(&root.join("train/normal"))?, files(&root.join("test/normal"))?].concat();
        let good: Vec<[&Path; 1]> = good.iter().map(|path| [path.as_path()]).collect();
        multiply(&good, [&folder.path().join("normal")], normals)?;
        let bad = files(&root.join("test/anomaly"))?;
        let masks = files(&root.join("test/masks"))?;
        let bad: Vec<[&Path; 2]> = bad.iter().zip(&masks).map(|(bad, mask)| [bad.as_path(), mask.as_path()]).collect();
        if anomalies > 0 {
            multiply(&bad, [&folder.path().join("anomaly"), &folder.path().join("masks")], anomalies)?;
        }
        let what = format!("{normals} good tiles, {anomalies} bad ones with masks");
        measure(&what, folder.path(), Duration::from_mins(15), None)?;
    }
    Ok(())
}

/// Writes pictures, and what belongs to them, turned and mirrored until there are as many.
fn multiply<const N: usize>(pictures: &[[&Path; N]], folders: [&Path; N], count: usize) -> Result<()> {
    ensure!(pictures.len() * TURNS.len() >= count, "{} pictures do not make {count}", pictures.len());
    for folder in folders {
        std::fs::create_dir_all(folder)?;
    }
    for number in 0..count {
        let turn = TURNS[number / pictures.len()];
        for (path, folder) in pictures[number % pictures.len()].iter().zip(folders) {
            let picture = image::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            turn(&picture).save(folder.join(format!("{number:04}.png")))?;
        }
    }
    Ok(())
}

fn measure(what: &str, dataset: &Path, most: Duration, most_gb: Option<f64>) -> Result<()> {
    let out = tempfile::tempdir()?;
    let mut train = Command::new(env!("CARGO_BIN_EXE_linewarden"));
    train.arg("train").arg("--dataset").arg(dataset).arg("--out").arg(out.path().join("model"));
    let finished = run(&mut train)?;
    ensure!(finished.status.success(), "{}", finished.stderr);
    let (seconds, gigabytes) = (finished.elapsed.as_secs_f64(), finished.peak_memory_bytes as f64 / 1e9);
    let is_over = finished.elapsed > most || most_gb.is_some_and(|most| gigabytes > most);
    let limit = most_gb.map_or_else(String::new, |most| format!(", {most} GB"));
    let verdict = if is_over { "  OVER" } else { "" };
    say(&format!(
        "    {what}: {seconds:.0} s, {gigabytes:.2} GB at most (at most {} s{limit}){verdict}",
        most.as_secs()
    ))
}
