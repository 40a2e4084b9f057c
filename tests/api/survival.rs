//! What outlives the daemon: what was acknowledged, and what was to be done.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::life::parts;
use crate::{CONFIG, Site};

#[test]
fn a_daemon_that_is_killed_amid_its_work_takes_it_up_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    parts(folder.path())?;
    let mut site = Site::new()?;
    let mut client = site.client(folder.path(), "cap")?;
    client.does("bucket")?;
    client.does("upload")?;
    client.does("create")?;
    client.0.tell(&json!({ "do": "train" }))?;
    let training = |site: &Site| site.daemon.path("data/work");
    // Something lies in the training's folder once it has begun.
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    while std::fs::read_dir(training(&site))?.next().is_none() {
        ensure!(std::time::Instant::now() < deadline, "no training began");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    site.daemon.kill()?;
    drop(client);
    site.daemon.serve(CONFIG)?;
    let mut client = site.client(folder.path(), "cap")?;
    // The training goes on by itself, and its model can be hosted.
    let trained = client.does("trained")?;
    ensure!(trained["Performance"]["F1Score"].as_f64().unwrap() > 0.8, "{trained}");
    client.does("host")?;
    site.daemon.kill()?;
    drop(client);
    site.daemon.serve(CONFIG)?;
    // What was hosted is hosted again.
    let mut client = site.client(folder.path(), "cap")?;
    assert_eq!(client.does("hosted")?, json!("HOSTED"));
    site.end()
}
