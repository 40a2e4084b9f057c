//! The plugin as GStreamer's own tools see it.

use crate::common::{Model, as_text, timeout};
use linewarden_testkit::launch::gst_launch;

#[test]
fn the_library_loads_and_its_elements_run() {
    let model = Model::new();
    let launched = gst_launch(
        &format!(
            "-m videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48 ! anomalydetect model={} ! anomalyoverlay ! fakesink",
            as_text(model.path())
        ),
        timeout(),
    )
    .unwrap();
    assert!(launched.status.success(), "{}\n{}", launched.stdout, launched.stderr);
    assert_eq!(launched.stdout.matches(": anomaly, ").count(), 3, "{}", launched.stdout);
}

#[test]
fn a_missing_runtime_names_the_command_that_installs_it() {
    let (model, empty) = (Model::new(), tempfile::tempdir().unwrap());
    // Only the child is told to look there.
    let launched = linewarden_testkit::launch::gst_launch_with(
        &format!(
            "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48 ! anomalydetect model={} ! fakesink",
            as_text(model.path())
        ),
        &[("LINEWARDEN_DATA_DIR", empty.path().as_os_str()), ("LINEWARDEN_ONNXRUNTIME", "".as_ref())],
        timeout(),
    )
    .unwrap();
    assert!(!launched.status.success());
    assert!(launched.stderr.contains("make setup"), "{}", launched.stderr);
}
