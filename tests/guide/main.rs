//! The Python samples of the old service's guide, run against `linewarden serve`: as they are in the guide, but for endpoint
//! and file names. The guide is not part of the project, and neither are its samples: they are taken out of it here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

mod edge;
mod extract;
mod life;
mod pictures;
mod samples;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use linewarden_testkit::peers::{Peer, python};
use linewarden_testkit::process;
use linewarden_testkit::sandbox::DaemonSandbox;
use serde_json::{Value, json};
use tempfile::TempDir;

use samples::Sample;

/// A training and its evaluation, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
const REGION: &str = "eu-west-1";
const CONFIG: &str = "[api]\ndata = \"data\"\nregion = \"eu-west-1\"\naccount = \"123456789012\"\ns3_listen = \"127.0.0.1:0\"\ndevice = \"cpu\"\n";

/// The guide's text.
struct Guide(String);

impl Guide {
    /// Nothing where there is none, which is told loudly.
    fn open() -> Result<Option<Self>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/guide");
        if !folder.is_dir() {
            std::io::Write::write_all(&mut std::io::stderr(), b"NOT RUN: there is no ../shared/guide\n")?;
            return Ok(None);
        }
        let text = std::fs::read_to_string(folder.join("lookout-for-vision-developer-guide-fr.txt"))?;
        Ok(Some(Self(text)))
    }

    fn program(&self, sample: &Sample) -> Result<String> {
        extract::program(&self.0, sample.marker, sample.repairs)
    }

    /// Functions that belong to a class of this name, which the guide does not show.
    fn class(&self, declaration: &str, functions: &[&Sample]) -> Result<String> {
        let mut class = format!("\n\nclass {declaration}:\n");
        for function in functions {
            for line in self.program(function)?.lines() {
                class += &format!("    {line}\n");
            }
        }
        Ok(class)
    }
}

/// A folder with samples, and what they need around them.
struct Desk {
    folder: TempDir,
    environment: Vec<(&'static str, OsString)>,
}

impl Desk {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // The sample that shows a picture leaves it there, and has a viewer that shows nothing.
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("shown"))?;
        std::fs::create_dir_all(path("bin"))?;
        std::os::unix::fs::symlink("/bin/true", path("bin/xdg-open"))?;
        let mut found = path("bin").into_os_string();
        found.push(":");
        found.push(std::env::var_os("PATH").context("PATH is not set")?);
        let environment = vec![("TMPDIR", path("shown").into_os_string()), ("PATH", found)];
        Ok(Self { folder, environment })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        std::fs::write(self.path(name), content).with_context(|| format!("cannot write `{name}`"))
    }

    fn set(&mut self, variable: &'static str, value: impl Into<OsString>) {
        self.environment.push((variable, value.into()));
    }

    /// Runs a program with these arguments; it must do well, and what it printed comes back.
    fn run(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let mut command = python("peers")?;
        command.arg(tests("as_then.py")).arg(self.path(name)).args(arguments);
        command.current_dir(self.folder.path()).envs(self.environment.iter().map(|(name, value)| (name, value)));
        let ended = process::run(&mut command)?;
        ensure!(ended.status.success(), "{name} {arguments:?}: {}{}", ended.stdout, ended.stderr);
        Ok(ended.stdout)
    }
}

fn tests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guide").join(name)
}

/// A daemon with the API, a desk whose programs find it, and a program that calls functions of the guide.
struct Site {
    daemon: DaemonSandbox,
    desk: Desk,
    calls: Peer,
}

impl Site {
    /// The samples lie on the desk already.
    fn new(mut desk: Desk) -> Result<Self> {
        let mut daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
        let made = daemon.call(&["keys", "create", "--user", "tester"])?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let keys = String::from_utf8(made.stdout)?;
        daemon.serve(CONFIG)?;
        let address = |message: &str| -> Result<String> {
            let entry = daemon.logged(message)?.with_context(|| format!("nobody said `{message}`"))?;
            Ok(format!("http://{}", entry["address"].as_str().context("an address")?))
        };
        desk.set("AWS_ENDPOINT_URL_LOOKOUTVISION", address("listening")?);
        desk.set("AWS_ENDPOINT_URL_S3", address("S3 endpoint listens")?);
        desk.set("AWS_DEFAULT_REGION", REGION);
        // The samples name their profile, but for those that run elsewhere.
        desk.write("credentials", format!("[default]\n{keys}\n[lookoutvision-access]\n{keys}\n"))?;
        desk.write("config", format!("[profile lookoutvision-access]\nregion = {REGION}\n"))?;
        desk.set("AWS_SHARED_CREDENTIALS_FILE", desk.path("credentials"));
        desk.set("AWS_CONFIG_FILE", desk.path("config"));
        let environment: Vec<_> = desk.environment.iter().map(|(name, value)| (*name, value.as_os_str())).collect();
        let folder = desk.folder.path().to_str().context("a path in UTF-8")?.to_owned();
        let calls = Peer::start_with("peers", &environment, &tests("calls.py"), &[&folder])?;
        Ok(Self { daemon, desk, calls })
    }

    /// What came of an order, what was printed and what was logged.
    fn order(&mut self, order: &Value) -> Result<Value> {
        self.calls.ask(order, PATIENCE)
    }

    /// Calls a function of the guide; it must do well.
    fn sample(&mut self, name: &str, arguments: Value) -> Result<Value> {
        self.done(&json!({ "sample": name, "with": arguments }))
    }

    fn done(&mut self, order: &Value) -> Result<Value> {
        let seen = self.order(order)?;
        ensure!(seen.get("answer").is_some(), "{order}: {seen}");
        Ok(seen)
    }

    /// Calls boto3 itself.
    fn api(&mut self, method: &str, arguments: Value) -> Result<Value> {
        Ok(self.done(&json!({ "api": method, "with": arguments }))?["answer"].take())
    }

    fn end(mut self) -> Result<()> {
        self.daemon.terminate()?;
        ensure!(self.daemon.wait_end()?.success(), "{}", self.daemon.log()?);
        Ok(())
    }
}

/// What was printed, or logged, has this in it.
#[track_caller]
fn says(seen: &Value, words: &[&str]) {
    let told = format!("{}{}", seen["printed"].as_str().unwrap(), seen["logged"].as_str().unwrap());
    words.iter().for_each(|word| assert!(told.contains(word), "no `{word}` in:\n{told}"));
}
