//! Data sets in folders: what loads, what is refused, and what the refusals say.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may fail by panicking")]

use std::fs;
use std::path::Path;

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use linewarden_train::dataset::{
    Class, Dataset, LabelColor, Picture, PictureError, PictureFault, Places, Report, check, check_sets, picture_size,
    read_mask, write_manifest,
};
use linewarden_train::progress::Silent;
use tempfile::TempDir;

/// An empty folder with these folders in it.
fn folder_with(folders: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for folder in folders {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    root
}

fn look(path: &Path) -> Report {
    check(path, None, &Places::default(), &Silent)
}

fn save(path: impl AsRef<Path>, width: u32, height: u32) {
    RgbImage::from_pixel(width, height, Rgb([90, 120, 150])).save(path).unwrap();
}

/// A picture that looks like no other with another seed.
fn textured(seed: u32) -> RgbImage {
    let mut random = fastrand::Rng::with_seed(seed.into());
    let cells: Vec<u8> = (0..256).map(|_| random.u8(..)).collect();
    RgbImage::from_fn(64, 64, |x, y| Rgb([cells[(y / 4 * 16 + x / 4) as usize]; 3]))
}

/// `count` good pictures of 64x64.
fn save_normals(root: &Path, count: usize) {
    for index in 0..count {
        save(root.join(format!("normal/{index:02}.png")), 64, 64);
    }
}

fn refs(dataset: &Dataset) -> Vec<&str> {
    dataset.samples.iter().map(|sample| sample.source_ref.as_str()).collect()
}

#[test]
fn pictures_load_by_name_whatever_the_case_of_their_extension() {
    let root = folder_with(&["normal", "anomaly"]);
    for name in ["normal/b.JPG", "normal/a.jpeg", "normal/c.PNG", "anomaly/z.jpg", "anomaly/a.Png"] {
        save(root.path().join(name), 64, 64);
    }
    fs::write(root.path().join("normal/notes.txt"), "x").unwrap();
    fs::write(root.path().join("README.md"), "x").unwrap();
    let dataset = Dataset::load(root.path()).unwrap();
    assert_eq!(refs(&dataset), ["normal/a.jpeg", "normal/b.JPG", "normal/c.PNG", "anomaly/a.Png", "anomaly/z.jpg"]);
    assert_eq!((dataset.samples[2].class, dataset.samples[3].class), (Some(Class::Normal), Some(Class::Anomaly)));
    assert!(!dataset.has_masks() && dataset.labels.is_empty());
    let place = root.path().display();
    assert_eq!(
        dataset.warnings,
        [format!("`{place}/normal`: ignored `notes.txt`"), format!("`{place}`: ignored `README.md`")]
    );
}

#[test]
fn folders_of_another_shape_are_refused_with_what_was_found() {
    let root = folder_with(&["good", "bad"]);
    let message = Dataset::load(root.path()).unwrap_err().to_string();
    assert!(message.contains("found `bad/`, `good/`; allowed are `normal/` and `anomaly/`"), "{message}");

    let root = folder_with(&["normal"]);
    let message = Dataset::load(root.path()).unwrap_err().to_string();
    assert!(message.contains("has no pictures"), "{message}");

    let message = Dataset::load(&root.path().join("nowhere")).unwrap_err().to_string();
    assert!(message.contains("nowhere: cannot open: No such file"), "{message}");
}

#[test]
fn any_visible_colour_of_a_mask_is_an_anomaly() {
    let root = folder_with(&["normal", "anomaly", "masks"]);
    let names = ["grey", "deep", "alpha", "palette", "bit"];
    for name in names {
        save(root.path().join(format!("anomaly/{name}.jpg")), 64, 64);
    }
    let mask = |name: &str| root.path().join(format!("masks/{name}.png"));
    let at = |x: u32, y: u32| x == 3 && y == 5;
    GrayImage::from_fn(64, 64, |x, y| Luma([u8::from(at(x, y))])).save(mask("grey")).unwrap();
    let deep = image::ImageBuffer::from_fn(64, 64, |x, y| Luma([u16::from(at(x, y))]));
    DynamicImage::ImageLuma16(deep).save(mask("deep")).unwrap();
    let faint = |x, y| if at(x, y) { Rgba([9, 9, 9, 255]) } else { Rgba([200, 0, 0, 127]) };
    RgbaImage::from_fn(64, 64, faint).save(mask("alpha")).unwrap();
    fs::write(mask("palette"), png(3, 8, |x, y| u8::from(at(x, y)))).unwrap();
    fs::write(mask("bit"), png(0, 1, |x, y| u8::from(at(x, y)))).unwrap();

    let dataset = Dataset::load(root.path()).unwrap();
    assert_eq!((dataset.labels.len(), dataset.labels[0].name.as_str()), (1, "anomaly"));
    assert_eq!(dataset.anomalies().filter(|sample| sample.mask.is_some()).count(), names.len());
    for sample in dataset.anomalies() {
        let mask = read_mask(sample, &dataset.labels).unwrap();
        let drawn: Vec<usize> = (0..64 * 64).filter(|&pixel| mask.labels[pixel] != 0).collect();
        assert_eq!(drawn, [5 * 64 + 3], "{}", sample.source_ref);
        assert_eq!(mask.labels[5 * 64 + 3], 1);
    }
}

/// A 64x64 PNG of this colour type and depth, made byte by byte: the encoder at hand writes no palettes and no bits.
fn png(color_type: u8, depth: u8, value: impl Fn(u32, u32) -> u8) -> Vec<u8> {
    let mut rows = Vec::new();
    for y in 0..64 {
        rows.push(0);
        let values: Vec<u8> = (0..64).map(|x| value(x, y)).collect();
        if depth == 8 {
            rows.extend(values);
        } else {
            rows.extend(values.chunks(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | bit)));
        }
    }
    let mut header = [64_u32.to_be_bytes(), 64_u32.to_be_bytes()].concat();
    header.extend([depth, color_type, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut file, b"IHDR", &header);
    if color_type == 3 {
        chunk(&mut file, b"PLTE", &[0, 0, 0, 0x23, 0xa4, 0x36]);
    }
    chunk(&mut file, b"IDAT", &stored(&rows));
    chunk(&mut file, b"IEND", &[]);
    file
}

fn chunk(file: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    file.extend((data.len() as u32).to_be_bytes());
    let named = [name.as_slice(), data].concat();
    file.extend(&named);
    file.extend(crc(&named).to_be_bytes());
}

fn crc(data: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !data.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A zlib stream without compression.
fn stored(data: &[u8]) -> Vec<u8> {
    let length = data.len() as u16;
    let mut stream = vec![0x78, 0x01, 0x01];
    stream.extend(length.to_le_bytes());
    stream.extend((!length).to_le_bytes());
    stream.extend(data);
    let (low, high) = data.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    stream.extend((high << 16 | low).to_be_bytes());
    stream
}

#[test]
fn a_colour_map_names_labels_and_refuses_other_colours() {
    let root = folder_with(&["anomaly", "masks"]);
    fs::write(root.path().join("colors.json"), r##"{"scratch": "#2CA02C", "dent": "#1f77b4"}"##).unwrap();
    save(root.path().join("anomaly/a.png"), 64, 64);
    save(root.path().join("anomaly/b.png"), 64, 64);
    let two = |x, _| match x {
        0..10 => Rgb([0x2c, 0xa0, 0x2c]),
        10..20 => Rgb([0x1f, 0x77, 0xb4]),
        _ => Rgb([0, 0, 0]),
    };
    RgbImage::from_fn(64, 64, two).save(root.path().join("masks/a.png")).unwrap();
    let smoothed = |x, y| if (x, y) == (7, 9) { Rgb([0x16, 0x50, 0x16]) } else { two(x, y) };
    RgbImage::from_fn(64, 64, smoothed).save(root.path().join("masks/b.png")).unwrap();

    let dataset = Dataset::load(root.path()).unwrap();
    let names: Vec<&str> = dataset.labels.iter().map(|label| label.name.as_str()).collect();
    assert_eq!(names, ["dent", "scratch"]);
    let mask = read_mask(&dataset.samples[0], &dataset.labels).unwrap();
    assert_eq!((mask.labels[0], mask.labels[15], mask.labels[30]), (2, 1, 0));
    let message = read_mask(&dataset.samples[1], &dataset.labels).unwrap_err().to_string();
    assert!(
        message.contains("masks/b.png")
            && message.contains("colour #165016 at (7, 9) has no label, 1 such pixels in all"),
        "{message}"
    );
    assert!(message.contains("#1F77B4 (`dent`), #2CA02C (`scratch`)"), "{message}");

    let others = [LabelColor { name: "dent".to_owned(), hex_color: "#1F77B4".to_owned() }];
    let message = read_mask(&dataset.samples[0], &others).unwrap_err().to_string();
    assert!(message.contains("label `scratch` is not one of `dent`"), "{message}");
}

#[test]
fn wrong_colour_maps_are_refused_by_key() {
    for (content, complaint) in [
        (r##"{"scratch": "green"}"##, "`scratch`: `green` is no colour; allowed is `#RRGGBB`"),
        (r##"{"a": "#010203", "b": "#010203"}"##, "labels `a` and `b` have one colour, #010203"),
        (r##"{"a": "#ffffff", "background": "#FFFFFF"}"##, "label `a` has the colour of the background"),
        ("[]", "allowed is an object such as"),
    ] {
        let root = folder_with(&["anomaly", "masks"]);
        save(root.path().join("anomaly/a.png"), 64, 64);
        fs::write(root.path().join("colors.json"), content).unwrap();
        let message = Dataset::load(root.path()).unwrap_err().to_string();
        assert!(message.contains("colors.json: ") && message.contains(complaint), "{content}: {message}");
    }
}

#[test]
fn masks_that_do_not_fit_are_named() {
    let root = folder_with(&["anomaly", "masks"]);
    for name in ["a.png", "b.png", "c.png", "d.png", "d.jpg"] {
        save(root.path().join("anomaly").join(name), 64, 64);
    }
    save(root.path().join("masks/a.png"), 64, 32);
    save(root.path().join("masks/b.png"), 64, 64);
    RgbImage::new(64, 64).save_with_format(root.path().join("masks/c.png"), ImageFormat::Jpeg).unwrap();
    save(root.path().join("masks/d.png"), 64, 64);
    save(root.path().join("masks/e.jpg"), 64, 64);
    let error = Dataset::load(root.path()).unwrap_err();
    assert_eq!(error.problems.len(), 2, "{error}");
    let message = error.to_string();
    assert!(message.contains("d.png: has the mask of") && message.contains("d.jpg"), "{message}");
    assert!(message.contains("masks/e.jpg: masks must be PNG"), "{message}");

    fs::remove_file(root.path().join("masks/e.jpg")).unwrap();
    fs::remove_file(root.path().join("anomaly/d.jpg")).unwrap();
    fs::remove_file(root.path().join("anomaly/b.png")).unwrap();
    fs::remove_file(root.path().join("masks/d.png")).unwrap();
    let dataset = Dataset::load(root.path()).unwrap();
    let masks = root.path().join("masks");
    let place = masks.display();
    assert_eq!(
        dataset.warnings,
        [
            format!("`{place}`: 1 anomalies have no mask: `anomaly/d.png`"),
            format!("`{place}`: 1 masks belong to no anomaly: `b.png`"),
        ]
    );
    let errors: Vec<PictureError> =
        dataset.samples.iter().map(|sample| read_mask(sample, &dataset.labels).unwrap_err()).collect();
    assert!(matches!(&errors[0].fault, PictureFault::SizeDiffers { mask, .. } if mask == "64x32"), "{}", errors[0]);
    assert!(matches!(&errors[1].fault, PictureFault::NotPng), "{}", errors[1]);
    assert!(matches!(&errors[2].fault, PictureFault::NoMask), "{}", errors[2]);
    let report = look(root.path());
    assert_eq!(report.problems.len(), 2, "{report}");
    assert!(report.problems[0].place.ends_with("masks/a.png"), "{report}");
}

#[test]
fn training_names_every_offending_file_at_once() {
    let root = folder_with(&["normal"]);
    save_normals(root.path(), 6);
    let normal = |name: &str| root.path().join("normal").join(name);
    save(normal("wide.png"), 65, 64);
    save(normal("tiny.png"), 63, 64);
    save(normal("huge.png"), 64, 4097);
    fs::write(normal("broken.jpg"), "not a picture").unwrap();
    fs::write(normal("empty.png"), "").unwrap();
    let dataset = Dataset::load(root.path()).unwrap();
    let error = check_sets(&dataset, None, 20, &Silent).unwrap_err();
    let message = error.to_string();
    for part in [
        "cannot use the data set, 6 problems:",
        "training needs at least 20 normal pictures, the data set has 11",
        "broken.jpg: cannot read: neither JPEG nor PNG",
        "empty.png: cannot read: neither JPEG nor PNG",
        "wide.png: is 65x64, but 6 of 8 pictures are 64x64; all must have one size",
        "tiny.png: is 63x64, allowed are 64 to 4096 pixels in width and height",
        "huge.png: is 64x4097 pixels, the most allowed is 4096x4096 pixels",
    ] {
        assert!(message.contains(part), "`{part}` is missing in {message}");
    }
}

#[test]
fn ten_normals_of_one_size_are_enough_and_the_unlabelled_do_not_count() {
    let root = folder_with(&["normal"]);
    save_normals(root.path(), 10);
    let mut dataset = Dataset::load(root.path()).unwrap();
    assert_eq!(check_sets(&dataset, None, 10, &Silent).unwrap().size, (64, 64));
    dataset.samples[4].class = None;
    let message = check_sets(&dataset, None, 10, &Silent).unwrap_err().to_string();
    assert_eq!(message, "cannot use the data set: training needs at least 10 normal pictures, the data set has 9");
}

#[test]
fn half_copied_pictures_are_found_and_named_together() {
    let root = folder_with(&["normal"]);
    save_normals(root.path(), 3);
    let noise = RgbImage::from_fn(200, 200, |x, y| Rgb([(x * 7 + y * 13) as u8, (x * y) as u8, (x ^ y) as u8]));
    for name in ["normal/cut.jpg", "normal/cut.png"] {
        let path = root.path().join(name);
        noise.save(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    let dataset = Dataset::load(root.path()).unwrap();
    let error = check_sets(&dataset, None, 3, &Silent).unwrap_err();
    assert_eq!(error.problems.len(), 2, "{error}");
    assert!(error.to_string().contains("cut.jpg") && error.to_string().contains("cut.png"), "{error}");
}

#[test]
fn a_hostile_header_allocates_nothing() {
    let root = folder_with(&[]);
    let path = root.path().join("bomb.png");
    fs::write(&path, png(0, 8, |_, _| 0)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    let sum = crc(&bytes[12..29]).to_be_bytes();
    bytes[29..33].copy_from_slice(&sum);
    fs::write(&path, bytes).unwrap();
    let message = Picture::read(&path).unwrap_err().to_string();
    assert!(message.contains("bomb.png"), "{message}");
}

#[test]
fn pictures_of_every_kind_become_rgb() {
    let root = folder_with(&[]);
    let path = root.path().join("a.png");
    let read = |image: DynamicImage| {
        image.save(&path).unwrap();
        Picture::read(&path).unwrap().rgb[..3].to_vec()
    };
    assert_eq!(read(GrayImage::from_pixel(2, 2, Luma([77])).into()), [77; 3]);
    assert_eq!(read(RgbaImage::from_pixel(2, 2, Rgba([1, 2, 3, 40])).into()), [1, 2, 3]);
    assert_eq!(read(DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(2, 2, Luma([257 * 9])))), [9; 3]);
    // Told by content, not by name.
    let odd = root.path().join("b.jpg");
    fs::copy(&path, &odd).unwrap();
    assert_eq!(Picture::read(&odd).unwrap().width_px, 2);
}

#[test]
fn pictures_on_their_side_are_turned_upright() {
    let root = folder_with(&[]);
    let path = root.path().join("a.jpg");
    let halves = RgbImage::from_fn(128, 64, |x, _| if x < 64 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) });
    halves.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    // EXIF with the orientation 6: turn right by 90 degrees.
    let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    fs::write(&path, [&bytes[..2], exif.as_slice(), &bytes[2..]].concat()).unwrap();
    assert_eq!(picture_size(&path).unwrap(), (64, 128));
    let upright = Picture::read(&path).unwrap();
    assert_eq!((upright.width_px, upright.height_px), (64, 128));
    assert!(upright.rgb[0] > 200 && upright.rgb[upright.rgb.len() - 1] > 200, "red above, blue below");
}

#[test]
fn a_check_counts_and_warns_of_quotas() {
    let root = folder_with(&["normal", "anomaly", "masks"]);
    for (folder, count) in [("normal", 4), ("anomaly", 1)] {
        for index in 0..count {
            textured(index + 7 * count).save(root.path().join(format!("{folder}/{index}.png"))).unwrap();
        }
    }
    GrayImage::from_fn(64, 64, |x, _| Luma([u8::from(x < 9)])).save(root.path().join("masks/0.png")).unwrap();
    let report = look(root.path());
    assert!(report.is_ok(), "{report}");
    let counts = &report.train;
    assert_eq!((counts.images, counts.normals, counts.anomalies, counts.masks), (5, 4, 1, 1));
    assert_eq!(
        report.warnings,
        [
            "quota: training needs at least 10 normal pictures, this has 4",
            "quota: label `anomaly` needs at least 20 pictures with no other label in a data set that serves for training and test alike, this has 1",
        ]
    );
    assert!(report.to_string().contains("5 pictures: 4 normal, 1 anomalous, 0 unlabelled; 1 masks; 64x64 pixels"));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["images"], &json["labels"][0]["name"]), (&5.into(), &"anomaly".into()));

    let nothing = look(&root.path().join("nowhere"));
    assert_eq!((nothing.train.images, nothing.problems.len()), (0, 1));
}

#[test]
fn a_folder_becomes_a_manifest_in_the_guide_s_form() {
    let root = folder_with(&["normal", "anomaly", "masks"]);
    save(root.path().join("normal/n.png"), 64, 64);
    save(root.path().join("anomaly/a.png"), 64, 64);
    let spot = |x, _| if x == 0 { Luma([255]) } else { Luma([0]) };
    GrayImage::from_fn(64, 64, spot).save(root.path().join("masks/a.png")).unwrap();
    let dataset = Dataset::load(root.path()).unwrap();
    let out = root.path().join("set.manifest");
    let at = "2026-01-02T03:04:05.5Z".parse().unwrap();
    let summary = write_manifest(&dataset, &out, at).unwrap();
    assert_eq!((summary.images, summary.normals, summary.anomalies, summary.masks), (2, 1, 1, 1));
    let expected = concat!(
        r##"{"source-ref":"normal/n.png","anomaly-label":0,"anomaly-label-metadata":{"confidence":1,"##,
        r##""job-name":"labeling-job/anomaly-classification","class-name":"normal","human-annotated":"yes","##,
        r##""creation-date":"2026-01-02T03:04:05.500000","type":"groundtruth/image-classification"}}"##,
        "\n",
        r##"{"source-ref":"anomaly/a.png","anomaly-label":1,"anomaly-label-metadata":{"confidence":1,"##,
        r##""job-name":"labeling-job/anomaly-classification","class-name":"anomaly","human-annotated":"yes","##,
        r##""creation-date":"2026-01-02T03:04:05.500000","type":"groundtruth/image-classification"},"##,
        r##""anomaly-mask-ref":"masks/a.png","anomaly-mask-ref-metadata":{"internal-color-map":{"##,
        r##""0":{"class-name":"BACKGROUND","hex-color":"#000000","confidence":0.0},"##,
        r##""1":{"class-name":"anomaly","hex-color":"#FFFFFF","confidence":0.0}},"##,
        r##""type":"groundtruth/semantic-segmentation","human-annotated":"yes","##,
        r##""creation-date":"2026-01-02T03:04:05.500000","job-name":"labeling-job/segmentation-job"}}"##,
        "\n",
    );
    assert_eq!(fs::read_to_string(&out).unwrap(), expected);

    let loaded = Dataset::load(&out).unwrap();
    assert_eq!(loaded.samples[1].labeled_at, Some(at));
    let mask = read_mask(&loaded.samples[1], &loaded.labels).unwrap();
    assert_eq!(mask.labels.iter().filter(|&&label| label == 1).count(), 64);

    let message = write_manifest(&dataset, &root.path().join("nowhere/x.manifest"), at).unwrap_err().to_string();
    assert!(message.contains("nowhere: cannot write here"), "{message}");
}

#[test]
fn a_smoothed_mask_without_a_colour_map_becomes_no_manifest() {
    let root = folder_with(&["anomaly", "masks"]);
    save(root.path().join("anomaly/a.png"), 64, 64);
    GrayImage::from_fn(64, 64, |x, _| Luma([x as u8])).save(root.path().join("masks/a.png")).unwrap();
    let dataset = Dataset::load(root.path()).unwrap();
    let at = jiff::Timestamp::UNIX_EPOCH;
    let message = write_manifest(&dataset, &root.path().join("x.manifest"), at).unwrap_err().to_string();
    assert!(message.contains("masks/a.png: has more than 20 colours"), "{message}");
    assert!(!root.path().join("x.manifest").exists());
}
