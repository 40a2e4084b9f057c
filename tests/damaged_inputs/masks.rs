//! Masks that do not fit, and colour maps that say nothing.

use std::fs;
use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};

use crate::bytes::{Png, zlib_of_zeros};
use crate::{Call, Case, SIDE, jpeg_of, mask, png_of, put, sound_set, textured};

const COLORS: &str = r##"{"scratch": "#23A436"}"##;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, code, says, bytes) in files() {
        let says: Vec<&str> = ["masks/0.png"].into_iter().chain(says.iter().copied()).collect();
        cases.push(Case::new("mask", name, Call::Folder, code, &says, move |folder: &Path| {
            sound_set(folder);
            put(folder, "colors.json", COLORS);
            put(folder, "masks/0.png", &bytes);
        }));
    }
    for (name, says, content) in color_maps() {
        cases.push(Case::new("colour map", name, Call::Folder, 1, &["colors.json: ", says], move |folder: &Path| {
            sound_set(folder);
            put(folder, "colors.json", &content);
        }));
    }
    cases.push(Case::new("mask", "jpg in masks", Call::Folder, 1, &["masks/2.jpg", "must be PNG"], |folder| {
        sound_set(folder);
        put(folder, "masks/2.jpg", jpeg_of(&mask()));
    }));
    cases.push(Case::new("mask", "of two pictures", Call::Folder, 1, &["0.png: has the mask of"], |folder| {
        sound_set(folder);
        put(folder, "anomaly/0.jpg", jpeg_of(&textured(70)));
    }));
    cases.push(Case::new(
        "mask",
        "missing",
        Call::Folder,
        0,
        &["1 anomalies have no mask: `anomaly/1.png`"],
        |folder| {
            sound_set(folder);
            fs::remove_file(folder.join("masks/1.png")).unwrap();
        },
    ));
    cases.push(Case::new("mask", "of no picture", Call::Folder, 0, &["belong to no anomaly: `7.png`"], |folder| {
        sound_set(folder);
        mask().save(folder.join("masks/7.png")).unwrap();
    }));
    cases.push(Case::new(
        "mask",
        "21 labels",
        Call::Folder,
        0,
        &["masks/0.png", "quota: a mask has at most 20 labels, this has 21"],
        |folder| {
            sound_set(folder);
            let entries: Vec<String> = (1..=21).map(|label| format!(r##""l{label}": "#0000{label:02x}""##)).collect();
            put(folder, "colors.json", format!("{{{}, \"other\": \"#23A436\"}}", entries.join(",")));
            let many = RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([0, 0, if y < 9 { (x % 22) as u8 } else { 0 }]));
            many.save(folder.join("masks/0.png")).unwrap();
        },
    ));
    cases
}

type File = (&'static str, i32, &'static [&'static str], Vec<u8>);

fn files() -> Vec<File> {
    let whole = png_of(&mask());
    let grey = |value: fn(u32) -> u8| {
        let image = GrayImage::from_fn(SIDE, SIDE, |x, _| Luma([value(x)]));
        png_of(&image::DynamicImage::from(image).into_rgb8())
    };
    let rgba = |alpha: u8| {
        Png::new(SIDE, SIDE, 8, 6).rows(SIDE, SIDE * 4, move |x, _| [0x23, 0xa4, 0x36, alpha][x as usize % 4]).bytes()
    };
    let one_off = |x, y| if (x, y) == (9, 7) { Rgb([0x23, 0xa4, 0x37]) } else { *mask().get_pixel(x, y) };
    vec![
        ("other size", 1, &["the mask is 64x32, but its picture is 64x64"], png_of(&RgbImage::new(SIDE, 32))),
        ("turned", 1, &["the mask is 65x64"], png_of(&RgbImage::new(65, SIDE))),
        ("cut", 1, &["cannot read"], whole[..whole.len() / 2].to_vec()),
        ("empty file", 1, &["not a PNG"], Vec::new()),
        ("text", 1, &["not a PNG"], b"mask".to_vec()),
        ("jpeg under another name", 1, &["not a PNG"], jpeg_of(&mask())),
        ("gif", 1, &["not a PNG"], b"GIF89a\x40\0\x40\0\0\0\0;".to_vec()),
        (
            "as large as allowed",
            1,
            &["the mask is 4096x4096, but its picture is 64x64"],
            Png::new(4096, 4096, 16, 6).chunk(b"IDAT", zlib_of_zeros(4096 * (4096 * 8 + 1))).bytes(),
        ),
        (
            "bomb",
            1,
            &["is 30000x30000 pixels, the most allowed is 4096x4096"],
            Png::new(30_000, 30_000, 8, 0).chunk(b"IDAT", zlib_of_zeros(900_030_000)).bytes(),
        ),
        (
            "unknown colour",
            1,
            &["colour #23A437 at (9, 7) has no label, 1 such"],
            png_of(&RgbImage::from_fn(SIDE, SIDE, one_off)),
        ),
        ("smoothed", 1, &["has no label"], grey(|x| x as u8)),
        (
            "16 bits of grey",
            1,
            &["has no label"],
            Png::new(SIDE, SIDE, 16, 0).rows(SIDE, SIDE * 2, |x, _| x as u8).bytes(),
        ),
        ("no palette", 1, &["cannot read"], Png::new(SIDE, SIDE, 8, 3).rows(SIDE, SIDE, |_, _| 1).bytes()),
        ("nothing marked", 0, &["marks nothing, but the picture is an anomaly"], grey(|_| 0)),
        ("transparent", 0, &["marks nothing, but the picture is an anomaly"], rgba(127)),
        ("all marked", 0, &["marks 100 % of the picture"], rgba(128)),
    ]
}

fn color_maps() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let many: Vec<String> = (0..300).map(|label| format!(r##""l{label}": "#00{label:04x}""##)).collect();
    vec![
        ("broken", "allowed is an object", b"{\"scratch\": \"#23A436\"".to_vec()),
        ("array", "allowed is an object", b"[\"#23A436\"]".to_vec()),
        ("empty", "allowed is an object", Vec::new()),
        ("not UTF-8", "allowed is an object", b"{\"\xff\": \"#23A436\"}".to_vec()),
        ("deep", "allowed is an object", b"{\"a\":".repeat(100_000)),
        ("no colour", "`scratch`: `green` is no colour", br#"{"scratch": "green"}"#.to_vec()),
        ("one colour", "have one colour", br##"{"a": "#23A436", "b": "#23a436"}"##.to_vec()),
        (
            "colour of the background",
            "has the colour of the background",
            br##"{"a": "#ffffff", "BACKGROUND": "#FFFFFF"}"##.to_vec(),
        ),
        ("300 labels", "the most allowed is 255 labels", format!("{{{}}}", many.join(",")).into_bytes()),
        ("2 MiB", "the most allowed is 1048576", vec![b' '; 2 << 20]),
    ]
}
