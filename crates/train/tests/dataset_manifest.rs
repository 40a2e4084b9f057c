//! Manifests: every refusal, all at once, with file, line and key.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may fail by panicking")]

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use linewarden_train::dataset::{
    CsvError, Dataset, Places, Problem, Report, TEST_SHARE, check, from_csv, read_mask, write_manifest,
};
use linewarden_train::progress::Silent;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with `a.png`, `b.png`, `deep/c.png` and a mask with two labels on white.
fn pictures() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("deep")).unwrap();
    for name in ["a.png", "b.png", "deep/c.png"] {
        RgbImage::new(64, 64).save(root.path().join(name)).unwrap();
    }
    let two = |x, _| match x {
        0 => Rgb([0x2c, 0xa0, 0x2c]),
        1 => Rgb([0x1f, 0x77, 0xb4]),
        _ => Rgb([255, 255, 255]),
    };
    RgbImage::from_fn(64, 64, two).save(root.path().join("mask.png")).unwrap();
    root
}

fn look(path: &Path) -> Report {
    check(path, None, &Places::default(), &Silent)
}

fn classified(source_ref: &str, attribute: &str, class: &str) -> Value {
    json!({
        "source-ref": source_ref,
        attribute: 1,
        format!("{attribute}-metadata"): {
            "confidence": 1, "job-name": "j", "class-name": class, "human-annotated": "yes",
            "creation-date": "2020-11-10T03:37:09.600", "type": "groundtruth/image-classification"
        }
    })
}

/// The guide's segmentation line.
fn segmented(source_ref: &str) -> Value {
    let mut line = classified(source_ref, "anomaly-label", "anomaly");
    line["anomaly-mask-ref"] = json!("s3://bucket/folder/mask.png");
    line["anomaly-mask-ref-metadata"] = json!({
        "internal-color-map": {
            "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0},
            "10": {"class-name": "dent", "hex-color": "#1f77b4", "confidence": 0.0},
            "9": {"class-name": "scratch", "hex-color": "#2ca02c", "confidence": 0.0}
        },
        "type": "groundtruth/semantic-segmentation", "human-annotated": "yes",
        "creation-date": "2021-11-23T20:31:57.758889", "job-name": "labeling-job/segmentation-job"
    });
    line
}

fn without(mut line: Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    line.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
    line
}

fn with(mut line: Value, pointer: &str, value: Value) -> Value {
    *line.pointer_mut(pointer).unwrap() = value;
    line
}

fn write(root: &Path, lines: &[Value]) -> std::path::PathBuf {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let path = root.join("set.manifest");
    fs::write(&path, text).unwrap();
    path
}

/// The problems of a line, as `key: message`.
fn problems_of(line: Value) -> Vec<String> {
    let root = pictures();
    let error = Dataset::load(&write(root.path(), &[line])).unwrap_err();
    let text = |problem: &Problem| {
        assert_eq!((problem.line, problem.place.file_name().unwrap().to_str()), (Some(1), Some("set.manifest")));
        format!("{}: {}", problem.key.as_deref().unwrap_or(""), problem.message)
    };
    error.problems.iter().map(text).collect()
}

#[test]
fn attributes_are_found_by_type_whatever_their_name() {
    let root = pictures();
    let file = format!("file://{}", root.path().join("b.png").display());
    let manifest = write(
        root.path(),
        &[
            classified("s3://bucket/line-1/deep/c.png", "my-job", "Normal"),
            classified(&file, "anomaly-label", "anomaly"),
            json!({"source-ref": "a.png"}),
        ],
    );
    let dataset = Dataset::load(&manifest).unwrap();
    assert_eq!(dataset.name, "set");
    assert_eq!((dataset.normals().count(), dataset.anomalies().count(), dataset.samples.len()), (1, 1, 3));
    assert_eq!(dataset.samples[0].path, root.path().join("deep/c.png"));
    assert_eq!(dataset.samples[0].source_ref, "s3://bucket/line-1/deep/c.png");
    assert_eq!(dataset.samples[2].class, None, "unlabelled lines are kept");
}

