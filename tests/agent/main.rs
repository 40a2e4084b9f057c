//! The Edge Agent through the door that its clients use: a program in Python with stubs from the `.proto` file, over the unix
//! socket and through shared memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

mod deploy;
mod door;
mod elements;
mod generated;
mod pictures;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use linewarden_model::ModelType;
use linewarden_testkit::model::{brightness_package, slow_package};
use linewarden_testkit::peers::Peer;
use linewarden_testkit::sandbox::DaemonSandbox;
use serde_json::{Value, json};

/// Far more than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);
const SOCKET: &str = "agent.sock";

/// A daemon with an agent and these components, and a client.
struct Site {
    daemon: DaemonSandbox,
    client: Peer,
}

/// A component that tells pictures by their brightness.
struct Component(&'static str, u32, u32, ModelType);

impl Site {
    fn new(components: &[Component], agent: &str) -> Result<Self> {
        let mut daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
        for Component(name, width_px, height_px, model_type) in components {
            brightness_package(&daemon.path("models").join(name), *width_px, *height_px, *model_type)?;
        }
        Self::serve(&mut daemon, agent)?;
        let client = client(&daemon)?;
        Ok(Self { daemon, client })
    }

    fn serve(daemon: &mut DaemonSandbox, agent: &str) -> Result<()> {
        daemon.serve(&format!("[agent]\nmodels = \"models\"\nsocket = \"{SOCKET}\"\ndevice = \"cpu\"\n{agent}"))
    }

    /// What the client was answered: `answer`, or `code` and `details`.
    fn ask(&mut self, order: &Value) -> Result<Value> {
        self.client.ask(order, PATIENCE)
    }

    fn call(&mut self, call: &str, component: &str) -> Result<Value> {
        self.ask(&json!({ "call": call, "component": component }))
    }

    /// What it must have been answered well.
    fn detect(&mut self, order: Value) -> Result<Value> {
        let mut order = order;
        order["call"] = "detect".into();
        let answer = self.ask(&order)?;
        ensure!(answer["answer"].is_object(), "{order}: {answer}");
        Ok(answer["answer"].clone())
    }

    /// Status and message once it has left `STARTING`.
    fn settled(&mut self, component: &str) -> Result<(String, String)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.call("describe", component)?;
            let word = |place: usize| answer["answer"][place].as_str().map(str::to_owned).context("a word");
            if word(2)? != "STARTING" {
                return Ok((word(2)?, word(3)?));
            }
            ensure!(Instant::now() < deadline, "{component} starts for ever");
        }
    }

    fn start(&mut self, component: &str) -> Result<()> {
        assert_eq!(self.call("start", component)?, json!({ "answer": "STARTING" }));
        assert_eq!(self.settled(component)?, ("RUNNING".to_owned(), String::new()));
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.daemon.terminate()?;
        ensure!(self.daemon.wait_end()?.success(), "{}", self.daemon.log()?);
        ensure!(!self.daemon.path(SOCKET).exists(), "the socket was left behind");
        Ok(())
    }
}

fn client(daemon: &DaemonSandbox) -> Result<Peer> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let stubs = daemon.path("stubs");
    std::fs::create_dir_all(&stubs)?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path in UTF-8");
    let proto = text(&root.join("crates/proto/proto/edge_agent.proto"))?;
    Peer::start(&root.join("tests/agent/client.py"), &[&text(&daemon.path(SOCKET))?, &proto, &text(&stubs)?])
}

#[test]
fn a_model_is_listed_started_described_and_stopped() -> Result<()> {
    let components =
        [Component("cap", 64, 64, ModelType::Classification), Component("Bottle_2.0", 64, 64, ModelType::Segmentation)];
    let mut site = Site::new(&components, "region = \"eu-west-1\"\naccount = \"123456789012\"\n")?;
    let arn = "arn:aws:lookoutvision:eu-west-1:123456789012:model/brightness/1";
    let listed = site.ask(&json!({ "call": "list" }))?;
    assert_eq!(listed["answer"], json!([["Bottle_2.0", arn, "STOPPED", ""], ["cap", arn, "STOPPED", ""]]));
    site.start("cap")?;
    assert_eq!(site.call("describe", "cap")?["answer"], json!(["cap", arn, "RUNNING", ""]));
    let in_service = "linewarden_in_service_inference_units{model_version=\"1\",project=\"brightness\"}";
    assert_eq!(site.daemon.metric(in_service)?, 1.0);
    assert_eq!(site.call("stop", "cap")?, json!({ "answer": "STOPPED" }));
    assert_eq!(site.daemon.metric(in_service)?, 0.0);
    site.start("cap")?;
    // A package that is laid there later is a component at once.
    brightness_package(&site.daemon.path("models/late"), 64, 64, ModelType::Classification)?;
    site.start("late")?;
    let listed = site.ask(&json!({ "call": "list" }))?;
    let states: Vec<&Value> = listed["answer"].as_array().unwrap().iter().map(|one| &one[2]).collect();
    assert_eq!(states, ["STOPPED", "RUNNING", "RUNNING"]);
    site.end()
}

