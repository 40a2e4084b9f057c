//! How a benchmark is called, and where its figures go.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::report::Report;

/// What goes on, beside the result.
pub(crate) fn say(what: &str) -> Result<()> {
    Ok(writeln!(io::stderr(), "bench: {what}")?)
}

/// The file that JSON is asked for in. `cargo bench` itself adds `--bench`.
pub(crate) fn json_path(bench: &str) -> Result<Option<PathBuf>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (None, ..) => Ok(None),
        (Some("--json"), Some(path), None) => Ok(Some(PathBuf::from(path))),
        _ => bail!("usage: cargo bench --profile release --bench {bench} -- [--json FILE]"),
    }
}

/// Prints the table, and writes the document where it is asked for.
pub(crate) fn tell(report: &Report, json: Option<PathBuf>) -> Result<()> {
    io::stdout().write_all(report.to_text().as_bytes())?;
    if let Some(path) = json {
        let document = serde_json::to_string_pretty(&report.to_json())? + "\n";
        std::fs::write(&path, document).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(())
}
