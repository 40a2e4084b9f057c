//! The store through its own door, over SQLite and over a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

mod crash;

use std::time::Instant;

use anyhow::Result;
use jiff::{Timestamp, ToSpan as _};
use linewarden_store::{
    Class, ClientToken, Counts, Created, Database, DatasetKind, DatasetStatus, EntryFilter, Evaluation, JobKind, Lane,
    Metadata, ModelChange, ModelStatus, NewEntry, NewJob, NewModel, NewPackagingJob, PackagingStatus, StoreError,
};
use serde_json::json;

use linewarden_testkit::postgres::Postgres;

/// A store, and what it needs while it lasts.
struct Site {
    store: Metadata,
    _folder: tempfile::TempDir,
    _server: Option<Postgres>,
}

async fn sqlite() -> Result<Site> {
    let folder = tempfile::tempdir()?;
    let store = Metadata::open(&Database::Sqlite(folder.path().join("a store % of ours.db"))).await?;
    Ok(Site { store, _folder: folder, _server: None })
}

async fn postgres() -> Result<Site> {
    let folder = tempfile::tempdir()?;
    let server = Postgres::start(folder.path())?;
    let store = Metadata::open(&Database::Postgres(server.address().to_owned())).await?;
    Ok(Site { store, _folder: folder, _server: Some(server) })
}

/// Runs a test over both.
macro_rules! over_both {
    ($($test:ident),* $(,)?) => {
        mod over_sqlite {
            $(#[tokio::test]
            async fn $test() -> anyhow::Result<()> {
                let site = super::sqlite().await?;
                super::$test(&site.store).await
            })*
        }
        mod over_postgres {
            #[tokio::test]
            async fn one_server_serves_them_all() -> anyhow::Result<()> {
                $({
                    let site = super::postgres().await?;
                    super::$test(&site.store).await?;
                    site.store.close().await;
                })*
                Ok(())
            }
        }
    };
}

over_both!(
    projects_are_made_listed_and_removed,
    a_request_that_is_sent_again_makes_nothing_new,
    a_data_set_is_whole_or_not_there,
    entries_are_filtered_and_paged,
    versions_count_up_and_are_never_reused,
    states_change_only_from_where_they_may,
    jobs_are_taken_once_and_again_after_an_end,
    packaging_jobs_are_kept,
    a_large_data_set_is_paged_quickly,
);

fn token(operation: &'static str, request: &str) -> Option<ClientToken> {
    Some(ClientToken { operation, token: "t-1".to_owned(), request_sha256: request.to_owned() })
}

fn entry(picture: &str, class: Option<Class>) -> NewEntry {
    let source_ref = format!("s3://bucket/{picture}");
    NewEntry { line: json!({ "source-ref": source_ref, "of": format!("{class:?}") }).to_string(), source_ref, class }
}

fn import() -> NewJob {
    NewJob { kind: JobKind::Import, subject: json!({ "kind": "train" }) }
}

async fn projects_are_made_listed_and_removed(store: &Metadata) -> Result<()> {
    for name in ["cap", "bottle", "Zebra"] {
        assert!(matches!(store.create_project(name, None).await?, Created::New(project) if project.name == name));
    }
    assert!(matches!(store.create_project("cap", None).await, Err(StoreError::Exists(_))));
    let names = |projects: Vec<linewarden_store::Project>| projects.into_iter().map(|one| one.name).collect::<Vec<_>>();
    let all = names(store.projects(None, 10).await?);
    assert_eq!(all.len(), 3);
    let first = names(store.projects(None, 2).await?);
    let rest = names(store.projects(first.last().map(String::as_str), 2).await?);
    assert_eq!([first, rest].concat(), all);
    store.create_dataset("cap", DatasetKind::Train, None, None, None).await?;
    assert!(matches!(store.delete_project("cap").await, Err(StoreError::InUse(_))));
    store.delete_dataset("cap", DatasetKind::Train).await?;
    store.delete_project("cap").await?;
    assert!(matches!(store.delete_project("cap").await, Err(StoreError::NotFound(subject)) if subject.id() == "cap"));
    for number in 0..98 {
        store.create_project(&format!("p{number}"), None).await?;
    }
    assert!(matches!(store.create_project("more", None).await, Err(StoreError::Quota { most: 100, .. })));
    Ok(())
}

