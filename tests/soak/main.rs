//! One daemon for a long time: its broker dies and comes back, its camera is cut and returns, its model becomes slow and is
//! taken back, again and again. What must not grow is measured whenever all is healed: memory, descriptors, threads, what
//! waits, and the time that a decision takes.
//!
//! `LINEWARDEN_SOAK_SECONDS` says for how long; `make soak` sets it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

mod measure;
mod plant;

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::measure::{Latencies, Sample, quantile, slope_per_second};
use crate::plant::{Fault, Plant};

const SECONDS: &str = "LINEWARDEN_SOAK_SECONDS";
const SHORT: u64 = 40;
/// Fewer like moments in half the time are few.
const FEW: usize = 4;
/// All is well for so long before it is measured, and the next fault comes.
const CALM: Duration = Duration::from_millis(2500);
/// What memory may gain over the second half, by the line that fits its samples best, however long that is: what allocators
/// keep wavers by some of it. The short form finds a leak of each second picture, an hour one of 15 kB a second.
const MEMORY_BYTES: f64 = 16.0 * 1024.0 * 1024.0;
/// How much longer decisions may take in the last quarter than in the second.
const LATENCY_FACTOR: f64 = 2.0;
const LATENCY_MS: f64 = 30.0;
/// Rows of the table that is printed.
const ROWS: usize = 40;

/// What may not grow, by its name.
type Column = (&'static str, fn(&Sample) -> usize);

#[test]
fn a_daemon_that_runs_for_long_through_every_fault_grows_in_nothing() -> Result<()> {
    let seconds = std::env::var(SECONDS).map_or(Ok(SHORT), |seconds| seconds.parse())?;
    let mut plant = Plant::start()?;
    let (mut samples, mut latencies) = (Vec::new(), Latencies::default());
    // Each fault once: what is made at first use is there.
    rotate(&mut plant, &mut samples, &mut latencies, Instant::now())?;
    samples.clear();
    latencies = Latencies::default();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) {
        rotate(&mut plant, &mut samples, &mut latencies, began)?;
    }
    let elapsed = began.elapsed();
    print(&samples, &latencies, elapsed)?;
    plant.end()?;
    check(&samples, &latencies, elapsed)
}

/// Every fault once, each healed and measured before the next.
fn rotate(plant: &mut Plant, samples: &mut Vec<Sample>, latencies: &mut Latencies, began: Instant) -> Result<()> {
    for fault in Fault::ALL {
        plant.suffer(fault).with_context(|| format!("{fault:?}"))?;
        plant.wait_recovered().with_context(|| format!("after {fault:?}"))?;
        latencies.extend(began, plant.calm(CALM)?);
        samples.push(plant.measure(fault, began)?);
    }
    Ok(())
}

/// What the daemon held, by the seconds since the beginning.
fn memory_since(from: Duration, samples: &[Sample]) -> Vec<(f64, f64)> {
    let later = samples.iter().filter(|sample| sample.at >= from);
    later.map(|sample| (sample.at.as_secs_f64(), sample.resident_bytes as f64)).collect()
}

fn check(samples: &[Sample], latencies: &Latencies, elapsed: Duration) -> Result<()> {
    let half = elapsed / 2;
    let memory = memory_since(half, samples);
    ensure!(memory.len() >= 3, "{} samples of the second half are too few", memory.len());
    let gained = slope_per_second(&memory) * half.as_secs_f64();
    ensure!(gained <= MEMORY_BYTES, "memory grew by {:.1} MiB over the second half", gained / 1048576.0);

    let quarter = elapsed / 4;
    for fault in Fault::ALL {
        // Like moments: after the same fault. One more or less comes and goes; what leaks is there ever after. Of few moments
        // none need be like the others in that, so one more is allowed then, and the last counts: two faults on.
        let counts = |from: Duration, until: Duration, count: fn(&Sample) -> usize| {
            let within = move |sample: &&Sample| sample.fault == fault && (from..until).contains(&sample.at);
            samples.iter().filter(within).map(count)
        };
        let columns: [Column; 2] = [("descriptors", |one| one.descriptors), ("threads", |one| one.threads)];
        for (what, count) in columns {
            let (first, mut second) = (counts(Duration::ZERO, half, count), counts(half, Duration::MAX, count));
            let are_few = first.clone().count() < FEW;
            let before = first.max().context("a first half")?;
            let (after, allowed) = if are_few { (second.next_back(), before + 1) } else { (second.min(), before) };
            let after = after.context("a second half")?;
            ensure!(after <= allowed, "{what} after {fault:?} grew from {before} to {after}");
        }
    }
    let waiting = samples.iter().map(|sample| sample.waiting).fold(0.0, f64::max);
    // What is on its way at that moment; a second brings 60.
    ensure!(waiting <= 20.0, "{waiting} messages waited though all was well");

    let before = quantile(0.99, &latencies.between(quarter, half)).context("decisions of the second quarter")?;
    let after =
        quantile(0.99, &latencies.between(quarter * 3, Duration::MAX)).context("decisions of the last quarter")?;
    ensure!(after <= before * LATENCY_FACTOR + LATENCY_MS, "p99 went from {before:.1} ms to {after:.1} ms");
    Ok(())
}

fn print(samples: &[Sample], latencies: &Latencies, elapsed: Duration) -> Result<()> {
    let mut out = std::io::stderr().lock();
    writeln!(out, "    seconds  after    RSS MiB  descriptors  threads  waiting  outbox kB  calm p50/p99 ms")?;
    let step = samples.len().div_ceil(ROWS).max(1);
    for (index, sample) in samples.iter().enumerate() {
        if index % step != 0 && index + 1 != samples.len() {
            continue;
        }
        let since = index.checked_sub(1).map_or(Duration::ZERO, |before| samples[before].at);
        let calm = latencies.between(since, sample.at);
        writeln!(
            out,
            "    {:7.0}  {:<7}  {:7.1}  {:11}  {:7}  {:7}  {:9}  {:.1}/{:.1}",
            sample.at.as_secs_f64(),
            format!("{:?}", sample.fault),
            sample.resident_bytes as f64 / 1048576.0,
            sample.descriptors,
            sample.threads,
            sample.waiting,
            sample.outbox_bytes / 1024,
            quantile(0.5, &calm).unwrap_or(0.0),
            quantile(0.99, &calm).unwrap_or(0.0)
        )?;
    }
    let memory = memory_since(elapsed / 2, samples);
    let p99 = |from: u32, until: u32| {
        let within = latencies.between(elapsed / 4 * from, elapsed / 4 * until);
        quantile(0.99, &within).unwrap_or(0.0)
    };
    writeln!(
        out,
        "    {:.0} s, {} faults, {} decisions while all was well; memory {:+.0} kB a minute over the second half; p99 by quarters \
         {:.1} {:.1} {:.1} {:.1} ms",
        elapsed.as_secs_f64(),
        samples.len(),
        latencies.len(),
        slope_per_second(&memory) * 60.0 / 1024.0,
        p99(0, 1),
        p99(1, 2),
        p99(2, 3),
        p99(3, 5)
    )?;
    Ok(())
}
