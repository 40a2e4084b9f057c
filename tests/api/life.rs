//! The whole life of a project.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use linewarden_synthetic::{BeltSpec, Defect, Part, normals, render_part_with_defect};
use serde_json::{Value, json};

use crate::{Kind, Site};

/// Good and bad parts in each of the two data sets.
const TRAIN: (usize, usize) = (24, 12);
const TEST: (usize, usize) = (10, 10);

/// Pictures, manifests with paths relative to the folder, and the test's pictures once more in `test/`.
pub(crate) fn parts(folder: &Path) -> Result<()> {
    let spec = |seed| BeltSpec { seed, width_px: 160, height_px: 120, ..BeltSpec::default() };
    for (kind, (good, bad), seed) in [("train", TRAIN, 5), ("test", TEST, 6)] {
        std::fs::create_dir_all(folder.join(kind))?;
        let mut manifest = String::new();
        let mut save = |name: String, part: Part, class: &str| -> Result<()> {
            let picture =
                image::RgbImage::from_raw(part.width_px, part.height_px, part.rgb).context("a whole picture")?;
            picture.save(folder.join(&name))?;
            let metadata = json!({
                "confidence": 1, "job-name": "labeling-job/anomaly-label", "class-name": class, "human-annotated": "yes",
                "creation-date": "2021-06-22T10:10:10.000", "type": "groundtruth/image-classification",
            });
            let line = json!({ "source-ref": name, "anomaly-label": 1, "anomaly-label-metadata": metadata });
            Ok(writeln!(manifest, "{line}")?)
        };
        for (index, part) in normals(&spec(seed), good).enumerate() {
            save(format!("{kind}/good-{index:02}.png"), part, "normal")?;
        }
        for (index, defect) in Defect::ALL.into_iter().cycle().take(bad).enumerate() {
            let part = render_part_with_defect(&spec(seed), index as u64, defect);
            save(format!("{kind}/bad-{index:02}.png"), part, "anomaly")?;
        }
        std::fs::write(folder.join(format!("{kind}.manifest")), manifest)?;
    }
    Ok(())
}

/// The command line tells no status.
fn refusal(answer: &Value, code: &str, status: u16, told: &str) {
    assert_eq!(answer[0], code, "{answer}");
    assert!(answer[1].is_null() || answer[1] == status, "{answer}");
    assert!(answer[3].as_str().unwrap().contains(told), "{told}: {answer}");
}

#[test]
fn boto3_lives_the_whole_life_of_a_project() -> Result<()> {
    lives(Kind::Boto3)
}

#[test]
fn the_newest_boto3_lives_it_with_our_model_of_the_service() -> Result<()> {
    lives(Kind::NewestBoto3)
}

#[test]
fn the_aws_command_lives_it() -> Result<()> {
    lives(Kind::AwsCommand)
}

fn lives(kind: Kind) -> Result<()> {
    let folder = tempfile::tempdir()?;
    parts(folder.path())?;
    let site = Site::new()?;
    lives_at(&site, kind, folder.path(), true)?;
    let mut client = site.client_of(kind, folder.path(), "cap")?;
    assert_eq!(client.does("delete")?, json!([]));
    ensure!(!site.daemon.path("data/models/cap/1").exists(), "a deleted model's package is still there");
    site.end()
}

