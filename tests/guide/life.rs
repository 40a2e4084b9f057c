//! The samples that call the service: a project from its first picture to its end.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::pictures::{Parts, Set, labelled, shows};
use crate::{Desk, Guide, Site, samples, says};

const PROJECT: &str = "cap";
const BUCKET: &str = "pictures";

/// Lays the samples that the service's life needs.
fn desk(guide: &Guide) -> Result<Desk> {
    let mut desk = Desk::new()?;
    let mut functions = std::fs::read_to_string(crate::tests("samples_around.py"))?;
    let projects = [&samples::CREATE_PROJECT, &samples::LIST_PROJECTS, &samples::DELETE_PROJECT];
    functions += &guide.class("Projects", &projects)?;
    let datasets = [
        &samples::CREATE_DATASET,
        &samples::DESCRIBE_DATASET,
        &samples::UPDATE_DATASET_ENTRIES,
        &samples::DELETE_DATASET,
    ];
    functions += &guide.class("Datasets", &datasets)?;
    let models = [&samples::CREATE_MODEL, &samples::DESCRIBE_MODELS, &samples::DELETE_MODEL];
    functions += &guide.class("Models(ModelDescriptions)", &models)?;
    functions += &guide.class("Hosting", &[&samples::START_MODEL, &samples::STOP_MODEL])?;
    let free = [
        &samples::DETECT_ANOMALIES,
        &samples::REJECT_ON_CLASSIFICATION,
        &samples::REJECT_ON_COVERAGE,
        &samples::REJECT_ON_ANOMALY_TYPES,
    ];
    for function in free {
        functions += &format!("\n\n{}", guide.program(function)?);
    }
    desk.write("samples.py", functions)?;
    let programs = [
        ("getting_started.py", &samples::GETTING_STARTED),
        ("csv_to_manifest.py", &samples::CSV_TO_MANIFEST),
        ("dataset_export.py", &samples::DATASET_EXPORT),
        ("show_anomalies.py", &samples::SHOW_ANOMALIES),
        ("mask_colours.py", &samples::MASK_COLOURS),
        ("lambda_function.py", &samples::LAMBDA_FUNCTION),
        ("client.py", &samples::LAMBDA_CLIENT),
    ];
    let font = desk.path("font.ttf").display().to_string();
    for (name, sample) in programs {
        let names = [("/Library/Fonts/Tahoma.ttf", font.as_str()), ("path to local copy of mask file", "mask.png")];
        let named = names.iter().fold(guide.program(sample)?, |program, (from, to)| program.replace(from, to));
        desk.write(name, named)?;
    }
    desk.set("PROJECT_NAME", PROJECT);
    desk.set("MODEL_VERSION", "1");
    desk.set("CONFIDENCE", "50");
    Ok(desk)
}