async fn a_request_that_is_sent_again_makes_nothing_new(store: &Metadata) -> Result<()> {
    let first = store.create_project("cap", token("CreateProject", "a")).await?;
    let again = store.create_project("cap", token("CreateProject", "a")).await?;
    assert!(matches!((first, again), (Created::New(first), Created::Again(again)) if first == again));
    assert!(matches!(store.create_project("x", token("CreateProject", "b")).await, Err(StoreError::TokenReused)));
    store.create_dataset("cap", DatasetKind::Train, None, None, token("CreateDataset", "a")).await?;
    let model = || NewModel { output_bucket: "out".to_owned(), ..NewModel::default() };
    let arn = |version: u64| format!("arn:{version}");
    let first = store.create_model("cap", model(), arn, token("CreateModel", "a")).await?.into_inner();
    let again = store.create_model("cap", model(), arn, token("CreateModel", "a")).await?;
    assert!(matches!(again, Created::Again(again) if again == first));
    let next = store.create_model("cap", model(), arn, None).await?.into_inner();
    assert_eq!((first.version, next.version), (1, 2));
    Ok(())
}

async fn a_data_set_is_whole_or_not_there(store: &Metadata) -> Result<()> {
    let kind = DatasetKind::Train;
    assert!(
        matches!(store.dataset("cap", kind).await, Err(StoreError::NotFound(subject)) if subject.kind() == "PROJECT")
    );
    store.create_project("cap", None).await?;
    assert!(
        matches!(store.dataset("cap", kind).await, Err(StoreError::NotFound(subject)) if subject.id() == "cap/train")
    );
    let source = json!({ "Bucket": "b", "Key": "k" });
    let made = store.create_dataset("cap", kind, Some(&source), Some(import()), None).await?.into_inner();
    assert_eq!((made.status, made.counts), (DatasetStatus::CreateInProgress, Counts::default()));
    assert_eq!(store.dataset_source("cap", kind).await?, source);
    assert!(matches!(
        store.delete_dataset("cap", kind).await,
        Err(StoreError::WrongState { status: "CREATE_IN_PROGRESS", .. })
    ));
    let job = store.claim_next(Lane::Short).await?.unwrap();
    let entries = [entry("a", Some(Class::Normal)), entry("b", Some(Class::Anomaly)), entry("c", None)];
    store.complete_dataset("cap", kind, &entries, &job.id).await?;
    let counts = Counts { total: 3, labeled: 2, normal: 1, anomaly: 1 };
    let whole = store.dataset("cap", kind).await?;
    assert_eq!((whole.status, whole.counts), (DatasetStatus::CreateComplete, counts));
    assert!(matches!(store.complete_dataset("cap", kind, &entries, &job.id).await, Err(StoreError::WrongState { .. })));
    let update = || NewJob { kind: JobKind::Update, subject: json!({}) };
    store.begin_update("cap", kind, update(), None).await?;
    assert!(matches!(store.begin_update("cap", kind, update(), None).await, Err(StoreError::WrongState { .. })));
    let job = store.claim_next(Lane::Short).await?.unwrap();
    store.apply_changes("cap", kind, &[entry("d", None), entry("a", Some(Class::Anomaly))], &job.id).await?;
    let lines = store.list_entries("cap", kind, &EntryFilter::default(), 0, 10).await?;
    let refs: Vec<&str> = lines.iter().map(|entry| &entry.line[entry.line.len() - 3..entry.line.len() - 2]).collect();
    assert_eq!(refs, ["a", "b", "c", "d"], "changed where it is, new at the end");
    assert_eq!(store.dataset("cap", kind).await?.counts, Counts { total: 4, labeled: 2, normal: 0, anomaly: 2 });
    store.begin_update("cap", kind, update(), None).await?;
    let job = store.claim_next(Lane::Short).await?.unwrap();
    store.fail_update("cap", kind, "why", &job.id).await?;
    let failed = store.dataset("cap", kind).await?;
    assert_eq!((failed.status, failed.status_message.as_str()), (DatasetStatus::UpdateFailedRollbackComplete, "why"));
    assert_eq!(failed.counts.total, 4);
    store.create_dataset("cap", DatasetKind::Test, Some(&source), Some(import()), None).await?;
    let job = store.claim_next(Lane::Short).await?.unwrap();
    store.fail_dataset("cap", DatasetKind::Test, "no such object", &job.id).await?;
    let statuses: Vec<_> = store.datasets("cap").await?.iter().map(|dataset| (dataset.kind, dataset.status)).collect();
    assert_eq!(statuses[1], (DatasetKind::Test, DatasetStatus::CreateFailed));
    store.delete_dataset("cap", DatasetKind::Test).await?;
    store.delete_dataset("cap", kind).await?;
    assert_eq!((store.datasets("cap").await?.len(), store.claim_next(Lane::Short).await?), (0, None));
    Ok(())
}

