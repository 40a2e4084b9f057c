//! OPC UA with asyncua as client.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use linewarden_core::{Action, Decision, Verdict};
use linewarden_outputs::opcua::{OpcUaConfig, Security};
use linewarden_outputs::{Outputs, OutputsConfig};
use linewarden_testkit::broker::free_port;
use linewarden_testkit::peers::Peer;
use serde_json::{Value, json};

use crate::support::{PATIENCE, decision, peer};

fn config(change: impl FnOnce(&mut OpcUaConfig)) -> (OutputsConfig, String) {
    let port = free_port().unwrap();
    let mut opcua = OpcUaConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        host: None,
        security: vec![Security::None],
        pki_dir: None,
        users_file: None,
        heartbeat_interval: Duration::from_millis(50),
    };
    change(&mut opcua);
    let lines = vec!["cap".to_owned(), "label".to_owned()];
    let url = format!("opc.tcp://127.0.0.1:{port}/");
    (OutputsConfig { lines, opcua: Some(opcua), ..OutputsConfig::default() }, url)
}

fn start() -> (Outputs, Peer) {
    let (config, url) = config(|_| ());
    let outputs = Outputs::start(config).unwrap();
    let client = peer("opcua_client.py", &[&url]);
    assert_eq!(client.hear(PATIENCE).unwrap(), json!({"connected": true}));
    (outputs, client)
}

fn read(client: &mut Peer, path: &str) -> Value {
    client.ask(&json!({"do": "read", "path": path}), PATIENCE).unwrap()
}

#[test]
fn a_client_browses_lines_of_our_type_with_typed_members_that_it_may_not_write() {
    let (_outputs, mut client) = start();
    let found = client.ask(&json!({"do": "browse"}), PATIENCE).unwrap();
    let members = json!(["LineType", "Counts", "Decision", "Fresh", "Heartbeat", "Result", "State", "StopRequested"]);
    assert_eq!(found, json!({"cap": members, "label": members}));
    let paths = ["cap/Decision/Part", "cap/Decision/Verdict", "cap/Decision/RejectAt", "cap/Result/Score", "cap/Fresh"];
    let types = client.ask(&json!({"do": "types", "paths": paths}), PATIENCE).unwrap();
    let words = json!(["none", "pass", "reject", "unknown"]);
    let expected = json!({
        "cap/Decision/Part": "UInt64", "cap/Decision/Verdict": "Verdict", "cap/Decision/RejectAt": "UtcTime",
        "cap/Result/Score": "Double", "cap/Fresh": "Boolean", "Verdict": words, "EnumStrings": words
    });
    assert_eq!(types, expected);
    let refused = client.ask(&json!({"do": "write", "path": "cap/Fresh"}), PATIENCE).unwrap();
    assert!(refused["refused"].as_str().is_some_and(|error| error.starts_with("Bad")), "{refused}");
}

#[test]
fn a_subscriber_hears_every_decision_once_as_an_event_and_as_changes() {
    let (outputs, mut client) = start();
    let line = outputs.line("cap");
    line.state("running");
    let asked = client.tell(&json!({"do": "subscribe", "paths": ["cap/Decision/Part"]}));
    asked.unwrap();
    client.hear_where(PATIENCE, |said| said["subscribed"] == true).unwrap();
    for part in 1..=50 {
        line.decided(&decision(part, if part % 5 == 0 { Verdict::Reject } else { Verdict::Pass }, PATIENCE));
    }
    let (mut events, mut changes) = (Vec::new(), Vec::new());
    while events.len() < 50 || changes.len() < 50 {
        let said = client.hear(PATIENCE);
        let said = said.unwrap_or_else(|error| panic!("{error:#}: {} events {changes:?}", events.len()));
        if let Some(event) = said.get("event") {
            let verdict = event["Verdict"].as_u64().unwrap();
            assert_eq!((&event["Line"], &event["Reason"]), (&json!("cap"), &json!("confidence: 0.9000")), "{event}");
            assert_eq!(event["Trigger"].as_u64(), event["Part"].as_u64().map(|part| part + 1000));
            events.push((event["Part"].as_u64().unwrap(), verdict == 2));
        } else if let Some(part) = said["value"].as_u64() {
            changes.push(part);
        }
    }
    assert_eq!(events, (1..=50).map(|part| (part, part % 5 == 0)).collect::<Vec<_>>());
    assert_eq!(changes, (1..=50).collect::<Vec<_>>());
}

