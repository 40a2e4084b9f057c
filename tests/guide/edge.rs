//! The samples that call the Edge Agent of one machine.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use linewarden_model::ModelType;
use linewarden_testkit::model::brightness_package;
use linewarden_testkit::process;
use linewarden_testkit::sandbox::DaemonSandbox;

use crate::{Desk, Guide, samples};

const COMPONENT: &str = "cap";

/// The stubs, by the guide's command.
fn lay_stubs(desk: &Desk) -> Result<()> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/proto/proto/edge_agent.proto");
    std::fs::copy(proto, desk.path("edge-agent.proto"))?;
    let mut protoc = linewarden_testkit::peers::python("peers")?;
    protoc.args([
        "-m",
        "grpc_tools.protoc",
        "--proto_path=.",
        "--python_out=.",
        "--grpc_python_out=.",
        "edge-agent.proto",
    ]);
    let made = process::run(protoc.current_dir(desk.folder.path()))?;
    ensure!(made.status.success(), "{}", made.stderr);
    Ok(())
}

fn indented(program: &str) -> String {
    program.lines().map(|line| format!("    {line}\n")).collect()
}

/// The programs, which name the socket, the component and the picture.
fn lay_programs(guide: &Guide, desk: &Desk, socket: &str) -> Result<()> {
    let write = |name: &str, program: String| {
        let names = [
            ("/tmp/aws.iot.lookoutvision.EdgeAgent.sock", socket),
            ("\"component_name\"", &format!("{COMPONENT:?}")),
            ("sample.jpg", "sample.png"),
        ];
        desk.write(name, names.iter().fold(program, |program, (from, to)| program.replace(from, to)))
    };
    let start = guide.program(&samples::EDGE_START)?;
    let (_, function) = start.split_once("def start_model_if_needed").context("the function")?;
    let (function, _) = function.split_once("# Creating stub").context("its end")?;
    // The guide leaves out there what it has shown before.
    let detect = guide.program(&samples::EDGE_DETECT)?;
    ensure!(detect.contains("\n....\n"), "nothing was left out");
    write("detect.py", detect.replace("\n....\n", &format!("\ndef start_model_if_needed{function}\n")))?;
    write("start.py", start)?;
    write("example.py", guide.program(&samples::EDGE_EXAMPLE)?)?;
    // Pieces that go into the block of the stub.
    let stub = guide.program(&samples::EDGE_STUB)?;
    let mut stop = format!("{stub}    model_component_name = \"component_name\"\n");
    stop += &indented(&guide.program(&samples::EDGE_STOP)?);
    stop += &indented(&guide.program(&samples::EDGE_LIST)?);
    write("stop.py", stop)?;
    let mut errors = stub;
    writeln!(errors, "    detect_anomalies_request = pb2.DetectAnomaliesRequest(model_component=\"component_name\")")?;
    errors += &indented(&guide.program(&samples::EDGE_ERRORS)?);
    write("errors.py", errors)
}

#[test]
fn the_guides_edge_samples_start_a_model_ask_it_and_stop_it() -> Result<()> {
    let Some(guide) = Guide::open()? else { return Ok(()) };
    let mut daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    brightness_package(&daemon.path("models").join(COMPONENT), 101, 77, ModelType::Segmentation)?;
    daemon.serve("[agent]\nmodels = \"models\"\nsocket = \"agent.sock\"\ndevice = \"cpu\"\n")?;
    let desk = Desk::new()?;
    lay_stubs(&desk)?;
    lay_programs(&guide, &desk, daemon.path("agent.sock").to_str().context("a path in UTF-8")?)?;

    let listed = desk.run("example.py", &[])?;
    ensure!(
        listed.contains("Model Details model_component: \"cap\"") && listed.contains("model/brightness/1"),
        "{listed}"
    );
    let error = desk.run("errors.py", &[])?;
    assert_eq!(
        error,
        "Error code: StatusCode.FAILED_PRECONDITION, Status: model component `cap` is STOPPED, and must be RUNNING\n"
    );
    let started = desk.run("start.py", &[])?;
    ensure!(started.contains("Starting the model.") && started.ends_with("Model is already running.\n"), "{started}");
    for (grey, is_anomalous) in [(20, "False"), (230, "True")] {
        image::RgbImage::from_pixel(101, 77, image::Rgb([grey; 3])).save(desk.path("sample.png"))?;
        let detected = desk.run("detect.py", &[])?;
        ensure!(detected.ends_with(&format!("Image is anomalous - {is_anomalous}\n")), "{detected}");
    }
    let stopped = desk.run("stop.py", &[])?;
    ensure!(stopped.starts_with("New status of the model is 0\n"), "{stopped}");
    ensure!(stopped.contains("Model Details") && !stopped.contains("RUNNING"), "{stopped}");
    daemon.terminate()?;
    ensure!(daemon.wait_end()?.success(), "{}", daemon.log()?);
    Ok(())
}
