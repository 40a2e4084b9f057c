//! TLS and passwords against a real broker.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::support::{PATIENCE, config, frame, start};
use linewarden_publish::{PublishEvent, PublisherConfig};
use linewarden_testkit::broker::{Mosquitto, MosquittoOptions};
use linewarden_testkit::tls::Certificates;

fn tls_config(broker: &Mosquitto, certificates: &Certificates) -> PublisherConfig {
    PublisherConfig { ca_file: Some(certificates.ca()), ..config(&broker.url()) }
}

fn connect_error(config: PublisherConfig) -> String {
    let (publisher, events) = start(config);
    publisher.result(&frame(0));
    let failed = events.wait_for(|event| matches!(event, PublishEvent::ConnectFailed { .. }));
    assert!(!publisher.stats().connected);
    let PublishEvent::ConnectFailed { error } = failed else { unreachable!("waited for this one") };
    error
}

#[test]
fn results_travel_over_tls_and_a_foreign_authority_is_told() {
    let certificates = Certificates::generate().unwrap();
    let broker =
        Mosquitto::start_with(&MosquittoOptions { tls: Some(&certificates), ..MosquittoOptions::default() }).unwrap();
    let subscriber = broker.subscribe("linewarden/line1/top/result").unwrap();
    let (publisher, _events) = start(tls_config(&broker, &certificates));
    publisher.result(&frame(0));
    assert!(publisher.stop(PATIENCE));
    subscriber.next_message(PATIENCE).unwrap();

    let foreign = Certificates::generate().unwrap();
    let error = connect_error(tls_config(&broker, &foreign));
    assert!(error.contains("UnknownIssuer"), "{error}");

    // Without a file the system's store decides, and a system without one says what to give.
    let without_file = config(&broker.url());
    match without_file.check() {
        Ok(()) => assert!(connect_error(without_file).contains("UnknownIssuer")),
        Err(error) => assert!(error.to_string().contains("as `ca-file`"), "{error}"),
    }
}

#[test]
fn a_broker_that_asks_for_a_certificate_gets_ours() {
    let certificates = Certificates::generate().unwrap();
    let broker = Mosquitto::start_with(&MosquittoOptions {
        tls: Some(&certificates),
        require_client_certificate: true,
        ..MosquittoOptions::default()
    })
    .unwrap();
    let config = tls_config(&broker, &certificates);
    let error = connect_error(config.clone());
    assert!(!error.is_empty());
    let (cert_file, key_file) = (Some(certificates.client_cert()), Some(certificates.client_key()));
    let (publisher, _events) = start(PublisherConfig { cert_file, key_file, ..config.clone() });
    publisher.result(&frame(0));
    assert!(publisher.drain(PATIENCE));

    let other = Certificates::generate().unwrap();
    let (cert_file, key_file) = (Some(certificates.client_cert()), Some(other.client_key()));
    let error = PublisherConfig { cert_file, key_file, ..config }.check().unwrap_err().to_string();
    assert!(error.starts_with("`cert-file` and `key-file` do not go together"), "{error}");
}

/// Everything that is logged in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_wrong_password_is_reported_and_never_logged() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let credentials = Some(("line1", "right-word"));
    let broker = Mosquitto::start_with(&MosquittoOptions { credentials, ..MosquittoOptions::default() }).unwrap();
    let with = |credentials: &str| broker.url().replace("://", &format!("://{credentials}@"));

    let wrong = config(&with("line1:wrong-word"));
    assert!(!format!("{wrong:?}").contains("wrong-word"), "{wrong:?}");
    let error = connect_error(wrong);
    assert_eq!(error, "the broker refused the connection: not authorized, check user and password");

    let (publisher, events) = start(config(&with("line1:right%2Dword")));
    events.wait_connected();
    publisher.result(&frame(0));
    assert!(publisher.stop(PATIENCE));

    let folder = tempfile::tempdir().unwrap();
    let credentials_file = folder.path().join("mqtt");
    std::fs::write(&credentials_file, "line1:right-word\n").unwrap();
    let (publisher, events) =
        start(PublisherConfig { credentials_file: Some(credentials_file), ..config(&broker.url()) });
    events.wait_connected();
    assert!(publisher.stop(PATIENCE));

    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("cannot connect to the broker"), "{logged}");
    assert!(!logged.contains("wrong-word") && !logged.contains("right-word"), "{logged}");
}
