//! `detect` on good and bad pictures, and packages that are whole, packed, altered or made with another backbone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use image::RgbImage;
use linewarden_model::runtime;
use linewarden_train::backbone::{Backbone, BackboneSource};
use linewarden_train::onnx::{Dim, ElementType, GraphBuilder};
use serde_json::Value;

use crate::support::{
    assert_says, call, done, failed, failed_with, files, json, parts, program, scores, temp, text, write_normals,
};

/// A part with a defect that the model sees.
fn defect() -> PathBuf {
    parts().test.join("anomaly/03.png")
}

fn copy_of_the_model(folder: &Path) -> PathBuf {
    let copy = folder.join("copy");
    fs::create_dir_all(copy.join("golden")).unwrap();
    for place in ["", "golden"] {
        for file in files(&parts().model.join(place)).iter().filter(|file| file.is_file()) {
            fs::copy(file, copy.join(place).join(file.file_name().unwrap())).unwrap();
        }
    }
    copy
}

#[test]
fn a_picture_of_another_size_is_refused_by_both_sizes_or_scaled() {
    let folder = temp();
    let large = folder.path().join("large.png");
    let picture = image::open(defect()).unwrap();
    picture.resize_exact(1280, 960, image::imageops::FilterType::Triangle).save(&large).unwrap();
    let (model, large) = (text(&parts().model), text(&large));
    let message = failed(1, &["detect", "--model", model, large]);
    assert_says(&message, &["1 of 1 pictures"]);
    assert_says(&call(&["detect", "--model", model, large]).stderr, &["1280x960", "640x480", "--scale"]);
    let scaled = json(&["detect", "--model", model, "--scale", "--json", large]);
    let score = scaled[0]["DetectAnomalyResult"]["AnomalyScore"].as_f64().unwrap();
    let own = scores(&parts().model, &[defect()])[0];
    assert!((score - own).abs() < 0.1, "{score} scaled, {own} as it is");
}

#[test]
fn one_unreadable_picture_does_not_hold_up_the_others() {
    let folder = temp();
    let broken = folder.path().join("broken.png");
    fs::write(&broken, "no picture").unwrap();
    let good = files(&parts().test.join("normal"));
    let model = text(&parts().model);
    let finished = call(&["detect", "--model", model, "--json", text(&good[0]), text(&broken), text(&good[1])]);
    assert_eq!(finished.status.code(), Some(1));
    assert_says(&finished.stderr, &["broken.png", "neither JPEG nor PNG", "1 of 3 pictures were not scored"]);
    let answer: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(answer.as_array().unwrap().len(), 3);
    assert!(answer[0]["DetectAnomalyResult"]["AnomalyScore"].is_f64());
    assert_says(answer[1]["Error"].as_str().unwrap(), &["neither JPEG nor PNG"]);
    assert_eq!(answer[2]["file"], text(&good[1]));
    assert!(answer[2]["DetectAnomalyResult"]["AnomalyScore"].is_f64());
    // For people: a line for each good one.
    let plain = call(&["detect", "--model", model, text(&good[0]), text(&broken), text(&good[1])]);
    assert_eq!((plain.status.code(), plain.stdout.lines().count()), (Some(1), 2));
}

#[test]
fn overlays_and_masks_are_drawn_where_the_defect_is() {
    let folder = temp();
    let (overlays, masks) = (folder.path().join("deep/overlays"), folder.path().join("masks"));
    let normal = &files(&parts().test.join("normal"))[1];
    let (anomalous, model) = (defect(), text(&parts().model));
    done(&[
        "detect",
        "--model",
        model,
        "--overlay",
        text(&overlays),
        "--mask",
        text(&masks),
        text(normal),
        text(&anomalous),
    ]);
    let open = |path: &Path| -> RgbImage { image::open(path).unwrap().into_rgb8() };
    let is_white = |mask: &RgbImage| mask.pixels().all(|pixel| pixel.0 == [255; 3]);
    let marked = |mask: &RgbImage, x: u32, y: u32| mask.get_pixel(x, y).0 != [255; 3];
    let (overlay, mask) = (open(&overlays.join("03.png")), open(&masks.join("03.png")));
    assert_eq!((overlay.dimensions(), mask.dimensions()), ((640, 480), (640, 480)));
    assert!(overlay != open(&anomalous) && overlay != mask, "the overlay is drawn");
    assert!(is_white(&open(&masks.join("01.png"))), "nothing is marked on a normal part");
    // The mask lies on the truth: more of the defect is marked than of the rest.
    let truth = image::open(parts().test.join("masks/03.png")).unwrap().into_luma8();
    let share = |wanted: bool| {
        let pixels: Vec<_> = truth.enumerate_pixels().filter(|(.., pixel)| (pixel.0[0] > 0) == wanted).collect();
        pixels.iter().filter(|(x, y, _)| marked(&mask, *x, *y)).count() as f64 / pixels.len() as f64
    };
    assert!(share(true) > 0.3 && share(true) > 4.0 * share(false), "{} {}", share(true), share(false));
}

