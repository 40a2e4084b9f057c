//! A camera that is cut, stalls, brings pictures of another size, or garbage: real RTSP.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use linewarden_testkit::belt::Belt;
use linewarden_testkit::broker::free_port;
use linewarden_testkit::rtsp::{RtspCamera, Studio, Wire};

use crate::site::{
    FRAMES_A_SECOND, Fault, Site, Trigger, alone, belt_spec, camera, camera_that_sees_from, check, within,
};

/// From a camera's return to its first verdict.
const CAMERA: Duration = Duration::from_secs(2);

/// Pictures that stand alone, over the belt, at this size.
fn rtsp(belt: &Belt, port: u16, size: (u32, u32)) -> Result<RtspCamera> {
    let (width_px, height_px) = size;
    let pipeline = format!(
        "{} ! videoconvertscale ! video/x-raw,format=I420,width={width_px},height={height_px} ! jpegenc quality=97 \
         ! rtpjpegpay name=pay0",
        belt.camera(&belt_spec(), FRAMES_A_SECOND, 0, 2)
    );
    RtspCamera::serve(&pipeline, &Studio { port, ..Studio::default() })
}

#[test]
fn a_camera_that_fails_in_four_ways_costs_good_parts_until_it_is_back_and_lets_no_bad_one_pass() -> Result<()> {
    let _alone = alone();
    gst::init()?;
    gstlinewarden::plugin_register_static()?;
    let right = (belt_spec().width_px, belt_spec().height_px);
    let port = free_port()?;
    let top = Mutex::new(None);
    let trigger = Trigger::Mqtt;
    let mut site = Site::new(trigger, |belt| {
        *top.lock().unwrap() = Some(rtsp(belt, port, right)?);
        let source = format!(
            "pipeline = \"rtsp\"\nstall_after = \"700ms\"\nwith = {{ location = \"rtsp://127.0.0.1:{port}/camera\", latency = 20 }}"
        );
        // Before the camera's first report of its clock its pictures seem some 50 ms late.
        Ok(camera_that_sees_from("top", &source, "100ms", "120ms") + &camera("side", &within(belt, FRAMES_A_SECOND, 1)))
    })?;
    let mut top = top.into_inner().unwrap();
    let gates = site.begin(trigger, 21.0)?;
    let mut faults = Vec::new();
    for (kind, moment) in [("cut", 1.3), ("stalled", 6.1), ("resized", 10.9), ("garbage", 15.7)] {
        gates.wait(moment);
        let from = Timestamp::now();
        match (kind, &top) {
            ("stalled", Some(camera)) => camera.set_wire(Wire::Silent),
            ("garbage", Some(camera)) => camera.set_wire(Wire::Garbage),
            _ => drop(top.take()),
        }
        if kind == "resized" {
            top = Some(rtsp(&site.belt, port, (160, 120))?);
        }
        gates.wait(moment + 1.4);
        match (kind, &top) {
            ("stalled" | "garbage", Some(camera)) => camera.set_wire(Wire::Clean),
            _ => {
                drop(top.take());
                top = Some(rtsp(&site.belt, port, right)?);
            }
        }
        faults.push(Fault::healed_now(from, CAMERA));
    }
    for (name, shift) in gates.finish()? {
        let tally = check(name, &shift, &faults)?;
        ensure!(tally.bad > 0 && tally.passed > 0 && tally.in_doubt > 0, "{name}: {tally:?}");
        for (fault, kind) in faults.iter().zip(["cut", "stalled", "resized", "garbage"]) {
            let mut meanwhile = shift.passages.iter().filter(|part| fault.holds(part.at));
            let is_told = |text: &str| ["camera", "missing_view", "unhealthy"].iter().any(|word| text.contains(word));
            let told = meanwhile.any(|part| part.order.as_ref().is_some_and(|(_, order)| is_told(&order.text)));
            ensure!(name != "MQTT" || told, "{kind}: nobody said that the camera is gone");
        }
    }
    site.end()
}
