//! The service model is laid where clients look, renewed, and taken away again.

use std::fs;

use linewarden_contract::{InstallError, install, remove};

#[test]
fn what_is_laid_can_be_renewed_and_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    let laid = install(&models, false).unwrap();
    let names: Vec<_> = laid.iter().map(|path| path.strip_prefix(&models).unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["lookoutvision/2020-11-20/service-2.json", "lookoutvision/2020-11-20/paginators-1.json"]);

    // One that an older version of ours laid.
    fs::write(&laid[0], r#"{"madeBy": "linewarden"}"#).unwrap();
    assert_eq!(install(&models, false).unwrap(), laid);
    assert!(fs::read_to_string(&laid[0]).unwrap().contains("DetectAnomalies"));
    assert_eq!(fs::read_dir(laid[0].parent().unwrap()).unwrap().count(), 2, "nothing else is left there");

    assert_eq!(remove(&models).unwrap(), laid);
    assert_eq!(fs::read_dir(&models).unwrap().count(), 0);
    assert!(remove(&models).unwrap().is_empty());
}

#[test]
fn what_others_laid_is_left_alone_unless_asked() {
    let folder = tempfile::tempdir().unwrap();
    let version = folder.path().join("lookoutvision/2020-11-20");
    let theirs = version.join("paginators-1.json");
    fs::create_dir_all(&version).unwrap();
    for content in [r#"{"pagination": {}}"#, "no JSON", ""] {
        fs::write(&theirs, content).unwrap();
        for refused in [install(folder.path(), false), remove(folder.path())] {
            assert!(matches!(refused, Err(InstallError::NotOurs(path)) if path == theirs));
        }
        assert_eq!(fs::read_to_string(&theirs).unwrap(), content);
        assert!(!version.join("service-2.json").exists(), "all or nothing");
    }
    assert_eq!(install(folder.path(), true).unwrap().len(), 2);
    fs::write(version.join("examples-1.json"), "theirs").unwrap();
    assert_eq!(remove(folder.path()).unwrap().len(), 2);
    assert!(version.join("examples-1.json").exists());
}
