//! Manifests that are broken at many places.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{Call, Case, mask, png_of, put, textured};

/// Ten normal lines, and the pictures of all.
pub(crate) fn pictures(folder: &Path) -> Vec<Value> {
    for index in 0..12 {
        put(folder, &format!("{index}.png"), png_of(&textured(index)));
    }
    put(folder, "mask.png", png_of(&mask()));
    (0..10).map(|index| classified(&format!("{index}.png"), "normal")).collect()
}

pub(crate) fn classified(source_ref: &str, class: &str) -> Value {
    json!({
        "source-ref": source_ref, "label": 0,
        "label-metadata": {
            "confidence": 1, "job-name": "j", "class-name": class, "human-annotated": "yes",
            "creation-date": "2020-11-10T03:37:09.600", "type": "groundtruth/image-classification"
        }
    })
}

pub(crate) fn segmented() -> Value {
    let mut line = classified("10.png", "anomaly");
    line["mask-ref"] = json!("mask.png");
    line["mask-ref-metadata"] = json!({
        "internal-color-map": {
            "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0},
            "1": {"class-name": "scratch", "hex-color": "#23a436", "confidence": 0.0}
        },
        "type": "groundtruth/semantic-segmentation", "human-annotated": "yes",
        "creation-date": "Mon Aug 22 2022 13:52:52 GMT-0700 (Pacific Daylight Time)", "job-name": "j"
    });
    line
}

/// Ten good lines, and this one as the eleventh.
pub(crate) fn eleventh(kind: &'static str, name: impl Into<String>, code: i32, says: &[&str], line: Vec<u8>) -> Case {
    let says: Vec<&str> = ["set.manifest:11"].into_iter().chain(says.iter().copied()).collect();
    Case::new(kind, name, Call::Manifest, code, &says, move |folder: &Path| {
        let mut bytes: Vec<u8> = pictures(folder).iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
        bytes.extend(&line);
        bytes.push(b'\n');
        put(folder, "set.manifest", bytes);
    })
}

pub(crate) fn with(mut line: Value, pointer: &str, value: Value) -> Value {
    *line.pointer_mut(pointer).unwrap() = value;
    line
}

fn without(mut line: Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    line.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
    line
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = broken_json();
    for (name, says, line) in wrong_keys() {
        cases.push(eleventh("manifest key", name, 1, &[says], line.to_string().into_bytes()));
    }
    for (name, says, line) in odd_lines() {
        cases.push(eleventh("odd manifest", name, 0, &["warning", says], line.to_string().into_bytes()));
    }
    cases.extend(whole_files());
    cases
}

