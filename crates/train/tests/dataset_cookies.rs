//! The guide's own data set, as it really is, and a real line's tiles.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may fail by panicking")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use linewarden_train::dataset::{
    Class, Dataset, LabelColor, MINIMUM_NORMALS, Origin, Picture, check, check_for_training, from_csv, read_mask,
    read_pictures, write_manifest,
};

const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");

/// A part of the shared data, or nothing, loudly.
fn shared(part: &str) -> Option<PathBuf> {
    let path = Path::new(SHARED).join(part);
    if path.exists() {
        return Some(path);
    }
    let _ = writeln!(std::io::stderr(), "\n*** DID NOT RUN: `{}` is missing ***\n", path.display());
    None
}

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

#[test]
fn the_cookies_manifest_loads_as_it_is() {
    let Some(manifest) = shared("cookies/train.manifest") else { return };
    let cookies = Dataset::load(&manifest).unwrap();
    assert_eq!(cookies.name, "train");
    assert_eq!(cookies.samples.len(), 63);
    assert_eq!((cookies.normals().count(), cookies.anomalies().count()), (31, 32));
    assert!(cookies.anomalies().all(|sample| sample.mask.is_some()) && cookies.has_masks());
    assert!(cookies.normals().all(|sample| sample.mask.is_none()));
    assert_eq!(cookies.labels, [LabelColor { name: "cracked".to_owned(), hex_color: "#23A436".to_owned() }]);
    assert_eq!(cookies.warnings, [""; 0], "both date styles, and no BACKGROUND, are fine");
    assert!(cookies.samples.iter().all(|sample| sample.labeled_at.is_some()));
    assert_eq!(cookies.samples[0].source_ref, "training-images/anomaly-1.jpg");
    assert_eq!(cookies.samples[9].origin, Origin::Manifest { line: 10 });
    assert_eq!(check_for_training(&cookies.samples, MINIMUM_NORMALS), Ok((576, 768)));
}

#[test]
fn the_cookies_masks_read_whether_palette_or_rgba() {
    let Some(manifest) = shared("cookies/train.manifest") else { return };
    let cookies = Dataset::load(&manifest).unwrap();
    let shares: Vec<f64> = cookies
        .anomalies()
        .map(|sample| {
            let mask = read_mask(sample, &cookies.labels).unwrap();
            assert_eq!((mask.width, mask.height, mask.found()), (576, 768, vec![1]), "{}", sample.source_ref);
            mask.labels.iter().filter(|&&label| label == 1).count() as f64 / mask.labels.len() as f64
        })
        .collect();
    assert_eq!(shares.len(), 32);
    assert!(shares.iter().all(|share| (0.01..0.1).contains(share)), "{shares:?}");
}

#[test]
fn the_hash_tells_contents_and_labels_but_not_places() {
    let Some(manifest) = shared("cookies/train.manifest") else { return };
    let cookies = Dataset::load(&manifest).unwrap();
    let some = cookies.subset(|index, _| (28..36).contains(&index));
    let hash = some.sha256().unwrap();
    assert_eq!(hash.len(), 64);
    assert_eq!(some.samples.len(), 8);

    let folder = tempfile::tempdir().unwrap();
    let mut moved = some.clone();
    for sample in &mut moved.samples {
        let path = folder.path().join(sample.path.file_name().unwrap());
        std::fs::copy(&sample.path, &path).unwrap();
        sample.path = path;
    }
    assert_eq!(moved.sha256().unwrap(), hash);

    moved.samples[0].class = Some(Class::Normal);
    assert_ne!(moved.sha256().unwrap(), hash);
    let mut renamed = some.clone();
    renamed.labels[0].name = "broken".to_owned();
    assert_ne!(renamed.sha256().unwrap(), hash);
}

#[test]
fn a_check_of_the_cookies_finds_no_problem() {
    let Some(manifest) = shared("cookies/train.manifest") else { return };
    let mut steps = Vec::new();
    let report = check(&manifest, |done, all| steps.push((done, all)));
    assert!(report.is_ok(), "{report}");
    assert_eq!((report.images, report.normals, report.anomalies, report.masks), (63, 31, 32, 32));
    assert_eq!(report.image_size, Some((576, 768)));
    assert_eq!((report.labels[0].images, report.labels[0].images_with_only_this), (32, 32));
    assert_eq!(report.warnings, [""; 0]);
    assert_eq!((steps.len(), steps.last()), (63, Some(&(63, 63))));
}

#[test]
fn the_cookies_test_labels_become_a_manifest_that_loads() {
    let Some(csv) = shared("cookies/test-labels.csv") else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("test.manifest");
    let summary = from_csv(&csv, None, &out, now()).unwrap();
    assert_eq!(summary.images, 22);
    let loaded = Dataset::load(&out).unwrap();
    assert_eq!((loaded.normals().count(), loaded.anomalies().count()), (summary.normals, summary.anomalies));
    assert_eq!(Picture::read(&loaded.samples[0].path).unwrap().width_px, 576);
}

#[test]
fn the_tiles_load_from_their_folders() {
    let Some(tiles) = shared("magnetic-tile") else { return };
    let train = Dataset::load(&tiles.join("train")).unwrap();
    assert_eq!((train.normals().count(), train.samples.len(), train.has_masks()), (200, 200, false));
    assert!(train.samples.is_sorted_by_key(|sample| &sample.path));
    let first = train.subset(|index, _| index < 12);
    assert_eq!(check_for_training(&first.samples, MINIMUM_NORMALS), Ok((256, 256)));
    let mut widths = Vec::new();
    read_pictures(&first.samples, |_, picture| widths.push((picture.width_px, picture.rgb.len()))).unwrap();
    assert_eq!(widths, [(256, 256 * 256 * 3); 12]);

    let test = Dataset::load(&tiles.join("test")).unwrap();
    assert_eq!((test.normals().count(), test.anomalies().count()), (200, 172));
    assert_eq!(test.labels[0].name, "anomaly");
    assert_eq!(test.warnings, [""; 0]);
    for sample in test.anomalies() {
        assert_eq!(read_mask(sample, &test.labels).unwrap().found(), [1], "{}", sample.source_ref);
    }
}

#[test]
fn the_tiles_survive_the_way_through_a_manifest() {
    let Some(tiles) = shared("magnetic-tile/test") else { return };
    let test = Dataset::load(&tiles).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tiles.manifest");
    assert_eq!(write_manifest(&test, &out, now()).unwrap().masks, 172);
    let loaded = Dataset::load(&out).unwrap();
    assert_eq!(loaded.samples.len(), test.samples.len());
    for (one, other) in loaded.anomalies().zip(test.anomalies()).take(20) {
        assert_eq!(read_mask(one, &loaded.labels).unwrap(), read_mask(other, &test.labels).unwrap());
    }
}

#[test]
fn the_parent_of_data_sets_is_refused_with_what_lies_there() {
    let Some(tiles) = shared("magnetic-tile") else { return };
    let message = Dataset::load(&tiles).unwrap_err().to_string();
    assert!(
        message.contains("has neither `normal/` nor `anomaly/`; found `test/`, `train/`; allowed are"),
        "{message}"
    );
}
