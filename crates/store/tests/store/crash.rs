//! A process that is killed amid its writes: what it acknowledged is there, and nothing is half.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use linewarden_store::{
    Created, Database, DatasetKind, DatasetStatus, EntryFilter, JobKind, Lane, Metadata, NewEntry, NewJob, NewModel,
};
use serde_json::json;

const FOLDER: &str = "LINEWARDEN_STORE_CRASH_FOLDER";
const KILLS: usize = 12;
/// Entries come in batches of so many, all or none.
const BATCH: usize = 50;

async fn open(folder: &std::path::Path) -> Result<Metadata> {
    Ok(Metadata::open(&Database::Sqlite(folder.join("store.db"))).await?)
}

/// In a process of its own: writes, and says what was acknowledged.
#[tokio::test]
async fn writer() -> Result<()> {
    let Some(folder) = std::env::var_os(FOLDER) else { return Ok(()) };
    let store = open(folder.as_ref()).await?;
    store.requeue_interrupted().await?;
    if let Err(error) = store.create_project("cap", None).await {
        ensure!(matches!(error, linewarden_store::StoreError::Exists(_)), "{error}");
    } else {
        store.create_dataset("cap", DatasetKind::Train, None, None, None).await?;
    }
    let said = |what: String| std::io::stdout().write_all(format!("\nacknowledged {what}\n").as_bytes());
    loop {
        // A job that was interrupted is done first.
        if let Some(job) = store.claim_next(Lane::Short).await? {
            let batch = job.subject["batch"].as_u64().context("a number")?;
            let entries: Vec<NewEntry> = (0..BATCH)
                .map(|number| NewEntry {
                    source_ref: format!("s3://b/{batch}-{number}"),
                    line: "{}".to_owned(),
                    class: None,
                })
                .collect();
            store.apply_changes("cap", DatasetKind::Train, &entries, &job.id).await?;
            said(format!("batch {batch}"))?;
        }
        let model = NewModel { output_bucket: "out".to_owned(), ..NewModel::default() };
        let Created::New(model) = store.create_model("cap", model, |_| String::new(), None).await? else { continue };
        said(format!("model {}", model.version))?;
        let job = NewJob { kind: JobKind::Update, subject: json!({ "batch": model.version }) };
        store.begin_update("cap", DatasetKind::Train, job, None).await?;
        said(format!("update {}", model.version))?;
    }
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_process_that_is_killed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    for round in 0..KILLS {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .args(["--exact", "crash::writer", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let output = child.stdout.take().context("a pipe")?;
        let listener = std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            let told = lines.filter_map(|line| {
                let (what, number) = line.strip_prefix("acknowledged ")?.split_once(' ')?;
                Some((what.to_owned(), number.parse().ok()?))
            });
            told.collect::<Vec<(String, u64)>>()
        });
        std::thread::sleep(Duration::from_millis(150 + fastrand::u64(..300)));
        child.kill()?;
        child.wait()?;
        acknowledged.extend(listener.join().unwrap());
        let store = open(folder.path()).await?;
        let models = store.models("cap", None, 100_000).await?;
        let entries = store.list_entries("cap", DatasetKind::Train, &EntryFilter::default(), 0, 1_000_000).await?;
        let dataset = store.dataset("cap", DatasetKind::Train).await?;
        ensure!(
            entries.len() % BATCH == 0 && dataset.counts.total as usize == entries.len(),
            "half a batch: {}",
            entries.len()
        );
        for (what, number) in &acknowledged {
            if what == "model" {
                ensure!(models.iter().any(|model| model.version == *number), "round {round}: model {number} is lost");
            }
        }
        let batches = acknowledged.iter().filter(|(what, _)| what == "batch").count();
        ensure!(entries.len() / BATCH >= batches, "round {round}: {batches} batches, {} entries", entries.len());
        let begun = acknowledged.iter().filter(|(what, _)| what == "update").count();
        let is_open = dataset.status == DatasetStatus::UpdateInProgress;
        ensure!(entries.len() / BATCH + usize::from(is_open) >= begun, "round {round}: an update is lost");
        // What is open has its job still.
        store.requeue_interrupted().await?;
        let job = store.claim_next(Lane::Short).await?;
        ensure!(job.is_some() == is_open, "round {round}: {is_open} but {job:?}");
        store.close().await;
    }
    ensure!(acknowledged.len() > KILLS, "hardly anything was written: {acknowledged:?}");
    Ok(())
}
