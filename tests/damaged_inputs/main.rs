//! Damaged inputs, each through the doors that users have: every one gets an error or a warning that names it, none
//! ends in a panic, and memory stays bounded whatever a header claims.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

mod bytes;
mod csvs;
mod manifests;
mod masks;
mod paths;
mod pictures;
mod sets;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::{Rgb, RgbImage};
use linewarden_model::ModelType;
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::process::{Finished, run};

/// What a process may have in RAM while it looks at anything at all; the program alone has some 30 MB.
const MAXIMUM_MEMORY: u64 = 600 << 20;
const SIDE: u32 = 64;

/// An input and what must be said of it.
struct Case {
    kind: &'static str,
    name: String,
    /// Writes the input into a folder of its own.
    write: Box<dyn Fn(&Path)>,
    call: Call,
    code: i32,
    says: Vec<String>,
}

/// Which door the input goes through; paths are below the case's folder.
enum Call {
    /// `dataset check .` and then `train`, which must refuse what the check calls a problem.
    Folder,
    /// `dataset check set.manifest`.
    Manifest,
    /// `dataset check . --test test`.
    WithTest,
    /// `dataset from-csv set.csv`, perhaps with an S3 path.
    Csv(Option<&'static str>),
    /// `dataset check PATH` of something that lies elsewhere.
    Check(&'static str),
}

impl Case {
    fn new(
        kind: &'static str,
        name: impl Into<String>,
        call: Call,
        code: i32,
        says: &[&str],
        write: impl Fn(&Path) + 'static,
    ) -> Self {
        let says = says.iter().map(|&part| part.to_owned()).collect();
        Self { kind, name: name.into(), write: Box::new(write), call, code, says }
    }
}

#[test]
fn a_hundred_damaged_inputs_get_a_clear_answer_within_bounded_memory() {
    let cases: Vec<Case> =
        [pictures::cases(), masks::cases(), manifests::cases(), paths::cases(), csvs::cases(), sets::cases()]
            .into_iter()
            .flatten()
            .collect();
    let names: BTreeSet<String> = cases.iter().map(|case| format!("{}/{}", case.kind, case.name)).collect();
    assert_eq!(names.len(), cases.len(), "each case has a name of its own");
    assert!(cases.len() >= 100, "{} cases", cases.len());

    let workshop = tempfile::tempdir().unwrap();
    let (mut wrong, mut kinds, mut peak) = (String::new(), BTreeMap::new(), (0, String::new()));
    for (index, case) in cases.iter().enumerate() {
        let folder = workshop.path().join(index.to_string());
        fs::create_dir(&folder).unwrap();
        (case.write)(&folder);
        *kinds.entry(case.kind).or_insert(0) += 1;
        let finished = call(&folder, &case.call);
        peak = peak.max((finished.peak_memory_bytes, format!("{}/{}", case.kind, case.name)));
        if let Err(fault) = judge(&finished, case.code, &case.says) {
            let _ = writeln!(wrong, "\n=== {}/{}: {fault}", case.kind, case.name);
        }
        if matches!(case.call, Call::Folder) && case.code == 1 {
            let finished = train(&folder);
            peak = peak.max((finished.peak_memory_bytes, format!("train: {}/{}", case.kind, case.name)));
            if let Err(fault) = judge(&finished, 1, &case.says) {
                let _ = writeln!(wrong, "\n=== train: {}/{}: {fault}", case.kind, case.name);
            }
            assert!(!folder.join("model").exists(), "nothing is left behind");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong}");
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let (bytes, of) = peak;
    say(&format!("{} damaged inputs: {}; at most {} MiB ({of})", cases.len(), kinds.join(", "), bytes >> 20));
    assert!(bytes < MAXIMUM_MEMORY, "{of} took {} MiB", bytes >> 20);
}

#[test]
fn odd_but_sound_pictures_are_read_without_complaint() {
    let folder = tempfile::tempdir().unwrap();
    sound_set(folder.path());
    for (name, bytes) in pictures::odd_but_sound() {
        fs::write(folder.path().join("normal").join(name), bytes).unwrap();
    }
    let finished = call(folder.path(), &Call::Folder);
    assert_eq!(finished.status.code(), Some(0), "{}{}", finished.stdout, finished.stderr);
    for (name, _) in pictures::odd_but_sound() {
        assert!(!finished.stdout.contains(&format!("{name}:")), "{name}: {}", finished.stdout);
    }
}

#[test]
fn pictures_of_a_manifest_lie_where_images_says() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    let lines = (0..10).map(|index| {
        put(&pictures, &format!("{index}.png"), png_of(&textured(index)));
        format!("{}\n", manifests::classified(&format!("s3://bucket/line-1/{index}.png"), "normal"))
    });
    let lines: String = lines.collect();
    let manifest = put(folder.path(), "manifests/set.manifest", lines);
    let check = |arguments: &[&str]| {
        let finished = run(program(&["dataset", "check", text(&manifest)]).args(arguments)).unwrap();
        (finished.status.code(), format!("{}{}", finished.stdout, finished.stderr))
    };
    let (code, said) = check(&[]);
    assert!(code == Some(1) && said.contains("no file for `s3://bucket/line-1/0.png`; tried"), "{said}");
    assert_eq!(check(&["--images", text(&pictures)]).0, Some(0));
    assert_eq!(check(&["--images", &format!("s3://bucket/line-1={}", pictures.display())]).0, Some(0));
    let (code, said) = check(&["--images", "/no/such/folder"]);
    assert!(code == Some(2) && said.contains("/no/such/folder"), "{said}");
    let (code, said) = check(&["--images", "s3://bucket"]);
    assert!(code == Some(2) && said.contains("allowed are `DIR` and"), "{said}");
}

#[test]
fn detection_names_every_damaged_picture_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let model = brightness_package(&folder.path().join("model"), SIDE, SIDE, ModelType::Classification).unwrap();
    let good = folder.path().join("good.png");
    textured(1).save(&good).unwrap();
    let mut command = program(&["detect", "--json", "--model", text(&model)]);
    let mut bad = Vec::new();
    for (index, (name, bytes)) in pictures::unreadable().into_iter().enumerate() {
        let path = folder.path().join(format!("{index}-{name}"));
        fs::write(&path, bytes).unwrap();
        command.arg(&path);
        bad.push(path);
    }
    command.arg(&good);
    let finished = run(&mut command).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    let answers: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), bad.len() + 1);
    for (path, answer) in bad.iter().zip(answers) {
        assert_eq!(answer["file"], text(path));
        assert!(answer["Error"].as_str().unwrap().contains(text(path)), "{answer}");
    }
    assert!(answers[bad.len()]["DetectAnomalyResult"]["Confidence"].is_number());
    assert!(finished.peak_memory_bytes < MAXIMUM_MEMORY, "{} MiB", finished.peak_memory_bytes >> 20);
}

