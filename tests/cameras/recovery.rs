//! What a camera does to its line when it goes wrong, and how soon it is back.

use std::io::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use linewarden_testkit::rtsp::{RtspCamera, Studio, Wire};

use crate::support::{SOON, Site, field, line, recovered, rtsp, undisturbed};

const CONNECTED: &str = "linewarden_camera_connected{camera=\"top\",line=\"bad\"}";
const LINES_LOST: &str = "linewarden/bad/state";

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stderr(), "{text}")?;
    Ok(())
}

fn port_url(port: u16) -> String {
    format!("pipeline = \"rtsp\"\nwith = {{ location = \"rtsp://127.0.0.1:{port}/camera\", latency = 50 }}")
}

#[test]
fn a_camera_that_is_cut_is_back_within_two_seconds_of_its_return_and_its_neighbour_never_notices() -> Result<()> {
    let (good, bad) = (RtspCamera::studio(&Studio::default())?, RtspCamera::studio(&Studio::default())?);
    let port = bad.port();
    let mut site = Site::new()?;
    let (neighbour, watch) = (site.hear("good")?, site.hear("bad")?);
    let states = site.broker.subscribe(LINES_LOST)?;
    site.start(&[line("good", &rtsp(&good)), line("bad", &rtsp(&bad))])?;
    site.wait_verdicts("good", 10.0)?;
    site.wait_verdicts("bad", 10.0)?;
    neighbour.arrived();

    let mut bad = Some(bad);
    for outage in [Duration::from_millis(500), Duration::from_secs(4)] {
        drop(bad.take());
        site.daemon.wait_metric(CONNECTED, |connected| connected == 0.0)?;
        states.next_where(SOON, |state| field(state, "line_state").is_ok_and(|state| state == "camera_lost"))?;
        assert_eq!(site.daemon.get("/readyz")?.0, 503);
        // The outage itself is what is tested.
        std::thread::sleep(outage);
        watch.arrived();
        bad = Some(RtspCamera::studio(&Studio { port, ..Studio::default() })?);
        say(&format!("back {:?} after a cut of {outage:?}", recovered(&watch, Instant::now())?))?;
        states.next_where(SOON, |state| field(state, "line_state").is_ok_and(|state| state == "running"))?;
    }
    let gap = undisturbed(&neighbour.arrived())?;
    ensure!(gap < Duration::from_secs(1), "the neighbour waited {gap:?}");
    site.end()?;
    Ok(())
}

#[test]
fn a_camera_that_stalls_is_lost_soon_and_back_soon() -> Result<()> {
    let camera = RtspCamera::studio(&Studio::default())?;
    let mut site = Site::new()?;
    let watch = site.hear("bad")?;
    site.start(&[line("bad", &format!("stall_after = \"700ms\"\n{}", rtsp(&camera)))])?;
    site.wait_verdicts("bad", 10.0)?;
    camera.set_wire(Wire::Silent);
    let stalled = Instant::now();
    site.daemon.wait_metric(CONNECTED, |connected| connected == 0.0)?;
    let noticed = stalled.elapsed();
    ensure!(noticed < Duration::from_secs(2), "it took {noticed:?} to notice");
    let lost = site.daemon.logged("camera lost, restarting")?.context("nothing was logged")?;
    assert_eq!(lost["error"], "no frame within 700ms");
    watch.arrived();
    camera.set_wire(Wire::Clean);
    say(&format!("stall noticed after {noticed:?}, back after {:?}", recovered(&watch, Instant::now())?))?;
    site.end()?;
    Ok(())
}

#[test]
fn another_size_is_refused_by_name_and_the_right_one_taken_again() -> Result<()> {
    let camera = RtspCamera::studio(&Studio::default())?;
    let mut site = Site::new()?;
    let watch = site.hear("bad")?;
    site.start(&[line("bad", &rtsp(&camera))])?;
    site.wait_verdicts("bad", 10.0)?;
    camera.resize(320, 240);
    site.daemon.wait_metric(CONNECTED, |connected| connected == 0.0)?;
    let lost = site.daemon.logged("camera lost, restarting")?.context("nothing was logged")?;
    let error = lost["error"].as_str().unwrap_or_default();
    assert!(error.contains("320x240") && error.contains("160x120"), "{error}");
    // No frame of the wrong size got a verdict.
    std::thread::sleep(Duration::from_secs(1));
    let meanwhile = watch.arrived();
    let last =
        meanwhile.iter().rposition(|decision| field(decision, "verdict").is_ok_and(|verdict| verdict != "unknown"));
    let after = meanwhile.get(last.map_or(0, |last| last + 1)..).unwrap_or_default();
    assert!(after.iter().all(|decision| field(decision, "verdict").is_ok_and(|verdict| verdict == "unknown")));
    camera.resize(160, 120);
    say(&format!("back {:?} after the right size", recovered(&watch, Instant::now())?))?;
    site.end()?;
    Ok(())
}

#[test]
fn a_camera_may_come_back_with_another_codec() -> Result<()> {
    let camera = RtspCamera::studio(&Studio::default())?;
    let port = camera.port();
    let mut site = Site::new()?;
    let watch = site.hear("bad")?;
    site.start(&[line("bad", &rtsp(&camera))])?;
    site.wait_verdicts("bad", 10.0)?;
    drop(camera);
    site.daemon.wait_metric(CONNECTED, |connected| connected == 0.0)?;
    watch.arrived();
    let _jpeg = RtspCamera::studio(&Studio { port, jpeg: true, ..Studio::default() })?;
    say(&format!("back {:?} as JPEG", recovered(&watch, Instant::now())?))?;
    site.end()?;
    Ok(())
}

