//! A model that is too slow for the line, until another one takes its place.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use linewarden_testkit::model::slowed_package;

use crate::site::{Fault, REACTION, Site, Trigger, alone, camera, check, model, within};

/// A frame's time on this machine, as it is busy now; two cameras bring one each 33 ms.
const SLOW_MS: f64 = 250.0;
/// What is timed to know how much work that is.
const TRIAL: usize = 16;
const RATE: u32 = 30;

/// How long the model takes for a picture.
fn detect_ms(site: &Site, model: &Path) -> Result<f64> {
    let picture = model.join("golden/0.png");
    let (model, picture) = (model.to_str().unwrap(), picture.to_str().unwrap());
    let output = site.daemon.call(&["detect", "--json", "--scale", "--model", model, picture])?;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let time = &told[0]["DetectAnomalyResult"]["Time"];
    time.as_f64().with_context(|| format!("no time in {told}"))
}

#[test]
fn a_model_that_is_too_slow_costs_good_parts_until_another_takes_over_and_lets_no_bad_one_pass() -> Result<()> {
    let _alone = alone();
    let trigger = Trigger::Mqtt;
    let mut site =
        Site::new(trigger, |belt| Ok(camera("top", &within(belt, RATE, 0)) + &camera("side", &within(belt, RATE, 1))))?;
    let trial = slowed_package(model(), &site.daemon.path("trial"), TRIAL)?;
    let work = TRIAL as f64 * SLOW_MS / detect_ms(&site, &trial)?;
    let slow = slowed_package(model(), &site.daemon.path("slow"), work.ceil() as usize)?;
    site.begin_with(&slow);
    let from = Timestamp::now();
    let gates = site.begin(trigger, 11.0)?;
    gates.wait(4.0);
    let output = site.daemon.call(&["model", "swap", "--line", "belt", model().to_str().unwrap()])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What the slow model has in hand it still finishes.
    for camera in ["top", "side"] {
        let labels = format!("{{camera=\"{camera}\",line=\"belt\",model_version=\"1\",project=\"model\"}}");
        let scored = format!("linewarden_processed_image_total{labels}");
        let before = site.daemon.metric(&scored)?;
        site.daemon.wait_metric(&scored, |now| now >= before + 10.0)?;
    }
    let fault = Fault::healed_now(from, REACTION);
    for (name, shift) in gates.finish()? {
        let tally = check(name, &shift, &[fault])?;
        ensure!(tally.bad > 0 && tally.passed > 0 && tally.in_doubt > 0, "{name}: {tally:?}");
        // Every part has an answer in time, though many have none that helps.
        let unanswered: Vec<_> = shift.passages.iter().filter(|part| part.order.is_none()).collect();
        ensure!(unanswered.is_empty() && shift.counters.late == 0, "{name}: {unanswered:?}");
    }
    let dropped = |camera: &str| {
        let labels = format!("{{camera=\"{camera}\",line=\"belt\",reason=\"queue_full\"}}");
        site.daemon.metric(&format!("linewarden_frame_dropped_total{labels}"))
    };
    ensure!(dropped("top")? > 0.0 && dropped("side")? > 0.0, "nothing fell out of a queue");
    site.end()
}
