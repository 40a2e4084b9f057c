//! `anomalyoverlay` on frames with and without meta.

use crate::common::{HEIGHT, Model, WIDTH, as_text, grey, harness, rgb_caps};

/// The pixels of a frame that went through the detector, the element under test, and nothing else.
fn drawn(detect: bool, value: u8, properties: &[(&str, &str)]) -> Vec<u8> {
    let model = Model::new();
    let mut buffer = grey(value);
    if detect {
        let mut detector = harness("anomalydetect", &[("model", &as_text(model.path()))]);
        detector.set_src_caps(rgb_caps(WIDTH, HEIGHT));
        buffer = detector.push_and_pull(buffer).unwrap();
    }
    let mut overlay = harness("anomalyoverlay", properties);
    overlay.set_src_caps(rgb_caps(WIDTH, HEIGHT));
    let buffer = overlay.push_and_pull(buffer).unwrap();
    buffer.map_readable().unwrap().to_vec()
}

fn untouched(value: u8) -> Vec<u8> {
    vec![value; (WIDTH * HEIGHT * 3) as usize]
}

#[test]
fn anomalies_are_tinted_in_their_labels_colour() {
    let pixels = drawn(true, 200, &[("text", "false"), ("alpha", "0.5")]);
    // All of the picture is bright: half way to red, and no contour within.
    assert!(pixels.chunks_exact(3).all(|pixel| pixel == [228, 100, 100]));
    let opaque = drawn(true, 200, &[("text", "false"), ("alpha", "1")]);
    assert_eq!(opaque[..3], [255, 0, 0]);
}

#[test]
fn the_verdict_is_written_on_normal_frames_too() {
    let pixels = drawn(true, 20, &[("alpha", "0.5")]);
    assert!(pixels.chunks_exact(3).any(|pixel| pixel == [255; 3]));
    assert_eq!(drawn(true, 20, &[("text", "false")]), untouched(20));
}

#[test]
fn frames_without_meta_pass_untouched() {
    assert_eq!(drawn(false, 200, &[]), untouched(200));
}