#[test]
fn what_is_lost_or_garbled_on_the_way_gets_no_verdict_and_the_end_of_it_shows_within_two_seconds() -> Result<()> {
    let (good, bad) = (RtspCamera::studio(&Studio::default())?, RtspCamera::studio(&Studio::default())?);
    let mut site = Site::new()?;
    let (neighbour, watch) = (site.hear("good")?, site.hear("bad")?);
    site.start(&[line("good", &rtsp(&good)), line("bad", &rtsp(&bad))])?;
    site.wait_verdicts("good", 10.0)?;
    neighbour.arrived();
    let damaged = "linewarden_frame_dropped_total{camera=\"top\",line=\"bad\",reason=\"damaged\"}";
    for wire in [Wire::Lossy, Wire::Garbage] {
        site.wait_verdicts("bad", 25.0)?;
        let before = site.daemon.metric(damaged)?;
        bad.set_wire(wire);
        match wire {
            // Most pictures rest on one that is not whole.
            Wire::Lossy => site.daemon.wait_metric(damaged, |damaged| damaged > before + 10.0)?,
            _ => site.daemon.wait_metric(CONNECTED, |connected| connected == 0.0)?,
        };
        std::thread::sleep(Duration::from_secs(1));
        watch.arrived();
        std::thread::sleep(Duration::from_secs(1));
        let meanwhile = watch.arrived();
        let verdicts =
            meanwhile.iter().filter(|decision| field(decision, "verdict").is_ok_and(|verdict| verdict != "unknown"));
        let verdicts = verdicts.count();
        say(&format!("{wire:?}: {verdicts} verdicts of {} decisions in a second", meanwhile.len()))?;
        ensure!(verdicts == 0 || wire == Wire::Lossy, "{meanwhile:?}");
        bad.set_wire(Wire::Clean);
        say(&format!("back {:?} after {wire:?}", recovered(&watch, Instant::now())?))?;
    }
    let gap = undisturbed(&neighbour.arrived())?;
    ensure!(gap < Duration::from_secs(1), "the neighbour waited {gap:?}");
    site.end()?;
    Ok(())
}

#[test]
fn noise_in_place_of_pictures_ends_cameras_again_and_again_and_never_the_daemon() -> Result<()> {
    const LINES: [&str; 4] = ["a", "b", "c", "d"];
    let camera = RtspCamera::studio(&Studio::default())?;
    let mut site = Site::new()?;
    let heard = LINES.map(|name| site.hear(name));
    site.start(&LINES.map(|name| line(name, &rtsp(&camera))))?;
    for name in LINES {
        site.wait_verdicts(name, 10.0)?;
    }
    camera.set_wire(Wire::Garbage);
    // Each time a decoder is being found for the noise when the pipeline is taken apart.
    for name in LINES {
        let restarts = format!("linewarden_camera_restart_total{{camera=\"top\",line=\"{name}\"}}");
        site.daemon.wait_metric(&restarts, |restarts| restarts >= 8.0)?;
    }
    for watch in &heard {
        watch.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?.arrived();
    }
    camera.set_wire(Wire::Clean);
    let returned = Instant::now();
    for watch in heard {
        say(&format!("back {:?} after noise", recovered(&watch?, returned)?))?;
    }
    site.end()?;
    Ok(())
}

#[test]
fn a_camera_that_takes_calls_and_never_answers_holds_up_nothing() -> Result<()> {
    let good = RtspCamera::studio(&Studio::default())?;
    // Connections wait in its queue for ever.
    let deaf = TcpListener::bind("127.0.0.1:0")?;
    let mut site = Site::new()?;
    let neighbour = site.hear("good")?;
    site.start(&[line("good", &rtsp(&good)), line("bad", &port_url(deaf.local_addr()?.port()))])?;
    site.wait_verdicts("good", 10.0)?;
    neighbour.arrived();
    let restarts = "linewarden_camera_restart_total{camera=\"top\",line=\"bad\"}";
    site.daemon.wait_metric(restarts, |restarts| restarts >= 2.0)?;
    assert_eq!(site.daemon.get("/healthz")?.0, 200);
    assert_eq!(site.daemon.metric(CONNECTED)?, 0.0);
    let gap = undisturbed(&neighbour.arrived())?;
    ensure!(gap < Duration::from_secs(1), "the neighbour waited {gap:?}");
    let asked = Instant::now();
    let log = site.end()?;
    ensure!(asked.elapsed() < Duration::from_secs(8), "the end took {:?}", asked.elapsed());
    // A camera that stays away is told of once, not at every try.
    let told = log.matches("\"camera lost, restarting\"").count();
    ensure!(told <= 2, "told {told} times:\n{log}");
    drop(deaf);
    Ok(())
}

#[test]
fn udp_and_a_password_apart_from_the_address_work_and_the_password_is_never_told() -> Result<()> {
    let credentials = Some(("viewer", "s3cret-word"));
    let camera = RtspCamera::studio(&Studio { credentials, ..Studio::default() })?;
    let mut site = Site::new()?;
    let with = |password: &str| {
        format!(
            "pipeline = \"rtsp\"\nwith = {{ location = \"{}\", protocol = \"udp\", user = \"viewer\", \
             password = \"{password}\" }}",
            camera.url()
        )
    };
    site.start(&[line("good", &with("s3cret-word")), line("bad", &with("wrong-word"))])?;
    site.wait_verdicts("good", 25.0)?;
    let lost = site.daemon.logged("camera lost, restarting")?.context("the wrong password was not told")?;
    assert!(lost["error"].as_str().is_some_and(|error| error.to_lowercase().contains("unauthorized")), "{lost}");
    let log = site.end()?;
    assert!(!log.contains("s3cret-word") && !log.contains("wrong-word"), "{log}");
    Ok(())
}
