//! Paths that lead out of the folder of a data set.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::manifests::{classified, eleventh, pictures, segmented, with};
use crate::{Call, Case, mask, png_of, put, sound_set, textured};

const CLIMBS: &str = "leads out of the manifest's folder; `--images DIR`";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, source_ref) in [
        ("one up", "../10.png"),
        ("up to the root", "../../../../../../../../../../etc/passwd"),
        ("down and up", "x/../../10.png"),
        ("a key that climbs", "s3://bucket/../10.png"),
        ("a key that climbs late", "s3://bucket/x/../../10.png"),
    ] {
        let line = classified(source_ref, "normal").to_string();
        cases.push(eleventh("path", name, 1, &["`source-ref`", CLIMBS], line.into_bytes()));
    }
    let line = with(segmented(), "/mask-ref", json!("../mask.png")).to_string();
    cases.push(eleventh("path", "of a mask", 1, &["`mask-ref`", CLIMBS], line.into_bytes()));
    for (name, source_ref, says) in [
        ("a relative file URL", "file://10.png", "is not absolute"),
        ("a full path to nothing", "/no/such/10.png", "no file for `/no/such/10.png`"),
        ("a file URL to nothing", "file:///no/such/%2e%2e/10.png", "no file for"),
        ("a device", "/dev/zero", "no file for `/dev/zero`"),
    ] {
        cases.push(eleventh("path", name, 1, &[says], classified(source_ref, "normal").to_string().into_bytes()));
    }
    let outside = "1 files lie outside the manifest's folder, reached by a full path or a link";
    for (name, prefix) in [("a full path", ""), ("a file URL", "file://")] {
        cases.push(Case::new("path", name, Call::Manifest, 0, &["set.manifest:11", outside], move |folder| {
            let elsewhere = put(folder.parent().unwrap(), "elsewhere/10.png", png_of(&textured(10)));
            manifest_with(folder, &format!("{prefix}{}", elsewhere.display()));
        }));
    }
    cases.push(Case::new("path", "a link out", Call::Manifest, 0, &["set.manifest:11", outside], |folder| {
        let elsewhere = put(folder.parent().unwrap(), "elsewhere/10.png", png_of(&textured(10)));
        symlink(elsewhere, folder.join("link.png")).unwrap();
        manifest_with(folder, "link.png");
    }));
    cases.push(Case::new(
        "path",
        "a link out of a folder",
        Call::Folder,
        0,
        &["1 pictures are links that lead out of it: `normal/10.png`"],
        |folder| {
            sound_set(folder);
            let elsewhere = put(folder.parent().unwrap(), "elsewhere/10.png", png_of(&textured(10)));
            symlink(elsewhere, folder.join("normal/10.png")).unwrap();
        },
    ));
    cases.push(Case::new(
        "path",
        "a link to nothing",
        Call::Folder,
        1,
        &["normal/10.png: is a link to a file that is not there"],
        |folder| {
            sound_set(folder);
            symlink("nowhere.png", folder.join("normal/10.png")).unwrap();
        },
    ));
    cases.push(Case::new(
        "path",
        "a link to itself",
        Call::Folder,
        1,
        &["normal/10.png: is a link to a file that is not there"],
        |folder| {
            sound_set(folder);
            symlink("10.png", folder.join("normal/10.png")).unwrap();
        },
    ));
    cases.push(Case::new("path", "a link to a device", Call::Folder, 0, &["ignored `10.png`"], |folder| {
        sound_set(folder);
        symlink("/dev/zero", folder.join("normal/10.png")).unwrap();
        mask().save(folder.join("masks/0.png")).unwrap();
    }));
    let device = Call::Check("/dev/zero");
    cases.push(Case::new(
        "path",
        "a device as data set",
        device,
        1,
        &["/dev/zero: is neither a folder nor a file"],
        |_| {},
    ));
    let nothing = Call::Check("/no/such/folder");
    cases.push(Case::new("path", "no data set", nothing, 2, &["there is no dataset at `/no/such/folder`"], |_| {}));
    cases
}

/// Ten good lines, and one that names this.
fn manifest_with(folder: &Path, source_ref: &str) {
    let mut lines = pictures(folder);
    lines.push(classified(source_ref, "normal"));
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    put(folder, "set.manifest", text);
}