#[test]
fn the_guide_s_segmentation_line_reads_with_its_mask() {
    let root = pictures();
    let dataset = Dataset::load(&write(root.path(), &[segmented("a.png")])).unwrap();
    let names: Vec<_> = dataset.labels.iter().map(|label| (label.name.as_str(), label.hex_color.as_str())).collect();
    assert_eq!(names, [("scratch", "#2CA02C"), ("dent", "#1F77B4")], "in the order of the numbers");
    let mask = read_mask(&dataset.samples[0], &dataset.labels).unwrap();
    assert_eq!(mask.labels[..4], [1, 2, 0, 0]);
}

#[test]
fn blank_lines_windows_line_ends_and_a_byte_order_mark_do_no_harm() {
    let root = pictures();
    let (one, two) = (classified("a.png", "l", "normal"), classified("b.png", "l", "anomaly"));
    let path = root.path().join("x");
    fs::write(&path, format!("\u{feff}{one}\r\n\r\n{two}")).unwrap();
    let dataset = Dataset::load(&path).unwrap();
    assert_eq!((dataset.normals().count(), dataset.anomalies().count()), (1, 1));
}

#[test]
fn oddities_are_warnings_with_their_line() {
    let root = pictures();
    let odd_date = with(classified("a.png", "l", "normal"), "/l-metadata/creation-date", json!("yesterday"));
    let second = classified("s3://other/b.png", "l", "perhaps");
    let third = without(segmented("s3://bucket/deep/c.png"), "/anomaly-label-metadata");
    let third = without(third, "/anomaly-label");
    let again = classified("a.png", "l", "normal");
    let path = write(root.path(), &[odd_date, second, third, again]);
    let dataset = Dataset::load(&path).unwrap();
    assert_eq!(dataset.samples.iter().filter(|sample| sample.class.is_none()).count(), 2);
    let warnings = dataset.warnings.join("\n");
    for part in [
        ":1: `l-metadata.creation-date` is no date: \"yesterday\"",
        ":2: `l-metadata.class-name` is `perhaps`, neither `normal` nor `anomaly`",
        ":3: has a mask but no class",
        ":4: the picture is on line 1 already",
        "several buckets: `bucket`, `other`",
    ] {
        assert!(warnings.contains(part), "`{part}` is missing in {warnings}");
    }
}

#[test]
fn every_wrong_key_is_refused_by_name() {
    let good = || classified("a.png", "anomaly-label", "normal");
    let map = "/anomaly-mask-ref-metadata/internal-color-map";
    for (line, complaint) in [
        (json!([1]), ": is JSON, but not an object"),
        (json!({"anomaly-label": 1}), "source-ref: is missing"),
        (with(good(), "/source-ref", json!(7)), "source-ref: must be a string, got a number"),
        (with(good(), "/source-ref", json!("http://x/a.png")), "source-ref: cannot read from `http://`; allowed are"),
        (without(good(), "/anomaly-label"), "anomaly-label: is missing, but `anomaly-label-metadata` is there"),
        (
            without(good(), "/anomaly-label-metadata"),
            "anomaly-label-metadata: is missing, but `anomaly-label` is there",
        ),
        (
            with(good(), "/anomaly-label-metadata", json!("x")),
            "anomaly-label-metadata: must be an object, got a string",
        ),
        (
            with(good(), "/anomaly-label-metadata/type", json!("groundtruth/object-detection")),
            "anomaly-label-metadata.type: must be `groundtruth/image-classification`, got `groundtruth/object-detection`",
        ),
        (without(good(), "/anomaly-label-metadata/class-name"), "anomaly-label-metadata.class-name: is missing"),
        (
            with(good(), "/anomaly-label-metadata/class-name", json!(0)),
            "anomaly-label-metadata.class-name: must be `normal` or `anomaly`, got a number",
        ),
        (
            with(good(), "/anomaly-label-metadata/human-annotated", json!(true)),
            "anomaly-label-metadata.human-annotated: must be \"yes\" or \"no\", got true",
        ),
        (without(segmented("a.png"), "/anomaly-mask-ref"), "anomaly-mask-ref: is missing"),
        (with(segmented("a.png"), "/anomaly-mask-ref", json!("no.png")), "anomaly-mask-ref: no file for `no.png`"),
        (without(segmented("a.png"), map), "anomaly-mask-ref-metadata.internal-color-map: is missing"),
        (with(segmented("a.png"), map, json!({})), "anomaly-mask-ref-metadata.internal-color-map: must be an object"),
        (
            with(segmented("a.png"), &format!("{map}/9/hex-color"), json!("red")),
            "anomaly-mask-ref-metadata.internal-color-map.9: `red` is no colour",
        ),
        (
            without(segmented("a.png"), &format!("{map}/9/class-name")),
            "anomaly-mask-ref-metadata.internal-color-map.9.class-name: is missing",
        ),
        (
            with(segmented("a.png"), &format!("{map}/9/hex-color"), json!("#1F77B4")),
            "anomaly-mask-ref-metadata.internal-color-map.10: labels `scratch` and `dent` have one colour, #1F77B4",
        ),
        (
            with(segmented("a.png"), &format!("{map}/9/hex-color"), json!("#FFFFFF")),
            "anomaly-mask-ref-metadata.internal-color-map: label `scratch` has the colour of the background",
        ),
    ] {
        let problems = problems_of(line.clone());
        assert!(problems.iter().any(|problem| problem.starts_with(complaint)), "{line}\n{complaint}\n{problems:?}");
    }
}

