//! Nothing fails.

use anyhow::Result;

use crate::site::{Site, Trigger, alone, check, two_cameras};

const SECONDS: f64 = 8.0;

#[test]
fn each_way_in_takes_off_the_bad_parts_and_no_other() -> Result<()> {
    let _alone = alone();
    let trigger = Trigger::Mqtt;
    let mut site = Site::new(trigger, two_cameras)?;
    let gates = site.begin(trigger, SECONDS)?;
    let mut rejected = 0;
    for (name, shift) in gates.finish()? {
        let tally = check(name, &shift, &[])?;
        assert!(tally.bad > 0 && tally.passed > 0 && tally.in_doubt == 0, "{name}: {tally:?}");
        let counters = shift.counters;
        assert_eq!((counters.duplicates, counters.gaps, counters.late), (0, 0, 0), "{name}");
        rejected = tally.bad;
    }
    // Each reject was acknowledged when the gate worked.
    let acknowledged = "linewarden_gate_acknowledged_total{line=\"belt\"}";
    site.daemon.wait_metric(acknowledged, |count| count == rejected as f64)?;
    assert_eq!(site.daemon.metric("linewarden_gate_unacknowledged_total{line=\"belt\"}")?, 0.0);
    assert_eq!(site.daemon.metric("linewarden_deadline_missed_total{line=\"belt\"}")?, 0.0);
    site.end()
}