#[test]
fn a_missing_runtime_or_missing_weights_name_the_command_that_brings_them() {
    let (folder, empty) = (temp(), temp());
    let out = folder.path().join("model");
    let train = ["train", "--dataset", text(&parts().train), "--out", text(&out)];
    let picture = defect();
    let detect = ["detect", "--model", text(&parts().model), text(&picture)];
    for arguments in [&train[..], &detect[..]] {
        let message = failed_with(1, program(arguments).env("LINEWARDEN_ONNXRUNTIME", "/nonexistent"));
        assert_says(&message, &["/nonexistent", "make setup"]);
        let message = failed_with(
            1,
            program(arguments).env("LINEWARDEN_DATA_DIR", empty.path()).env_remove("LINEWARDEN_ONNXRUNTIME"),
        );
        assert_says(&message, &[text(empty.path()), "make setup"]);
    }
    // With the library alone a model can be used, but not trained.
    let only_library = temp();
    fs::create_dir(only_library.path().join("onnxruntime")).unwrap();
    symlink(runtime::library_path(), only_library.path().join("onnxruntime/libonnxruntime.so")).unwrap();
    let without_weights = |arguments: &[&str]| {
        let mut command = program(arguments);
        command.env("LINEWARDEN_DATA_DIR", only_library.path()).env_remove("LINEWARDEN_ONNXRUNTIME");
        command
    };
    assert_says(&failed_with(1, &mut without_weights(&train)), &["weights", "make setup"]);
    assert!(without_weights(&detect).output().unwrap().status.success());
    assert!(!out.exists());
}

#[test]
fn altered_packages_are_refused_by_name() {
    let folder = temp();
    let copy = copy_of_the_model(folder.path());
    let picture = defect();
    let detect = ["detect", "--model", text(&copy), text(&picture)];
    done(&detect);

    let (onnx_path, golden_path) = (copy.join("model.onnx"), copy.join("golden/golden.json"));
    let onnx = fs::read(&onnx_path).unwrap();
    let mut altered = onnx.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    fs::write(&onnx_path, altered).unwrap();
    assert_says(&failed(1, &detect), &[text(&copy), "`model.onnx`", "SHA-256"]);
    fs::write(&onnx_path, onnx).unwrap();

    let golden = fs::read(&golden_path).unwrap();
    let mut list: Value = serde_json::from_slice(&golden).unwrap();
    let score = list[0]["anomaly_score"].as_f64().unwrap();
    list[0]["anomaly_score"] = (score + 0.002).into();
    fs::write(&golden_path, list.to_string()).unwrap();
    assert_says(&failed(1, &detect), &[text(&copy), "golden picture `0.png`", "refused"]);
    list[0]["anomaly_score"] = (score + 0.0005).into();
    fs::write(&golden_path, list.to_string()).unwrap();
    done(&detect);

    list[0]["file"] = "../model.json".into();
    fs::write(&golden_path, list.to_string()).unwrap();
    assert_says(&failed(1, &detect), &["golden.json", "`../model.json` is no name"]);
    list[0]["file"] = "0.png".into();
    fs::write(&golden_path, list.to_string()).unwrap();

    fs::remove_file(copy.join("golden/1.png")).unwrap();
    assert_says(&failed(1, &detect), &[text(&copy), "golden/1.png"]);
    fs::remove_file(copy.join("model.json")).unwrap();
    assert_says(&failed(1, &detect), &[text(&copy), "model.json"]);
}

#[test]
fn a_packed_package_works_like_its_folder() {
    let folder = temp();
    let archive = folder.path().join("cap.tar");
    let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
    builder.append_dir_all("cap", &parts().model).unwrap();
    builder.finish().unwrap();
    let pictures = [defect()];
    assert_eq!(scores(&archive, &pictures), scores(&parts().model, &pictures));
}

/// A network with feature maps of strides 8 and 16 as another tool would write it.
fn foreign_backbone(path: &Path) {
    const SIZE_PX: u32 = 256;
    let backbone = Backbone::load(&BackboneSource::Bundled).unwrap();
    let mut graph = GraphBuilder::new("foreign");
    let side = Dim::Fixed(SIZE_PX.into());
    let input = graph.input("picture", ElementType::Float, &[Dim::Named("batch"), Dim::Fixed(3), side, side]);
    for tap in backbone.append(&mut graph, &input, SIZE_PX, &[8, 16]).unwrap() {
        let side = Dim::Fixed(tap.size.into());
        graph.output(
            &tap.name,
            ElementType::Float,
            &[Dim::Named("batch"), Dim::Fixed(tap.channels.into()), side, side],
        );
    }
    fs::write(path, graph.finish()).unwrap();
}

#[test]
fn another_backbone_can_be_brought_along() {
    let folder = temp();
    let (backbone, out) = (folder.path().join("mine.onnx"), folder.path().join("model"));
    foreign_backbone(&backbone);
    let train =
        ["train", "--dataset", text(&parts().train), "--out", text(&out), "--backbone", text(&backbone), "--json"];
    json(&train);
    let info: Value = serde_json::from_slice(&fs::read(out.join("model.json")).unwrap()).unwrap();
    assert_eq!(info["backbone"]["name"], "mine");
    assert_eq!(info["backbone"]["strides"], serde_json::json!([8, 16]));
    // The package is complete without the file it came from.
    fs::remove_file(&backbone).unwrap();
    let normals = files(&parts().test.join("normal"));
    let [normal, anomalous] = scores(&out, &[normals[1].clone(), defect()])[..] else { panic!("two scores") };
    assert!(anomalous > normal, "{normal} {anomalous}");
}

#[test]
fn a_file_that_is_no_backbone_is_refused() {
    let folder = temp();
    let (broken, out) = (folder.path().join("broken.onnx"), folder.path().join("model"));
    let dataset = folder.path().join("parts");
    write_normals(&dataset, 10, 1);
    fs::write(&broken, "no network").unwrap();
    let train = ["train", "--dataset", text(&dataset), "--out", text(&out), "--backbone", text(&broken)];
    assert_says(&failed(1, &train), &["broken.onnx", "no ONNX file"]);
    // A whole model is a sound ONNX file, but no feature network.
    fs::copy(parts().model.join("model.onnx"), &broken).unwrap();
    assert_says(&failed(1, &train), &["broken.onnx", "input `image` must be of type float"]);
    assert!(!out.exists());
}
