//! Brokers and daemons that die, and a cable on which nothing comes any more.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use linewarden_testkit::belt::Belt;
use linewarden_testkit::broker::free_port;
use linewarden_testkit::plc::{ModbusDoor, MqttDoor, Plc, SparkplugDoor, Work};

use crate::site::{
    BEAT, Fault, HEARTBEAT_TIMEOUT, PARTS_A_SECOND, REACTION, Site, TRAVEL, Trigger, alone, broker, chance, check,
    signed, two_cameras,
};

/// Publishing resumes so soon after a broker's return.
const BROKER: Duration = Duration::from_secs(2);
/// From a daemon's start to its first decision.
const DAEMON: Duration = Duration::from_secs(3);
/// pysparkplug's client tries again after a second.
const TRY_AGAIN: Duration = Duration::from_millis(1200);

/// Kills a broker that keeps what it has and brings it back; puts another one in its place, which keeps nothing; kills that
/// one and brings it back.
fn brokers_die(trigger: Trigger, rounds: usize) -> Result<()> {
    let _alone = alone();
    let mut chance = chance()?;
    let mut site = Site::new(trigger, two_cameras)?;
    site.replace_broker(broker(true)?)?;
    let gates = site.begin(trigger, 1.5 + 5.0 * rounds as f64)?;
    let mut faults = Vec::new();
    for round in 0..rounds {
        let moment = 1.2 + 5.0 * round as f64 + chance.f64() / PARTS_A_SECOND;
        gates.wait(moment);
        let from = Timestamp::now();
        site.broker.kill()?;
        gates.wait(moment + 0.3 + chance.f64());
        match round {
            1 => site.replace_broker(broker(false)?)?,
            _ => site.broker.restart()?,
        }
        faults.push(Fault::healed_now(from, BROKER.max(TRY_AGAIN) + BEAT));
    }
    for (name, shift) in gates.finish()? {
        // Who does not need the broker does not notice.
        let is_untouched = name == "Modbus" && trigger == Trigger::Modbus;
        let tally = check(name, &shift, if is_untouched { &[] } else { &faults })?;
        ensure!(tally.bad > 0 && tally.passed > 0, "{name}: {tally:?}");
        ensure!(!is_untouched || tally.in_doubt == 0, "{name}: {tally:?}");
    }
    site.end()
}

#[test]
fn brokers_that_die_cost_good_parts_while_they_are_away_and_let_no_bad_one_pass() -> Result<()> {
    brokers_die(Trigger::Mqtt, 3)
}

#[test]
fn a_plc_at_modbus_alone_never_notices_that_brokers_die() -> Result<()> {
    brokers_die(Trigger::Modbus, 2)
}

#[test]
fn a_daemon_that_is_killed_costs_good_parts_until_it_is_back_and_lets_no_bad_one_pass() -> Result<()> {
    let _alone = alone();
    let trigger = Trigger::Mqtt;
    let mut site = Site::new(trigger, two_cameras)?;
    let mut chance = chance()?;
    let gates = site.begin(trigger, 13.0)?;
    let mut faults = Vec::new();
    for moment in [1.5, 7.5] {
        let moment = moment + chance.f64() / PARTS_A_SECOND;
        gates.wait(moment);
        let from = Timestamp::now();
        site.daemon.kill()?;
        gates.wait(moment + 0.5 + chance.f64());
        let fault = Fault::healed_now(from, DAEMON);
        site.start_daemon()?;
        faults.push(fault);
    }
    for (name, shift) in gates.finish()? {
        let tally = check(name, &shift, &faults)?;
        ensure!(tally.bad > 0 && tally.passed > 0 && tally.in_doubt > 0, "{name}: {tally:?}");
    }
    site.end()
}

/// The worst kind of outage: nothing breaks, the daemon decides and sends, and nothing comes. At its end everything does.
#[test]
fn a_plc_that_hears_nothing_takes_everything_off_and_what_comes_too_late_moves_no_gate() -> Result<()> {
    let _alone = alone();
    let trigger = Trigger::Mqtt;
    let mut site = Site::new(trigger, two_cameras)?;
    let gates = site.begin(trigger, 11.0)?;
    gates.wait(2.3);
    let silent_from = Timestamp::now();
    site.plcs_cable.set_silent(true);
    gates.wait(5.9);
    let heard_again = Timestamp::now();
    site.plcs_cable.set_silent(false);
    let fault = Fault::healed_now(silent_from, TRY_AGAIN + BEAT);
    for (name, shift) in gates.finish()? {
        let is_at_broker = name != "Modbus";
        let faults = if is_at_broker { vec![fault] } else { Vec::new() };
        let tally = check(name, &shift, &faults)?;
        ensure!(tally.bad > 0 && tally.passed > 0, "{name}: {tally:?}");
        if !is_at_broker {
            continue;
        }
        let knows_from = silent_from + signed(HEARTBEAT_TIMEOUT + REACTION);
        let deaf: Vec<_> = shift.passages.iter().filter(|part| (knows_from..heard_again).contains(&part.at)).collect();
        ensure!(deaf.len() >= 4 && deaf.iter().all(|part| part.is_removed && !part.was_alive), "{name}: {deaf:?}");
        ensure!(shift.counters.late > 0, "{name}: what was held back came too late: {:?}", shift.counters);
        let last = shift.passages.iter().filter(|part| part.at > fault.until);
        ensure!(last.count() >= 4, "{name}: parts after the silence, {TRAVEL:?} on");
    }
    site.end()
}

/// No daemon has been there since the PLCs were switched on.
#[test]
fn a_plc_that_never_heard_anything_takes_everything_off() -> Result<()> {
    let broker = broker(false)?;
    let belt = Belt { start: Timestamp::now(), parts_a_second: 10.0 };
    let first = belt.first_after(Duration::from_secs(2));
    let work =
        Work { belt, parts: first..first + 10, travel: TRAVEL, heartbeat_timeout: HEARTBEAT_TIMEOUT, triggers: true };
    let plcs = [
        Plc::start("mqtt", MqttDoor::connect(broker.port(), "belt")?, work.clone())?,
        Plc::start("modbus", ModbusDoor::open(free_port()?, 0)?, work.clone())?,
        Plc::start("sparkplug", SparkplugDoor::connect(broker.port(), "plant", "cell", "belt")?, work)?,
    ];
    for plc in plcs {
        let shift = plc.finish()?;
        ensure!(shift.passages.len() == 10, "{shift:?}");
        ensure!(shift.passages.iter().all(|part| part.is_removed && !part.was_alive), "{shift:?}");
        ensure!(shift.counters.missing == 10, "{shift:?}");
    }
    Ok(())
}