#[test]
fn two_labelling_jobs_on_one_line_are_ambiguous_but_an_evaluation_manifest_is_not() {
    let mut line = classified("a.png", "one", "normal");
    line["two"] = json!(1);
    line["two-metadata"] = line["one-metadata"].clone();
    assert_eq!(
        problems_of(line.clone()),
        [": has several attributes of type `groundtruth/image-classification`, one is allowed: `one`, `two`"]
    );
    let root = pictures();
    line["one-detected-metadata"] = line["two-metadata"].take();
    line.as_object_mut().unwrap().remove("two-metadata");
    assert_eq!(Dataset::load(&write(root.path(), &[line])).unwrap().normals().count(), 1);
}

#[test]
fn all_problems_of_all_lines_come_at_once_and_the_other_lines_are_not_lost() {
    let root = pictures();
    let path = root.path().join("set.manifest");
    let good = classified("a.png", "l", "normal");
    let twice_wrong = with(
        with(classified("s3://bucket/x/y.png", "l", "normal"), "/l-metadata/human-annotated", json!("maybe")),
        "/l-metadata/class-name",
        json!(null),
    );
    let contradiction = classified("a.png", "l", "anomaly");
    let mut bytes = format!("{good}\n{{\"source-ref\": \n{twice_wrong}\n").into_bytes();
    bytes.extend(b"\xff\xfe\n");
    bytes.extend(format!("{contradiction}\n").bytes());
    fs::write(&path, bytes).unwrap();

    let error = Dataset::load(&path).unwrap_err();
    let place = path.display();
    let folder = root.path().display();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot use the data set, 6 problems:\n  \
             {place}:2: is not JSON: EOF while parsing a value at column 14\n  \
             {place}:3: `source-ref`: no file for `s3://bucket/x/y.png`; tried `{folder}/x/y.png`, `{folder}/y.png`\n  \
             {place}:3: `l-metadata.human-annotated`: must be \"yes\" or \"no\", got \"maybe\"\n  \
             {place}:3: `l-metadata.class-name`: must be `normal` or `anomaly`, got null\n  \
             {place}:4: is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0\n  \
             {place}:5: `source-ref`: is on line 1 already, with another class"
        )
    );
    let report = look(&path);
    assert_eq!((report.train.normals, report.problems.len()), (1, 6));
}

