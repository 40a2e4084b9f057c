//! An agent that runs by itself, on machines with systemd.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

const UNIT: &str = "linewarden-agent.service";
const UNITS: &str = "/etc/systemd/system";

/// Whether services can be made here: systemd runs, and we may.
pub(super) fn is_possible() -> bool {
    Path::new("/run/systemd/system").is_dir() && rustix::process::geteuid().is_root()
}

/// Starts the service, now and with the machine. One that is there already stays as its owner wrote it.
pub(super) fn start(config: &Path) -> anyhow::Result<()> {
    let path = Path::new(UNITS).join(UNIT);
    if !path.exists() {
        let program = std::env::current_exe().context("cannot find this program")?;
        let config = std::path::absolute(config)?;
        std::fs::write(&path, unit(&program, &config)).with_context(|| format!("cannot write `{}`", path.display()))?;
        systemctl(&["daemon-reload"])?;
    }
    systemctl(&["enable", "--now", UNIT])
}

fn unit(program: &Path, config: &Path) -> String {
    format!(
        "[Unit]\nDescription=Linewarden Edge Agent\nAfter=network.target\n\n[Service]\nExecStart=\"{}\" serve \"{}\"\n\
         Restart=always\nRestartSec=1\n\n[Install]\nWantedBy=multi-user.target\n",
        program.display(),
        config.display()
    )
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let called = || format!("`systemctl {}`", arguments.join(" "));
    let output = Command::new("systemctl").args(arguments).output().with_context(called)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", called(), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_names_program_and_configuration() {
        let text = unit(Path::new("/usr/bin/linewarden"), Path::new("/opt/line warden/linewarden.toml"));
        assert!(
            text.contains("ExecStart=\"/usr/bin/linewarden\" serve \"/opt/line warden/linewarden.toml\"\n"),
            "{text}"
        );
    }
}