/// The life of the project `cap` up to its end, which is the caller's.
pub(crate) fn lives_at(site: &Site, kind: Kind, folder: &Path, makes_bucket: bool) -> Result<()> {
    let mut client = site.client_of(kind, folder, "cap")?;
    if makes_bucket {
        client.does("bucket")?;
    }
    assert_eq!(client.does("upload")?, json!({ "train": 36, "test": 20 }));
    let made = client.does("create")?;
    assert_eq!(made["train"], json!({ "Total": 36, "Labeled": 36, "Normal": 24, "Anomaly": 12 }));
    assert_eq!(made["datasets"], json!(["train", "test"]));
    assert_eq!(
        client.does("entries")?,
        json!({
            "all": 36, "normal": 24, "anomaly": 12, "labeled": 36, "unlabeled": 0, "one": 1, "before": 36, "after": 0,
            "updated": { "Total": 37, "Labeled": 35, "Normal": 23, "Anomaly": 12 },
        })
    );
    let trained = client.does("train")?;
    ensure!(trained["performance"]["F1Score"].as_f64().unwrap() > 0.8, "{trained}");
    assert_eq!(trained["arn"], "arn:aws:lookoutvision:eu-west-1:123456789012:model/cap/1");
    assert_eq!(
        (&trained["evaluated"], &trained["models"], &trained["latest"]),
        (&json!(20), &json!(["1"]), &json!("1"))
    );
    let detected = client.does("detect")?;
    assert_eq!(detected["units"], json!([1, 2, false]));
    let answers = detected["answers"].as_array().unwrap();
    let right = answers.iter().filter(|one| one[1] == one[0].as_str().unwrap().starts_with("bad")).count();
    ensure!(answers.len() == 20 && right >= 18, "{right} right of {answers:?}");
    refusal(&detected["wrong"], "ValidationException", 400, "neither JPEG nor PNG");
    refusal(&detected["deleted"], "ConflictException", 409, "HOSTED");
    refusal(&detected["late"], "ConflictException", 409, "must be HOSTED");
    let processed = "linewarden_processed_image_total{camera=\"api\",line=\"api\",model_version=\"1\",project=\"cap\"}";
    assert_eq!(site.daemon.metric(processed)?, 20.0);
    let units = "linewarden_in_service_inference_units{model_version=\"1\",project=\"cap\"}";
    site.daemon.wait_metric(units, |units| units == 0.0)?;
    let packaged = client.does("package")?;
    let base = "components/cap-component/1.2.3";
    let files = ["cap-component.tar", "recipe.json", "recipe.yaml"].map(|file| format!("{base}/{file}"));
    assert_eq!(packaged["files"], json!(files));
    assert_eq!(packaged["listed"], json!([["first", "SUCCEEDED", "Greengrass"]]));
    component_runs(&folder.join("component.tar"), folder)?;
    let tags = client.does("tags")?;
    let tag = |value: &str| json!([{ "Key": "line", "Value": value }]);
    assert_eq!(tags, json!([tag("press 1"), tag("press 2")]));
    let errors = client.does("errors")?;
    refusal(&errors["twice"], "ConflictException", 409, "exists already");
    if kind != Kind::AwsCommand {
        assert_eq!(errors["twice"][2], "PROJECT");
    }
    refusal(&errors["name"], "ValidationException", 400, "regular expression pattern");
    refusal(&errors["absent"], "ResourceNotFoundException", 404, "does not exist");
    refusal(&errors["no model"], "ResourceNotFoundException", 404, "cap/77");
    refusal(&errors["in use"], "ConflictException", 409, "delete them first");
    refusal(&errors["token"], "ValidationException", 400, "");
    refusal(&errors["changes"], "ValidationException", 400, "`source-ref`");
    refusal(&errors["units"], "ValidationException", 400, "at least MinInferenceUnits");
    refusal(&errors["stop"], "ConflictException", 409, "TRAINED");
    refusal(&errors["bucket"], "ValidationException", 400, "no-such-bucket");
    refusal(&errors["stranger"], "UnrecognizedClientException", 403, "");
    refusal(&errors["forger"], "InvalidSignatureException", 403, "does not match");
    refusal(&errors["elsewhere"], "InvalidSignatureException", 403, "eu-north-1");
    Ok(())
}

/// The component of a packaging job is whole: its package scores pictures.
fn component_runs(archive: &Path, folder: &Path) -> Result<()> {
    let unpacked: PathBuf = folder.join("component");
    tar::Archive::new(std::fs::File::open(archive)?).unpack(&unpacked)?;
    let home = unpacked.join("cap-component");
    let recipe: Value = serde_json::from_str(&std::fs::read_to_string(home.join("recipe.json"))?)?;
    assert_eq!(recipe["ComponentVersion"], "1.2.3");
    ensure!(home.join("recipe.yaml").is_file() && home.join("linewarden-agent.service").is_file());
    let binary = env!("CARGO_BIN_EXE_linewarden");
    let check =
        std::process::Command::new(binary).args(["serve", "--check"]).arg(home.join("linewarden.toml")).output()?;
    ensure!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let model = home.join("models/cap-component");
    let picture = folder.join("test/bad-00.png");
    let detect = std::process::Command::new(binary).args(["detect", "--model"]).arg(model).arg(picture).output()?;
    ensure!(detect.status.success(), "{}", String::from_utf8_lossy(&detect.stderr));
    Ok(())
}

#[test]
fn the_guides_cookies_are_told_apart_without_any_option() -> Result<()> {
    cookies(Kind::Boto3)
}

#[test]
fn the_newest_boto3_has_the_cookies_told_apart() -> Result<()> {
    cookies(Kind::NewestBoto3)
}

#[test]
fn the_aws_command_has_the_cookies_told_apart() -> Result<()> {
    cookies(Kind::AwsCommand)
}

fn cookies(kind: Kind) -> Result<()> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/cookies");
    if !data.is_dir() {
        // Loudly: the data are not part of the project.
        std::io::Write::write_all(&mut std::io::stderr(), b"NOT RUN: there is no ../shared/data/cookies\n")?;
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    for name in ["train.manifest", "training-images", "mask-images"] {
        std::os::unix::fs::symlink(data.join(name).canonicalize()?, folder.path().join(name))?;
    }
    std::os::unix::fs::symlink(data.join("test-images").canonicalize()?, folder.path().join("test"))?;
    let labels = std::fs::read_to_string(data.join("test-labels.csv"))?;
    let site = Site::new()?;
    let mut client = site.client_of(kind, folder.path(), "cookies")?;
    client.does("bucket")?;
    client.does("upload")?;
    client.does("create")?;
    let trained = client.does("train")?;
    let detected = client.does("detect")?;
    let answers = detected["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 22, "{detected}");
    for answer in answers {
        let (name, is_anomalous) = (answer[0].as_str().unwrap(), answer[1].as_bool().unwrap());
        let line = labels.lines().find(|line| line.contains(name)).with_context(|| format!("no label of {name}"))?;
        assert_eq!(is_anomalous, line.contains("anomaly"), "{name}: {answer}");
        // Segmentation: the background comes first, and the mask is a PNG.
        assert_eq!((&answer[2][0], &answer[3]), (&json!("background"), &json!("89504e47")), "{name}");
    }
    std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("cookies by {kind:?}: {}\n", trained["performance"]).as_bytes(),
    )?;
    client.does("delete")?;
    site.end()
}