async fn whole_dataset(store: &Metadata, entries: &[NewEntry]) -> Result<()> {
    store.create_project("cap", None).await?;
    store.create_dataset("cap", DatasetKind::Train, None, Some(import()), None).await?;
    let job = store.claim_next(Lane::Short).await?.unwrap();
    Ok(store.complete_dataset("cap", DatasetKind::Train, entries, &job.id).await?)
}

async fn entries_are_filtered_and_paged(store: &Metadata) -> Result<()> {
    let before = Timestamp::now() - 1.second();
    let entries = [
        entry("one/a", Some(Class::Normal)),
        entry("one/B", Some(Class::Anomaly)),
        entry("two/c_%", None),
        entry("two/d", Some(Class::Normal)),
    ];
    whole_dataset(store, &entries).await?;
    let after = Timestamp::now() + 1.second();
    let all = EntryFilter::default;
    let table = [
        (all(), "1 2 3 4"),
        (EntryFilter { labeled: Some(true), ..all() }, "1 2 4"),
        (EntryFilter { labeled: Some(false), ..all() }, "3"),
        (EntryFilter { class: Some(Class::Normal), ..all() }, "1 4"),
        (EntryFilter { class: Some(Class::Anomaly), labeled: Some(true), ..all() }, "2"),
        (EntryFilter { class: Some(Class::Anomaly), labeled: Some(false), ..all() }, ""),
        (EntryFilter { source_ref_contains: Some("two/".to_owned()), ..all() }, "3 4"),
        (EntryFilter { source_ref_contains: Some("b".to_owned()), ..all() }, "1 2 3 4"),
        (EntryFilter { source_ref_contains: Some("one/b".to_owned()), ..all() }, ""),
        (EntryFilter { source_ref_contains: Some("_%".to_owned()), ..all() }, "3"),
        (EntryFilter { before: Some(before), ..all() }, ""),
        (EntryFilter { before: Some(after), after: Some(before), ..all() }, "1 2 3 4"),
        (EntryFilter { after: Some(after), ..all() }, ""),
    ];
    for (filter, expected) in table {
        let found = store.list_entries("cap", DatasetKind::Train, &filter, 0, 10).await?;
        let found: Vec<String> = found.iter().map(|entry| entry.id.to_string()).collect();
        assert_eq!(found.join(" "), expected, "{filter:?}");
    }
    let page = store.list_entries("cap", DatasetKind::Train, &all(), 1, 2).await?;
    assert_eq!(page.iter().map(|entry| entry.id).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(page[0].line, entries[1].line);
    assert!(matches!(
        store.list_entries("cap", DatasetKind::Test, &all(), 0, 1).await,
        Err(StoreError::NotFound(subject)) if subject.kind() == "DATASET"
    ));
    Ok(())
}

async fn versions_count_up_and_are_never_reused(store: &Metadata) -> Result<()> {
    store.create_project("cap", None).await?;
    let model = NewModel {
        output_bucket: "out".to_owned(),
        tags: vec![("a".to_owned(), "1".to_owned())],
        ..NewModel::default()
    };
    let arn = |version: u64| format!("arn:{version}");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (store, model) = (store.clone(), model.clone());
        tasks.spawn(
            async move { store.create_model("cap", model, arn, None).await.map(|made| made.into_inner().version) },
        );
    }
    let mut versions = tasks.join_all().await.into_iter().collect::<Result<Vec<u64>, _>>()?;
    versions.sort_unstable();
    assert_eq!(versions, (1..=16).collect::<Vec<u64>>());
    assert_eq!(store.tags("arn:16").await?, [("a".to_owned(), "1".to_owned())]);
    store.set_tags("arn:16", &[("b".to_owned(), String::new()), ("a".to_owned(), "2".to_owned())]).await?;
    store.remove_tags("arn:16", &["b".to_owned(), "none".to_owned()]).await?;
    assert_eq!(store.tags("arn:16").await?, [("a".to_owned(), "2".to_owned())]);
    store.delete_model("cap", 16, "arn:16").await?;
    assert_eq!((store.newest_model("cap").await?, store.tags("arn:16").await?), (Some(15), Vec::new()));
    let next = store.create_model("cap", model, arn, None).await?.into_inner();
    assert_eq!(next.version, 17);
    let page: Vec<u64> = store.models("cap", Some(15), 3).await?.iter().map(|model| model.version).collect();
    assert_eq!(page, [14, 13, 12]);
    assert!(matches!(store.model("cap", 16).await, Err(StoreError::NotFound(subject)) if subject.id() == "cap/16"));
    Ok(())
}