#[test]
fn the_kind_of_a_label_shows_also_when_its_type_is_not_said() {
    let root = pictures();
    let mut line = without(segmented("a.png"), "/anomaly-mask-ref-metadata/type");
    for (from, to) in [("anomaly-mask-ref", "scratches-ref"), ("anomaly-mask-ref-metadata", "scratches-ref-metadata")] {
        line[to] = line[from].take();
        line.as_object_mut().unwrap().remove(from);
    }
    let mut plain = without(classified("b.png", "mine", "normal"), "/mine-metadata/type");
    plain["mine-metadata"].as_object_mut().unwrap().remove("creation-date");
    let dataset = Dataset::load(&write(root.path(), &[line, plain])).unwrap();
    assert_eq!((dataset.normals().count(), dataset.anomalies().count(), dataset.labels.len()), (1, 1, 2));
    assert!(dataset.samples[0].mask.is_some());
}

/// A manifest in a folder of its own, its pictures in `root`.
fn elsewhere(root: &Path, lines: &[Value]) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("manifests")).unwrap();
    let path = write(&folder.path().join("manifests"), lines);
    std::os::unix::fs::symlink(root, folder.path().join("pictures")).unwrap();
    (folder, path)
}

#[test]
fn pictures_lie_where_the_user_says() {
    let root = pictures();
    let lines = [
        classified("s3://bucket/line-1/a.png", "l", "normal"),
        classified("s3://bucket/line-1/deep/c.png", "l", "anomaly"),
        classified("../pictures/b.png", "l", "normal"),
    ];
    let (_folder, path) = elsewhere(root.path(), &lines);
    let error = Dataset::load(&path).unwrap_err();
    assert_eq!(error.problems.len(), 3, "{error}");
    let message = error.problems[2].to_string();
    assert!(message.contains("set.manifest:3: `source-ref`: `../pictures/b.png` leads out of the manifest's folder"));

    let named = root.path().display();
    for mapping in [format!("{named}"), format!("s3://bucket/line-1={named}")] {
        let places = Places { mappings: vec![mapping.parse().unwrap()] };
        let dataset = Dataset::load_from(&path, &places).unwrap();
        assert_eq!(dataset.samples[1].path, root.path().join("deep/c.png"), "{mapping}");
        assert_eq!(dataset.warnings, [""; 0], "what the user named is not outside");
        let report = check(&path, None, &places, &Silent);
        assert!(report.is_ok(), "{report}");
        assert_eq!(check(&path, None, &Places::default(), &Silent).problems.len(), 3);
    }
}

#[test]
fn a_manifest_that_is_written_again_keeps_every_line() {
    let root = pictures();
    let lines = [segmented("a.png"), json!({"source-ref": "b.png"}), classified("deep/c.png", "l", "normal")];
    let dataset = Dataset::load(&write(root.path(), &lines)).unwrap();
    let other = tempfile::tempdir().unwrap();
    let out = other.path().join("again.manifest");
    let summary = write_manifest(&dataset, &out, at()).unwrap();
    assert_eq!((summary.images, summary.normals, summary.anomalies, summary.masks), (3, 1, 1, 1));
    let again = Dataset::load(&out).unwrap();
    let essence = |dataset: &Dataset| -> Vec<_> {
        let names = |path: &Path| path.file_name().unwrap().to_owned();
        dataset.samples.iter().map(|sample| (names(&sample.path), sample.class, sample.mask.is_some())).collect()
    };
    assert_eq!(essence(&again), essence(&dataset));
    assert_eq!(again.samples[1].class, None, "unlabelled lines are kept");
    assert!(again.samples[0].source_ref.starts_with("file:///"), "what is elsewhere is named in full");
    assert!(again.warnings[0].contains("4 files lie outside the manifest's folder"), "{:?}", again.warnings);
    let mask = |dataset: &Dataset| read_mask(&dataset.samples[0], &dataset.labels).unwrap();
    assert_eq!(mask(&again), mask(&dataset));
}

