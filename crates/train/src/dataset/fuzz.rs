//! Changed files at every parser of data sets.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use jiff::Timestamp;
use tempfile::TempDir;

use super::{
    Class, Dataset, LabelColor, MaskColors, MaskSource, Origin, Picture, Places, Sample, from_csv, manifest,
    picture_size, read_mask,
};
use crate::fuzzing::{corpus, fuzz, put, scratch};

fn folder_with(files: &[(&str, &str, &str)]) -> TempDir {
    let folder = scratch();
    for (name, from, kept) in files {
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(from).join(kept);
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(kept, path).unwrap();
    }
    folder
}

#[test]
fn manifests() {
    let folder = folder_with(&[("a.png", "picture", "grey.png"), ("mask.png", "mask", "rgb.png")]);
    let file = folder.path().join("set.manifest");
    let mut was_read = false;
    fuzz("manifest", &corpus("manifest"), |bytes| {
        let loaded =
            manifest::read(Cursor::new(bytes), &file, &Places::default()).map_err(|problem| problem.to_string());
        if let Ok(loaded) = loaded {
            was_read |= loaded.problems.is_empty() && !loaded.dataset.labels.is_empty();
            for problem in &loaded.problems {
                assert!(problem.to_string().len() < 10_000, "a message for people");
            }
        }
    });
    assert!(was_read, "the corpus has a sound one");
}

#[test]
fn csv_files() {
    let folder = scratch();
    let (csv, out) = (folder.path().join("set.csv"), folder.path().join("set.manifest"));
    let mut was_read = false;
    fuzz("csv", &corpus("csv"), |bytes| {
        put(&csv, bytes);
        was_read |= from_csv(&csv, None, &out, Timestamp::UNIX_EPOCH).is_ok();
    });
    assert!(was_read, "the corpus has a sound one");
}

#[test]
fn colour_maps() {
    let folder = folder_with(&[("anomaly/a.png", "picture", "grey.png"), ("masks/a.png", "mask", "rgb.png")]);
    let file = folder.path().join("colors.json");
    fuzz("colors", &corpus("colors"), |bytes| {
        put(&file, bytes);
        let _ = Dataset::load(folder.path()).map_err(|error| error.to_string());
    });
}

#[test]
fn pictures() {
    let folder = scratch();
    let file = folder.path().join("a.png");
    fuzz("picture", &corpus("picture"), |bytes| {
        put(&file, bytes);
        let size = picture_size(&file);
        let read = Picture::read_closely(&file);
        if let (Ok(size), Ok((picture, _))) = (size, read) {
            assert_eq!(size, (picture.width_px, picture.height_px), "header and pixels agree");
            assert_eq!(picture.rgb.len(), size.0 * size.1 * 3);
        }
    });
}

#[test]
fn masks() {
    let folder = folder_with(&[("a.png", "picture", "grey.png")]);
    let path = folder.path().join("mask.png");
    let color = ([0x23, 0xa4, 0x36], "scratch".to_owned());
    let colors = MaskColors::Map { background: Some([255; 3]), labels: vec![color] };
    let sample = Sample {
        path: folder.path().join("a.png"),
        source_ref: "a.png".to_owned(),
        class: Some(Class::Anomaly),
        mask: Some(MaskSource { path: path.clone(), colors }),
        origin: Origin::Folder,
        labeled_at: None,
    };
    let labels = [LabelColor { name: "scratch".to_owned(), hex_color: "#23A436".to_owned() }];
    let mut was_read = false;
    fuzz("mask", &corpus("mask"), |bytes| {
        put(&path, bytes);
        if let Ok(mask) = read_mask(&sample, &labels) {
            assert!(mask.is_whole() && mask.labels.iter().all(|&label| label <= 1));
            was_read = true;
        }
    });
    assert!(was_read, "the corpus has a sound one");
}
