//! Data elsewhere: projects in PostgreSQL, objects in somebody else's S3, encrypted before they leave.

use std::path::Path;

use anyhow::{Result, ensure};
use linewarden_testkit::postgres::Postgres;
use serde_json::json;

use crate::life::{lives_at, parts};
use crate::{CONFIG, Kind, Site, made_key};

#[test]
fn a_project_lives_in_postgresql_and_in_a_remote_s3_that_never_sees_a_picture() -> Result<()> {
    let folder = tempfile::tempdir()?;
    parts(folder.path())?;
    let database = tempfile::tempdir()?;
    let postgres = Postgres::start(database.path())?;
    // The remote store is the S3 endpoint of another Linewarden: its bucket is made there.
    let remote = Site::new()?;
    let mut owner = remote.client(folder.path(), "cap")?;
    owner.does("bucket")?;
    let config = format!(
        "{CONFIG}database = \"{}\"\n[api.objects]\nendpoint = \"{}\"\nregion = \"eu-west-1\"\nbuckets = [\"cap-pictures\"]\n\
         credentials_file = \"remote.credentials\"\n[api.encryption]\nkeys = \"object-keys\"\ndefault = \"factory\"\n",
        postgres.address(),
        remote.address("S3 endpoint listens")?
    );
    let site = Site::prepared(&config, |daemon| {
        let (key, secret) = made_key(&remote.daemon, &["keys", "create", "--user", "linewarden"])?;
        let credentials = format!("aws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
        daemon.write("remote.credentials", credentials)?;
        daemon.write("object-keys/factory.key", "5a".repeat(32))?;
        Ok(())
    })?;
    lives_at(&site, Kind::Boto3, folder.path(), false)?;
    ensure!(!site.daemon.path("data/linewarden.db").exists() && !site.daemon.path("data/objects").exists());
    let stored = files(&remote.daemon.path("data/objects"))?;
    let is_readable = |content: &Vec<u8>| {
        let holds = |wanted: &[u8]| content.windows(wanted.len()).any(|part| part == wanted);
        holds(b"\x89PNG") || holds(b"source-ref")
    };
    ensure!(stored.len() > 50 && !stored.iter().any(is_readable), "{} objects", stored.len());
    let mut client = site.client(folder.path(), "cap")?;
    assert_eq!(client.does("delete")?, json!([]));
    site.end()?;
    remote.end()
}

/// The content of every file below the folder.
fn files(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(std::fs::read(path)?);
        }
    }
    Ok(found)
}
