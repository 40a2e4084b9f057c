//! Rejects that chance does not explain.

use anyhow::Result;

use crate::support::{DARK, Site, WHITE, camera};

const QUIET: &str = "drift = { watch = false }";

fn alarm(site: &Site, kind: &str) -> Result<f64> {
    site.metric(&format!("reject_chart_alarm{{kind=\"{kind}\",line=\"cap\"}}"))
}

#[test]
fn a_burst_of_rejects_raises_the_alarm_until_rejects_are_as_usual_again() -> Result<()> {
    let chart = "reject_chart = { window = 50, usual_share = 0.02 }";
    let site = Site::start(DARK, "", &format!("model = \"models/plain\"\n{QUIET}\n{chart}\n{}", camera("top")))?;
    site.wait_logged("rejects as usual")?;
    site.paint(WHITE)?;
    let state = site.next_alarms(&["too_many_rejects"])?;
    assert_eq!(state["line_state"], "running");
    assert_eq!((alarm(&site, "too_many")?, alarm(&site, "too_few")?), (1.0, 0.0));
    assert!(site.sandbox.logged("more rejects than chance explains")?.is_some());
    site.sandbox.wait_metric("linewarden_reject_share{line=\"cap\"}", |share| share == 1.0)?;
    site.paint(DARK)?;
    site.next_alarms(&[])?;
    assert_eq!((alarm(&site, "too_many")?, alarm(&site, "too_few")?), (0.0, 0.0));
    site.end().map(drop)
}

#[test]
fn a_line_that_rejects_nothing_any_more_raises_the_other_alarm() -> Result<()> {
    let chart = "reject_chart = { window = 50, usual_share = 0.3 }";
    let site = Site::start(DARK, "", &format!("model = \"models/plain\"\n{QUIET}\n{chart}\n{}", camera("top")))?;
    site.next_alarms(&["too_few_rejects"])?;
    assert_eq!((alarm(&site, "too_many")?, alarm(&site, "too_few")?), (0.0, 1.0));
    site.end().map(drop)
}
