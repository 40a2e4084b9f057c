//! Data elsewhere: projects in PostgreSQL, objects in somebody else's S3, encrypted before they leave.

use std::path::Path;

use anyhow::{Result, ensure};
use linewarden_testkit::postgres::Postgres;
use linewarden_testkit::sandbox::DaemonSandbox;
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
    let model = files(&site.daemon.path("data/models/cap"))?;
    ensure!(model.len() == 1 && !model.iter().any(|file| file.windows(10).any(|part| part == b"model.onnx")));
    let mut client = site.client(folder.path(), "cap")?;
    assert_eq!(client.does("delete")?, json!([]));
    assert_eq!(files(&site.daemon.path("data/models/cap"))?, Vec::<Vec<u8>>::new());
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

#[test]
fn what_is_wrong_with_the_api_is_told_with_its_place() -> Result<()> {
    let daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    let told = |config: &str| -> Result<(Option<i32>, String)> {
        daemon.write("lines.toml", format!("[api]\n{config}"))?;
        let output = daemon.call(&["serve", "lines.toml", "--check"])?;
        Ok((output.status.code(), String::from_utf8(output.stderr)?))
    };
    let table = [
        ("", "lines.toml:1:1: [api]: `data` is missing"),
        (
            "data = \"d\"\ndatabase = \"mysql://x\"",
            "lines.toml:3:12: [api]: `database` must be an address such as postgres://",
        ),
        ("data = \"d\"\ndatabase = \"postgres://a:b@c/d\"", "must not hold the password"),
        ("data = \"d\"\ncalls_per_second = -1", "`calls_per_second` must be a whole number from 0 to 100000, got -1"),
        ("data = \"d\"\naudit_days = 0", "`audit_days` must be a whole number from 1 to 10000, got 0"),
        ("data = \"d\"\n[api.objects]", "[api], [objects]: `buckets` is missing"),
        (
            "data = \"d\"\n[api.objects]\nbuckets = [\"a\"]\nendpoint = \"s3.example.com\"",
            "`endpoint` must be an address such as https://",
        ),
        ("data = \"d\"\n[api.tls]\nlisten = \"x\"", "[api], [tls]: `cert_file` is missing"),
        ("data = \"d\"\n[api.tls]\nlisten = \"x\"", "`listen` must be an address and port"),
        ("data = \"d\"\n[api.encryption]\nkey = \"x\"", "unknown key `key`, did you mean `keys`?"),
    ];
    for (config, wanted) in table {
        let (code, error) = told(config)?;
        ensure!(code != Some(0) && error.contains(wanted), "{config}: {code:?} {error}");
        ensure!(!error.contains("a:b@c"), "the password was told: {error}");
    }
    // What only shows at the start is told with the key that it belongs to.
    daemon.write("half.key", "5a")?;
    daemon.write("lines.toml", "[api]\ndata = \"d\"\n[api.encryption]\nkeys = \".\"\n")?;
    let output = daemon.call(&["serve", "lines.toml"])?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(!output.status.success() && error.contains("[api.encryption]") && error.contains("half"), "{error}");
    Ok(())
}