fn broken_json() -> Vec<Case> {
    let line = segmented().to_string();
    let mut cases = Vec::new();
    for part in 1..20 {
        let kept = line.len() * part / 20;
        let cut = line.as_bytes()[..kept].to_vec();
        cases.push(eleventh("broken JSON", format!("cut at {kept}"), 1, &["is not JSON", "at column"], cut));
    }
    for (name, from, to) in [
        ("no comma", ",", " "),
        ("no colon", ":", " "),
        ("no brace", "{", " "),
        ("single quotes", "\"", "'"),
        ("no quotes", "\"", ""),
        ("two lines as one", "}}", "}}{}"),
        ("a comment", "{", "{/* */"),
    ] {
        let changed = line.replacen(from, to, 1).into_bytes();
        cases.push(eleventh("broken JSON", name, 1, &["is not JSON"], changed));
    }
    for (name, says, line) in [
        ("not a number", "is not JSON", b"{\"source-ref\": NaN}".to_vec()),
        ("an array", "is JSON, but not an object", b"[]".to_vec()),
        ("a string", "is JSON, but not an object", b"\"10.png\"".to_vec()),
        ("null", "is JSON, but not an object", b"null".to_vec()),
        ("nested deep", "is not JSON", b"{\"a\":".repeat(100_000)),
        ("brackets deep", "is not JSON", b"[".repeat(1_000_000)),
        ("a lone surrogate", "is not JSON", br#"{"source-ref": "\ud800"}"#.to_vec()),
        ("not UTF-8", "is not UTF-8", b"{\"source-ref\": \"\xe9.png\"}".to_vec()),
        ("UTF-16", "is not UTF-8", b"\xff\xfe{\0}\0".to_vec()),
        ("a zero byte", "is not JSON", b"{\"source-ref\": \"a\0b\"}".to_vec()),
    ] {
        cases.push(eleventh("broken JSON", name, 1, &[says], line));
    }
    cases
}

fn wrong_keys() -> Vec<(&'static str, &'static str, Value)> {
    let good = || classified("10.png", "normal");
    let map = "/mask-ref-metadata/internal-color-map";
    let color = |color: &str| with(segmented(), &format!("{map}/1/hex-color"), json!(color));
    let huge: serde_json::Map<String, Value> = (0..2000)
        .map(|n| (n.to_string(), json!({"class-name": format!("l{n}"), "hex-color": format!("#00{n:04x}")})))
        .collect();
    vec![
        ("no source", "`source-ref`: is missing", without(good(), "/source-ref")),
        ("a number as source", "must be a string, got a number", with(good(), "/source-ref", json!(1))),
        ("an empty source", "`source-ref`: is empty", with(good(), "/source-ref", json!(""))),
        ("a missing picture", "no file for `no.png`; tried", with(good(), "/source-ref", json!("no.png"))),
        ("a folder as picture", "no file for `.`", with(good(), "/source-ref", json!("."))),
        ("another scheme", "cannot read from `https://`", with(good(), "/source-ref", json!("https://h/10.png"))),
        ("no key", "has no key", with(good(), "/source-ref", json!("s3://bucket"))),
        ("a long source", "the most allowed is 4096", with(good(), "/source-ref", json!("a/".repeat(1 << 20)))),
        ("a zero in the source", "no file for", with(good(), "/source-ref", json!("10.png\0"))),
        ("control characters", r"\u{1b}[31m", with(good(), "/source-ref", json!("\u{1b}[31m\n\u{7}.png"))),
        ("no label", "`label`: is missing", without(good(), "/label")),
        ("no class", "class-name`: is missing", without(good(), "/label-metadata/class-name")),
        ("a number as class", "must be `normal` or `anomaly`", with(good(), "/label-metadata/class-name", json!(1))),
        ("perhaps human", "must be \"yes\" or \"no\"", with(good(), "/label-metadata/human-annotated", json!(true))),
        ("no mask", "`mask-ref`: is missing", without(segmented(), "/mask-ref")),
        ("a missing mask", "no file for `no.png`", with(segmented(), "/mask-ref", json!("no.png"))),
        ("no colour map", "internal-color-map`: is missing", without(segmented(), map)),
        ("an array of colours", "must be an object such as", with(segmented(), map, json!([1]))),
        ("no colour", "hex-color`: is missing", without(segmented(), &format!("{map}/1/hex-color"))),
        ("a colour's name", "`green` is no colour", color("green")),
        ("a short colour", "`#23a43` is no colour", color("#23a43")),
        ("the background's colour", "has the colour of the background", color("#ffffff")),
        ("2000 colours", "the most allowed is 255 labels", with(segmented(), map, Value::Object(huge))),
        ("another picture's class", "is on line 1 already, with another class", classified("0.png", "anomaly")),
        ("a mask of another colour", "has no label", color("#23a437")),
        ("a picture as mask", "has no label", with(segmented(), "/mask-ref", json!("11.png"))),
        ("two jobs", "has several attributes", {
            let mut line = good();
            (line["l2"], line["l2-metadata"]) = (json!(0), line["label-metadata"].clone());
            line
        }),
    ]
}

fn odd_lines() -> Vec<(&'static str, &'static str, Value)> {
    let good = || classified("10.png", "normal");
    vec![
        ("another class", "neither `normal` nor `anomaly`", classified("10.png", "perhaps")),
        ("no date", "is no date", with(good(), "/label-metadata/creation-date", json!("yesterday"))),
        ("a picture twice", "is on line 1 already", classified("0.png", "normal")),
        (
            "a mask without a class",
            "has a mask but no class",
            without(without(segmented(), "/label-metadata"), "/label"),
        ),
        ("a normal with a mask", "marks an anomaly, but the picture is normal", {
            with(segmented(), "/label-metadata/class-name", json!("normal"))
        }),
    ]
}

fn whole_files() -> Vec<Case> {
    let file = |name, code, says: &[&str], bytes: Vec<u8>| {
        Case::new("manifest file", name, Call::Manifest, code, says, move |folder: &Path| {
            put(folder, "set.manifest", &bytes);
        })
    };
    let mut cases = vec![
        file("empty", 1, &["set.manifest: has no lines"], Vec::new()),
        file("blank", 1, &["set.manifest: has no lines"], b" \n\t\r\n\n".to_vec()),
        file("a picture", 1, &["set.manifest:1: is not UTF-8"], png_of(&textured(1))),
        file("a line of 20 MiB", 1, &["set.manifest:1: the line is longer than 16 MiB"], vec![b' '; 20 << 20]),
        file("a million bad lines", 1, &["set.manifest:1:", "so many problems"], b"{}\n".repeat(1_000_000)),
        file("UTF-16", 1, &["set.manifest:1: is not UTF-8"], b"\xff\xfe{\0}\0\n\0".to_vec()),
    ];
    cases.push(Case::new(
        "manifest file",
        "over a gigabyte",
        Call::Manifest,
        1,
        &["quota: a manifest has at most 1 GB"],
        |folder| {
            // Without blocks on the disk: zeros that are no lines.
            fs::File::create(folder.join("set.manifest")).unwrap().set_len((1 << 30) + 1).unwrap();
        },
    ));
    cases.push(Case::new(
        "manifest file",
        "several buckets",
        Call::Manifest,
        0,
        &["several buckets: `a`, `b`"],
        |folder| {
            let mut lines = pictures(folder);
            lines.push(classified("s3://a/10.png", "normal"));
            lines.push(classified("s3://b/11.png", "normal"));
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            put(folder, "set.manifest", text);
        },
    ));
    cases
}
