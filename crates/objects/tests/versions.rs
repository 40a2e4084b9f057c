//! Versions through their own door: what stays, what comes back, and what a kill leaves between two steps.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use linewarden_objects::{Condition, Head, ObjectError, Objects, Place, PutOptions, Vault, Versioning};
use tempfile::TempDir;

const KEYS: &str = "line-1=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const KEY: &str = "train/1.jpg";

async fn open(folder: &Path) -> Objects {
    let vault = Vault::load(None, Some(KEYS), Some("line-1")).unwrap();
    Objects::open(Place::Folder(folder.to_owned()), vault).await.unwrap()
}

async fn plain() -> (TempDir, Objects) {
    let folder = tempfile::tempdir().unwrap();
    let objects = open(folder.path()).await;
    objects.create_bucket("images").await.unwrap();
    (folder, objects)
}

async fn versioned() -> (TempDir, Objects) {
    let (folder, objects) = plain().await;
    objects.set_versioning("images", Versioning::Enabled).await.unwrap();
    (folder, objects)
}

async fn put(objects: &Objects, content: &str) -> Head {
    objects.put("images", KEY, content.as_bytes().to_vec(), PutOptions::default()).await.unwrap()
}

/// What a version holds; in words what it is when it holds nothing.
async fn at(objects: &Objects, version: &str) -> String {
    match objects.read_version_at_most("images", KEY, Some(version), 1000).await {
        Ok(content) => String::from_utf8(content.to_vec()).unwrap(),
        Err(ObjectError::NoVersion { .. }) => "none".to_owned(),
        Err(ObjectError::DeleteMarker { .. }) => "marker".to_owned(),
        Err(error) => format!("{error}"),
    }
}

async fn now(objects: &Objects) -> String {
    match objects.read("images", KEY).await {
        Ok(content) => String::from_utf8(content.to_vec()).unwrap(),
        Err(ObjectError::NotFound { marker, .. }) => marker.map_or("nothing".to_owned(), |_| "deleted".to_owned()),
        Err(error) => format!("{error}"),
    }
}

fn earlier_folder(folder: &Path) -> PathBuf {
    folder.join(".versions/images/keys/train%/1.jpg")
}

