//! The promises of delivery, held against the whole daemon and real brokers that die at random. Each prints its seed;
//! `make soak` runs them for longer.

#![allow(clippy::print_stdout, reason = "what was measured, and the seed")]

mod consumer;
mod crashes;
mod function_block;
mod outages;

use std::time::Duration;

use anyhow::Result;
use linewarden_model::ModelType;
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::sandbox::DaemonSandbox;

/// How many times something dies. `make soak` sets it to more.
const ROUNDS: &str = "LINEWARDEN_DELIVERY_ROUNDS";
/// What chance makes of it.
const SEED: &str = "LINEWARDEN_DELIVERY_SEED";

fn rounds() -> Result<u32> {
    Ok(std::env::var(ROUNDS).map_or(Ok(10), |rounds| rounds.parse())?)
}

/// SplitMix64: the same numbers for the same seed.
struct Chance(u64);

impl Chance {
    fn new(what: &str) -> Result<Self> {
        let seed = match std::env::var(SEED) {
            Ok(seed) => seed.parse()?,
            Err(_) => u64::from(std::process::id()),
        };
        println!("{what}: {SEED}={seed}");
        Ok(Self(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(least_ms + self.next() % (most_ms - least_ms + 1))
    }

    fn flip(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }
}

fn sandbox() -> Result<DaemonSandbox> {
    let sandbox = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&sandbox.path("model"), 64, 48, ModelType::Segmentation)?;
    Ok(sandbox)
}

/// A line of 25 decisions a second, each alive for 400 ms, whose broker is at `port`.
fn configuration(port: u16) -> String {
    format!(
        "[shutdown]\ngrace = \"10s\"\n[mqtt]\nbroker = \"mqtt://127.0.0.1:{port}\"\nheartbeat_interval = \"200ms\"\n\
         outbox = {{ path = \"outbox\", fsync = \"always\", historical_per_second = 400 }}\n\
         [[line]]\nname = \"cap\"\nmodel = \"model\"\ndevice = \"cpu\"\ndecision = {{ expires_after = \"400ms\" }}\n\
         [[line.camera]]\nname = \"top\"\nlive = true\n\
         launch = \"videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=48,framerate=25/1\"\n"
    )
}
