//! Pictures that cannot be trusted, from the camera's lens to the gate.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use linewarden_testkit::broker::{Message, Subscriber};
use linewarden_testkit::rtsp::{RtspCamera, Scene, Studio};

use crate::support::{SOON, Site, field, line, recovered, rtsp};

const HEALTH: &str = "[line.camera.health]\nlearn_frames = 50\nclear_after = \"200ms\"\nfrozen_after = \"500ms\"\n\
                      black_after = \"300ms\"\nover_exposed_after = \"300ms\"\nout_of_focus_after = \"500ms\"\n\
                      moved_after = \"500ms\"\nblack = \"unknown\"\nover_exposed = \"unknown\"\n\
                      out_of_focus = \"unknown\"\nmoved = \"unknown\"\n";

fn series(name: &str, fault: &str) -> String {
    format!("linewarden_{name}{{camera=\"top\",fault=\"{fault}\",line=\"cap\"}}")
}

fn with_reason(watch: &Subscriber, reason: &str) -> Result<Message> {
    let is_wanted = |decision: &Message| field(decision, "reason").is_ok_and(|found| found == reason);
    watch.next_where(SOON, is_wanted).with_context(|| format!("no decision with reason {reason}"))
}

/// Waits until the camera's health has learnt what is normal, stillness included.
fn learnt(site: &Site) -> Result<()> {
    site.wait_verdicts("cap", 150.0)?;
    ensure!(site.daemon.logged("camera health learnt")?.is_some(), "{}", site.daemon.log()?);
    Ok(())
}

#[test]
fn each_fault_of_a_camera_is_told_counted_and_decided_as_unknown_until_it_is_over() -> Result<()> {
    let camera = RtspCamera::studio(&Studio::default())?;
    let mut site = Site::new()?;
    let watch = site.hear("cap")?;
    let states = site.broker.subscribe("linewarden/cap/state")?;
    site.start(&[line("cap", &format!("{}\n{HEALTH}", rtsp(&camera)))])?;
    learnt(&site)?;
    let faults = [
        (Scene::Frozen, "frozen"),
        (Scene::Black, "black"),
        (Scene::White, "over_exposed"),
        (Scene::Soft, "out_of_focus"),
        (Scene::Moved, "moved"),
    ];
    for (scene, fault) in faults {
        camera.show(scene);
        let decision = with_reason(&watch, &format!("camera_unhealthy: {fault}"))?;
        assert_eq!(field(&decision, "verdict")?, "unknown");
        assert_eq!(site.daemon.metric(&series("camera_health", fault))?, 1.0, "{fault}");
        assert_eq!(site.daemon.metric(&series("camera_fault_total", fault))?, 1.0, "{fault}");
        states.next_where(SOON, |state| field(state, "line_state").is_ok_and(|state| state == "camera_unhealthy"))?;
        camera.show(Scene::Live);
        watch.arrived();
        recovered(&watch, Instant::now()).with_context(|| fault)?;
        site.daemon.wait_metric(&series("camera_health", fault), |there| there == 0.0)?;
        states.next_where(SOON, |state| field(state, "line_state").is_ok_and(|state| state == "running"))?;
    }
    let log = site.end()?;
    assert!(log.contains("\"camera unhealthy\"") && log.contains("\"camera healthy again\""));
    // By where it was pushed to.
    assert!(log.contains("Shift { right: -0."), "{log}");
    Ok(())
}

#[test]
fn a_fault_may_be_told_only_or_not_be_looked_for_and_a_cut_is_none() -> Result<()> {
    let camera = RtspCamera::studio(&Studio::default())?;
    let port = camera.port();
    let mut site = Site::new()?;
    let watch = site.hear("cap")?;
    let policies = HEALTH.replace("black = \"unknown\"", "black = \"warn\"\nfrozen = \"off\"");
    site.start(&[line("cap", &format!("{}\n{policies}", rtsp(&camera)))])?;
    learnt(&site)?;
    camera.show(Scene::Black);
    site.daemon.wait_metric(&series("camera_health", "black"), |there| there == 1.0)?;
    watch.arrived();
    assert_eq!(field(&watch.next_message(SOON)?, "verdict")?, "pass");
    camera.show(Scene::Live);
    site.daemon.wait_metric(&series("camera_health", "black"), |there| there == 0.0)?;
    camera.show(Scene::Frozen);
    site.wait_verdicts("cap", 50.0)?;
    assert_eq!(site.daemon.metric(&series("camera_fault_total", "frozen"))?, 0.0);
    drop(camera);
    site.daemon.wait_metric("linewarden_camera_connected{camera=\"top\",line=\"cap\"}", |there| there == 0.0)?;
    let _again = RtspCamera::studio(&Studio { port, ..Studio::default() })?;
    site.wait_verdicts("cap", 50.0)?;
    // What was learnt before the cut still holds after it.
    for fault in ["frozen", "over_exposed", "out_of_focus", "moved"] {
        assert_eq!(site.daemon.metric(&series("camera_fault_total", fault))?, 0.0, "{fault}");
    }
    site.end()?;
    Ok(())
}
