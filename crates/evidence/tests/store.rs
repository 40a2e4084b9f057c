//! A store through its users' door: what is kept, and what an auditor finds when somebody was there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use jiff::Timestamp;
use linewarden_evidence::{
    Event, Fsync, Item, Keep, Key, Picture, PictureFormat, Report, Store, StoreConfig, VerifyError, verify,
};
use serde_json::json;

fn config(folder: &Path) -> StoreConfig {
    StoreConfig {
        folder: folder.to_owned(),
        key: None,
        fsync: Fsync::Every(Duration::from_millis(20)),
        format: PictureFormat::Png,
        keep: Keep::default(),
    }
}

fn open(config: StoreConfig) -> (Store, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    (
        Store::open(config, Arc::new(move |event| seen.lock().expect("no panic").push(event.clone()))).expect("opens"),
        events,
    )
}

fn picture(name: &str, grey: u8) -> Picture {
    Picture { name: name.to_owned(), width_px: 16, height_px: 8, rgb: vec![grey; 16 * 8 * 3], is_mask: false }
}

fn item(number: u64) -> Item {
    Item {
        line: "cap".to_owned(),
        id: format!("boot-d-{number}"),
        at: Timestamp::now(),
        cause: "reject",
        record: json!({"part": number, "verdict": "reject", "model": "ab12"}),
        pictures: Box::new(move || {
            vec![Ok(picture("top-1", 40)), Ok(Picture { is_mask: true, ..picture("top-1-mask", 255) })]
        }),
    }
}

/// Keeps parts 1 to `count` and closes.
fn kept(folder: &Path, count: u64) {
    let (store, events) = open(config(folder));
    assert!(store.acknowledged("boot-d-2", "broker", Timestamp::now()), "before its part");
    for number in 1..=count {
        assert!(store.keep(item(number)));
    }
    assert!(store.acknowledged("boot-d-1", "gate", Timestamp::now()));
    assert!(store.acknowledged("of no kept part", "gate", Timestamp::now()));
    store.close();
    let events = events.lock().expect("no panic");
    let stored = events.iter().filter(|event| matches!(event, Event::Stored { .. })).count();
    assert_eq!(stored as u64, count, "{events:?}");
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.to_string_lossy().ends_with(ending) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn log(folder: &Path) -> PathBuf {
    folder.join("log/000001.jsonl")
}

fn problems(folder: &Path) -> Vec<String> {
    let report = verify(folder, None, None).expect("evidence");
    assert_eq!(report.fault_count, report.faults.len() as u64);
    report.faults.iter().map(ToString::to_string).collect()
}

#[test]
fn what_was_kept_is_found_untouched_over_openings() {
    let folder = tempfile::tempdir().unwrap();
    kept(folder.path(), 3);
    let (store, _) = open(config(folder.path()));
    assert!(store.note(json!({"what": "model_swapped"})));
    store.close();
    let report: Report = verify(folder.path(), None, Some(&store.head())).unwrap();
    assert!(report.is_untouched(), "{:?}", report.faults);
    // Opened, three parts, two acknowledged, closed; opened, note, closed.
    assert_eq!((report.records, report.parts, report.files), (10, 3, 6));
    assert_eq!(report.head, store.head().to_string());
}

#[test]
fn an_acknowledgement_that_comes_after_a_restart_is_on_record() {
    let folder = tempfile::tempdir().unwrap();
    kept(folder.path(), 3);
    let (store, _) = open(config(folder.path()));
    assert!(store.acknowledged("boot-d-3", "broker_historical", Timestamp::now()));
    assert!(store.acknowledged("boot-d-9", "broker_historical", Timestamp::now()), "of no part that was kept");
    store.close();
    let text = fs::read_to_string(log(folder.path())).unwrap();
    let late: Vec<&str> = text.lines().filter(|line| line.contains("broker_historical")).collect();
    assert!(late.len() == 1 && late[0].contains("boot-d-3"), "{late:?}");
    assert!(problems(folder.path()).is_empty());
}

#[test]
fn whatever_is_done_to_pictures_is_told_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    kept(folder.path(), 3);
    let pictures = files(folder.path(), ".png");
    fs::write(&pictures[0], b"another").unwrap();
    fs::remove_file(&pictures[3]).unwrap();
    fs::write(pictures[4].with_file_name("put-in.png"), b"x").unwrap();
    let mut told = problems(folder.path());
    told.sort();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("parts/") && told[0].ends_with(": was changed"), "{told:?}");
    assert!(told[1].ends_with("is missing, and no record says that it was removed"), "{told:?}");
    assert!(told[2].ends_with("put-in.png: is in no record"), "{told:?}");
}

