//! `linewarden demo`.

use std::path::PathBuf;

use linewarden_publish::BrokerUrl;

use crate::demo::{self, Demo};

const EXAMPLES: &str = "\
Examples:
  linewarden demo
  linewarden demo --parts 300 --rate 20 --defect-rate 0.1
  linewarden demo --broker mqtt://127.0.0.1:1883     and watch: mosquitto_sub -v -t 'linewarden/#'";

/// Everything at once on synthetic parts: a broker, a camera, a trained model, a line, and a score at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DemoArgs {
    /// Parts that pass the camera
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    parts: u32,
    /// Parts a second
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=60))]
    rate: u32,
    /// Share of parts with a defect, 0 to 1
    #[arg(long, default_value_t = 0.25, value_parser = share)]
    defect_rate: f64,
    /// Which belt
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for the training pictures, the model, the configuration and the picture with overlays
    #[arg(long, value_name = "DIR", default_value = "demo-output")]
    out: PathBuf,
    /// A broker that runs already, instead of one in this process
    #[arg(long, value_name = "URL")]
    broker: Option<BrokerUrl>,
}

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    demo::run(&Demo {
        parts: u64::from(args.parts),
        rate: args.rate,
        defect_rate: args.defect_rate,
        seed: args.seed,
        out: args.out.clone(),
        broker: args.broker.clone(),
    })
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "must be a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must be from 0 to 1".to_owned()) }
}