#[test]
fn a_line_runs_an_encrypted_model_by_its_arn_and_keeps_it_from_being_deleted() -> Result<()> {
    const SEALED: &str = "[api.encryption]\nkeys = \"object-keys\"\ndefault = \"factory\"\n";
    let folder = tempfile::tempdir()?;
    parts(folder.path())?;
    let mut site = Site::prepared(&format!("{CONFIG}{SEALED}"), |daemon| {
        daemon.write("object-keys/factory.key", "5a".repeat(32))?;
        Ok(())
    })?;
    let mut client = site.client(folder.path(), "cap")?;
    for step in ["bucket", "upload", "create", "train"] {
        client.does(step)?;
    }
    ensure!(site.daemon.path("data/models/cap/1.sealed").is_file() && !site.daemon.path("data/models/cap/1").exists());
    options_decide(&mut client, &site, folder.path())?;
    let versions = client.does("versions")?;
    assert_eq!((&versions[0][0], &versions[0][2]), (&json!("CREATE_COMPLETE"), &json!(36)), "{versions}");
    let failed = |place: usize, told: &str| {
        versions[place][0] == "CREATE_FAILED" && versions[place][1].as_str().is_some_and(|text| text.contains(told))
    };
    ensure!(failed(1, "kept.manifest") && failed(2, "no version `000") && failed(3, "kept.manifest"), "{versions}");
    site.daemon.terminate()?;
    ensure!(site.daemon.wait_end()?.success());
    let line = |version: u32| {
        format!(
            "{CONFIG}{SEALED}[[line]]\nname = \"press\"\nmodel = \"arn:aws:lookoutvision:eu-west-1:123456789012:model/cap/{version}\"\n\
             device = \"cpu\"\n[[line.camera]]\nname = \"top\"\npipeline = \"synthetic\"\nwith = {{ width = 160, height = 120 }}\n"
        )
    };
    site.daemon.write("other.toml", line(2))?;
    let output = site.daemon.call(&["serve", "other.toml", "--check"])?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(!output.status.success() && error.contains("has no trained model cap/2"), "{error}");
    site.daemon.serve(&line(1))?;
    let scored = "linewarden_processed_image_total{camera=\"top\",line=\"press\",model_version=\"1\",project=\"cap\"}";
    site.daemon.wait_metric(scored, |scored| scored >= 5.0)?;
    let mut client = site.client(folder.path(), "cap")?;
    let refusal = client.does("delete_model")?;
    ensure!(
        refusal[0] == "ConflictException" && refusal[3].as_str().is_some_and(|told| told.contains("line press")),
        "{refusal}"
    );
    site.end()
}

/// Compiler options of a packaging job decide provider and precision of its component.
fn options_decide(client: &mut crate::Client, site: &Site, folder: &Path) -> Result<()> {
    let made = client.does("convert")?;
    let (status, message) = (&made["strict"][0], made["strict"][1].as_str().unwrap_or_default());
    ensure!(status == "FAILED" && message.contains("allowed: 0.0001): not kept, as scores move too far"), "{made}");
    let (status, message) = (&made["first"][0], made["first"][1].as_str().unwrap_or_default());
    ensure!(status == "SUCCEEDED" && message.contains("As float16 it scores"), "{made}");
    ensure!(message.contains("mean nothing here: sm_75"), "{message}");
    let (status, message) = (&made["again"][0], made["again"][1].as_str().unwrap_or_default());
    ensure!(status == "FAILED" && message.contains("a component half of version 2.0.0"), "{made}");
    ensure!(made["refused"][0] == "ValidationException", "{made}");
    let archive = folder.join("half.tar");
    let mut settings = String::new();
    for entry in tar::Archive::new(std::fs::File::open(&archive)?).entries()? {
        let mut entry = entry?;
        if entry.path()?.ends_with("half/linewarden.toml") {
            std::io::Read::read_to_string(&mut entry, &mut settings)?;
        }
    }
    ensure!(settings.contains("device = \"tensorrt\""), "{settings}");
    // This machine has no GPU, and says so before it changes anything.
    let (archive, config) = (archive.to_str().unwrap(), folder.join("half/linewarden.toml"));
    let config = config.to_str().unwrap();
    let deploy = ["deploy", archive, "--no-service", "--config", config];
    let refused = site.daemon.call(&deploy)?;
    let error = String::from_utf8(refused.stderr)?;
    ensure!(!refused.status.success() && error.contains("does not run on this machine"), "{error}");
    ensure!(error.contains("tensorrt") && !folder.join("half/models/half").exists(), "{error}");
    let deployed = site.daemon.call(&[&deploy[..], &["--device", "cpu"]].concat())?;
    ensure!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
    ensure!(String::from_utf8(deployed.stdout)?.contains("half 2.0.0, model cap 1, is in"));
    Ok(())
}