async fn states_change_only_from_where_they_may(store: &Metadata) -> Result<()> {
    store.create_project("cap", None).await?;
    let new = NewModel {
        description: Some("first".to_owned()),
        kms_key: Some("k".to_owned()),
        output_bucket: "out".to_owned(),
        ..NewModel::default()
    };
    let made = store.create_model("cap", new, |_| String::new(), None).await?.into_inner();
    assert_eq!((made.status, made.evaluation.clone(), made.units), (ModelStatus::Training, None, None));
    let hosted = ModelChange { status: Some(ModelStatus::Hosted), ..ModelChange::default() };
    let refused = store.change_model("cap", 1, &[ModelStatus::Trained], hosted, None).await;
    assert!(matches!(refused, Err(StoreError::WrongState { status: "TRAINING", .. })));
    let evaluation = Evaluation {
        f1: 0.1 + 0.2,
        recall: 1.0,
        precision: 0.0,
        manifest_key: "m".to_owned(),
        result_key: "r".to_owned(),
        ended_at: Timestamp::from_microsecond(1_700_000_000_123_456)?,
    };
    let change = ModelChange {
        status: Some(ModelStatus::Trained),
        evaluation: Some(evaluation.clone()),
        units: Some(Some((1, 3))),
        ..ModelChange::default()
    };
    let trained = store.change_model("cap", 1, &[ModelStatus::Training], change, None).await?;
    assert_eq!(
        (trained.evaluation, trained.units, trained.description),
        (Some(evaluation), Some((1, 3)), made.description)
    );
    assert_eq!(store.hosted_models().await?, []);
    // Of many that want the same change, one gets it.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        let change = ModelChange { status: Some(ModelStatus::StartingHosting), ..ModelChange::default() };
        tasks.spawn(async move { store.change_model("cap", 1, &[ModelStatus::Trained], change, None).await.is_ok() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|changed| *changed).count(), 1);
    let hosted = store.hosted_models().await?;
    assert_eq!((hosted.len(), hosted[0].0.as_str(), hosted[0].1.units), (1, "cap", Some((1, 3))));
    Ok(())
}