fn earlier(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(earlier_folder(folder)).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_bucket_that_was_never_asked_has_no_versions() {
    let (folder, objects) = plain().await;
    assert_eq!(objects.versioning("images").await.unwrap(), None);
    assert_eq!(put(&objects, "one").await.version, None);
    assert_eq!(put(&objects, "two").await.version, None);
    assert_eq!(objects.head("images", KEY).await.unwrap().version, None);
    assert_eq!((at(&objects, "null").await, at(&objects, &"0".repeat(32)).await), ("two".into(), "none".into()));
    assert!(objects.delete("images", KEY).await.unwrap());
    assert_eq!(now(&objects).await, "nothing");
    assert!(!folder.path().join(".versions").exists());
    assert!(matches!(objects.versioning("other").await, Err(ObjectError::NoBucket(_))));
    let set = objects.set_versioning("other", Versioning::Enabled).await;
    assert!(matches!(set, Err(ObjectError::NoBucket(_))));
}

#[tokio::test]
async fn each_write_makes_a_version_and_each_deletion_brings_back_the_one_before() {
    let (folder, objects) = plain().await;
    put(&objects, "old").await;
    objects.set_versioning("images", Versioning::Enabled).await.unwrap();
    assert_eq!(objects.head("images", KEY).await.unwrap().version.as_deref(), Some("null"));
    let one = put(&objects, "one").await;
    let two = put(&objects, "two").await;
    let (one, two_id) = (one.version.unwrap(), two.version.clone().unwrap());
    assert!(one < two_id);

    let again = open(folder.path()).await;
    assert_eq!(again.versioning("images").await.unwrap(), Some(Versioning::Enabled));
    assert_eq!(again.head("images", KEY).await.unwrap(), two);
    assert_eq!([at(&again, "null").await, at(&again, &one).await, at(&again, &two_id).await], ["old", "one", "two"]);
    assert_eq!([at(&again, "x").await, at(&again, &"0".repeat(32)).await], ["none", "none"]);

    let marker = again.delete_version("images", KEY, None).await.unwrap();
    assert!(marker.was_there && marker.is_marker);
    let marker = marker.version.unwrap();
    assert_eq!((now(&again).await, at(&again, &marker).await), ("deleted".into(), "marker".into()));
    assert!(again.list("images", "", None, 10).await.unwrap().is_empty());
    assert!(matches!(again.delete_bucket("images").await, Err(ObjectError::BucketNotEmpty(_))));

    assert!(again.delete_version("images", KEY, Some(&marker)).await.unwrap().is_marker);
    assert_eq!(again.head("images", KEY).await.unwrap(), two);
    for (version, then) in [(&two_id, "one"), (&one, "old"), (&"null".to_owned(), "nothing")] {
        assert!(again.delete_version("images", KEY, Some(version)).await.unwrap().was_there);
        assert!(!again.delete_version("images", KEY, Some(version)).await.unwrap().was_there, "once is enough");
        assert_eq!((now(&again).await.as_str(), at(&again, version).await.as_str()), (then, "none"));
    }
    again.delete_bucket("images").await.unwrap();
    again.create_bucket("images").await.unwrap();
    assert_eq!(again.versioning("images").await.unwrap(), None, "a new bucket knows nothing of the old one's versions");
}

#[tokio::test]
async fn with_versions_suspended_writes_replace_the_version_null_only() {
    let (folder, objects) = versioned().await;
    let one = put(&objects, "one").await.version.unwrap();
    objects.set_versioning("images", Versioning::Suspended).await.unwrap();
    for content in ["two", "three"] {
        assert_eq!(put(&objects, content).await.version.as_deref(), Some("null"));
        assert_eq!((now(&objects).await.as_str(), at(&objects, "null").await.as_str()), (content, content));
    }
    assert_eq!((at(&objects, &one).await, earlier(folder.path()).len()), ("one".into(), 1));
    let deletion = objects.delete_version("images", KEY, None).await.unwrap();
    assert_eq!((deletion.version.as_deref(), now(&objects).await.as_str()), (Some("null"), "deleted"));
    assert_eq!((at(&objects, "null").await, earlier(folder.path()).len()), ("marker".into(), 2));
    objects.delete("images", KEY).await.unwrap();
    assert_eq!(earlier(folder.path()).len(), 2, "a marker `null` replaces the one before");

    objects.set_versioning("images", Versioning::Enabled).await.unwrap();
    let four = put(&objects, "four").await.version.unwrap();
    assert_eq!([at(&objects, "null").await, at(&objects, &four).await], ["marker", "four"]);
    objects.delete_version("images", KEY, Some("null")).await.unwrap();
    objects.delete_version("images", KEY, Some(&four)).await.unwrap();
    assert_eq!(now(&objects).await, "one");
}

#[tokio::test]
async fn a_deleted_object_is_absent_to_conditions_and_a_marker_of_nothing_is_one_too() {
    let (_folder, objects) = versioned().await;
    let deletion = objects.delete_version("images", KEY, None).await.unwrap();
    assert!(!deletion.was_there && deletion.is_marker);
    let absent = PutOptions { condition: Condition::Absent, ..PutOptions::default() };
    objects.put("images", KEY, b"one".to_vec(), absent.clone()).await.unwrap();
    let refused = objects.put("images", KEY, b"two".to_vec(), absent.clone()).await;
    assert!(matches!(refused, Err(ObjectError::ConditionFailed)));
    objects.delete("images", KEY).await.unwrap();
    objects.put("images", KEY, b"three".to_vec(), absent).await.unwrap();
    assert_eq!(now(&objects).await, "three");
}

#[tokio::test]
async fn writers_at_the_same_time_each_leave_a_version() {
    let (_folder, objects) = versioned().await;
    let writers = (0..20_u8).map(|number| objects.put("images", KEY, vec![number], PutOptions::default()));
    let written = futures::future::join_all(writers).await;
    let mut ids: Vec<String> = written.into_iter().map(|head| head.unwrap().version.unwrap()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    // Removed from the front one after the other, each is there until its turn comes.
    while let Some(newest) = ids.pop() {
        assert_eq!(objects.head("images", KEY).await.unwrap().version, Some(newest.clone()));
        objects.delete_version("images", KEY, Some(&newest)).await.unwrap();
    }
    assert_eq!(now(&objects).await, "nothing");
}

/// Each of these is what lies there when a change is cut off between two of its steps.
#[tokio::test]
async fn a_change_that_was_cut_off_reads_as_before_it_or_as_after_it() {
    // A write, between the old version's second name and the new version's first.
    let (folder, objects) = versioned().await;
    let place = folder.path().join("images/train%/1.jpg");
    let one = put(&objects, "one").await.version.unwrap();
    std::fs::create_dir_all(earlier_folder(folder.path())).unwrap();
    std::fs::hard_link(&place, earlier_folder(folder.path()).join(&one)).unwrap();
    assert_eq!([now(&objects).await, at(&objects, &one).await], ["one", "one"]);
    let two = put(&objects, "two").await.version.unwrap();
    assert_eq!(earlier(folder.path()), std::slice::from_ref(&one));

    // The deletion of the newest version, which has such a second name.
    std::fs::hard_link(&place, earlier_folder(folder.path()).join(&two)).unwrap();
    objects.delete_version("images", KEY, Some(&two)).await.unwrap();
    assert_eq!([now(&objects).await, at(&objects, &two).await], ["one", "none"]);

    // A deletion, between the marker and the object's end: the object is there, nobody was told otherwise.
    let kept = folder.path().join("kept");
    std::fs::copy(&place, &kept).unwrap();
    let marker = objects.delete_version("images", KEY, None).await.unwrap().version.unwrap();
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::rename(&kept, &place).unwrap();
    assert_eq!([now(&objects).await, at(&objects, &one).await, at(&objects, &marker).await], ["one", "one", "none"]);
    let three = put(&objects, "three").await.version.unwrap();
    assert_eq!(
        earlier(folder.path()),
        std::slice::from_ref(&one),
        "a marker that marks nothing goes with the next write"
    );
    objects.delete_version("images", KEY, Some(&three)).await.unwrap();
    assert_eq!(now(&objects).await, "one");

    // A write with versions suspended, between the new `null` and the end of the old one.
    objects.delete_version("images", KEY, Some(&one)).await.unwrap();
    objects.set_versioning("images", Versioning::Suspended).await.unwrap();
    put(&objects, "first null").await;
    objects.set_versioning("images", Versioning::Enabled).await.unwrap();
    put(&objects, "between").await;
    let null = earlier(folder.path()).pop().unwrap();
    let kept = folder.path().join("kept");
    std::fs::copy(earlier_folder(folder.path()).join(&null), &kept).unwrap();
    objects.set_versioning("images", Versioning::Suspended).await.unwrap();
    put(&objects, "second null").await;
    std::fs::rename(&kept, earlier_folder(folder.path()).join(&null)).unwrap();
    assert_eq!(at(&objects, "null").await, "second null");
    objects.delete_version("images", KEY, Some("null")).await.unwrap();
    assert_eq!([now(&objects).await, at(&objects, "null").await], ["between", "none"]);
}

#[tokio::test]
async fn an_old_buckets_versions_do_not_come_back_with_its_name() {
    let (folder, objects) = versioned().await;
    // Deletion cut off after the bucket's folder.
    std::fs::remove_dir(folder.path().join("images")).unwrap();
    objects.create_bucket("images").await.unwrap();
    assert_eq!(objects.versioning("images").await.unwrap(), None);
}

/// Tells this program that it is the one to be killed, and where to write.
const CRASH_FOLDER: &str = "OBJECTS_VERSIONS_CRASH_FOLDER";

#[tokio::test]
async fn kill_9_loses_no_version_that_was_acknowledged() {
    if let Some(folder) = std::env::var_os(CRASH_FOLDER) {
        write_until_killed(Path::new(&folder)).await;
    }
    let (folder, objects) = versioned().await;
    let mut acknowledged: Vec<(String, String)> = Vec::new();
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill_9_loses_no_version_that_was_acknowledged", "--nocapture"])
            .env(CRASH_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut written = lines.filter_map(|line| {
            let (content, id) = line.strip_prefix("written ")?.split_once(' ')?;
            Some((id.to_owned(), content.to_owned()))
        });
        // Each round in another moment of a change.
        acknowledged.extend(written.by_ref().take(4 + round));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(written);

        for (id, content) in &acknowledged {
            assert_eq!(&at(&objects, id).await, content, "version {id}");
        }
        let newest = now(&objects).await;
        let number = |content: &str| content.parse::<u64>().unwrap_or_default();
        let last = acknowledged.iter().map(|(_, content)| number(content)).rfind(|number| *number > 0).unwrap();
        let is_deleted = acknowledged.last().unwrap().1 == "marker";
        let is_newer = number(&newest) > last || (number(&newest) == last && !is_deleted);
        assert!(newest == "deleted" || is_newer, "{newest} after {last}, deleted: {is_deleted}");
        let names = earlier(folder.path());
        assert!(acknowledged.len() <= names.len() + 1, "{names:?}");
        put(&objects, &acknowledged.len().to_string()).await;
    }
}

/// Writes and deletes in turn, so that a kill meets the steps of both.
async fn write_until_killed(folder: &Path) {
    let objects = open(folder).await;
    for number in 1_000_000_u64.. {
        let head = put(&objects, &number.to_string()).await;
        println!("written {number} {}", head.version.unwrap());
        let deletion = objects.delete_version("images", KEY, None).await.unwrap();
        println!("written marker {}", deletion.version.unwrap());
    }
}