#[test]
fn problems_of_pictures_tell_the_line_that_names_them() {
    let root = pictures();
    fs::write(root.path().join("b.png"), "no picture").unwrap();
    RgbImage::new(64, 65).save(root.path().join("deep/c.png")).unwrap();
    let wrong_color =
        with(segmented("a.png"), "/anomaly-mask-ref-metadata/internal-color-map/9/hex-color", json!("#2ca02d"));
    let lines = [classified("b.png", "l", "normal"), wrong_color, classified("deep/c.png", "l", "normal")];
    let path = write(root.path(), &lines);
    let report = look(&path);
    let lines: Vec<_> = report.problems.iter().map(|problem| problem.named_in.as_ref().unwrap().line).collect();
    assert_eq!(lines, [1, 2, 3], "{report}");
    let text = report.to_string();
    for (line, message) in [
        (1, "b.png: cannot read: neither JPEG nor PNG"),
        (2, "mask.png: colour #2CA02C at (0, 0) has no label, 64 such pixels in all"),
        (3, "deep/c.png: is 64x65, but"),
    ] {
        assert!(text.contains(message) && text.contains(&format!("(named in {}:{line})", path.display())), "{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["problems"][1]["named_in"]["line"], 2);
}

/// A picture that looks like no other with another seed.
fn textured(seed: u32) -> RgbImage {
    let mut random = fastrand::Rng::with_seed(seed.into());
    let cells: Vec<u8> = (0..256).map(|_| random.u8(..)).collect();
    RgbImage::from_fn(64, 64, |x, y| Rgb([cells[(y / 4 * 16 + x / 4) as usize]; 3]))
}

#[test]
fn a_split_gives_each_label_its_share() {
    let root = pictures();
    let mut lines = Vec::new();
    for (label, column) in [("scratch", 0), ("dent", 1)] {
        for index in 0..10 {
            let name = format!("{label}-{index}");
            textured(10 * column + index).save(root.path().join(format!("{name}.png"))).unwrap();
            let color = if column == 0 { Rgb([0x2c, 0xa0, 0x2c]) } else { Rgb([0x1f, 0x77, 0xb4]) };
            let mask = RgbImage::from_fn(64, 64, |x, _| if x == column { color } else { Rgb([255; 3]) });
            mask.save(root.path().join(format!("{name}-mask.png"))).unwrap();
            let line = segmented(&format!("{name}.png"));
            lines.push(with(line, "/anomaly-mask-ref", json!(format!("{name}-mask.png"))));
        }
    }
    for index in 0..30 {
        let name = format!("n{index}.png");
        textured(20 + index).save(root.path().join(&name)).unwrap();
        lines.push(if index < 20 { classified(&name, "l", "normal") } else { json!({"source-ref": name}) });
    }
    let dataset = Dataset::load(&write(root.path(), &lines)).unwrap();
    for seed in 0..20 {
        let (train, test) = dataset.split(seed, TEST_SHARE, &Silent).unwrap();
        let of = |prefix: &str| test.samples.iter().filter(|sample| sample.source_ref.starts_with(prefix)).count();
        assert_eq!((of("scratch"), of("dent"), of("n")), (2, 2, 4));
        assert_eq!((train.samples.len(), test.samples.len()), (42, 8), "those without a label stay in training");
        assert_eq!(test.labels, dataset.labels);
    }
}

#[test]
fn an_empty_manifest_and_a_picture_instead_of_one_are_refused() {
    let root = pictures();
    let message = Dataset::load(&write(root.path(), &[])).unwrap_err().to_string();
    assert!(message.contains("set.manifest: has no lines"), "{message}");
    let message = Dataset::load(&root.path().join("a.png")).unwrap_err().to_string();
    assert!(message.contains("a.png:1: is not UTF-8"), "{message}");
}

fn at() -> jiff::Timestamp {
    "2022-02-04T22:47:07Z".parse().unwrap()
}

#[test]
fn a_csv_file_becomes_the_guide_s_manifest() {
    let root = tempfile::tempdir().unwrap();
    let (csv, out) = (root.path().join("set.csv"), root.path().join("set.manifest"));
    fs::write(&csv, "train-anomaly_1.jpg,anomaly\r\n\r\n\"b, c.jpg\",Normal\r\n").unwrap();
    let summary = from_csv(&csv, Some("s3://s3bucket/circuitboard"), &out, at()).unwrap();
    assert_eq!((summary.images, summary.normals, summary.anomalies), (2, 1, 1));
    let expected = concat!(
        r#"{"source-ref":"s3://s3bucket/circuitboard/train-anomaly_1.jpg","anomaly-label":1,"anomaly-label-metadata":"#,
        r#"{"confidence":1,"job-name":"labeling-job/anomaly-classification","class-name":"anomaly","#,
        r#""human-annotated":"yes","creation-date":"2022-02-04T22:47:07.000000","type":"groundtruth/image-classification"}}"#,
        "\n",
        r#"{"source-ref":"s3://s3bucket/circuitboard/b, c.jpg","anomaly-label":0,"anomaly-label-metadata":"#,
        r#"{"confidence":1,"job-name":"labeling-job/anomaly-classification","class-name":"normal","#,
        r#""human-annotated":"yes","creation-date":"2022-02-04T22:47:07.000000","type":"groundtruth/image-classification"}}"#,
        "\n",
    );
    assert_eq!(fs::read_to_string(out).unwrap(), expected);
}

#[test]
fn bad_rows_go_to_one_file_the_rest_to_another_and_no_manifest_is_written() {
    let root = tempfile::tempdir().unwrap();
    let (csv, out) = (root.path().join("set.csv"), root.path().join("set.manifest"));
    fs::write(&csv, "s3://b/1.jpg,normal\n\ns3://b/2.jpg,broken\ns3://b/1.jpg,anomaly\ns3://b/2.jpg,anomaly\n3.jpg,normal\ns3://b/4.jpg\n,normal\n").unwrap();
    let error = from_csv(&csv, None, &out, at()).unwrap_err();
    let CsvError::Rows { problems, errors_file, deduplicated_file } = &error else { unreachable!("{error}") };
    assert_eq!(problems.iter().filter_map(|problem| problem.line).collect::<Vec<_>>(), [3, 4, 6, 7, 8]);
    assert_eq!(
        fs::read_to_string(errors_file).unwrap(),
        "3,s3://b/2.jpg,broken,INVALID_CLASSIFICATION\n4,s3://b/1.jpg,anomaly,DUPLICATE\n\
         6,3.jpg,normal,MIXED_LOCATION\n7,s3://b/4.jpg,,INVALID_CLASSIFICATION\n8,,normal,NO_IMAGE\n"
    );
    assert_eq!(fs::read_to_string(deduplicated_file).unwrap(), "s3://b/1.jpg,normal\ns3://b/2.jpg,anomaly\n");
    assert!(errors_file.ends_with("set_errors.csv") && deduplicated_file.ends_with("set_deduplicated.csv"));
    assert!(!out.exists());
    assert!(
        error.to_string().contains("set.csv:3: `s3://b/2.jpg` has the classification `broken`; allowed are"),
        "{error}"
    );

    fs::copy(deduplicated_file, &csv).unwrap();
    assert_eq!(from_csv(&csv, None, &out, at()).unwrap().images, 2);
    assert!(!errors_file.exists() && !deduplicated_file.exists(), "what is mended leaves no complaints behind");
}

#[test]
fn csv_files_that_are_none_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (csv, out) = (root.path().join("set.csv"), root.path().join("set.manifest"));
    let refusal = |s3_path| from_csv(&csv, s3_path, &out, at()).unwrap_err().to_string();
    assert!(refusal(None).contains("set.csv: no such file"));
    fs::write(&csv, "\n").unwrap();
    assert!(refusal(None).contains("set.csv: has no rows"));
    fs::write(&csv, "s3://b/1.jpg,normal\n").unwrap();
    assert!(refusal(Some("/folder")).contains("the S3 path `/folder` must begin with `s3://`"));
    assert!(refusal(Some("s3://x/")).contains("with --s3-path none may"));
}
