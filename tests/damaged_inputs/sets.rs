//! Data sets of sound files that are no data sets, or poor ones.

use std::fs;
use std::path::Path;

use image::RgbImage;

use crate::{Call, Case, SIDE, png_of, put, sound_set, textured};

fn normals(folder: &Path, count: u32) {
    for index in 0..count {
        put(folder, &format!("normal/{index}.png"), png_of(&textured(index)));
    }
}

fn set(name: &'static str, call: Call, code: i32, says: &[&str], write: impl Fn(&Path) + 'static) -> Case {
    Case::new("data set", name, call, code, says, write)
}

pub(crate) fn cases() -> Vec<Case> {
    let names = "allowed are `normal/` and `anomaly/`";
    vec![
        set("an empty folder", Call::Folder, 1, &["found nothing", names], |_| {}),
        set("other folders", Call::Folder, 1, &["found `bad/`, `good/`", names], |folder| {
            put(folder, "good/0.png", png_of(&textured(0)));
            put(folder, "bad/0.png", png_of(&textured(1)));
        }),
        set("files instead of folders", Call::Folder, 1, &["found `normal`", names], |folder| {
            put(folder, "normal", "x");
        }),
        set("empty folders", Call::Folder, 1, &["has no pictures"], |folder| {
            fs::create_dir_all(folder.join("normal")).unwrap();
        }),
        set("no pictures in them", Call::Folder, 1, &["has no pictures"], |folder| {
            put(folder, "normal/notes.txt", "x");
        }),
        set(
            "nine normals",
            Call::Folder,
            0,
            &["quota: training needs at least 10 normal pictures, this has 9"],
            |folder| {
                normals(folder, 9);
            },
        ),
        set(
            "normals only",
            Call::Folder,
            0,
            &["needs 20 normal and 10 anomalous pictures, this has 12 and 0"],
            |folder| {
                normals(folder, 12);
            },
        ),
        set("anomalies only", Call::Folder, 0, &["training needs at least 10 normal pictures, this has 0"], |folder| {
            sound_set(folder);
            fs::remove_dir_all(folder.join("normal")).unwrap();
        }),
        set(
            "one colour",
            Call::Folder,
            0,
            &["every picture shows one colour only", "the same picture twice"],
            |folder| {
                for index in 0..12 {
                    put(folder, &format!("normal/{index}.png"), png_of(&RgbImage::new(SIDE, SIDE)));
                }
            },
        ),
        set("normal and anomalous", Call::Folder, 0, &["one picture, but normal and anomalous"], |folder| {
            sound_set(folder);
            put(folder, "anomaly/0.png", png_of(&textured(5)));
        }),
        set("half of another size", Call::Folder, 1, &["is 65x64, but 10 of 20 pictures are 64x64"], |folder| {
            normals(folder, 10);
            for index in 0..10 {
                put(folder, &format!("normal/x{index}.png"), png_of(&RgbImage::new(65, SIDE)));
            }
        }),
        set("no labels", Call::Manifest, 0, &["12 pictures have no label and are ignored", "has 0"], |folder| {
            let lines = (0..12).map(|index| {
                put(folder, &format!("{index}.png"), png_of(&textured(index)));
                format!("{{\"source-ref\": \"{index}.png\"}}\n")
            });
            put(folder, "set.manifest", lines.collect::<String>());
        }),
        set(
            "a test of another size",
            Call::WithTest,
            1,
            &["test/normal/0.png: is 65x64, but the training pictures are 64x64"],
            |folder| {
                sound_set(folder);
                put(folder, "test/normal/0.png", png_of(&RgbImage::new(65, SIDE)));
            },
        ),
        set("a test from training", Call::WithTest, 0, &["the same picture in training and in the test"], |folder| {
            sound_set(folder);
            put(folder, "test/normal/copy.png", png_of(&textured(3)));
        }),
        set(
            "a test of one class",
            Call::WithTest,
            0,
            &["a data set for the test needs 10 normal and 10 anomalous pictures, this has 1 and 0"],
            |folder| {
                sound_set(folder);
                put(folder, "test/normal/new.png", png_of(&textured(33)));
            },
        ),
        set("a test without masks", Call::WithTest, 0, &["the test's anomalies have no masks"], |folder| {
            sound_set(folder);
            put(folder, "test/anomaly/new.png", png_of(&textured(33)));
        }),
        set("a test that is damaged", Call::WithTest, 1, &["test/normal/0.png: cannot read"], |folder| {
            sound_set(folder);
            put(folder, "test/normal/0.png", "x");
        }),
        set(
            "few of a label",
            Call::Folder,
            0,
            &["label `anomaly` needs at least 20 pictures with no other label"],
            sound_set,
        ),
        set(
            "files over 8 MB",
            Call::Folder,
            0,
            &["normal/10.png", "quota: a file has at most 8 MB, this or its mask has 9 MB"],
            |folder| {
                sound_set(folder);
                put(folder, "normal/10.png", [png_of(&textured(40)), vec![0; 9 << 20]].concat());
            },
        ),
    ]
}