#[test]
fn every_refusal_has_the_services_status_code() -> Result<()> {
    let components = [
        Component("cap", 64, 64, ModelType::Segmentation),
        Component("other", 64, 64, ModelType::Classification),
        Component("third", 64, 64, ModelType::Classification),
        Component("broken", 64, 64, ModelType::Classification),
    ];
    let mut site = Site::new(&components, "max_running = 2\n")?;
    std::fs::write(site.daemon.path("models/broken/model.onnx"), "no graph")?;
    let refused = |answer: Value, code: &str, told: &str| {
        assert_eq!(answer["code"], code, "{answer}");
        assert!(answer["details"].as_str().unwrap().contains(told), "{told}: {answer}");
    };
    let picture = |changes: Value| {
        let mut order = json!({ "call": "detect", "component": "cap", "width": 64, "height": 64, "grey": 10 });
        order.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        order
    };
    for call in ["describe", "start", "stop"] {
        refused(site.call(call, "absent")?, "NOT_FOUND", "no model component `absent`");
        for name in ["", "../cap", "a/b"] {
            refused(site.call(call, name)?, "INVALID_ARGUMENT", "`model_component` must be a name");
        }
    }
    refused(site.ask(&picture(json!({ "component": "absent" })))?, "NOT_FOUND", "no model component `absent`");
    refused(site.ask(&picture(json!({})))?, "FAILED_PRECONDITION", "`cap` is STOPPED, and must be RUNNING");
    refused(site.call("stop", "cap")?, "FAILED_PRECONDITION", "`cap` is STOPPED, and must be RUNNING");
    site.start("cap")?;
    refused(site.call("start", "cap")?, "FAILED_PRECONDITION", "`cap` is RUNNING, and must be STOPPED or FAILED");
    let wrong = [
        (json!({ "width": 63 }), "`bitmap.width` must be from 64 to 4096, got 63"),
        (json!({ "height": 4097, "raw": [1] }), "`bitmap.height` must be from 64 to 4096, got 4097"),
        (json!({ "raw": [1, 2, 3] }), "a bitmap of 64x64 has 12288 bytes, or 12288 with rows"),
        (json!({ "picture": "none" }), "`bitmap` has neither `byte_data` nor `shared_memory_handle`"),
        (json!({ "width": 128 }), "the bitmap is 128x64, but the model was trained on 64x64"),
        (json!({ "picture": "memory", "handle": { "name": "/no-such-segment" } }), "cannot be opened"),
        (json!({ "picture": "memory", "handle": { "name": "/../../etc/hostname" } }), "cannot be opened"),
        (json!({ "picture": "memory", "handle": { "size": 99 } }), "a bitmap of 64x64 has 12288 bytes"),
        (json!({ "picture": "memory", "handle": { "offset": 9_999_999 } }), "12288 bytes from 9999999 on were named"),
        (json!({ "picture": "memory", "handle": { "offset": u64::MAX } }), "bytes from 18446744073709551615 on"),
        (json!({ "mask": "memory", "mask_size": 12_287 }), "a mask of this bitmap has 12288 bytes, got 12287"),
        (json!({ "mask": "memory", "mask_size": 99_999 }), "but 99999 bytes from 1024 on were named"),
    ];
    let invalid =
        "linewarden_invalid_image_total{camera=\"cap\",line=\"agent\",model_version=\"1\",project=\"brightness\"}";
    for (index, (changes, told)) in wrong.into_iter().enumerate() {
        refused(site.ask(&picture(changes))?, "INVALID_ARGUMENT", told);
        assert_eq!(site.daemon.metric(invalid)?, (index + 1) as f64);
    }
    assert_eq!(site.call("start", "broken")?, json!({ "answer": "STARTING" }));
    let (status, message) = site.settled("broken")?;
    assert!(status == "FAILED" && message.contains("`model.onnx` has SHA-256"), "{status} {message}");
    site.start("other")?;
    refused(
        site.call("start", "third")?,
        "RESOURCE_EXHAUSTED",
        "2 models run already, and `max_running` allows no more",
    );
    assert_eq!(site.call("stop", "other")?, json!({ "answer": "STOPPED" }));
    site.start("third")?;
    site.end()
}

#[test]
fn an_agent_that_cannot_keep_up_says_so_and_answers_what_it_took() -> Result<()> {
    let mut daemon = DaemonSandbox::new(env!("CARGO_BIN_EXE_linewarden"))?;
    slow_package(&daemon.path("models/slow"), 64, 64, 20)?;
    Site::serve(&mut daemon, "queue = 2\nstart = [\"slow\"]\n")?;
    let client = client(&daemon)?;
    let mut site = Site { daemon, client };
    assert_eq!(site.settled("slow")?.0, "RUNNING");
    let order = json!({ "call": "detect", "component": "slow", "width": 64, "height": 64, "grey": 10 });
    let answers = site.ask(&json!({ "call": "at_once", "orders": vec![order; 12] }))?;
    let answers: Vec<&Value> = answers["answer"].as_array().unwrap().iter().map(|one| &one[0]).collect();
    let taken = answers.iter().filter(|answer| answer["answer"]["is_anomalous"] == false).count();
    let refused = answers.iter().filter(|answer| answer["code"] == "RESOURCE_EXHAUSTED").count();
    // One is scored and two wait, while it lasts.
    ensure!(taken >= 3 && refused >= 1 && taken + refused == 12, "{answers:?}");
    let throttled = "linewarden_throttled_total{model_version=\"1\",operation=\"detect\",project=\"brightness\"}";
    assert_eq!(site.daemon.metric(throttled)?, refused as f64);
    site.end()
}