async fn jobs_are_taken_once_and_again_after_an_end(store: &Metadata) -> Result<()> {
    store.create_project("cap", None).await?;
    let model = || NewModel { output_bucket: "out".to_owned(), ..NewModel::default() };
    for _ in 0..3 {
        store.create_model("cap", model(), |_| String::new(), None).await?;
    }
    assert_eq!(store.claim_next(Lane::Short).await?, None);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        tasks.spawn(async move { store.claim_next(Lane::Long).await });
    }
    let taken: Vec<_> = tasks.join_all().await.into_iter().filter_map(|job| job.unwrap()).collect();
    let mut versions: Vec<_> = taken.iter().map(|job| job.subject["version"].as_u64().unwrap()).collect();
    versions.sort_unstable();
    assert_eq!((versions, taken[0].kind, taken[0].attempts), (vec![1, 2, 3], JobKind::Train, 1));
    let first = taken.iter().find(|job| job.subject["version"] == 1).unwrap();
    store.finish_job(&first.id).await?;
    assert_eq!(store.requeue_interrupted().await?, 2);
    let again = store.claim_next(Lane::Long).await?.unwrap();
    assert_eq!((again.subject["version"].as_u64(), again.attempts), (Some(2), 2), "in their order");
    store.delete_model("cap", 3, "").await?;
    assert_eq!(store.claim_next(Lane::Long).await?, None, "went with its model");
    Ok(())
}

async fn packaging_jobs_are_kept(store: &Metadata) -> Result<()> {
    store.create_project("cap", None).await?;
    let new = NewModel { output_bucket: "out".to_owned(), ..NewModel::default() };
    store.create_model("cap", new, |_| String::new(), None).await?;
    let job = |name: Option<&str>| NewPackagingJob {
        name: name.map(str::to_owned),
        model_version: 1,
        description: None,
        configuration: json!({ "Greengrass": { "ComponentName": "c" } }),
    };
    let refused = store.create_packaging_job("cap", job(Some("one")), None).await;
    assert!(matches!(refused, Err(StoreError::WrongState { status: "TRAINING", .. })));
    let trained = ModelChange { status: Some(ModelStatus::Trained), ..ModelChange::default() };
    store.change_model("cap", 1, &[ModelStatus::Training], trained, None).await?;
    let made = store.create_packaging_job("cap", job(Some("one")), None).await?.into_inner();
    assert_eq!((made.status, made.output), (PackagingStatus::Created, None));
    assert!(matches!(store.create_packaging_job("cap", job(Some("one")), None).await, Err(StoreError::Exists(_))));
    assert!(store.create_packaging_job("cap", job(None), None).await?.into_inner().name.starts_with("job-"));
    while store.claim_next(Lane::Long).await?.is_some_and(|job| job.kind != JobKind::Package) {}
    let output = json!({ "Greengrass": { "ComponentName": "c" } });
    store.change_packaging_job("cap", "one", PackagingStatus::Succeeded, "done", Some(&output), None).await?;
    let done = store.packaging_job("cap", "one").await?;
    assert_eq!(
        (done.status, done.output, done.configuration),
        (PackagingStatus::Succeeded, Some(output.clone()), output)
    );
    assert_eq!(store.packaging_jobs("cap", Some("job-z"), 10).await?.len(), 1);
    Ok(())
}

async fn a_large_data_set_is_paged_quickly(store: &Metadata) -> Result<()> {
    let entries: Vec<NewEntry> =
        (0..16_000).map(|number| entry(&format!("part-{number}"), Some(Class::Normal))).collect();
    whole_dataset(store, &entries).await?;
    let began = Instant::now();
    let page = store.list_entries("cap", DatasetKind::Train, &EntryFilter::default(), 8000, 101).await?;
    let listed = began.elapsed();
    let began = Instant::now();
    let counts = store.dataset("cap", DatasetKind::Train).await?.counts;
    let described = began.elapsed();
    assert_eq!((page.len(), page[0].id, counts.normal), (101, 8001, 16_000));
    std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("of 16,000 entries: a page of 100 in {listed:?}, the counts in {described:?}\n").as_bytes(),
    )?;
    Ok(())
}
