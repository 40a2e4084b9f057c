//! The pictures, and which of them are learnt from.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use linewarden_train::dataset::{Class, Dataset, LabelColor, MaskColors, MaskSource, Origin, Sample};

const DEFECTS: [&str; 2] = ["blowhole", "crack"];

/// The shared data, which is no part of the product.
pub(crate) fn shared(part: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(part);
    path.canonicalize().with_context(|| format!("`{}` is missing: the figures need these photographs", path.display()))
}

/// What is learnt from and what is tested on.
pub(crate) struct Split {
    pub(crate) train: Dataset,
    pub(crate) test: Dataset,
}

/// Magnetic tiles: the first `normals` of `train/normal` by file name, and the first `each` of each defect of
/// `test/anomaly` with their masks; tested on all of `test/normal` and the anomalies that are left.
pub(crate) fn tiles(normals: usize, each: usize) -> Result<Split> {
    let root = shared("magnetic-tile")?;
    let normal = |path: &PathBuf| sample(path, Class::Normal, None);
    let mut train: Vec<Sample> = files(&root.join("train/normal"))?.iter().take(normals).map(normal).collect();
    let mut test: Vec<Sample> = files(&root.join("test/normal"))?.iter().map(normal).collect();
    let mut seen = [0; DEFECTS.len()];
    for path in files(&root.join("test/anomaly"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let defect = DEFECTS.iter().position(|defect| name.starts_with(defect));
        let defect = defect.with_context(|| format!("`{name}` names no defect"))?;
        let mask = MaskSource {
            path: root.join("test/masks").join(&name).with_extension("png"),
            colors: MaskColors::AnyVisible { label: DEFECTS[defect].to_owned() },
        };
        seen[defect] += 1;
        let set = if seen[defect] <= each { &mut train } else { &mut test };
        set.push(sample(&path, Class::Anomaly, Some(mask)));
    }
    let labels = [("blowhole", "#D62728"), ("crack", "#2CA02C")];
    let label = |(name, color): (&str, &str)| LabelColor { name: name.to_owned(), hex_color: color.to_owned() };
    let set = |samples: Vec<Sample>| Dataset {
        name: "magnetic-tile".to_owned(),
        root: root.clone(),
        samples,
        labels: labels.map(label).to_vec(),
        warnings: Vec::new(),
    };
    Ok(Split { train: set(train), test: set(test) })
}

/// The cookies' own manifest and the 22 test photographs.
pub(crate) fn cookies() -> Result<Split> {
    let root = shared("cookies")?;
    let train = Dataset::load(&root.join("train.manifest"))?;
    let rows = std::fs::read_to_string(root.join("test-labels.csv"))?;
    let mut samples = Vec::new();
    for row in rows.lines() {
        let (name, class) = row.split_once(',').with_context(|| format!("`{row}` is no row of test-labels.csv"))?;
        let class = Class::from_name(class).with_context(|| format!("`{class}` is no class"))?;
        samples.push(sample(&root.join(name), class, None));
    }
    let test = Dataset { samples, labels: Vec::new(), ..train.clone() };
    Ok(Split { train, test })
}

/// The normals of the cookies' manifest, which has 31, without one of them and without its anomalies.
pub(crate) fn normal_cookies(without: Option<&str>) -> Result<Dataset> {
    let is_left_out = |sample: &Sample| without.is_some_and(|name| sample.path.ends_with(name));
    let train = cookies()?.train.subset(|_, sample| sample.class == Some(Class::Normal) && !is_left_out(sample));
    Ok(Dataset { labels: Vec::new(), ..train })
}

/// Every cookie that [`normal_cookies`] leaves: the 22 test photographs, the manifest's 32 anomalies and its other normals.
pub(crate) fn unseen_cookies(without: Option<&str>) -> Result<Dataset> {
    let Split { train, test } = cookies()?;
    let learnt: HashSet<PathBuf> = normal_cookies(without)?.samples.into_iter().map(|sample| sample.path).collect();
    let others = train.subset(|_, sample| !learnt.contains(&sample.path)).samples.into_iter();
    let samples = others.map(|sample| Sample { mask: None, ..sample }).chain(test.samples).collect();
    Ok(Dataset { samples, ..test })
}

/// One fold of the manifest is tested on, the others are learnt from; both classes are dealt out in their order.
pub(crate) fn cookies_fold(fold: usize, folds: usize) -> Result<Split> {
    let all = cookies()?.train;
    let mut seen = [0; 2];
    let deal = |sample: &Sample| {
        let seen = &mut seen[usize::from(sample.class == Some(Class::Anomaly))];
        *seen += 1;
        (*seen - 1) % folds
    };
    let fold_of: Vec<usize> = all.samples.iter().map(deal).collect();
    let train = all.subset(|index, _| fold_of[index] != fold);
    Ok(Split { train, test: all.subset(|index, _| fold_of[index] == fold) })
}

fn sample(path: &Path, class: Class, mask: Option<MaskSource>) -> Sample {
    Sample {
        path: path.to_owned(),
        source_ref: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        class: Some(class),
        mask,
        origin: Origin::Folder,
        labeled_at: None,
    }
}

/// The files of a folder, sorted by name.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}
