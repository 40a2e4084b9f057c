//! Objects through their own door: in a folder, encrypted and not, in a remote store, and after a kill.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use linewarden_objects::s3::{Ask, Gate, S3Options, serve};
use linewarden_objects::{ByteRange, Condition, Content, ObjectError, Objects, Place, PutOptions, RemoteS3, Vault};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::net::TcpListener;

const KEYS: &str = "line-1=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f,\
                    line-2=ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn keys(default: Option<&str>) -> Vault {
    Vault::load(None, Some(KEYS), default).unwrap()
}

async fn open(folder: &Path, vault: Vault) -> Objects {
    Objects::open(Place::Folder(folder.to_owned()), vault).await.unwrap()
}

async fn with_bucket(vault: Vault) -> (TempDir, Objects) {
    let folder = tempfile::tempdir().unwrap();
    let objects = open(folder.path(), vault).await;
    objects.create_bucket("images").await.unwrap();
    (folder, objects)
}

/// Bytes that tell where they are.
fn content(length: usize) -> Vec<u8> {
    (0..length.div_ceil(8)).flat_map(|number| (number as u64 * 31).to_le_bytes()).take(length).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

async fn keys_of(objects: &Objects, prefix: &str) -> Vec<String> {
    let listed = objects.list("images", prefix, None, 1000).await.unwrap();
    listed.into_iter().map(|listed| listed.key).collect()
}

#[tokio::test]
async fn keys_that_a_file_system_cannot_hold_live_side_by_side() {
    let (folder, objects) = with_bucket(Vault::plain()).await;
    let awkward =
        ["a", "a/", "a//b", "a/b", "a-b", "a%2Fb", "../a", "/a", "..", ".scratch/a", "ä/\u{1F600}", "n\0l", "a\nb"];
    for key in awkward {
        objects.put("images", key, key.as_bytes().to_vec(), PutOptions::default()).await.unwrap();
    }
    let mut sorted = awkward.map(str::to_owned);
    sorted.sort();
    assert_eq!(keys_of(&objects, "").await, sorted);
    for key in awkward {
        assert_eq!(objects.read("images", key).await.unwrap(), key.as_bytes());
    }
    assert!(files(folder.path()).iter().all(|file| file.starts_with(folder.path().join("images"))));

    for key in awkward {
        assert!(objects.delete("images", key).await.unwrap(), "{key:?}");
        assert!(!objects.delete("images", key).await.unwrap(), "{key:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path().join("images")).unwrap().count(), 0, "empty folders go");
    objects.delete_bucket("images").await.unwrap();
}

#[tokio::test]
async fn names_that_cannot_be_are_refused() {
    let (_folder, objects) = with_bucket(Vault::plain()).await;
    for key in ["", &"a".repeat(1025), &"a".repeat(256)] {
        let put = objects.put("images", key, vec![1], PutOptions::default()).await;
        assert!(matches!(put, Err(ObjectError::BadName { .. })), "{key:?}");
    }
    let deep = "/".repeat(1024);
    objects.put("images", &deep, vec![1], PutOptions::default()).await.unwrap_err();
    for bucket in ["..", "Images", ".scratch", "a/b"] {
        assert!(matches!(objects.head(bucket, "a").await, Err(ObjectError::BadName { .. })), "{bucket:?}");
        assert!(matches!(objects.create_bucket(bucket).await, Err(ObjectError::BadName { .. })), "{bucket:?}");
    }
}

#[tokio::test]
async fn buckets_are_made_listed_and_deleted_when_empty() {
    let (_folder, objects) = with_bucket(Vault::plain()).await;
    assert!(matches!(objects.create_bucket("images").await, Err(ObjectError::BucketExists(_))));
    objects.create_bucket("a-bucket").await.unwrap();
    let names: Vec<String> = objects.list_buckets().await.unwrap().into_iter().map(|bucket| bucket.name).collect();
    assert_eq!(names, ["a-bucket", "images"]);
    objects.put("images", "x/y", vec![1], PutOptions::default()).await.unwrap();
    assert!(matches!(objects.delete_bucket("images").await, Err(ObjectError::BucketNotEmpty(_))));
    assert_eq!(objects.delete_prefix("images", "").await.unwrap(), 1);
    objects.delete_bucket("images").await.unwrap();
    assert!(!objects.bucket_exists("images").await.unwrap());
    let put = objects.put("images", "x", vec![1], PutOptions::default()).await;
    assert!(matches!(put, Err(ObjectError::NoBucket(_))));
    assert!(matches!(objects.head("images", "x").await, Err(ObjectError::NoBucket(_))));
}

#[tokio::test]
async fn what_is_known_of_an_object_stays_with_it() {
    let (folder, objects) = with_bucket(Vault::plain()).await;
    let options = PutOptions {
        content_type: Some("image/jpeg".to_owned()),
        metadata: BTreeMap::from([("camera".to_owned(), "left".to_owned())]),
        headers: BTreeMap::from([("cache-control".to_owned(), "no-store".to_owned())]),
        ..PutOptions::default()
    };
    let put = objects.put("images", "1.jpg", b"hello".to_vec(), options.clone()).await.unwrap();
    assert_eq!(put.etag, "5d41402abc4b2a76b9719d911017c592");
    let again = open(folder.path(), Vault::plain()).await;
    let head = again.head("images", "1.jpg").await.unwrap();
    assert_eq!(head, put);
    assert_eq!((head.size, head.content_type, head.metadata), (5, options.content_type, options.metadata));

    let copy = again.copy(("images", "1.jpg"), ("images", "copy"), None).await.unwrap();
    assert_eq!((&copy.etag, &copy.metadata, &copy.headers), (&put.etag, &put.metadata, &options.headers));
    let listed = again.list("images", "", Some("1.jpg"), 10).await.unwrap();
    assert_eq!((listed[0].key.as_str(), listed[0].size, &listed[0].etag), ("copy", 5, &put.etag));
}

#[tokio::test]
async fn every_range_is_what_the_content_has_there() {
    let chunk = 64 * 1024;
    for vault in [Vault::plain(), keys(Some("line-1"))] {
        let (_folder, objects) = with_bucket(vault).await;
        for length in [0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 5 * chunk + 77] {
            let whole = content(length);
            objects.put("images", "o", whole.clone(), PutOptions::default()).await.unwrap();
            assert_eq!(objects.read("images", "o").await.unwrap(), whole, "{length}");
            let size = length as u64;
            let middle = size / 2;
            for (range, wanted) in [
                (ByteRange::From(middle), middle..size),
                (ByteRange::Last(10), size.saturating_sub(10)..size),
                (ByteRange::Between(0, 1), 0..1.min(size)),
                (ByteRange::Between(middle, size + 5), middle..size),
                (
                    ByteRange::Between(chunk as u64 - 1, chunk as u64 + 1),
                    (chunk as u64 - 1)..(chunk as u64 + 1).min(size),
                ),
            ] {
                let got = objects.get("images", "o", Some(range)).await;
                if wanted.is_empty() {
                    assert!(matches!(got, Err(ObjectError::BadRange { .. })), "{length} {range:?}");
                    continue;
                }
                let got = got.unwrap();
                assert_eq!(got.range, wanted, "{length} {range:?}");
                let bytes: Vec<Bytes> = got.body.try_collect().await.unwrap();
                assert_eq!(bytes.concat(), whole[wanted.start as usize..wanted.end as usize], "{length} {range:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_encrypted_object_is_read_with_its_key_only_and_unchanged_only() {
    let (folder, objects) = with_bucket(keys(None)).await;
    let secret = content(200_000);
    let options = PutOptions { kms_key: Some("alias/line-2".to_owned()), ..PutOptions::default() };
    let head = objects.put("images", "secret", secret.clone(), options).await.unwrap();
    assert_eq!(head.kms_key.as_deref(), Some("line-2"));
    assert_eq!(objects.read("images", "secret").await.unwrap(), secret);

    let file = folder.path().join("images/secret");
    let stored = std::fs::read(&file).unwrap();
    assert!(!stored.windows(64).any(|window| secret.starts_with(window)));

    let without = open(folder.path(), Vault::plain()).await;
    assert!(matches!(without.read("images", "secret").await, Err(ObjectError::WrongKey { name }) if name == "line-2"));
    assert_eq!(without.head("images", "secret").await.unwrap().size, 200_000, "known without the key");
    let missing = PutOptions { kms_key: Some("line-3".to_owned()), ..PutOptions::default() };
    let put = objects.put("images", "x", vec![1], missing).await;
    assert!(matches!(put, Err(ObjectError::WrongKey { name }) if name == "line-3"));

    let mut flipped = stored.clone();
    flipped[100_000] ^= 1;
    std::fs::write(&file, &flipped).unwrap();
    assert!(matches!(objects.read("images", "secret").await, Err(ObjectError::Damaged(_))));
    let cut = &stored[..stored.len() - 1];
    std::fs::write(&file, cut).unwrap();
    assert!(matches!(objects.read("images", "secret").await, Err(ObjectError::Damaged(_))));
    assert!(keys_of(&objects, "").await.is_empty(), "a damaged object does not hide the others");
}

#[tokio::test]
async fn content_that_breaks_off_leaves_what_was_there() {
    let (folder, objects) = with_bucket(Vault::plain()).await;
    objects.put("images", "o", b"old".to_vec(), PutOptions::default()).await.unwrap();
    let pieces = [Ok(Bytes::from(content(300_000))), Err(std::io::Error::other("the client has gone"))];
    let put = objects.put("images", "o", Content::stream(futures::stream::iter(pieces)), PutOptions::default()).await;
    assert!(matches!(put, Err(ObjectError::Content(_))));
    assert_eq!(objects.read("images", "o").await.unwrap(), "old");
    assert_eq!(files(folder.path()).len(), 1, "nothing half written stays");
}

#[tokio::test]
async fn conditions_hold_also_among_writers_at_the_same_time() {
    let (_folder, objects) = with_bucket(Vault::plain()).await;
    let absent = PutOptions { condition: Condition::Absent, ..PutOptions::default() };
    let writers = (0..20_u8).map(|number| objects.put("images", "o", vec![number], absent.clone()));
    let written = futures::future::join_all(writers).await;
    assert_eq!(written.iter().filter(|put| put.is_ok()).count(), 1);
    let etag = objects.head("images", "o").await.unwrap().etag;
    let matching = PutOptions { condition: Condition::Etag(etag), ..PutOptions::default() };
    objects.put("images", "o", b"next".to_vec(), matching.clone()).await.unwrap();
    let stale = objects.put("images", "o", b"late".to_vec(), matching).await;
    assert!(matches!(stale, Err(ObjectError::ConditionFailed)));
}

#[tokio::test]
async fn writers_and_deleters_of_one_folder_do_not_trip_over_each_other() {
    let (_folder, objects) = with_bucket(Vault::plain()).await;
    let tasks = (0..8).map(|task| {
        let objects = objects.clone();
        tokio::spawn(async move {
            let key = format!("deep/er/{task}");
            for _ in 0..40 {
                objects.put("images", &key, vec![task], PutOptions::default()).await.unwrap();
                assert!(objects.delete("images", &key).await.unwrap());
                objects.put("images", "deep/shared", vec![task], PutOptions::default()).await.unwrap();
                objects.delete("images", "deep/shared").await.unwrap();
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    assert!(keys_of(&objects, "").await.is_empty());
}

#[tokio::test]
async fn objects_go_to_files_of_this_machine_and_come_from_them() {
    let (folder, objects) = with_bucket(keys(Some("line-1"))).await;
    let source = folder.path().join("source");
    std::fs::write(&source, content(1_000_000)).unwrap();
    objects.put_file("images", "model.onnx", &source, PutOptions::default()).await.unwrap();
    let target = folder.path().join("new/folder/model.onnx");
    objects.materialize("images", "model.onnx", &target).await.unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), content(1_000_000));
    assert_eq!(std::fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    assert!(matches!(objects.read_at_most("images", "model.onnx", 999_999).await, Err(ObjectError::TooLarge { .. })));
}

#[tokio::test]
async fn pages_of_a_listing_make_up_the_whole() {
    let (_folder, objects) = with_bucket(Vault::plain()).await;
    let mut all: Vec<String> =
        (0..57).map(|number| format!("{}/{number}", ["a", "a-b", "b", "a/c"][number % 4])).collect();
    for key in &all {
        objects.put("images", key, vec![0], PutOptions::default()).await.unwrap();
    }
    all.sort();
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = objects.list("images", "", seen.last().map(String::as_str), 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|listed| listed.key));
    }
    assert_eq!(seen, all);
    let wanted: Vec<String> = all.iter().filter(|key| key.starts_with("a/c/1")).cloned().collect();
    assert_eq!(keys_of(&objects, "a/c/1").await, wanted);
}

/// Tells this program that it is the one to be killed, and where to write.
const CRASH_FOLDER: &str = "OBJECTS_CRASH_FOLDER";

#[tokio::test]
async fn kill_9_leaves_the_old_object_or_the_new_one() {
    if let Some(folder) = std::env::var_os(CRASH_FOLDER) {
        write_until_killed(Path::new(&folder)).await;
    }
    let (folder, objects) = with_bucket(keys(Some("line-1"))).await;
    let mut acknowledged = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill_9_leaves_the_old_object_or_the_new_one", "--nocapture"])
            .env(CRASH_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut versions = lines.filter_map(|line| line.strip_prefix("written ")?.parse::<u64>().ok());
        // Each round in another moment of a write.
        acknowledged = versions.by_ref().take(3 + round).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        let whole = objects.read("images", "state").await.unwrap();
        let version = u64::from_le_bytes(whole[..8].try_into().unwrap());
        assert!(version >= acknowledged, "{version} is older than {acknowledged}, which was acknowledged");
        assert!(whole.chunks_exact(8).all(|chunk| chunk == &whole[..8]), "a mixture of two");
        assert_eq!(keys_of(&objects, "").await, ["state"]);
    }
    assert!(acknowledged >= 3);
}

async fn write_until_killed(folder: &Path) {
    let objects = open(folder, keys(Some("line-1"))).await;
    let first = match objects.read("images", "state").await {
        Ok(whole) => u64::from_le_bytes(whole[..8].try_into().unwrap()) + 1,
        Err(_) => 1,
    };
    for version in first.. {
        let whole = version.to_le_bytes().repeat(100_000);
        objects.put("images", "state", whole, PutOptions::default()).await.unwrap();
        println!("written {version}");
    }
}

struct Everybody;

#[async_trait::async_trait]
impl Gate for Everybody {
    async fn secret(&self, _access_key_id: &str) -> Option<String> {
        Some("secret".to_owned())
    }

    async fn allows(&self, _ask: &Ask<'_>) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_store_holds_objects_as_a_folder_does() {
    let (folder, behind) = with_bucket(Vault::plain()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(serve(
        listener,
        behind.clone(),
        Arc::new(Everybody),
        S3Options::default(),
        std::future::pending(),
    ));
    let place = Place::S3(RemoteS3 {
        endpoint: Some(endpoint),
        region: "us-east-1".to_owned(),
        access_key_id: "AKIA".to_owned(),
        secret_access_key: "secret".to_owned(),
        allow_http: true,
        buckets: vec!["images".to_owned()],
        scratch: folder.path().join("remote-scratch"),
    });
    let remote = Objects::open(place, keys(None)).await.unwrap();

    let whole = content(20 * 1024 * 1024 + 5);
    for (key, kms_key) in [("a/plain", None), ("a/sealed", Some("line-1".to_owned()))] {
        let options = PutOptions {
            content_type: Some("image/png".to_owned()),
            metadata: BTreeMap::from([("camera".to_owned(), "left".to_owned())]),
            kms_key: kms_key.clone(),
            ..PutOptions::default()
        };
        let put = remote.put("images", key, whole.clone(), options).await.unwrap();
        let head = remote.head("images", key).await.unwrap();
        assert_eq!((head.size, &head.etag, &head.kms_key), (whole.len() as u64, &put.etag, &kms_key));
        assert_eq!((&head.metadata, &head.content_type), (&put.metadata, &Some("image/png".to_owned())));
        assert_eq!(remote.read("images", key).await.unwrap(), whole);
        let part = remote.get("images", key, Some(ByteRange::Between(65_530, 200_000))).await.unwrap();
        let bytes: Vec<Bytes> = part.body.try_collect().await.unwrap();
        assert_eq!(bytes.concat(), whole[65_530..200_000]);
    }
    assert_eq!(behind.read("images", "a/plain").await.unwrap(), whole, "others read what is not encrypted");
    assert_ne!(behind.read("images", "a/sealed").await.unwrap(), whole);

    remote
        .put("images", "empty", Vec::new(), PutOptions { kms_key: Some("line-1".to_owned()), ..PutOptions::default() })
        .await
        .unwrap();
    assert!(remote.read("images", "empty").await.unwrap().is_empty());
    let listed = remote.list("images", "", None, 10).await.unwrap();
    let lines: Vec<(&str, u64)> = listed.iter().map(|listed| (listed.key.as_str(), listed.size)).collect();
    assert_eq!(lines, [("a/plain", whole.len() as u64), ("a/sealed", whole.len() as u64), ("empty", 0)]);
    assert_eq!(keys_of(&remote, "a/s").await, ["a/sealed"]);

    let target = folder.path().join("sealed");
    remote.materialize("images", "a/sealed", &target).await.unwrap();
    assert_eq!(std::fs::read(target).unwrap(), whole);
    remote.copy(("images", "a/sealed"), ("images", "copy"), None).await.unwrap();
    assert_eq!(remote.head("images", "copy").await.unwrap().kms_key.as_deref(), Some("line-1"));
    assert!(remote.delete("images", "copy").await.unwrap());
    assert!(matches!(remote.read("images", "copy").await, Err(ObjectError::NotFound { .. })));
    assert!(matches!(
        remote.put("images", "a//b", vec![1], PutOptions::default()).await,
        Err(ObjectError::BadName { .. })
    ));
    assert!(matches!(remote.head("other", "a").await, Err(ObjectError::NoBucket(_))));
    assert!(matches!(remote.create_bucket("other").await, Err(ObjectError::Refused(_))));
    server.abort();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_the_keys_are_they_stay_in_their_bucket_and_are_told_apart(
        keys in proptest::collection::btree_set(r"([ab./%_\\]|\PC|[\x00-\x1f]){1,12}", 1..8),
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let (folder, objects) = with_bucket(Vault::plain()).await;
            for key in &keys {
                objects.put("images", key, key.as_bytes().to_vec(), PutOptions::default()).await.unwrap();
            }
            let bucket = folder.path().join("images");
            prop_assert_eq!(files(folder.path()).len(), keys.len());
            prop_assert!(files(folder.path()).iter().all(|file| file.canonicalize().unwrap().starts_with(&bucket)));
            // A set of strings is in the order of their bytes.
            prop_assert_eq!(keys_of(&objects, "").await, keys.iter().cloned().collect::<Vec<_>>());
            for key in &keys {
                prop_assert_eq!(objects.read("images", key).await.unwrap(), key.as_bytes());
                objects.delete("images", key).await.unwrap();
            }
            prop_assert_eq!(std::fs::read_dir(bucket).unwrap().count(), 0);
            Ok(())
        })?;
    }
}