#[test]
fn the_guides_samples_live_the_whole_life_of_a_project() -> Result<()> {
    let Some(guide) = Guide::open()? else { return Ok(()) };
    let mut site = Site::new(desk(&guide)?)?;
    let folder = site.desk.folder.path().to_owned();
    let parts = Parts { folder: &folder, bucket: BUCKET };
    let (train, test) = (parts.draw("train", 5, 12, 10)?, parts.draw("test", 6, 3, 4)?);
    let keys = [train.keys.as_slice(), &test.keys].concat();
    site.done(&json!({ "upload": BUCKET, "with": keys }))?;

    assert_eq!(site.desk.run("getting_started.py", &[])?, "Done!\n");
    let made = site.sample("Projects.create_project", json!([PROJECT]))?;
    let arn = "arn:aws:lookoutvision:eu-west-1:123456789012:project/cap";
    assert_eq!(made["answer"], arn);
    says(&made, &["Creating project: cap", arn]);
    let started = site.desk.run("getting_started.py", &[])?;
    assert_eq!(started, format!("Project: cap\nARN: {arn}\n\nDone!\n"));

    datasets(&mut site, &train, &test)?;
    csv_to_manifest(&mut site, &train)?;
    std::fs::copy(site.desk.path("train/scratch-00-mask.png"), site.desk.path("mask.png"))?;
    let colors = site.desk.run("mask_colours.py", &[])?;
    let mut colors: Vec<&str> = colors.lines().collect();
    colors.sort_unstable();
    assert_eq!(colors, ["#2ca02c", "#ffffff"]);

    let results = format!("s3://{BUCKET}/results/");
    let trained = site.sample("Models.create_model", json!([PROJECT, results, "line", "press"]))?;
    assert_eq!(trained["answer"], json!(["TRAINED", "1"]));
    says(&trained, &["Model training in progress...", "Model was successfully trained."]);
    let described = site.sample("Models.describe_models", json!([PROJECT]))?;
    says(&described, &["Project: cap", "Version 1: TRAINED, ", "model/cap/1", "Done..."]);
    let listed = site.sample("Projects.list_projects", json!([]))?;
    says(&listed, &["Project: cap", "type: train", "type: test", "Version 1: TRAINED", "No datasets", "No models"]);

    hosting(&mut site, &test)?;
    export(&mut site, &[("train", &train), ("test", &test)])?;

    says(&site.sample("Models.delete_model", json!([PROJECT, "1"]))?, &["Model deleted", "Deleted Model: 1"]);
    assert_eq!(site.api("list_models", json!({ "ProjectName": PROJECT }))?["Models"], json!([]));
    for kind in ["train", "test"] {
        says(&site.sample("Datasets.delete_dataset", json!([PROJECT, kind]))?, &["Dataset deleted."]);
    }
    for project in [PROJECT, "csv"] {
        says(&site.sample("Projects.delete_project", json!([project]))?, &["Deleted project ARN: arn:aws:"]);
    }
    assert_eq!(site.desk.run("getting_started.py", &[])?, "Done!\n");
    let absent = site.order(&json!({ "sample": "Projects.delete_project", "with": [PROJECT] }))?;
    ensure!(absent["failed"].as_str().is_some_and(|told| told.starts_with("ResourceNotFoundException")), "{absent}");
    site.end()
}

fn datasets(site: &mut Site, train: &Set, test: &Set) -> Result<()> {
    for (kind, set) in [("train", train), ("test", test)] {
        let manifest = format!("s3://{BUCKET}/{kind}.manifest");
        let made = site.sample("Datasets.create_dataset", json!([PROJECT, manifest, kind]))?;
        says(&made, &["Dataset Status: CREATE_IN_PROGRESS", "Dataset created."]);
        let described = site.sample("Datasets.describe_dataset", json!([PROJECT, kind]))?;
        let normal = set.lines.iter().filter(|line| line["anomaly-label"] == 0).count();
        let images = format!("Images: {}\nLabeled: {0}\nNormal: {normal}", set.lines.len());
        says(&described, &["Name: cap", &format!("Type: {kind}"), "Status: CREATE_COMPLETE", &images, "Done."]);
    }
    // The same pictures again: one loses its class, and gets it back.
    let first = &train.lines[0];
    let without = json!({ "source-ref": first["source-ref"] });
    for (line, normal) in [(&without, 11), (first, 12)] {
        site.desk.write("updates.manifest", line.to_string())?;
        let updates = site.desk.path("updates.manifest");
        let updated = site.sample("Datasets.update_dataset_entries", json!([PROJECT, "train", updates]))?;
        assert_eq!(updated["answer"][0], "UPDATE_COMPLETE");
        says(&updated, &["Dataset updated: UPDATE_COMPLETE", "Added entries to dataset."]);
        let described = site.sample("Datasets.describe_dataset", json!([PROJECT, "train"]))?;
        says(&described, &["Status: UPDATE_COMPLETE", &format!("Normal: {normal}\n")]);
    }
    let nowhere = json!([PROJECT, format!("s3://{BUCKET}/absent.manifest"), "train"]);
    let failed = site.order(&json!({ "sample": "Datasets.create_dataset", "with": nowhere }))?;
    ensure!(failed["failed"].is_string(), "{failed}");
    Ok(())
}

