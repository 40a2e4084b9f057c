//! The daemon killed at random, with its broker there and with its broker away.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use linewarden_testkit::broker::{Mosquitto, Proxy, free_port};
use linewarden_testkit::sandbox::DaemonSandbox;
use linewarden_testkit::tls::Certificates;
use serde_json::Value;

use crate::consumer::Books;
use crate::{Chance, configuration, rounds, sandbox};

const STARTS_WITHIN: Duration = Duration::from_secs(3);
/// A disk that is forced after every decision may take its time on a busy machine.
const THE_DISK_HAS: Duration = Duration::from_millis(250);

/// How many decisions the daemon says it has made.
fn decided(sandbox: &DaemonSandbox) -> Result<usize> {
    let series = |verdict: &str| format!("linewarden_decision_total{{line=\"cap\",verdict=\"{verdict}\"}}");
    let mut decided = 0.0;
    for verdict in ["pass", "reject", "unknown"] {
        decided += sandbox.metric(&series(verdict))?;
    }
    Ok(decided as usize)
}

/// How many records the evidence holds, and of how many parts with pictures; each of them is as it was written.
fn verified(sandbox: &DaemonSandbox) -> Result<(u64, u64)> {
    let folder = sandbox.path("evidence");
    let output = sandbox.call(&["evidence", "verify", folder.to_str().context("a path in UTF-8")?, "--json"])?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.success() && report["untouched"] == true, "the audit chain is broken: {report:#}");
    let count = |what: &str| report[what].as_u64().filter(|&count| count > 0).with_context(|| format!("no {what}"));
    Ok((count("records")?, count("parts")?))
}

#[test]
fn a_daemon_that_is_killed_at_random_loses_no_decision_and_sends_none_twice_as_new() -> Result<()> {
    let mut chance = Chance::new("a daemon that is killed")?;
    let mut books = Books::new();
    let broker = Mosquitto::start()?;
    books.listen(broker.port())?;
    let port = free_port()?;
    let mut cable = Some(Proxy::start_at(port, broker.port())?);
    let mut sandbox = sandbox()?;
    let configuration = format!("[evidence]\nfolder = \"evidence\"\nsample = 1.0\n{}", configuration(port));
    let (mut longest, mut seen, mut away) = (Duration::ZERO, BTreeSet::<String>::new(), 0);
    let mut on_disk_or_delivered = Vec::new();
    let kills = rounds()?;
    for round in 0..=kills {
        let started_at = Instant::now();
        sandbox.start(&configuration)?;
        // What an earlier run left may come first, under its own name.
        let first_at =
            books.next_live(|decision| decision["boot_id"].as_str().is_some_and(|run| !seen.contains(run)))?;
        let took = first_at.duration_since(started_at);
        ensure!(took <= STARTS_WITHIN, "round {round}: the first decision came only after {took:?}");
        longest = longest.max(took);
        let run = books.runs().into_keys().find(|run| !seen.contains(*run)).map(str::to_owned);
        let run = run.context("a run of which nothing is known was just heard")?;
        seen.insert(run.clone());
        if round == kills {
            break;
        }
        thread::sleep(chance.between(50, 800));
        if chance.flip() {
            // Without a broker, what is decided is on disk alone.
            cable = None;
            away += 1;
            thread::sleep(chance.between(50, 1200));
        }
        // What was decided so long ago must be there for ever: the disk has had its time.
        on_disk_or_delivered.push((run, decided(&sandbox)?));
        thread::sleep(THE_DISK_HAS + chance.between(0, 100));
        sandbox.kill()?;
        if cable.is_none() {
            cable = Some(Proxy::start_at(port, broker.port())?);
        }
    }
    sandbox.wait_metric("linewarden_outbox_historical_messages{line=\"cap\"}", |waiting| waiting == 0.0)?;
    ensure!(sandbox.metric("linewarden_outbox_on_disk{line=\"cap\"}")? == 1.0, "{}", sandbox.log()?);
    sandbox.terminate()?;
    ensure!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
    books.enter_rest()?;
    books.check_complete()?;
    ensure!(books.runs().len() == kills as usize + 1, "{} runs were heard of", books.runs().len());
    let runs = books.runs();
    for (run, decided) in &on_disk_or_delivered {
        let came = runs.get(run.as_str()).map_or(0, Vec::len);
        ensure!(came >= *decided, "run {run} had decided {decided} parts before it was killed, and {came} came");
    }
    let (records, parts) = verified(&sandbox)?;
    println!(
        "killed {kills} times, {away} of them without a broker: {} live, {} historical, {} again; from the start to the first decision {longest:?} at most; {records} records of {parts} parts untouched",
        books.live, books.historical, books.again
    );
    Ok(())
}

#[test]
fn passwords_from_files_and_the_environment_reach_the_broker_and_no_log() -> Result<()> {
    let certificates = Certificates::generate()?;
    let credentials = Some(("cap", "right-word"));
    let options = linewarden_testkit::broker::MosquittoOptions {
        tls: Some(&certificates),
        require_client_certificate: true,
        credentials,
        ..Default::default()
    };
    let broker = Mosquitto::start_with(&options)?;
    let mut sandbox = sandbox()?;
    sandbox.write("secrets", "cap:right-word\n")?;
    let line = configuration(1);
    let (_, line) = line.split_once("[[line]]").expect("a configuration has a line");
    let tls = format!(
        "ca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
        certificates.ca().display(),
        certificates.client_cert().display(),
        certificates.client_key().display()
    );
    for version in ["3.1.1", "5"] {
        let wrong = broker.url().replace("://", "://cap:wrong-word@");
        let mqtt = format!("[mqtt]\nversion = \"{version}\"\ncredentials_file = \"secrets\"\n{tls}");
        let brokers = format!("{mqtt}brokers = [\"{wrong}\", \"{}\"]\n[[line]]{line}", broker.url());
        sandbox.start(&brokers)?;
        // The first one refuses us, the second one is the same with the word of the file.
        sandbox.wait_metric("linewarden_broker_connected{line=\"cap\"}", |connected| connected == 1.0)?;
        sandbox.terminate()?;
        ensure!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
        let log = sandbox.log()?;
        ensure!(log.contains("not authorized, check user and password"), "{log}");
        ensure!(!log.contains("right-word") && !log.contains("wrong-word"), "{log}");
    }
    Ok(())
}
