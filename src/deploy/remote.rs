//! The same on another machine: its own `linewarden deploy` reads the component from ssh.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::{Component, Target};

/// ssh's own failures end with this.
const SSH_FAILED: i32 = 255;
/// What a shell ends with when there is no such program.
const NOT_FOUND: i32 = 127;

/// Another machine.
#[derive(Debug)]
pub(crate) struct Remote {
    /// As ssh takes it: `[USER@]HOST`, or a name of its configuration.
    pub(crate) host: String,
    /// The program with its options, as in `ssh -p 2222`.
    pub(crate) ssh: String,
    /// Where `linewarden` is there.
    pub(crate) program: String,
    /// Whether the report there is one JSON document.
    pub(crate) json: bool,
}

impl Remote {
    /// Deploys a component there; what the other machine says goes to our own output.
    ///
    /// # Errors
    /// When ssh does not get there, there is no `linewarden`, or the deployment fails.
    pub(crate) fn deploy(&self, component: &Component, target: &Target) -> anyhow::Result<()> {
        let device = target.device.as_deref().or(component.device.as_deref());
        let mut words = vec!["-", "--name", &component.name];
        words.extend(device.iter().flat_map(|device| ["--device", device]));
        self.run(&words, target, &archive(component).context("cannot pack the component")?)
    }

    /// Has the other machine go back to the component before this one.
    ///
    /// # Errors
    /// As [`Remote::deploy`].
    pub(crate) fn roll_back(&self, name: &str, target: &Target) -> anyhow::Result<()> {
        self.run(&["--rollback", name], target, &[])
    }

    fn run(&self, words: &[&str], target: &Target, input: &[u8]) -> anyhow::Result<()> {
        let config = target.config.to_str().context("the configuration's path is no UTF-8")?;
        let mut command = vec![self.program.as_str(), "deploy", "--config", config];
        command.extend(words);
        command.extend((!target.starts).then_some("--no-start"));
        command.extend((!target.with_service).then_some("--no-service"));
        command.extend(self.json.then_some("--json"));
        // One word for ssh, quoted for the shell there.
        let command = shlex::try_join(command).context("a word of the call cannot be quoted")?;
        let ssh = shlex::split(&self.ssh).filter(|words| !words.is_empty()).context("`--ssh` has an open quote")?;
        let (program, options) = ssh.split_first().context("`--ssh` is empty")?;
        let mut child = Command::new(program)
            .args(options)
            .args(["--", &self.host, &command])
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run `{program}`"))?;
        let sent = child.stdin.take().context("a piped input")?.write_all(input);
        let status = child.wait().with_context(|| format!("cannot wait for `{program}`"))?;
        let host = &self.host;
        match status.code() {
            // An end that did not want all of it says itself why.
            Some(0) => sent.with_context(|| format!("cannot send the component to {host}")),
            Some(SSH_FAILED) => bail!("`{program}` does not get to {host}"),
            Some(NOT_FOUND) => bail!(
                "there is no `{}` on {host}: install Linewarden there, or name it with `--remote-linewarden`",
                self.program
            ),
            _ => bail!("the deployment on {host} failed"),
        }
    }
}

/// The package alone: name and device go by the call.
fn archive(component: &Component) -> anyhow::Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    component.package.write_to(folder.path())?;
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(PathBuf::from(&component.name), folder.path())?;
    Ok(archive.into_inner()?)
}