#[test]
fn whatever_is_done_to_records_is_told_with_the_line() {
    let lines = |path: &Path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    type Change = fn(&mut Vec<String>);
    let table: [(&str, Change); 6] = [
        ("log/000001.jsonl:2: was changed", |lines| lines[1] = lines[1].replace("\"reject\"", "\"passed\"")),
        ("log/000001.jsonl:2: has number 3, expected 2", |lines| drop(lines.remove(1))),
        ("log/000001.jsonl:2: has number 3, expected 2", |lines| lines.swap(1, 2)),
        ("log/000001.jsonl:3: is no record", |lines| lines[2] = "{}".to_owned()),
        ("log/000001.jsonl:1: begins with record 2: those before it are missing", |lines| drop(lines.remove(0))),
        ("log: does not hold record 7 as the head in `log/head` names it", |lines| lines.truncate(3)),
    ];
    for (expected, change) in table {
        let folder = tempfile::tempdir().unwrap();
        kept(folder.path(), 3);
        let mut content = lines(&log(folder.path()));
        change(&mut content);
        fs::write(log(folder.path()), content.join("\n") + "\n").unwrap();
        let told = problems(folder.path());
        assert!(told.iter().any(|told| told.starts_with(expected)), "expected {expected}, got {told:?}");
    }
}

#[test]
fn a_log_written_anew_is_seen_by_a_head_kept_elsewhere_or_by_the_key() {
    let folder = tempfile::tempdir().unwrap();
    kept(folder.path(), 3);
    let head = verify(folder.path(), None, None).unwrap().head.parse().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "a secret of more than 16 bytes").unwrap();
    let key = Key::read(&secret).unwrap();
    // The forger keeps two parts and throws the third away.
    fs::remove_dir_all(folder.path().join("log")).unwrap();
    fs::remove_dir_all(folder.path().join("parts")).unwrap();
    kept(folder.path(), 2);
    assert!(problems(folder.path()).is_empty(), "without head and key a new chain looks like the old one");
    let report = verify(folder.path(), None, Some(&head)).unwrap();
    assert!(report.faults[0].problem.contains("does not hold record 7 as the given head names it"), "{report:?}");
    assert!(!verify(folder.path(), Some(&key), None).unwrap().is_untouched());
}

#[test]
fn the_oldest_pictures_go_when_there_are_too_many_and_the_log_says_so() {
    let folder = tempfile::tempdir().unwrap();
    kept(folder.path(), 1);
    let one_part: u64 = files(folder.path(), ".png").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    let keep = Keep { bytes: 2 * one_part, ..Keep::default() };
    let (store, events) = open(StoreConfig { keep, ..config(folder.path()) });
    for number in 2..=4 {
        assert!(store.keep(item(number)));
    }
    store.close();
    let removed = events.lock().unwrap().iter().filter(|event| **event == Event::Removed).count();
    assert_eq!((removed, store.bytes()), (2, 2 * one_part));
    assert_eq!(files(folder.path(), ".png").len(), 4);
    let report = verify(folder.path(), None, None).unwrap();
    assert!(report.is_untouched(), "{:?}", report.faults);
    assert_eq!((report.parts, report.removed), (2, 2));
}

#[test]
fn a_picture_that_cannot_be_made_leaves_its_reason_and_a_slow_disk_drops_parts_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let (store, events) = open(config(folder.path()));
    let (release, wait) = mpsc::channel::<()>();
    let slow = Item {
        pictures: Box::new(move || {
            let _ = wait.recv();
            vec![Err("frame gone".to_owned())]
        }),
        ..item(1)
    };
    assert!(store.keep(slow));
    // One is being written, 32 wait at most.
    let kept = (2..=60).filter(|&number| store.keep(item(number))).count();
    assert!((31..=33).contains(&kept), "{kept}");
    release.send(()).unwrap();
    store.close();
    let events = events.lock().unwrap();
    assert!(events.contains(&Event::Failed { error: "frame gone".to_owned() }));
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Dropped { .. })).count(), 59 - kept);
    assert!(verify(folder.path(), None, None).unwrap().is_untouched());
    assert!(fs::read_to_string(log(folder.path())).unwrap().contains("\"error\":\"frame gone\""));
}

#[test]
fn a_crash_between_pictures_and_record_leaves_nothing_that_looks_put_in() {
    let folder = tempfile::tempdir().unwrap();
    kept(folder.path(), 2);
    let parts = files(folder.path(), ".png");
    // As before the second part's folder got its name, and as before the first one's record was written.
    let (second, stranger) =
        (parts[2].parent().unwrap(), parts[0].parent().unwrap().with_file_name("cap-boot-d-9.new"));
    fs::rename(second, format!("{}.new", second.display())).unwrap();
    fs::create_dir_all(&stranger).unwrap();
    fs::write(stranger.join("top-1.png"), b"half").unwrap();
    open(config(folder.path())).0.close();
    assert!(problems(folder.path()).is_empty(), "{:?}", problems(folder.path()));
    assert!(second.is_dir() && !stranger.exists());
    // A whole part that somebody put in is seen.
    fs::create_dir_all(stranger.with_file_name("cap-boot-d-9")).unwrap();
    assert!(problems(folder.path())[0].ends_with("cap-boot-d-9: is in no record"), "{:?}", problems(folder.path()));
}

#[test]
fn no_evidence_is_an_error_and_not_a_clean_report() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(verify(folder.path(), None, None), Err(VerifyError::NoLog(_))));
}
