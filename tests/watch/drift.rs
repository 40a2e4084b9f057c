//! Scores that move while every part still passes.

use anyhow::{Result, ensure};

use crate::support::{BRIGHTER, DARK, Site, camera};

const WINDOW: &str = "drift = { window = 40 }";

#[test]
fn light_that_changes_raises_the_alarm_against_training_while_every_part_still_passes() -> Result<()> {
    let site = Site::start(DARK, "", &format!("model = \"models/trained\"\n{WINDOW}\n{}", camera("top")))?;
    let series = "score_drift{camera=\"top\",line=\"cap\"}";
    site.sandbox.wait_metric(&format!("linewarden_{series}"), |lead| lead > 0.0)?;
    ensure!(site.metric(series)? < 0.3, "they lie among the normal ones");
    site.paint(BRIGHTER)?;
    let state = site.next_alarms(&["score_drift"])?;
    assert_eq!(state["line_state"], "running");
    assert_eq!(site.metric("score_drift_alarm{camera=\"top\",line=\"cap\"}")?, 1.0);
    assert!(site.sandbox.logged("scores drift")?.is_some_and(|entry| entry["camera"] == "top"));
    assert_eq!(site.metric("decision_total{line=\"cap\",verdict=\"reject\"}")?, 0.0, "before any false reject");
    site.paint(DARK - 10)?;
    site.next_alarms(&[])?;
    assert_eq!(site.metric("score_drift_alarm{camera=\"top\",line=\"cap\"}")?, 0.0);
    site.end().map(drop)
}

#[test]
fn without_scores_from_training_the_lines_first_ones_are_the_reference_and_a_new_model_brings_its_own() -> Result<()> {
    let site = Site::start(BRIGHTER, "", &format!("model = \"models/plain\"\n{WINDOW}\n{}", camera("top")))?;
    let learns = "score drift has no reference from training here: the next parts' scores become it";
    assert!(site.sandbox.logged(learns)?.is_some_and(|entry| entry["parts"] == 40));
    site.wait_logged("score drift has its reference")?;
    site.wait_logged("scores compared")?;
    assert_eq!(site.metric("score_drift{camera=\"top\",line=\"cap\"}")?, 0.0, "it is its own reference");
    let swap = site.sandbox.call(&["model", "swap", "--line", "cap", "models/trained"])?;
    ensure!(swap.status.success(), "{}", String::from_utf8_lossy(&swap.stderr));
    // What the first model took for usual is more than the second one was trained on.
    site.next_alarms(&["score_drift"])?;
    let back = site.sandbox.call(&["model", "rollback", "--line", "cap"])?;
    ensure!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    site.next_alarms(&[])?;
    let (notes, _) = site.end()?;
    let versions: Vec<_> = notes.iter().map(|note| note["model"]["version"].clone()).collect();
    assert_eq!(versions, ["2", "1"], "each change of the model is on record");
    Ok(())
}

#[test]
fn of_several_cameras_each_is_compared_with_its_own_beginning_and_all_together_with_training() -> Result<()> {
    let two = camera("top") + &camera("side");
    let site = Site::start(DARK, "", &format!("model = \"models/trained\"\n{WINDOW}\n{two}"))?;
    let whole = "linewarden_score_drift{camera=\"\",line=\"cap\"}";
    site.sandbox.wait_metric(whole, |lead| lead > 0.0)?;
    // Both must have learnt before the light changes.
    for camera in ["top", "side"] {
        let scored = format!(
            "linewarden_processed_image_total{{camera=\"{camera}\",line=\"cap\",model_version=\"2\",project=\"brightness\"}}"
        );
        site.sandbox.wait_metric(&scored, |frames| frames >= 100.0)?;
    }
    site.paint(BRIGHTER)?;
    for camera in ["", "top", "side"] {
        let alarm = format!("linewarden_score_drift_alarm{{camera=\"{camera}\",line=\"cap\"}}");
        site.sandbox.wait_metric(&alarm, |alarm| alarm == 1.0)?;
    }
    site.end().map(drop)
}
