//! `make bench`: what a line costs on this machine, from synthetic parts alone.
//!
//! Trains models on thirty rendered parts, without and with defects, then measures the bare network, the element around it, the way of a decision
//! to the broker, and the memory of a running daemon. Figures that the project promises stand beside what is required of
//! them; none of them fails the run, because the machine that runs it may be busy.
//!
//! What is compared runs in turns and is told as medians, so that noise meets all alike.

#[path = "../shared/call.rs"]
mod call;
mod clock;
mod feed;
mod graph;
mod latency;
#[path = "../shared/machine.rs"]
mod machine;
mod memory;
#[path = "../shared/numbers.rs"]
mod numbers;
mod parts;
#[path = "../shared/report.rs"]
mod report;
#[path = "../shared/session.rs"]
mod session;
mod speed;

use anyhow::{Context as _, Result};

use call::{json_path, say, tell};
use machine::Machine;
use parts::Parts;
use report::Report;

fn main() -> Result<()> {
    let json = json_path("line")?;
    // Before anything of ours runs, the load is everybody else's.
    let machine = Machine::look();
    gst::init().context("cannot start GStreamer: run `make setup`")?;
    gstlinewarden::plugin_register_static()?;

    say("training on 30 rendered parts of 1280x720, and on 20 with defects")?;
    let parts = Parts::prepare()?;
    let mut report = Report::new(machine);
    report.chapter("Training");
    report.figure("training", "30 normal pictures of 1280x720, all cores", parts.training_seconds, "s");
    say("the network alone and the element around it, in turns")?;
    speed::measure(&parts, &mut report)?;
    say("where the network's time goes")?;
    graph::measure(&parts, &mut report)?;
    say("from a frame to the broker's acknowledgement, 30 frames a second")?;
    latency::measure(&parts, &mut report)?;
    say("memory of a running daemon")?;
    memory::measure(&parts, &mut report)?;

    tell(&report, json)
}