#[test]
fn what_is_over_is_none_and_what_stopped_is_bad() {
    let (outputs, mut client) = start();
    let line = outputs.line("cap");
    line.state("running");
    assert_eq!(read(&mut client, "cap/Decision/Part")["status"], "BadWaitingForInitialData");
    let paths = ["cap/Fresh", "cap/Decision/Action", "cap/StopRequested"];
    client.tell(&json!({"do": "subscribe", "paths": paths})).unwrap();
    client.hear_where(PATIENCE, |said| said["subscribed"] == true).unwrap();
    let made = decision(9, Verdict::Reject, Duration::from_millis(400));
    line.decided(&made);
    let change = |path: &'static str, value: Value| {
        move |said: &Value| said["change"] == path && said["value"] == value && said["status"] == "Good"
    };
    client.hear_where(PATIENCE, change("cap/Decision/Action", json!(2))).unwrap();
    client.hear_where(PATIENCE, change("cap/Decision/Action", json!(0))).unwrap();
    assert_eq!(read_quietly(&mut client, "cap/Fresh")["value"], false);
    let last = read_quietly(&mut client, "cap/Decision/LastVerdict");
    assert_eq!((&last["value"], &last["status"]), (&json!(2), &json!("UncertainLastUsableValue")));
    let decided_at = made.decided_at.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    assert!(last["source"].as_str().unwrap().starts_with(&decided_at), "{last} {decided_at}");
    line.decided(&Decision { action: Action::Stop, ..decision(10, Verdict::Unknown, PATIENCE) });
    client.hear_where(PATIENCE, change("cap/StopRequested", json!(true))).unwrap();
    assert!(outputs.stop(PATIENCE));
    client.hear_where(PATIENCE, |said| said["change"] == "cap/Fresh" && said["status"] == "BadOutOfService").unwrap();
}

/// Reads while changes of a subscription come in between.
fn read_quietly(client: &mut Peer, path: &str) -> Value {
    client.tell(&json!({"do": "read", "path": path})).unwrap();
    client.hear_where(PATIENCE, |said| said.get("source").is_some()).unwrap()
}

#[test]
fn only_a_user_of_the_file_may_read() {
    let folder = tempfile::tempdir().unwrap();
    let users_file = folder.path().join("users");
    fs::write(&users_file, "# who\nplc:hunter2\n").unwrap();
    let (config, url) = config(|opcua| opcua.users_file = Some(users_file));
    let _outputs = Outputs::start(config).unwrap();
    let connects = |options: Value| {
        let client = peer("opcua_client.py", &[&url, &options.to_string()]);
        client.hear(PATIENCE).unwrap()["connected"] == true
    };
    assert!(connects(json!({"user": "plc", "password": "hunter2"})));
    assert!(!connects(json!({"user": "plc", "password": "hunter3"})));
    assert!(!connects(json!({})));
}

#[test]
fn with_certificates_only_a_trusted_client_connects() {
    let folder = tempfile::tempdir().unwrap();
    let pki_dir = folder.path().join("pki");
    let (config, url) = config(|opcua| {
        opcua.security = vec![Security::Basic256Sha256];
        opcua.pki_dir = Some(pki_dir.clone());
    });
    let _outputs = Outputs::start(config).unwrap();
    let (certificate, key) = (folder.path().join("client.der"), folder.path().join("client.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=client", "-outform", "DER"])
        .args(["-addext", "subjectAltName=URI:urn:client,DNS:localhost"])
        .args(["-addext", "keyUsage=digitalSignature,nonRepudiation,keyEncipherment,dataEncipherment"])
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("`openssl` is missing: run `make setup`");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let options = json!({"certificate": certificate, "key": key, "uri": "urn:client"}).to_string();
    let connects = || peer("opcua_client.py", &[&url, &options]).hear(PATIENCE).unwrap();
    let stranger = connects();
    assert_eq!(stranger["connected"], false, "{stranger}");
    // What an operator does who knows the client.
    let refused: Vec<_> = fs::read_dir(pki_dir.join("rejected")).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(refused.len(), 1);
    fs::rename(refused[0].path(), pki_dir.join("trusted").join(refused[0].file_name())).unwrap();
    let friend = connects();
    assert_eq!(friend["connected"], true, "{friend}");
    let open = peer("opcua_client.py", &[&url]).hear(PATIENCE).unwrap();
    assert_eq!(open["connected"], false, "no policy but the one that was asked for is offered");
}

#[test]
fn settings_that_do_not_go_together_are_told() {
    let message = |change: fn(&mut OpcUaConfig)| {
        let (config, _) = config(change);
        Outputs::start(config).unwrap_err().to_string()
    };
    let without_folder = message(|opcua| opcua.security = vec![Security::Basic256Sha256]);
    assert!(without_folder.ends_with("needs `pki_dir`, a folder for them"), "{without_folder}");
    let absent = message(|opcua| opcua.users_file = Some("/no/such/file".into()));
    assert!(absent.starts_with("`users_file`: cannot read `/no/such/file`: "), "{absent}");
}
