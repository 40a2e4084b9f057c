//! The daemon killed at random moments of everything that changes something: what was acknowledged is there afterwards, what
//! was not is there whole or not at all, and every job goes on or fails with a reason.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use linewarden_testkit::peers::Peer;
use linewarden_testkit::settings::number;
use serde_json::{Value, json};

use crate::life::parts;
use crate::{CONFIG, PATIENCE, Site};

const KINDS: [&str; 4] = ["upload", "update", "train", "host"];
/// In CI; `make soak` kills it more often.
const KILLS: usize = 12;

fn say(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stderr(), "{text}")?)
}

fn ask(client: &mut Peer, order: &Value) -> Result<Value> {
    let answer = client.ask(order, PATIENCE)?;
    ensure!(answer.get("answer").is_some(), "{order}: {answer}");
    Ok(answer["answer"].clone())
}

fn connect(site: &Site, client: &mut Peer) -> Result<()> {
    let (api, s3) = (site.address("listening")?, site.address("S3 endpoint listens")?);
    ask(client, &json!({ "do": "connect", "api": api, "s3": s3 })).map(|_| ())
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_keeps_what_it_said_yes_to() -> Result<()> {
    let kills = usize::try_from(number("LINEWARDEN_API_KILLS", KILLS as u64)?)?;
    let seed = number("LINEWARDEN_API_SEED", fastrand::u64(..))?;
    say(&format!("killed {kills} times; the same moments once more with LINEWARDEN_API_SEED={seed}"))?;
    let mut random = fastrand::Rng::with_seed(seed);

    let folder = tempfile::tempdir()?;
    parts(folder.path())?;
    let config = format!("{CONFIG}calls_per_second = 0\n");
    let mut site = Site::with(&config)?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/kills.py");
    let pictures = folder.path().to_str().context("a path in UTF-8")?;
    let mut client = Peer::start(&program, &[pictures, "eu-west-1", &site.key, &site.secret])?;
    connect(&site, &mut client)?;
    ask(&mut client, &json!({ "do": "prepare" }))?;
    let mut longest = Duration::ZERO;
    for kill in 0..kills {
        let kind = KINDS[kill % KINDS.len()];
        client.tell(&json!({ "do": "work", "seed": random.u32(..), "kind": kind }))?;
        // Any moment, that is what is tested.
        std::thread::sleep(Duration::from_micros(random.u64(1_000..900_000)));
        site.daemon.kill()?;
        let worked = client.hear(PATIENCE)?;
        ensure!(worked.get("answer").is_some(), "{kind}: {worked}");
        let began = Instant::now();
        site.daemon.serve(&config)?;
        longest = longest.max(began.elapsed());
        connect(&site, &mut client)?;
        let verified = ask(&mut client, &json!({ "do": "verify" }))?;
        say(&format!("{kind}: {}, then {verified}", worked["answer"]))?;
    }
    let ended = ask(&mut client, &json!({ "do": "settle" }))?;
    ask(&mut client, &json!({ "do": "verify" }))?;
    say(&format!("{kills} kills; models in the end {ended}; longest start {longest:?}"))?;
    drop(client);
    // What was on its way when it was killed does not lie about for ever.
    let left = std::fs::read_dir(site.daemon.path("data/work"))?.count();
    ensure!(left == 0, "{left} folders of jobs are left");
    site.end()
}
