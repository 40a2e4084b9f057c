//! What the tests share: the program, pictures, and models that are trained once.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use image::RgbImage;
use linewarden_synthetic::{BeltSpec, Defect, Part, normals, render_part_with_defect};
use linewarden_testkit::process::{Finished, run};
use linewarden_train::dataset::Picture;
use serde_json::Value;
use tempfile::TempDir;

/// Normal pictures that the synthetic model is trained on.
pub(crate) const PART_NORMALS: usize = 12;

/// Parts of 640x480 pixels.
pub(crate) fn spec() -> BeltSpec {
    BeltSpec::default()
}

pub(crate) fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Says something that is seen although the test passes.
pub(crate) fn say(what: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "    {what}");
}

/// A part of the shared data, or nothing, loudly.
pub(crate) fn shared(part: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(part);
    if path.exists() {
        return Some(path.canonicalize().unwrap());
    }
    let _ = writeln!(std::io::stderr(), "\n*** DID NOT RUN: `{}` is missing ***\n", path.display());
    None
}

/// The program, without anything that the caller's environment would tell it.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linewarden"));
    command.args(arguments);
    for variable in ["RUST_LOG", "SOURCE_DATE_EPOCH"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn call(arguments: &[&str]) -> Finished {
    run(&mut program(arguments)).unwrap()
}

/// A call that must end well.
pub(crate) fn done(arguments: &[&str]) -> Finished {
    let finished = call(arguments);
    assert!(finished.status.success(), "{arguments:?}: {}\n{}\n{}", finished.status, finished.stdout, finished.stderr);
    finished
}

/// The one JSON document on standard output of a call that must end well.
pub(crate) fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&done(arguments).stdout).unwrap()
}

/// A call that must fail with this exit code; gives its last words, which begin with `error: `.
pub(crate) fn failed(code: i32, arguments: &[&str]) -> String {
    failed_with(code, &mut program(arguments))
}

pub(crate) fn failed_with(code: i32, command: &mut Command) -> String {
    let Finished { status, stdout, stderr, .. } = run(command).unwrap();
    assert_eq!(status.code(), Some(code), "{command:?}\n{stdout}\n{stderr}");
    let start = stderr.find("error: ").unwrap_or_else(|| panic!("{command:?} does not say `error: `: {stderr}"));
    stderr[start..].to_owned()
}

/// Asserts that a message holds every one of these.
pub(crate) fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

/// What `detect --json` says of each picture's score.
pub(crate) fn scores(model: &Path, pictures: &[PathBuf]) -> Vec<f64> {
    let mut arguments = vec!["detect", "--json", "--model", text(model)];
    arguments.extend(pictures.iter().map(|path| text(path)));
    let answer = json(&arguments);
    let score = |entry: &Value| entry["DetectAnomalyResult"]["AnomalyScore"].as_f64().unwrap();
    answer.as_array().unwrap().iter().map(score).collect()
}

/// A folder for what is made once in a run of the tests; the next run begins with an empty one.
pub(crate) fn workshop() -> &'static Path {
    static WORKSHOP: OnceLock<PathBuf> = OnceLock::new();
    WORKSHOP.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        folder
    })
}

pub(crate) fn save(part: &Part, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_raw(part.width_px, part.height_px, part.rgb.clone()).unwrap().save(path).unwrap();
}

/// Writes `normal/00.png` and so on: good parts that no other caller with another `seed` has.
pub(crate) fn write_normals(folder: &Path, count: usize, seed: u64) {
    for (index, part) in normals(&BeltSpec { seed, ..spec() }, count).enumerate() {
        save(&part, &folder.join(format!("normal/{index:02}.png")));
    }
}

/// Writes `anomaly/00.png` and so on, every kind of defect in turn, with their masks.
pub(crate) fn write_anomalies(folder: &Path, count: usize) {
    for (index, defect) in Defect::ALL.into_iter().cycle().take(count).enumerate() {
        let part = render_part_with_defect(&spec(), index as u64, defect);
        save(&part, &folder.join(format!("anomaly/{index:02}.png")));
        fs::create_dir_all(folder.join("masks")).unwrap();
        let mask = image::GrayImage::from_raw(part.width_px, part.height_px, part.mask).unwrap();
        mask.save(folder.join(format!("masks/{index:02}.png"))).unwrap();
    }
}

