//! Amazon's notebook helper for the old service, which waits, trains, hosts and predicts by the API and S3 alone.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use linewarden_testkit::peers::Peer;
use serde_json::{Value, json};

use crate::life::parts;
use crate::{PATIENCE, Site};

#[test]
fn the_notebook_helper_builds_trains_hosts_and_predicts() -> Result<()> {
    let folder = tempfile::tempdir()?;
    parts(folder.path())?;
    let site = Site::new()?;
    let (api, s3) = (site.address("listening")?, site.address("S3 endpoint listens")?);
    let pictures = folder.path().to_str().context("a path in UTF-8")?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/notebook.py");
    let arguments = [&api, &s3, "eu-west-1", pictures, &site.key, &site.secret];
    let helper = Peer::start_with("peers-notebook", &[], &program, &arguments)?;
    let seen = helper.hear(PATIENCE)?;
    assert_eq!(seen["arn"], "arn:aws:lookoutvision:eu-west-1:123456789012:project/caps");
    assert_eq!(seen["datasets"], json!({ "training": "CREATE_COMPLETE", "validation": "CREATE_COMPLETE" }));
    assert_eq!((&seen["trained"][0], &seen["trained"][1]["Total"]), (&json!("Success!"), &json!(36)), "{seen}");
    assert_eq!((&seen["hosted"], &seen["bad"]), (&json!("HOSTED"), &json!(true)), "{seen}");
    let predicted = seen["predicted"].as_object().context("predictions")?;
    let right = |(name, is_anomalous): &(&String, &Value)| **is_anomalous == json!(name.starts_with("bad"));
    ensure!(predicted.len() == 20 && predicted.iter().filter(right).count() >= 18, "{seen}");
    assert_eq!(seen["metrics"], json!(["F1Score", "Precision", "Recall"]));
    assert_eq!((&seen["stopped"], &seen["deleted"]), (&json!("STOPPING_HOSTING"), &json!(true)), "{seen}");
    site.end()
}
