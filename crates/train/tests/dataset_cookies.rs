//! The guide's own data set, as it really is, and a real line's tiles.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use linewarden_train::dataset::{
    Alike, Class, Dataset, LabelColor, MINIMUM_NORMALS, Origin, Picture, Places, TEST_SHARE, check, check_sets,
    from_csv, read_mask, write_manifest,
};
use linewarden_train::progress::{Progress, Silent};

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
    assert_eq!(cookies.samples[9].origin, Origin::Manifest { file: manifest.into(), line: 10 });
    let checked = check_sets(&cookies, None, MINIMUM_NORMALS, &Silent).unwrap();
    assert_eq!(checked.size, (576, 768));
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
    let steps = Steps::default();
    let report = check(&manifest, None, &Places::default(), &steps);
    assert!(report.is_ok(), "{report}");
    let counts = &report.train;
    assert_eq!((counts.images, counts.normals, counts.anomalies, counts.masks), (63, 31, 32, 32));
    assert_eq!(counts.image_size, Some((576, 768)));
    assert_eq!((counts.labels[0].images, counts.labels[0].images_with_only_this), (32, 32));
    // The guide's own data set has one cookie photographed twice.
    let [twice] = report.duplicates.as_slice() else { panic!("{report}") };
    assert!(twice.first.ends_with("normal-1.jpg") && twice.second.ends_with("normal-2.jpg"), "{report}");
    assert_eq!((twice.alike, twice.across, twice.classes_differ), (Alike::Near, false, false));
    assert_eq!(report.warnings.len(), 1, "{report}");
    assert_eq!((steps.total.into_inner(), steps.done.into_inner()), (63, 63));
}

/// Counts the steps that it hears of.
#[derive(Default)]
struct Steps {
    total: AtomicUsize,
    done: AtomicUsize,
}

impl Progress for Steps {
    fn stage(&self, _name: &str, total: usize) {
        self.total.fetch_add(total, Ordering::Relaxed);
    }

    fn advance(&self, steps: usize) {
        self.done.fetch_add(steps, Ordering::Relaxed);
    }

    fn note(&self, _text: &str) {}
}

#[test]
fn photographs_that_are_in_training_and_test_are_found_however_they_were_saved() {
    let Some(manifest) = shared("cookies/train.manifest") else { return };
    let folder = tempfile::tempdir().unwrap();
    let normal = folder.path().join("normal");
    std::fs::create_dir(&normal).unwrap();
    let pictures = manifest.with_file_name("training-images");
    std::fs::copy(pictures.join("normal-7.jpg"), normal.join("copied.jpg")).unwrap();
    let again = image::open(pictures.join("normal-9.jpg")).unwrap();
    let mut worse = std::fs::File::create(normal.join("saved-again.jpg")).unwrap();
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut worse, 60);
    again.write_with_encoder(encoder).unwrap();
    again.brighten(6).save(normal.join("brighter.png")).unwrap();
    let report = check(&manifest, Some(folder.path()), &Places::default(), &Silent);
    let across: Vec<_> = report.duplicates.iter().filter(|pair| pair.across).collect();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let found: Vec<_> = across.iter().map(|pair| (name(&pair.first), name(&pair.second), pair.alike)).collect();
    let expected =
        [("9", "brighter.png", Alike::Near), ("7", "copied.jpg", Alike::Exact), ("9", "saved-again.jpg", Alike::Near)];
    let expected = expected.map(|(number, second, alike)| (format!("normal-{number}.jpg"), second.to_owned(), alike));
    assert_eq!(found, expected);
    let text = report.to_string();
    assert!(text.contains("the same picture in training and in the test"), "{text}");
    assert!(text.contains("nearly the same picture in training and in the test"), "{text}");
    assert!(text.contains("quota: a data set for the test needs 10 normal and 10 anomalous pictures"), "{text}");
}

#[test]
fn a_split_keeps_the_shares_of_both_classes_and_follows_its_seed() {
    let Some(manifest) = shared("cookies/train.manifest") else { return };
    let cookies = Dataset::load(&manifest).unwrap();
    let (train, test) = cookies.split(1, TEST_SHARE, &Silent).unwrap();
    assert_eq!((test.normals().count(), test.anomalies().count()), (6, 6));
    assert_eq!((train.normals().count(), train.anomalies().count()), (25, 26));
    assert!(test.samples.iter().all(|sample| !train.samples.contains(sample)));
    assert_eq!(cookies.split(1, TEST_SHARE, &Silent).unwrap().1, test);
    assert_ne!(cookies.split(2, TEST_SHARE, &Silent).unwrap().1, test);
    // The cookie that was photographed twice is on one side.
    for seed in 0..5 {
        let (_, test) = cookies.split(seed, 0.5, &Silent).unwrap();
        let has = |name: &str| test.samples.iter().any(|sample| sample.path.ends_with(name));
        assert_eq!(has("normal-1.jpg"), has("normal-2.jpg"));
    }
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
    assert_eq!(check_sets(&first, None, MINIMUM_NORMALS, &Silent).unwrap().size, (256, 256));
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
