//! Pictures that are cut, swapped, huge, empty or odd.

use std::fs;
use std::path::Path;

use crate::bytes::{Png, exif, grey_jpeg, with_frame, with_segment, zlib, zlib_of_zeros};
use crate::{Call, Case, SIDE, encoded, jpeg_of, png_of, sound_set, textured};

/// A sound data set whose eleventh normal is this file.
fn among_normals(kind: &'static str, name: &str, code: i32, says: &[&str], bytes: Vec<u8>) -> Case {
    let file = format!("normal/{name}");
    let says: Vec<&str> = [file.as_str()].into_iter().chain(says.iter().copied()).collect();
    Case::new(kind, name, Call::Folder, code, &says, {
        let file = file.clone();
        move |folder: &Path| {
            sound_set(folder);
            fs::write(folder.join(&file), &bytes).unwrap();
        }
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, bytes) in truncated() {
        cases.push(among_normals("truncated", &name, 1, &["cannot read"], bytes));
    }
    for (name, bytes) in bombs() {
        cases.push(among_normals("bomb", name, 1, &[], bytes));
    }
    // As large as allowed, and of another size than the rest: it is decoded whole.
    let largest = Png::new(4096, 4096, 16, 6).chunk(b"IDAT", zlib_of_zeros(4096 * (4096 * 8 + 1))).bytes();
    cases.push(among_normals("bomb", "whole-4096.png", 1, &["is 4096x4096, but"], largest));
    for (name, says, bytes) in not_pictures() {
        cases.push(among_normals("mislabelled", name, 1, &["cannot read", says], bytes));
    }
    for (name, bytes) in broken() {
        cases.push(among_normals("broken picture", name, 1, &["cannot read"], bytes));
    }
    for (name, says, bytes) in odd() {
        cases.push(among_normals("odd picture", name, 0, &["warning", says], bytes));
    }
    for (name, width, height) in [("narrow.png", 63, 64), ("low.png", 64, 63)] {
        let image = image::RgbImage::new(width, height);
        cases.push(among_normals("size", name, 1, &["allowed are 64 to 4096 pixels"], png_of(&image)));
    }
    let wide = png_of(&image::RgbImage::new(4097, 64));
    cases.push(among_normals("size", "wide.png", 1, &["is 4097x64 pixels, the most allowed is 4096x4096"], wide));
    let other = png_of(&image::RgbImage::new(65, 64));
    cases.push(among_normals("size", "other.png", 1, &["is 65x64, but", "all must have one size"], other));
    cases.push(Case::new("size", "folder.png", Call::Folder, 0, &["warning", "ignored `folder.png`"], |folder| {
        sound_set(folder);
        fs::create_dir(folder.join("normal/folder.png")).unwrap();
    }));
    cases
}

/// Files that cannot be read, for the other doors.
pub(crate) fn unreadable() -> Vec<(String, Vec<u8>)> {
    let mut all = truncated();
    all.extend(bombs().into_iter().map(|(name, bytes)| (name.to_owned(), bytes)));
    all.extend(not_pictures().into_iter().map(|(name, _, bytes)| (name.to_owned(), bytes)));
    all.extend(broken().into_iter().map(|(name, bytes)| (name.to_owned(), bytes)));
    all
}

fn truncated() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (ending, bytes) in [("png", png_of(&textured(50))), ("jpg", jpeg_of(&textured(50)))] {
        let length = bytes.len();
        for kept in [0, 1, 3, 9, 20, 40, length / 4, length / 2, length * 9 / 10, length - 14] {
            all.push((format!("cut-{kept}.{ending}"), bytes[..kept].to_vec()));
        }
    }
    all
}

