//! What is wrong with a call or with pictures is told at once, by name, and nothing else is touched.

use std::fs;
use std::path::Path;

use image::RgbImage;

use crate::support::{
    PART_NORMALS, assert_says, call, failed, json, parts, say, temp, text, write_anomalies, write_normals,
};

fn train_fails(code: i32, dataset: &Path) -> String {
    let folder = temp();
    let out = folder.path().join("model");
    let message = failed(code, &["train", "--dataset", text(dataset), "--out", text(&out)]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    message
}

/// Replaces a file by its first half.
fn cut(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn nine_normal_pictures_are_too_few() {
    let dataset = temp();
    write_normals(dataset.path(), 9, 1);
    assert_says(&train_fails(1, dataset.path()), &["at least 10 normal pictures", "has 9"]);
}

#[test]
fn one_error_names_every_picture_that_cannot_be_used() {
    let dataset = temp();
    write_normals(dataset.path(), PART_NORMALS, 1);
    write_anomalies(dataset.path(), 3);
    let picture = |name: &str| dataset.path().join(name);
    fs::write(picture("normal/01.png"), "no picture").unwrap();
    cut(&picture("normal/02.png"));
    RgbImage::new(641, 480).save(picture("normal/03.png")).unwrap();
    RgbImage::new(63, 64).save(picture("normal/04.png")).unwrap();
    RgbImage::new(4097, 64).save(picture("normal/05.png")).unwrap();
    cut(&picture("anomaly/00.png"));
    RgbImage::new(480, 640).save(picture("anomaly/01.png")).unwrap();
    cut(&picture("masks/02.png"));
    let message = train_fails(1, dataset.path());
    assert_says(&message, &["normal/01.png: cannot read: neither JPEG nor PNG", "normal/02.png: cannot read"]);
    assert_says(&message, &["normal/03.png: is 641x480, but", "are 640x480; all must have one size"]);
    assert_says(&message, &["normal/04.png: is 63x64, allowed are 64 to 4096 pixels", "normal/05.png: is 4097x64"]);
    assert_says(&message, &["anomaly/00.png: cannot read", "anomaly/01.png: is 480x640", "masks/02.png: cannot read"]);
    for file in ["normal/00.png", "normal/06.png", "anomaly/02.png", "masks/00.png"] {
        assert!(!message.contains(file), "`{file}` is sound: {message}");
    }
    for file in ["normal/01.png", "normal/02.png", "anomaly/00.png", "masks/02.png"] {
        assert_eq!(message.matches(file).count(), 1, "{message}");
    }
}

#[test]
fn pictures_that_break_off_are_all_named() {
    let dataset = temp();
    write_normals(dataset.path(), PART_NORMALS, 1);
    cut(&dataset.path().join("normal/02.png"));
    cut(&dataset.path().join("normal/09.png"));
    assert_says(&train_fails(1, dataset.path()), &["normal/02.png", "normal/09.png"]);
}

#[test]
fn pictures_to_test_on_are_checked_before_training() {
    let (test, folder) = (temp(), temp());
    write_normals(test.path(), 4, 2);
    RgbImage::new(100, 100).save(test.path().join("normal/00.png")).unwrap();
    cut(&test.path().join("normal/03.png"));
    let out = folder.path().join("model");
    let (dataset, test) = (text(&parts().train), text(test.path()));
    let message = failed(1, &["train", "--dataset", dataset, "--test", test, "--out", text(&out)]);
    assert_says(&message, &["normal/00.png", "100x100", "640x480", "normal/03.png: cannot read"]);
    assert!(!out.exists());
}

#[test]
fn evaluation_names_every_picture_that_cannot_be_scored() {
    let test = temp();
    write_normals(test.path(), 4, 2);
    RgbImage::new(100, 100).save(test.path().join("normal/00.png")).unwrap();
    cut(&test.path().join("normal/03.png"));
    let message = failed(1, &["evaluate", "--model", text(&parts().model), "--dataset", text(test.path())]);
    assert_says(&message, &["normal/00.png", "100x100", "640x480", "--scale", "normal/03.png: cannot read"]);
}

#[test]
fn a_data_set_with_problems_is_reported_whole() {
    let dataset = temp();
    write_normals(dataset.path(), PART_NORMALS, 1);
    fs::write(dataset.path().join("normal/01.png"), "no picture").unwrap();
    RgbImage::new(641, 480).save(dataset.path().join("normal/03.png")).unwrap();
    let finished = call(&["dataset", "check", text(dataset.path()), "--json"]);
    assert_eq!(finished.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let places: Vec<&str> =
        report["problems"].as_array().unwrap().iter().map(|problem| problem["place"].as_str().unwrap()).collect();
    assert!(places[0].ends_with("normal/01.png") && places[1].ends_with("normal/03.png"), "{report}");
    assert_eq!(report["images"], PART_NORMALS);
}

#[test]
fn wrong_calls_end_with_two() {
    let (train, model) = (text(&parts().train), text(&parts().model));
    let folder = temp();
    let out = folder.path().join("model");
    let out = text(&out);
    let table: [(&[&str], &str); 12] = [
        (&["train", "--dataset", "/no/such/folder", "--out", out], "/no/such/folder"),
        (&["train", "--dataset", train, "--test", "/no/test", "--out", out], "/no/test"),
        (&["train", "--dataset", train, "--out", out, "--backbone", "/no/backbone.onnx"], "/no/backbone.onnx"),
        (&["train", "--dataset", train, "--out", out, "--sede", "1"], "--sede"),
        (&["train", "--dataset", train, "--out", out, "--seed", "x"], "--seed"),
        (&["train", "--dataset", train, "--out", out, "--type", "guess"], "classification"),
        (&["train", "--out", out], "--dataset"),
        (&["evaluate", "--model", "/no/model", "--dataset", train], "/no/model"),
        (&["evaluate", "--model", model, "--dataset", "/no/test"], "/no/test"),
        (&["detect", "--model", "/no/model", "picture.png"], "/no/model"),
        (&["detect", "--model", model], "IMAGE"),
        (&["dataset", "check", "/no/parts"], "/no/parts"),
    ];
    for (arguments, words) in table {
        assert_says(&failed(2, arguments), &[words]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_lies_where_the_model_should_go_is_not_lost() {
    let folder = temp();
    let (diary, previous) = (folder.path().join("diary"), folder.path().join("cap.previous"));
    for place in [&diary, &previous] {
        fs::create_dir(place).unwrap();
        fs::write(place.join("monday.txt"), "rain").unwrap();
    }
    let train = text(&parts().train);
    let message = failed(2, &["train", "--dataset", train, "--out", text(&diary)]);
    assert_says(&message, &["diary", "no model package", "--out"]);
    // The package that is there would have to go to `cap.previous`.
    let cap = folder.path().join("cap");
    fs::create_dir(&cap).unwrap();
    fs::write(cap.join("model.json"), "{}").unwrap();
    let message = failed(2, &["train", "--dataset", train, "--out", text(&cap)]);
    assert_says(&message, &["cap.previous", "no model package"]);
    for place in [&diary, &previous] {
        assert_eq!(fs::read_to_string(place.join("monday.txt")).unwrap(), "rain");
    }
    assert_says(&failed(2, &["train", "--dataset", train, "--out", "."]), &["`.`", "--out"]);
}

#[test]
fn a_package_makes_room_for_the_next_one_and_is_kept() {
    let folder = temp();
    let (out, previous) = (folder.path().join("cap"), folder.path().join("cap.previous"));
    let train = text(&parts().train);
    let arguments = ["train", "--dataset", train, "--out", text(&out), "--json", "--seed"];
    let identity = |path: &Path| -> serde_json::Value {
        serde_json::from_slice::<serde_json::Value>(&fs::read(path.join("model.json")).unwrap()).unwrap()["seed"]
            .clone()
    };
    for (seed, expected_previous) in [("1", None), ("2", Some(1)), ("3", Some(2))] {
        let report = json(&[&arguments[..], &[seed]].concat());
        assert_eq!(report["seed"].to_string(), seed);
        assert_eq!(identity(&out).to_string(), seed);
        assert_eq!(previous.exists().then(|| identity(&previous)), expected_previous.map(serde_json::Value::from));
        say(format_args!("trained in {:.1} s", report["seconds"].as_f64().unwrap()));
    }
    // A training that fails leaves everything as it is.
    let few = temp();
    write_normals(few.path(), 3, 1);
    failed(1, &["train", "--dataset", text(few.path()), "--out", text(&out)]);
    assert_eq!((identity(&out), identity(&previous)), (3.into(), 2.into()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}
