//! `linewarden apply`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use indicatif::ProgressBar;
use linewarden_access::Credentials;

use super::{CallError, must_exist};
use crate::apply::{self, Client, Declared, Plan};

const EXAMPLES: &str = "\
Examples:
  linewarden apply projects.toml --plan
      shows what would be done, and ends with 0 when there is nothing, with 1 otherwise
  linewarden apply projects.toml
      shows it, asks, and does it
  AWS_ENDPOINT_URL_LOOKOUTVISION=https://line-3:8743 linewarden apply projects.toml --yes --ca factory.pem

projects.toml:
  [[project]]
  name = \"cap\"
  train = { manifest = \"s3://pictures/train.manifest\" }
  test = { manifest = \"s3://pictures/test.manifest\" }

  [[project.model]]
  description = \"first\"                # tells it from the project's other models
  output = \"s3://pictures/results/\"
  hosted = [1, 2]                      # inference units; 0 is not hosted
  tags = { line = \"press-1\" }

Nothing is deleted: what is not declared is left as it is, and data sets that are there are not filled anew.";

/// Make projects, data sets and models as a file declares them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ApplyArgs {
    /// The declaration
    file: PathBuf,
    /// Show what would be done, and do nothing
    #[arg(long)]
    plan: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Where the REST API is
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL_LOOKOUTVISION", default_value = "http://127.0.0.1:8750")]
    endpoint: String,
    /// The region that it is configured for
    #[arg(long, env = "AWS_DEFAULT_REGION", default_value = "us-east-1")]
    region: String,
    /// Access key and secret as `linewarden keys create` prints them; without it they are in the environment
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Certificates to trust besides the system's, as PEM
    #[arg(long, value_name = "FILE", env = "AWS_CA_BUNDLE")]
    ca: Option<PathBuf>,
}

pub(super) fn run(args: &ApplyArgs) -> anyhow::Result<()> {
    must_exist("declaration", &args.file)?;
    let declared = apply::read(&args.file).map_err(|error| CallError(format!("{error:#}")))?;
    let credentials = Credentials::find(args.credentials.as_deref(), "a file by `--credentials`")
        .map_err(|error| CallError(error.to_string()))?;
    let client = Client::new(&args.endpoint, &args.region, credentials, args.ca.as_deref())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(applied(args, &declared, &client))
}

async fn applied(args: &ApplyArgs, declared: &Declared, client: &Client) -> anyhow::Result<()> {
    let plan = Plan::of(declared, &apply::look(client, declared).await?);
    let mut out = io::stdout();
    for step in &plan.steps {
        writeln!(out, "{step}")?;
    }
    anyhow::ensure!(plan.obstacles.is_empty(), "{}", plan.obstacles.join("; "));
    if plan.steps.is_empty() {
        return Ok(writeln!(out, "Everything is as declared.")?);
    }
    if args.plan {
        anyhow::bail!("{} steps are to be done", plan.steps.len());
    }
    if !args.yes && !is_wanted()? {
        return Ok(writeln!(out, "Nothing was done.")?);
    }
    for (done, step) in plan.steps.iter().enumerate() {
        let bar = ProgressBar::new_spinner().with_message(step.to_string());
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        let made = apply::make_so(client, step, &mut |message| bar.set_message(format!("{step}: {message}"))).await;
        bar.finish_and_clear();
        made.with_context(|| format!("step {} of {} failed: {step}", done + 1, plan.steps.len()))?;
        writeln!(out, "done: {step}")?;
    }
    Ok(())
}

fn is_wanted() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(CallError("nobody can be asked here: say `--yes`, or `--plan`".to_owned()).into());
    }
    write!(io::stdout(), "Do it? [y/N] ")?;
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