/// Small files that claim to be, or become, far more than memory should hold.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let claims = |width, height| Png::new(width, height, 8, 2).rows(4, 12, |_, _| 0).bytes();
    let picture = || Png::new(SIDE, SIDE, 8, 0);
    let jpeg = |height: [u8; 2], width: [u8; 2]| {
        with_frame(&jpeg_of(&textured(51)), |frame| {
            frame[5..7].copy_from_slice(&height);
            frame[7..9].copy_from_slice(&width);
        })
    };
    let thirty_thousand = 30_000_u16.to_be_bytes();
    vec![
        ("header-30000.png", claims(30_000, 30_000)),
        ("whole-30000.png", Png::new(30_000, 30_000, 8, 0).chunk(b"IDAT", zlib_of_zeros(900_030_000)).bytes()),
        ("line-2000000.png", claims(2_000_000, 1)),
        ("largest.png", claims(0x7fff_ffff, 0x7fff_ffff)),
        ("deep-30000.png", Png::new(30_000, 30_000, 16, 6).chunk(b"IDAT", zlib_of_zeros(1 << 20)).bytes()),
        ("pixels-missing.png", Png::new(4096, 4096, 16, 6).chunk(b"IDAT", zlib_of_zeros(1 << 20)).bytes()),
        ("header-30000.jpg", jpeg(thirty_thousand, thirty_thousand)),
        ("header-65535.jpg", jpeg([0xff; 2], [0xff; 2])),
        (
            "profile-400-mib.png",
            picture()
                .chunk(b"iCCP", [b"p\0\0".to_vec(), zlib_of_zeros(400 << 20)].concat())
                .chunk(b"IDAT", zlib_of_zeros(1))
                .bytes(),
        ),
        (
            "text-400-mib.png",
            picture()
                .chunk(b"zTXt", [b"t\0\0".to_vec(), zlib_of_zeros(400 << 20)].concat())
                .chunk(b"IDAT", zlib_of_zeros(1))
                .bytes(),
        ),
    ]
}

/// Other files under a picture's name.
fn not_pictures() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let neither = "neither JPEG nor PNG";
    let webp = b"RIFF\x24\0\0\0WEBPVP8 \x18\0\0\0".to_vec();
    vec![
        ("gif.png", "neither JPEG nor PNG, but GIF", b"GIF89a\x40\0\x40\0\0\0\0;".to_vec()),
        ("bmp.jpg", "neither JPEG nor PNG, but BMP", [b"BM".to_vec(), vec![0; 60]].concat()),
        ("webp.png", "neither JPEG nor PNG, but WebP", webp),
        ("tiff.jpg", "neither JPEG nor PNG, but TIFF", b"II*\0\x08\0\0\0\0\0".to_vec()),
        ("text.png", neither, b"no picture\n".to_vec()),
        ("html.jpg", neither, b"<!DOCTYPE html><html>404</html>".to_vec()),
        ("zip.png", neither, b"PK\x03\x04rest".to_vec()),
        ("pdf.jpg", neither, b"%PDF-1.7\n".to_vec()),
        ("program.png", neither, b"\x7fELF\x02\x01\x01".to_vec()),
        ("zeros.jpg", neither, vec![0; 4096]),
        ("utf-16.png", neither, b"\xff\xfep\0n\0g\0".to_vec()),
    ]
}

/// Pictures that break the rules of their format.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let rows = |png: Png| png.rows(SIDE, SIDE, |x, y| (x ^ y) as u8);
    let grey = || Png::new(SIDE, SIDE, 8, 0);
    let changed = |mut bytes: Vec<u8>, place: usize| {
        bytes[place] ^= 0x55;
        bytes
    };
    let jpeg = jpeg_of(&textured(52));
    let without = |marker: u8| {
        let mut bytes = jpeg.clone();
        while let Some(start) = bytes.windows(2).position(|pair| pair == [0xff, marker]) {
            let length = usize::from(u16::from_be_bytes([bytes[start + 2], bytes[start + 3]]));
            bytes.drain(start..start + 2 + length);
        }
        bytes
    };
    let frame = |place: usize, value: u8| with_frame(&jpeg, |frame| frame[place] = value);
    vec![
        ("width-0.png", rows(Png::new(0, SIDE, 8, 0)).bytes()),
        ("height-0.png", rows(Png::new(SIDE, 0, 8, 0)).bytes()),
        ("header-sum.png", changed(rows(grey()).bytes(), 18)),
        ("pixel-sum.png", changed(rows(grey()).bytes(), 900)),
        ("no-pixels.png", grey().bytes()),
        ("no-zlib.png", grey().chunk(b"IDAT", *b"not compressed").bytes()),
        ("short-rows.png", grey().rows(SIDE / 2, SIDE, |_, _| 7).bytes()),
        ("filter-9.png", grey().chunk(b"IDAT", zlib(&[9; 65 * 64])).bytes()),
        ("no-palette.png", rows(Png::new(SIDE, SIDE, 8, 3)).bytes()),
        ("depth-3.png", rows(Png::new(SIDE, SIDE, 3, 0)).bytes()),
        ("color-5.png", rows(Png::new(SIDE, SIDE, 8, 5)).bytes()),
        ("rgb-4-bits.png", rows(Png::new(SIDE, SIDE, 4, 2)).bytes()),
        ("no-huffman.jpg", without(0xc4)),
        ("no-frame.jpg", without(0xc0)),
        ("no-quantisation.jpg", without(0xdb)),
        ("height-0.jpg", with_frame(&jpeg, |frame| frame[5..7].fill(0))),
        ("width-0.jpg", with_frame(&jpeg, |frame| frame[7..9].fill(0))),
        ("12-bits.jpg", frame(4, 12)),
        ("arithmetic.jpg", frame(1, 0xc9)),
        ("lossless.jpg", frame(1, 0xc3)),
        ("no-components.jpg", frame(9, 0)),
        ("sampling-0.jpg", frame(11, 0)),
        ("only-noise.jpg", [&jpeg[..2], &[0x5a; 500]].concat()),
    ]
}