/// Synthetic parts: a folder to train on, a folder to test on, and a model.
pub(crate) struct Parts {
    pub(crate) train: PathBuf,
    pub(crate) test: PathBuf,
    pub(crate) model: PathBuf,
}

/// Trained once; nobody may change it.
pub(crate) fn parts() -> &'static Parts {
    static PARTS: OnceLock<Parts> = OnceLock::new();
    PARTS.get_or_init(|| {
        let (train, test, model) =
            (workshop().join("parts/train"), workshop().join("parts/test"), workshop().join("parts/model"));
        write_normals(&train, PART_NORMALS, 1);
        write_normals(&test, 4, 2);
        write_anomalies(&test, 4);
        done(&["train", "--dataset", text(&train), "--type", "segmentation", "--out", text(&model)]);
        Parts { train, test, model }
    })
}

/// A model of the normal cookies.
pub(crate) struct Cookies {
    pub(crate) model: PathBuf,
    /// The training itself.
    pub(crate) training: Finished,
    /// The 22 test photographs with their truth, as `test-labels.csv` lists them.
    pub(crate) tests: Vec<(PathBuf, bool)>,
    /// The same as a data set.
    pub(crate) test: PathBuf,
}

/// Trained once; nothing without the shared data.
pub(crate) fn cookies() -> Option<&'static Cookies> {
    static COOKIES: OnceLock<Cookies> = OnceLock::new();
    let data = shared("cookies")?;
    Some(COOKIES.get_or_init(|| {
        let (train, test, model) =
            (workshop().join("cookies/train"), workshop().join("cookies/test"), workshop().join("cookies/model"));
        let normals: Vec<PathBuf> =
            (1..=31).map(|number| data.join(format!("training-images/normal-{number}.jpg"))).collect();
        link_into(&train.join("normal"), &normals);
        let labels = fs::read_to_string(data.join("test-labels.csv")).unwrap();
        let rows = labels.lines().map(|line| line.split_once(',').unwrap());
        let tests: Vec<_> = rows.map(|(name, class)| (data.join(name), class == "anomaly")).collect();
        for (path, is_anomalous) in &tests {
            let class = if *is_anomalous { "anomaly" } else { "normal" };
            link_into(&test.join(class), std::slice::from_ref(path));
        }
        let training = done(&["train", "--dataset", text(&train), "--out", text(&model), "--json"]);
        Cookies { model, training, tests, test }
    }))
}

/// Writes a photograph as PNG, so that no two decoders can differ.
pub(crate) fn as_png(photograph: &Path, path: &Path) {
    let Picture { width_px, height_px, rgb } = Picture::read(photograph).unwrap();
    RgbImage::from_raw(width_px as u32, height_px as u32, rgb).unwrap().save(path).unwrap();
}

/// Fills a folder with links to files, under their own names.
pub(crate) fn link_into(folder: &Path, files: &[PathBuf]) {
    fs::create_dir_all(folder).unwrap();
    for file in files {
        symlink(file, folder.join(file.file_name().unwrap())).unwrap();
    }
}

/// The files of a folder, sorted by name.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Every key of a JSON document with the type of its value, for a snapshot: the contract, without the numbers.
pub(crate) fn keys(value: &Value) -> String {
    let mut list = String::new();
    list_keys(value, "", &mut list);
    list
}

fn list_keys(value: &Value, place: &str, list: &mut String) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(entries) => {
            if let Some(first) = entries.first() {
                return list_keys(first, &format!("{place}[]"), list);
            }
            "empty list"
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                list_keys(field, &format!("{place}.{key}"), list);
            }
            return;
        }
    };
    writeln!(list, "{place}: {kind}").unwrap();
}
