//! What changing models costs a running line: no frame, little time, and no memory that stays away.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;

use crate::{Duration, Watch, call, running};

/// Both cameras have 30 frames a second. Measured: 0.035 s on an idle machine.
const LONGEST_GAP: Duration = Duration::from_secs(1);
/// After many changes, over what the line holds once it has two models loaded.
const MEMORY_GROWTH: f64 = 1.25;

#[test]
fn ten_changes_in_a_row_lose_no_frame_and_no_time_and_give_their_memory_back() -> Result<()> {
    let (_broker, mut watch, mut sandbox) = running("")?;
    let mut versions = vec!["1"];
    let mut after_first = 0;
    for change in 0..10 {
        let (model, version) = if change % 2 == 0 { ("models/second", "2") } else { ("models/first", "1") };
        let (code, _, error) = call(&sandbox, &["model", "swap", "--line", "cap", model])?;
        ensure!(code == Some(0), "{error}");
        watch.frames_of(version)?;
        versions.push(version);
        if change == 1 {
            after_first = sandbox.resident_bytes()?;
        }
    }
    let after_all = sandbox.resident_bytes()?;
    let growth = after_all as f64 / after_first as f64;
    let gap = watch.longest_gap()?;
    writeln!(
        std::io::stderr(),
        "    ten changes of model: longest time between two decisions of a camera {gap:?}, memory {} and then {} MB",
        after_first >> 20,
        after_all >> 20
    )?;
    ensure!(gap <= LONGEST_GAP, "a camera waited {gap:?} for its next decision");
    ensure!(growth <= MEMORY_GROWTH, "{after_first} bytes grew to {after_all}");
    watch.until_the_end(&mut sandbox, &versions)
}

impl Watch {
    /// Between two decisions on frames of one camera, by the daemon's own clock.
    fn longest_gap(&self) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        for camera in ["top", "side"] {
            let mut before: Option<Timestamp> = None;
            for message in self.heard.iter().filter(|message| message.topic.ends_with("/decision")) {
                let decision = message.json()?;
                let is_own = decision["frames"][0].as_str().is_some_and(|frame| frame.starts_with(camera));
                if !is_own {
                    continue;
                }
                let at: Timestamp = decision["decided_at"].as_str().context("decided_at")?.parse()?;
                let gap = before.replace(at).map(|before| Duration::try_from(at.duration_since(before)));
                longest = longest.max(gap.transpose()?.unwrap_or_default());
            }
        }
        Ok(longest)
    }
}
