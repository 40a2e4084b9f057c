//! When a frame was captured, who says so, and that it does not get ever longer ago.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use linewarden_testkit::rtsp::{RtspCamera, Studio};

use crate::support::{SOON, Site, field, line, rtsp, undisturbed};

fn clock(name: &str) -> String {
    format!("linewarden_capture_clock{{camera=\"top\",clock=\"{name}\",line=\"cap\"}}")
}

#[test]
fn a_camera_whose_clock_agrees_with_ours_says_when_its_frames_were_captured() -> Result<()> {
    let camera = RtspCamera::studio(&Studio::default())?;
    let mut site = Site::new()?;
    let watch = site.hear("cap")?;
    site.start(&[line("cap", &rtsp(&camera))])?;
    // Its first sender report may take some seconds.
    site.daemon.wait_metric(&clock("ntp"), |used| used == 1.0)?;
    let decision = watch.next_where(SOON, |decision| field(decision, "clock").is_ok_and(|clock| clock == "ntp"))?;
    let at =
        |name: &str| -> Result<jiff::Timestamp> { Ok(field(&decision, name)?.as_str().context("no time")?.parse()?) };
    let took = at("decided_at")?.duration_since(at("captured_at")?);
    ensure!(took.is_positive() && took < jiff::SignedDuration::from_secs(1), "{took:?}");
    assert_eq!(site.daemon.metric(&clock("pts"))?, 0.0);
    site.end()?;
    Ok(())
}

#[test]
fn a_camera_whose_clock_was_never_set_is_not_believed_and_its_decisions_do_not_expire() -> Result<()> {
    let camera = RtspCamera::studio(&Studio { wrong_clock: true, ..Studio::default() })?;
    let mut site = Site::new()?;
    let watch = site.hear("cap")?;
    site.start(&[line("cap", &rtsp(&camera))])?;
    let told = "camera clock is off and not used: set it by NTP";
    let deadline = std::time::Instant::now() + SOON;
    let warning = loop {
        if let Some(warning) = site.daemon.logged(told)? {
            break warning;
        }
        ensure!(std::time::Instant::now() < deadline, "the clock was believed:\n{}", site.daemon.log()?);
        watch.next_message(SOON)?;
    };
    // It begins where NTP does, in 1900.
    let offset = warning["offset_seconds"].as_f64().context("no offset")?;
    ensure!(offset < -3.0e9, "{warning}");
    watch.arrived();
    for _ in 0..10 {
        let decision = watch.next_message(SOON)?;
        assert_eq!(field(&decision, "clock")?, "pts");
        assert_eq!(field(&decision, "verdict")?, "pass");
    }
    assert_eq!(site.daemon.metric("linewarden_deadline_missed_total{line=\"cap\"}")?, 0.0);
    site.end()?;
    Ok(())
}

#[test]
fn the_lag_of_a_stream_that_the_machine_cannot_keep_up_with_does_not_grow() -> Result<()> {
    // A JPEG stands alone; an H.264 picture that is skipped takes the next ones with it.
    for jpeg in [true, false] {
        let camera = RtspCamera::studio(&Studio { jpeg, ..Studio::default() })?;
        let mut site = Site::new()?;
        let watch = site.hear("cap")?;
        // 25 pictures a second come, and 8 can be looked at: what cannot wait must go.
        let slow = format!(
            "live = true\nclock = \"pts\"\nlaunch = \"rtspsrc location={} latency=50 ! decodebin ! videoconvert \
             ! identity sleep-time=120000\"",
            camera.url()
        );
        site.start(&[line("cap", &slow)])?;
        site.wait_verdicts("cap", 5.0)?;
        let lag = "linewarden_capture_lag_seconds{camera=\"top\",line=\"cap\"}";
        let mut lags = Vec::new();
        for _ in 0..10 {
            site.wait_verdicts("cap", 4.0)?;
            lags.push(site.daemon.metric(lag)?);
        }
        writeln!(std::io::stderr(), "lags of a slow consumer, JPEG {jpeg}: {lags:?}")?;
        let most = lags.iter().copied().fold(0.0, f64::max);
        ensure!(most < 1.2, "{lags:?}");
        // Every picture that was skipped is in the books, by its number, and stale for the gate.
        let late = "linewarden_frame_dropped_total{camera=\"top\",line=\"cap\",reason=\"late\"}";
        ensure!(site.daemon.metric(late)? > 20.0, "{}", site.daemon.metric(late)?);
        undisturbed(&watch.arrived())?;
        site.end()?;
    }
    Ok(())
}