/// Pictures that are read, but not as somebody may think.
fn odd() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let image = textured(53);
    let jpeg = jpeg_of(&image);
    let rgba = |value: fn(u32) -> u8| {
        Png::new(SIDE, SIDE, 8, 6).rows(SIDE, SIDE * 4, move |x, y| if x % 4 == 3 { value(y) } else { (x * y) as u8 })
    };
    let damaged_exif = |data: &[u8]| with_segment(&jpeg, 0xe1, &[b"Exif\0\0", data].concat());
    let animated = Png::new(SIDE, SIDE, 8, 0)
        .chunk(b"acTL", [0, 0, 0, 1, 0, 0, 0, 0])
        .rows(SIDE, SIDE, |x, y| ((x * 3) ^ y) as u8)
        .bytes();
    vec![
        ("png.jpg", "is a PNG, although its name says otherwise", png_of(&image)),
        ("jpeg.png", "is a JPEG, although its name says otherwise", jpeg.clone()),
        ("animated.png", "is animated; only its first picture is used", animated),
        ("half-transparent.png", "is partly transparent", rgba(|y| (y * 4) as u8).bytes()),
        ("invisible.png", "is partly transparent", rgba(|_| 0).bytes()),
        (
            "16-bits.png",
            "has 16 bits a channel",
            Png::new(SIDE, SIDE, 16, 0).rows(SIDE, SIDE * 2, |x, y| ((x * 5) ^ y) as u8).bytes(),
        ),
        ("cmyk.jpg", "is in CMYK", grey_jpeg(4)),
        ("upside-down.jpg", "is turned as its EXIF data say", with_segment(&jpeg, 0xe1, &exif(3))),
        ("mirrored.jpg", "is turned as its EXIF data say", with_segment(&jpeg, 0xe1, &exif(2))),
        ("exif-noise.jpg", "has damaged EXIF data", damaged_exif(&[0x5a; 40])),
        ("exif-offset.jpg", "has damaged EXIF data", damaged_exif(b"MM\0\x2a\xff\xff\xff\xff\0\x01")),
        ("exif-cut.jpg", "has damaged EXIF data", damaged_exif(b"II*\0\x08\0\0\0\x09\0")),
        ("one-color.png", "shows one colour only", png_of(&image::RgbImage::new(SIDE, SIDE))),
        ("one-color.jpg", "shows one colour only", grey_jpeg(1)),
        ("twice.png", "the same picture twice", encoded(&textured(3), image::ImageFormat::Png)),
        ("nearly-twice.jpg", "nearly the same picture", jpeg_of(&textured(4))),
    ]
}

/// What looks damaged and is not.
pub(crate) fn odd_but_sound() -> Vec<(&'static str, Vec<u8>)> {
    let jpeg = jpeg_of(&textured(60));
    let profile = [b"ICC_PROFILE\0\x09\x02".to_vec(), vec![0x5a; 300]].concat();
    vec![
        ("profile-broken.jpg", with_segment(&jpeg, 0xe2, &profile)),
        ("comment.jpg", with_segment(&jpeg_of(&textured(61)), 0xfe, b"\xff\xd9\xff\xda \xc0\xc1")),
        ("trailing.jpg", [jpeg_of(&textured(62)), vec![0x5a; 100]].concat()),
        ("upright.jpg", with_segment(&jpeg_of(&textured(63)), 0xe1, &exif(1))),
        (
            "profile-broken.png",
            Png::new(SIDE, SIDE, 8, 0)
                .chunk(b"iCCP", *b"p\0\0no zlib at all")
                .rows(SIDE, SIDE, |x, y| ((x * 7) ^ (y * 3)) as u8)
                .bytes(),
        ),
        (
            "unknown-chunk.png",
            Png::new(SIDE, SIDE, 8, 0)
                .chunk(b"teSt", [1, 2, 3])
                .rows(SIDE, SIDE, |x, y| (x * x / 5 + y * 2) as u8)
                .bytes(),
        ),
    ]
}
