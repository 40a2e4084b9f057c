//! The REST API through the doors that its clients use: boto3 for the service and for S3, by real signatures.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

mod access;
mod apply;
mod generated;
mod kills;
mod life;
mod notebook;
mod places;
mod survival;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use linewarden_access::Credentials;
use linewarden_testkit::peers::Peer;
use linewarden_testkit::sandbox::DaemonSandbox;
use serde_json::{Value, json};

/// A training and its evaluation, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
const CONFIG: &str = "[api]\ndata = \"data\"\nregion = \"eu-west-1\"\naccount = \"123456789012\"\ns3_listen = \"127.0.0.1:0\"\ndevice = \"cpu\"\n";

/// A daemon with the API, and an access key.
struct Site {
    daemon: DaemonSandbox,
    key: String,
    secret: String,
}

impl Site {
    fn new() -> Result<Self> {
        Self::with(CONFIG)
    }

    fn with(config: &str) -> Result<Self> {
        Self::prepared(config, |_| Ok(()))
    }

    /// The same with something done in the daemon's folder before it starts.
    fn prepared(config: &str, prepare: impl FnOnce(&DaemonSandbox) -> Result<()>) -> Result<Self> {
        let mut daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
        let (key, secret) = made_key(&daemon, &["keys", "create", "--user", "tester"])?;
        prepare(&daemon)?;
        daemon.serve(config)?;
        Ok(Self { daemon, key, secret })
    }

    fn address(&self, message: &str) -> Result<String> {
        let entry = self.daemon.logged(message)?.with_context(|| format!("nobody said `{message}`"))?;
        Ok(format!("http://{}", entry["address"].as_str().context("an address")?))
    }

    /// A client of the project `project`, with pictures in `folder`.
    fn client(&self, folder: &Path, project: &str) -> Result<Client> {
        self.client_of(Kind::Boto3, folder, project)
    }

    fn client_of(&self, kind: Kind, folder: &Path, project: &str) -> Result<Client> {
        let (api, s3) = (self.address("listening")?, self.address("S3 endpoint listens")?);
        let folder = folder.to_str().context("a path in UTF-8")?;
        let arguments = [&api, &s3, "eu-west-1", folder, project, &self.key, &self.secret];
        Ok(Client(self.peer(kind, Path::new("tests/api/life.py"), &arguments)?))
    }

    /// A program with these arguments and the word for what calls the API.
    fn peer(&self, kind: Kind, program: &Path, arguments: &[&str]) -> Result<Peer> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
        let caller = if kind == Kind::AwsCommand { "aws" } else { "boto3" };
        let arguments = [arguments, &[caller]].concat();
        if kind != Kind::NewestBoto3 {
            return Peer::start(&program, &arguments);
        }
        let models = self.daemon.path("aws-models");
        let folder = models.to_str().context("a path in UTF-8")?;
        let laid = self.daemon.call(&["aws-model", "install", "--folder", folder])?;
        ensure!(laid.status.success(), "{}", String::from_utf8_lossy(&laid.stderr));
        Peer::start_with("peers-newest", &[("AWS_DATA_PATH", models.as_os_str())], &program, &arguments)
    }

    fn end(mut self) -> Result<()> {
        self.daemon.terminate()?;
        ensure!(self.daemon.wait_end()?.success(), "{}", self.daemon.log()?);
        Ok(())
    }
}

/// What a call of `linewarden keys create` made.
fn made_key(daemon: &DaemonSandbox, arguments: &[&str]) -> Result<(String, String)> {
    let made = daemon.call(arguments)?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = String::from_utf8(made.stdout)?;
    let made = Credentials::parse(&made).map_err(|name| anyhow::anyhow!("no {name} in: {made}"))?;
    Ok((made.id, made.secret))
}

/// What calls the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The last boto3 that had the service.
    Boto3,
    /// The newest one, with our model of the service laid for it.
    NewestBoto3,
    /// `aws lookoutvision` of the last release that had it.
    AwsCommand,
}

struct Client(Peer);

impl Client {
    /// What it saw.
    fn does(&mut self, what: &str) -> Result<Value> {
        let answer = self.0.ask(&json!({ "do": what }), PATIENCE)?;
        ensure!(answer.get("answer").is_some(), "{what}: {answer}");
        Ok(answer["answer"].clone())
    }
}
