//! `linewarden apply`: a file makes a project, data sets and a hosted model, and makes nothing twice.

use anyhow::{Result, ensure};

use crate::life::parts;
use crate::{CONFIG, Site};

const DECLARED: &str = "[[project]]\nname = \"cap\"\n\
    train = { manifest = \"s3://cap-pictures/train.manifest\" }\ntest = { manifest = \"s3://cap-pictures/test.manifest\" }\n\
    [[project.model]]\ndescription = \"first\"\noutput = \"s3://cap-pictures/results/\"\nhosted = [1, 2]\n\
    tags = { line = \"press 1\", stage = \"production\" }\n";

#[test]
fn a_declared_project_is_made_and_changed_and_nothing_is_done_twice() -> Result<()> {
    let folder = tempfile::tempdir()?;
    parts(folder.path())?;
    let site = Site::with(CONFIG)?;
    let mut client = site.client(folder.path(), "cap")?;
    client.does("bucket")?;
    client.does("upload")?;
    let credentials = format!("aws_access_key_id = {}\naws_secret_access_key = {}\n", site.key, site.secret);
    site.daemon.write("credentials", credentials)?;
    let endpoint = site.address("listening")?;
    let apply = |declared: &str, how: &str| -> Result<(Option<i32>, String, String)> {
        site.daemon.write("projects.toml", declared)?;
        let arguments = ["apply", "projects.toml", how, "--endpoint", &endpoint, "--region", "eu-west-1"];
        let output = site.daemon.call(&[&arguments[..], &["--credentials", "credentials"]].concat())?;
        Ok((output.status.code(), String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
    };
    let planned = "+ project cap\n+ data set cap/train from s3://cap-pictures/train.manifest\n\
        + data set cap/test from s3://cap-pictures/test.manifest\n\
        + model cap \"first\" is trained, its evaluation goes to s3://cap-pictures/results/, then hosted by 1 to 2 inference units\n";
    let (code, told, error) = apply(DECLARED, "--plan")?;
    assert_eq!((code, told.as_str()), (Some(1), planned), "{error}");
    ensure!(error.contains("4 steps are to be done"), "{error}");
    let (code, told, error) = apply(DECLARED, "--yes")?;
    ensure!(code == Some(0) && told.matches("done: ").count() == 4, "{code:?} {told} {error}");
    for how in ["--yes", "--plan"] {
        let (code, told, error) = apply(DECLARED, how)?;
        assert_eq!((code, told.as_str()), (Some(0), "Everything is as declared.\n"), "{error}");
    }
    assert_eq!(client.does("hosted")?, "HOSTED");

    let other = DECLARED.replace("[1, 2]", "0").replace(", stage = \"production\"", "").replace("press 1", "press 2");
    let (code, told, error) = apply(&other, "--yes")?;
    let changes = "~ tags of model \"first\": line=press 2, without stage\n- model cap/1 \"first\" is hosted no more\n";
    ensure!(code == Some(0) && told.starts_with(changes), "{code:?} {told} {error}");
    assert_eq!(apply(&other, "--plan")?.0, Some(0));

    // What cannot be is told with its step, and what was done before it stays.
    let (code, told, error) = apply(
        &format!("{other}[[project]]\nname = \"late\"\ntrain = {{ manifest = \"s3://cap-pictures/absent\" }}\n"),
        "--yes",
    )?;
    ensure!(code == Some(1) && told.contains("done: + project late"), "{code:?} {told} {error}");
    ensure!(error.contains("step 2 of 2 failed: + data set late/train") && error.contains("CREATE_FAILED"), "{error}");
    let (code, _, error) = apply(&other.replace("cap-pictures/results/", ""), "--plan")?;
    ensure!(code == Some(2) && error.contains("must be a place such as s3://bucket/key"), "{code:?} {error}");
    site.daemon.write("projects.toml", DECLARED)?;
    let stranger = site.daemon.call(&["apply", "projects.toml", "--plan", "--credentials", "absent"])?;
    ensure!(stranger.status.code() == Some(2) && String::from_utf8_lossy(&stranger.stderr).contains("`absent`"));
    site.end()
}
