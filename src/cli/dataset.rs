//! `linewarden dataset`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use jiff::Timestamp;
use linewarden_train::dataset::{self, ManifestSummary};

use super::progress::Shown;
use super::{PlacesArgs, load_dataset, must_exist};

const EXAMPLES: &str = "\
Examples:
  linewarden dataset check parts/
  linewarden dataset from-folder parts/ --out parts/train.manifest
  linewarden dataset from-csv labels.csv --s3-path s3://bucket/parts --out train.manifest";
const CHECK_EXAMPLES: &str = "\
Examples:
  linewarden dataset check parts/
  linewarden dataset check train.manifest --test test.manifest
  linewarden dataset check train.manifest --images s3://bucket/line-1=/data/line-1
  linewarden dataset check train.manifest --json | jq '.problems[].message'";
const FROM_CSV_EXAMPLES: &str = "\
Examples:
  linewarden dataset from-csv labels.csv --out train.manifest
      a line of labels.csv: pictures/1.jpg,anomaly
  linewarden dataset from-csv labels.csv --s3-path s3://bucket/parts --out train.manifest";
const FROM_FOLDER_EXAMPLES: &str = "\
Examples:
  linewarden dataset from-folder parts/ --out parts/train.manifest";

/// Labelled pictures: check them, or describe them in a manifest.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DatasetArgs {
    #[command(subcommand)]
    command: DatasetCommand,
}

#[derive(Debug, Subcommand)]
enum DatasetCommand {
    /// Report everything that is wrong with a data set, before any training
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// Folder or manifest
        #[arg(value_name = "DIR|FILE.manifest")]
        dataset: PathBuf,
        /// The pictures to test on, as a folder or a manifest; without it the data set counts as a single one
        #[arg(long, value_name = "DIR|FILE.manifest")]
        test: Option<PathBuf>,
        #[command(flatten)]
        places: PlacesArgs,
        /// Print one JSON document on standard output
        #[arg(long)]
        json: bool,
    },
    /// Turn a CSV file of `picture,label` lines into a manifest
    #[command(after_help = FROM_CSV_EXAMPLES)]
    FromCsv {
        /// The CSV file
        #[arg(value_name = "FILE.csv")]
        csv: PathBuf,
        /// Put before each picture's name
        #[arg(long, alias = "s3_path", value_name = "P")]
        s3_path: Option<String>,
        /// The manifest to write
        #[arg(long, value_name = "FILE.manifest")]
        out: PathBuf,
    },
    /// Describe a folder with `normal/`, `anomaly/` and `masks/` in a manifest
    #[command(after_help = FROM_FOLDER_EXAMPLES)]
    FromFolder {
        /// The folder
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The manifest to write
        #[arg(long, value_name = "FILE.manifest")]
        out: PathBuf,
    },
}

pub(super) fn run(args: &DatasetArgs) -> anyhow::Result<()> {
    match &args.command {
        DatasetCommand::Check { dataset, test, places, json } => check(dataset, test.as_deref(), places, *json),
        DatasetCommand::FromCsv { csv, s3_path, out } => {
            must_exist("FILE.csv", csv)?;
            let summary = dataset::from_csv(csv, s3_path.as_deref(), out, Timestamp::now())?;
            print(&told(&summary))
        }
        DatasetCommand::FromFolder { folder, out } => {
            let summary = dataset::write_manifest(&load_dataset(folder)?, out, Timestamp::now())?;
            print(&told(&summary))
        }
    }
}

fn check(path: &Path, test: Option<&Path>, places: &PlacesArgs, json: bool) -> anyhow::Result<()> {
    must_exist("dataset", path)?;
    if let Some(test) = test {
        must_exist("dataset", test)?;
    }
    let shown = Shown::new();
    let report = dataset::check(path, test, &places.places()?, &shown);
    drop(shown);
    let text = if json { serde_json::to_string_pretty(&report)? + "\n" } else { format!("{report}\n") };
    print(&text)?;
    let with_test = test.map(|test| format!(" with `{}`", test.display())).unwrap_or_default();
    anyhow::ensure!(report.is_ok(), "`{}`{with_test} has {} problems", path.display(), report.problems.len());
    Ok(())
}

fn told(summary: &ManifestSummary) -> String {
    format!(
        "Wrote {}: {} pictures, {} normal, {} anomalous, {} with masks.\n",
        summary.path.display(),
        summary.images,
        summary.normals,
        summary.anomalies,
        summary.masks
    )
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