/// What is wrong with an answer, if so.
fn judge(finished: &Finished, code: i32, says: &[String]) -> Result<(), String> {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    let fault = |what: String| Err(format!("{what}\n{}", said.chars().take(3000).collect::<String>()));
    if finished.status.code() != Some(code) {
        return fault(format!("ended with {}, not {code}", finished.status));
    }
    if said.contains("panicked") {
        return fault("panicked".to_owned());
    }
    if said.contains('\u{1b}') {
        return fault("a control character of the input reached the terminal".to_owned());
    }
    match says.iter().find(|part| !said.contains(part.as_str())) {
        Some(part) => fault(format!("`{part}` is missing")),
        None => Ok(()),
    }
}

fn call(folder: &Path, call: &Call) -> Finished {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let mut command = match call {
        Call::Folder => program(&["dataset", "check", text(folder)]),
        Call::Manifest => program(&["dataset", "check", &path("set.manifest")]),
        Call::WithTest => program(&["dataset", "check", text(folder), "--test", &path("test")]),
        Call::Csv(s3_path) => {
            let mut command = program(&["dataset", "from-csv", &path("set.csv"), "--out", &path("set.manifest")]);
            command.args(s3_path.map(|s3_path| ["--s3-path", s3_path]).into_iter().flatten());
            command
        }
        Call::Check(elsewhere) => program(&["dataset", "check", elsewhere]),
    };
    run(&mut command).unwrap()
}

fn train(folder: &Path) -> Finished {
    run(&mut program(&["train", "--dataset", text(folder), "--out", text(&folder.join("model"))])).unwrap()
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linewarden"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "    {what}");
}

/// A picture that looks like no other with another seed.
fn textured(seed: u32) -> RgbImage {
    let cell = |x: u32, y: u32| {
        let mixed =
            (x / 4 * 16 + y / 4 + 1).wrapping_mul(seed.wrapping_mul(2).wrapping_add(1)).wrapping_mul(0x9e37_79b9);
        (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b).to_be_bytes()[0]
    };
    RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([cell(x, y), cell(y, x), cell(x, x + y)]))
}

/// Ten good pictures in `normal/`, two bad ones with masks in `anomaly/` and `masks/`.
fn sound_set(folder: &Path) {
    for name in ["normal", "anomaly", "masks"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    for index in 0..10 {
        textured(index).save(folder.join(format!("normal/{index}.png"))).unwrap();
    }
    for index in 0..2 {
        textured(100 + index).save(folder.join(format!("anomaly/{index}.png"))).unwrap();
        mask().save(folder.join(format!("masks/{index}.png"))).unwrap();
    }
}

/// A green spot on black.
fn mask() -> RgbImage {
    let is_in = |x: u32, y: u32| (20..30).contains(&x) && (20..30).contains(&y);
    RgbImage::from_fn(SIDE, SIDE, |x, y| if is_in(x, y) { Rgb([0x23, 0xa4, 0x36]) } else { Rgb([0; 3]) })
}

fn png_of(image: &RgbImage) -> Vec<u8> {
    encoded(image, image::ImageFormat::Png)
}

fn jpeg_of(image: &RgbImage) -> Vec<u8> {
    encoded(image, image::ImageFormat::Jpeg)
}

fn encoded(image: &RgbImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A file in a folder of the case.
fn put(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}
