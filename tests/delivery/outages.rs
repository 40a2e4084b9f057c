//! Brokers that are killed at random, with and without what they kept, and replaced by others.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use linewarden_testkit::broker::{Mosquitto, MosquittoOptions, Proxy, free_port};

use crate::consumer::Books;
use crate::{Chance, configuration, rounds, sandbox};

const RESUMES_WITHIN: Duration = Duration::from_secs(2);
/// Much less than messages that pile up: they come to a megabyte in a second of soak.
const FLAT_KB: u64 = 24 * 1024;

fn broker(chance: &mut Chance) -> Result<Mosquitto> {
    Mosquitto::start_with(&MosquittoOptions { persistence: chance.flip(), ..MosquittoOptions::default() })
}

#[test]
fn brokers_that_die_at_random_cost_no_decision_its_place_in_the_books_and_revive_none() -> Result<()> {
    let mut chance = Chance::new("brokers that die")?;
    let mut books = Books::new();
    let mut broker = broker(&mut chance)?;
    books.listen(broker.port())?;
    // The daemon's cable: plugged in when the books are open, so that no decision comes to a broker without a reader.
    let port = free_port()?;
    let mut cable = Proxy::start_at(port, broker.port())?;
    let mut sandbox = sandbox()?;
    sandbox.start(&configuration(port))?;
    books.next_live(|_| true)?;
    let (mut longest, mut resident_before) = (Duration::ZERO, 0);
    for round in 0..rounds()? {
        thread::sleep(chance.between(100, 900));
        broker.kill()?;
        drop(cable);
        thread::sleep(chance.between(100, 1500));
        match chance.next() % 3 {
            0 => broker = self::broker(&mut chance)?,
            _ => broker.restart()?,
        }
        books.enter_arrived()?;
        books.listen(broker.port())?;
        cable = Proxy::start_at(port, broker.port())?;
        let back_at = Instant::now();
        let resumed = books.next_live(|_| true)?.duration_since(back_at);
        ensure!(resumed <= RESUMES_WITHIN, "round {round}: publishing resumed only after {resumed:?}");
        longest = longest.max(resumed);
        if round == 2 {
            resident_before = sandbox.resident_bytes()? / 1024;
        }
    }
    sandbox.wait_metric("linewarden_outbox_historical_messages{line=\"cap\"}", |waiting| waiting == 0.0)?;
    let resident_after = sandbox.resident_bytes()? / 1024;
    let dropped = sandbox.metric("linewarden_outbox_dropped_total{kind=\"decision\",line=\"cap\"}")?;
    sandbox.terminate()?;
    ensure!(sandbox.wait_end()?.success(), "{}", sandbox.log()?);
    books.enter_rest()?;
    books.check_complete()?;
    ensure!(books.runs().len() == 1 && dropped == 0.0, "{} runs, {dropped} dropped", books.runs().len());
    ensure!(books.historical > 0, "no decision outlived its time: the outages were too short to tell");
    ensure!(resident_after < resident_before + FLAT_KB, "memory grew from {resident_before} to {resident_after} kB");
    println!(
        "{} live, {} historical, {} again; publishing resumed within {longest:?}; memory {resident_before} to {resident_after} kB",
        books.live, books.historical, books.again
    );
    Ok(())
}