fn csv_to_manifest(site: &mut Site, train: &Set) -> Result<()> {
    let classes = |line: &Value| {
        let name = line["source-ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let class = line["anomaly-label-metadata"]["class-name"].as_str().unwrap().to_owned();
        (name, class)
    };
    let rows: Vec<(String, String)> = train.lines.iter().map(classes).collect();
    let csv: String = rows.iter().map(|(name, class)| format!("{name},{class}\n")).collect();
    site.desk.write("parts.csv", &csv)?;
    let place = format!("s3://{BUCKET}/train/");
    let told = site.desk.run("csv_to_manifest.py", &["parts.csv", "--s3_path", &place])?;
    ensure!(told.contains("Images processed: 22\nNormal: 12\nAnomalous: 10\n"), "{told}");
    let manifest = std::fs::read_to_string(site.desk.path("parts.manifest"))?;
    for (line, (name, class)) in manifest.lines().zip(&rows) {
        let line: Value = serde_json::from_str(line)?;
        assert_eq!(line["source-ref"], format!("{place}{name}"));
        assert_eq!(line["anomaly-label"], if class == "anomaly" { "1" } else { "0" });
        assert_eq!(line["anomaly-label-metadata"]["class-name"], class.as_str());
    }
    assert_eq!(manifest.lines().count(), rows.len());
    let is_left = |name: &str| site.desk.path(name).exists();
    ensure!(!is_left("parts_errors.csv") && !is_left("parts_deduplicated.csv"), "files without errors in them");

    let told = site.desk.run("csv_to_manifest.py", &["absent.csv"])?;
    ensure!(told.starts_with("File not found: "), "{told}");

    // A duplicate and a class that there is not.
    site.desk.write("wrong.csv", format!("{csv}{}\nmore.png,scratched\n", csv.lines().next().unwrap()))?;
    let told = site.desk.run("csv_to_manifest.py", &["wrong.csv"])?;
    ensure!(told.contains("Issues found. Use wrong_errors.csv"), "{told}");
    let read = |name: &str| std::fs::read_to_string(site.desk.path(name)).context("a file of errors");
    let (errors, rest) = (read("wrong_errors.csv")?, read("wrong_deduplicated.csv")?);
    let errors: Vec<&str> = errors.lines().collect();
    assert_eq!(errors, ["23,good-00.png,normal,DUPLICATE", "24,more.png,scratched,INVALID_CLASSIFICATION"]);
    assert_eq!(rest.lines().count(), 23);
    ensure!(!is_left("wrong.manifest"), "a manifest of what is wrong");

    // What the script writes is a data set.
    site.done(&json!({ "upload": "csv", "with": ["parts.manifest"] }))?;
    site.sample("Projects.create_project", json!(["csv"]))?;
    site.sample("Datasets.create_dataset", json!(["csv", "s3://csv/parts.manifest", "train"]))?;
    let described = site.sample("Datasets.describe_dataset", json!(["csv", "train"]))?;
    says(&described, &["Status: CREATE_COMPLETE", "Images: 22\nLabeled: 22\nNormal: 12\nAnomaly: 10"]);
    says(&site.sample("Datasets.delete_dataset", json!(["csv", "train"]))?, &["Dataset deleted."]);
    let listed = site.sample("Projects.list_projects", json!([]))?;
    says(&listed, &["Project: csv", "No datasets", "No models"]);
    Ok(())
}

fn hosting(site: &mut Site, test: &Set) -> Result<()> {
    let model = json!({ "ProjectName": PROJECT, "ModelVersion": "1" });
    let status = |site: &mut Site| -> Result<Value> {
        Ok(site.api("describe_model", model.clone())?["ModelDescription"]["Status"].take())
    };
    let started = site.sample("Hosting.start_model", json!([PROJECT, "1", 1, 2]))?;
    says(&started, &["Starting hosting...", "Model is hosted and ready for use."]);
    assert_eq!(status(site)?, "HOSTED");

    let (mut good, mut bad) = (None, None);
    for key in test.keys.iter().filter(|key| key.ends_with(".png") && !key.ends_with("-mask.png")) {
        let answer = site.done(&json!({ "detect": key, "with": model, "keep": key }))?["answer"].take();
        let mask = site.desk.path(key).with_extension("answer.png");
        if answer["IsAnomalous"] == false {
            good = good.or_else(|| key.starts_with("test/good").then(|| (key.clone(), answer)));
        } else if !key.starts_with("test/good") && labelled(&mask)? > 10 {
            bad = bad.or_else(|| Some((key.clone(), answer)));
        }
    }
    let (good, bad) = (good.context("no good part is normal")?, bad.context("no defect is found")?);
    for (key, answer) in [&good, &bad] {
        let picture = site.desk.path(key);
        let detected = site.done(
            &json!({ "sample": "detect_anomalies", "with": [PROJECT, "1", picture], "keep": format!("sample of {key}") }),
        )?;
        assert_eq!(detected["answer"], *answer, "the sample sees what boto3 sees");
        rejects(site, key, answer)?;
        shown(site, key, answer)?;
    }
    other_files(site, &good.0)?;
    lambda(site, &good.0, &bad.0)?;

    let stopped = site.sample("Hosting.stop_model", json!([PROJECT, "1"]))?;
    says(&stopped, &["Stopping hosting...", "Model is no longer hosted."]);
    assert_eq!(status(site)?, "TRAINED");
    Ok(())
}

/// A JPEG is a picture as well, and what is none is not sent.
fn other_files(site: &mut Site, key: &str) -> Result<()> {
    image::open(site.desk.path(key))?.save(site.desk.path("part.jpg"))?;
    let detect = |file: &str| json!({ "sample": "detect_anomalies", "with": [PROJECT, "1", site.desk.path(file)] });
    let (jpeg, none) = (detect("part.jpg"), detect("parts.csv"));
    ensure!(site.done(&jpeg)?["answer"]["IsAnomalous"].is_boolean());
    let refused = site.order(&none)?;
    ensure!(refused["failed"].as_str().is_some_and(|told| told.contains("Supply a jpeg or png")), "{refused}");
    Ok(())
}

/// The three functions say of an answer what its numbers say.
fn rejects(site: &mut Site, key: &str, answer: &Value) -> Result<()> {
    let is_anomalous = answer["IsAnomalous"] == true;
    let confidence = answer["Confidence"].as_f64().context("a confidence")?;
    let labels: Vec<(&str, f64)> = answer["Anomalies"]
        .as_array()
        .context("labels")?
        .iter()
        .map(|one| (one["Name"].as_str().unwrap(), one["PixelAnomaly"]["TotalPercentageArea"].as_f64().unwrap()))
        .collect();
    assert_eq!(labels[0].0, "background");
    let types = labels.len() - 1;
    let prediction = format!("$sample of {key}");
    let mut table = vec![
        ("reject_on_classification", json!([key, prediction, confidence]), is_anomalous),
        ("reject_on_classification", json!([key, prediction, confidence + 0.001]), false),
        ("reject_on_anomaly_types", json!([key, prediction, confidence, types]), false),
        ("reject_on_anomaly_types", json!([key, prediction, confidence + 0.001, 0]), false),
        ("reject_on_coverage", json!([key, prediction, confidence, "absent", 0.0]), false),
    ];
    if is_anomalous {
        table.push(("reject_on_anomaly_types", json!([key, prediction, confidence, types - 1]), true));
    }
    for (name, area) in &labels[1..] {
        table.push(("reject_on_coverage", json!([key, prediction, confidence, name, area / 2.0]), is_anomalous));
        table.push(("reject_on_coverage", json!([key, prediction, confidence, name, area * 1.01]), false));
        table.push(("reject_on_coverage", json!([key, prediction, confidence + 0.001, name, 0.0]), false));
    }
    for (function, arguments, expected) in table {
        let seen = site.sample(function, arguments.clone())?;
        assert_eq!(seen["answer"], expected, "{function} {arguments}: {seen}");
        says(&seen, if expected { &["Rejected: Anomaly confidence"] } else { &["No anomalies found."] });
    }
    Ok(())
}

fn shown(site: &Site, key: &str, answer: &Value) -> Result<()> {
    let told = site.desk.run("show_anomalies.py", &[PROJECT, "1", key])?;
    assert_eq!(told, "Successfully completed analysis.\n");
    let shown: Vec<_> = std::fs::read_dir(site.desk.path("shown"))?.collect::<Result<_, _>>()?;
    let [shown] = &shown[..] else { anyhow::bail!("{} pictures were shown", shown.len()) };
    let picture = site.desk.path(key);
    let mask = picture.with_extension("answer.png");
    shows(&shown.path(), &picture, (answer["IsAnomalous"] == true).then_some(mask.as_path()))?;
    Ok(std::fs::remove_file(shown.path())?)
}

/// The function for AWS Lambda, and its client, by bytes and by the picture's place in S3.
fn lambda(site: &mut Site, good: &str, bad: &str) -> Result<()> {
    let address = site.done(&json!({ "lambda_service": true }))?["answer"].as_str().context("an address")?.to_owned();
    site.desk.set("AWS_ENDPOINT_URL_LAMBDA", address);
    for (key, verdict, rejected) in [(good, "normal", "False"), (bad, "anomalous", "True")] {
        for picture in [key.to_owned(), format!("s3://{BUCKET}/{key}")] {
            let told = site.desk.run("client.py", &["inspect", &picture])?;
            assert_eq!(told, format!("classification: {rejected}\nMessage: Image {picture} is {verdict}.\n"));
        }
    }
    Ok(())
}

fn export(site: &mut Site, sets: &[(&str, &Set)]) -> Result<()> {
    const TARGET: &str = "exported";
    site.done(&json!({ "upload": TARGET, "with": [] }))?;
    // Without the slash at its end, which the sample adds.
    let told = site.desk.run("dataset_export.py", &[PROJECT, "s3://exported/cap"])?;
    ensure!(told.contains("train: s3://exported/cap/datasets/train.manifest") && told.ends_with("Done.\n"), "{told}");
    let objects = site.done(&json!({ "objects": TARGET, "into": TARGET }))?["answer"].take();
    let objects: Vec<&str> = objects.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let at = |folder: &str, address: &Value| {
        let key = address.as_str().unwrap().trim_start_matches("s3://pictures/");
        format!("s3://exported/cap/{folder}/{key}")
    };
    let mut expected = Vec::new();
    for (kind, set) in sets {
        let manifest_key = format!("cap/datasets/{kind}.manifest");
        let manifest = std::fs::read_to_string(site.desk.path(TARGET).join(&manifest_key))?;
        expected.push(manifest_key);
        let mut lines = manifest.lines();
        for original in &set.lines {
            let line: Value = serde_json::from_str(lines.next().context("a line")?)?;
            let mut wanted = original.clone();
            for (member, folder) in [("source-ref", "images"), ("anomaly-mask-ref", "masks")] {
                if let Some(address) = original.get(member) {
                    let exported = at(&format!("{kind}/{folder}"), address);
                    let key = exported.trim_start_matches("s3://exported/").to_owned();
                    let source = address.as_str().unwrap().trim_start_matches("s3://pictures/");
                    let is_same = same(&site.desk.path(TARGET).join(&key), &site.desk.path(source))?;
                    ensure!(is_same, "{key} is not {source}");
                    wanted[member] = json!(exported);
                    expected.push(key);
                }
            }
            assert_eq!(line, wanted);
        }
        assert_eq!(lines.next(), None);
    }
    expected.sort_unstable();
    assert_eq!(objects, expected);
    Ok(())
}

fn same(one: &Path, other: &Path) -> Result<bool> {
    Ok(std::fs::read(one)? == std::fs::read(other)?)
}
