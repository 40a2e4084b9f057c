//! The S3 endpoint as its clients see it: boto3, `aws s3`, and requests that no client would send.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise, in its helpers too")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use linewarden_objects::s3::{Ask, Gate, S3Options, serve};
use linewarden_objects::{Objects, Place, Vault};
use linewarden_testkit::peers::Peer;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const KEYS: &str = "line-1=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// A client has this long for all that it does.
const PATIENCE: Duration = Duration::from_secs(300);

/// `AKIAALL` may do everything, `AKIAREAD` may read what lies below `shared/`, `AKIAOLD` its versions too, `AKIAGONE` is
/// disabled.
struct Users;

#[async_trait::async_trait]
impl Gate for Users {
    async fn secret(&self, access_key_id: &str) -> Option<String> {
        ["AKIAALL", "AKIAREAD", "AKIAOLD"].contains(&access_key_id).then(|| format!("secret of {access_key_id}"))
    }

    async fn allows(&self, ask: &Ask<'_>) -> bool {
        let is_read =
            ask.action == "s3:GetObject" || (ask.access_key_id == "AKIAOLD" && ask.action == "s3:GetObjectVersion");
        let reads = is_read && ask.key.is_some_and(|key| key.starts_with("shared/"));
        ask.access_key_id == "AKIAALL" || reads || ask.action == "s3:ListBucket"
    }
}

fn program(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/s3").join(name)
}

struct Endpoint {
    folder: TempDir,
    objects: Objects,
    url: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

impl Endpoint {
    async fn start() -> Self {
        Self::with(S3Options { region: "eu-west-1".to_owned(), ..S3Options::default() }).await
    }

    async fn with(options: S3Options) -> Self {
        Self::over(tempfile::tempdir().unwrap(), options).await
    }

    async fn over(folder: TempDir, options: S3Options) -> Self {
        let vault = Vault::load(None, Some(KEYS), None).unwrap();
        let objects = Objects::open(Place::Folder(folder.path().join("buckets")), vault).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(listener, objects.clone(), Arc::new(Users), options, async {
            let _ = stopped.await;
        }));
        Self { folder, objects, url, stop, served }
    }

    /// Ends, and begins anew over what lies in the folder.
    async fn again(self) -> Self {
        self.stop.send(()).unwrap();
        self.served.await.unwrap().unwrap();
        drop(self.objects);
        Self::over(self.folder, S3Options { region: "eu-west-1".to_owned(), ..S3Options::default() }).await
    }

    /// Runs a client's program to its end, which must be a good one.
    async fn satisfies(&self, program: &str) {
        let path = self::program(program);
        let (url, work) = (self.url.clone(), self.folder.path().join("work"));
        std::fs::create_dir(&work).unwrap();
        let heard = tokio::task::spawn_blocking(move || {
            Peer::start(&path, &[&url, work.to_str().unwrap()]).unwrap().hear(PATIENCE)
        });
        let verdict = heard.await.unwrap().unwrap();
        assert_eq!(verdict, serde_json::json!({"good": true}), "{program}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_does_with_it_what_it_does_with_s3() {
    let endpoint = Endpoint::start().await;
    endpoint.satisfies("client.py").await;
    let left = std::fs::read_dir(endpoint.folder.path().join("buckets/.scratch/uploads")).unwrap().count();
    assert_eq!(left, 0, "uploads that ended leave nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_finds_versions_as_in_s3_and_after_a_restart_too() {
    let mut endpoint = Endpoint::start().await;
    let (path, url) = (program("versions.py"), endpoint.url.clone());
    let mut client = tokio::task::spawn_blocking(move || Peer::start(&path, &[&url]).unwrap()).await.unwrap();
    let verdict = loop {
        let (back, heard) = tokio::task::spawn_blocking(move || {
            let heard = client.hear(PATIENCE);
            (client, heard)
        })
        .await
        .unwrap();
        client = back;
        let heard = heard.unwrap();
        if heard != "restart" {
            break heard;
        }
        endpoint = endpoint.again().await;
        client.tell(&endpoint.url.clone().into()).unwrap();
    };
    assert_eq!(verdict, serde_json::json!({"good": true}));
    let left = std::fs::read_dir(endpoint.folder.path().join("buckets/.versions")).unwrap().count();
    assert_eq!(left, 0, "a bucket takes its versions along");
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_s3_copies_syncs_lists_and_removes() {
    Endpoint::start().await.satisfies("aws.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_no_client_would_send_are_refused() {
    let endpoint = Endpoint::start().await;
    endpoint.satisfies("raw.py").await;
    assert!(
        endpoint.objects.list("raw", "", None, 10).await.unwrap().iter().all(|listed| listed.key.starts_with("good"))
    );
}

/// In kilobytes; `clear_refs` starts the peak anew.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_300_mb_passes_through_little_memory() {
    let endpoint = Endpoint::start().await;
    endpoint.objects.create_bucket("large").await.unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak_memory();
    endpoint.satisfies("large.py").await;
    let grown_mb = (peak_memory().saturating_sub(before)) / 1024;
    // The other tests of this program run meanwhile, with megabytes of their own.
    assert!(grown_mb < 100, "{grown_mb} MB more at the peak");
    let head = endpoint.objects.head("large", "whole").await.unwrap();
    assert_eq!((head.size, head.kms_key.as_deref()), (300_000_000, Some("line-1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_wait_for_a_free_place_and_a_stop_lets_requests_end() {
    let options = S3Options { connections: 1, grace: Duration::from_secs(60), ..S3Options::default() };
    let endpoint = Endpoint::with(options).await;
    endpoint.objects.create_bucket("images").await.unwrap();
    let address = endpoint.url.trim_start_matches("http://").to_owned();
    let request = "GET /images HTTP/1.1\r\nhost: here\r\n\r\n";

    let mut first = tokio::net::TcpStream::connect(&address).await.unwrap();
    let answer = answer_to(&mut first, request).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let mut second = tokio::net::TcpStream::connect(&address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut second, request.as_bytes()).await.unwrap();
    let mut one = [0];
    let early =
        tokio::time::timeout(Duration::from_millis(200), tokio::io::AsyncReadExt::read(&mut second, &mut one)).await;
    assert!(early.is_err(), "the second connection waits");
    drop(first);
    tokio::io::AsyncReadExt::read_exact(&mut second, &mut one).await.unwrap();

    endpoint.stop.send(()).unwrap();
    endpoint.served.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(&address).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_runs_when_the_endpoint_stops_is_answered() {
    let endpoint = Endpoint::start().await;
    endpoint.objects.create_bucket("images").await.unwrap();
    let path = program("slow.py");
    let url = endpoint.url.clone();
    let (half_sent, on_half) = oneshot::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let client = tokio::task::spawn_blocking(move || {
        let mut client = Peer::start(&path, &[&url]).unwrap();
        assert_eq!(client.hear(PATIENCE).unwrap(), "half");
        half_sent.send(()).unwrap();
        may_go_on.recv().unwrap();
        client.tell(&serde_json::json!("go on")).unwrap();
        client.hear(PATIENCE).unwrap()
    });
    on_half.await.unwrap();
    // Sent is not yet taken: a connection without a request on it is just closed.
    let scratch = endpoint.folder.path().join("buckets/.scratch");
    while std::fs::read_dir(&scratch).unwrap().count() < 2 {
        tokio::task::yield_now().await;
    }
    endpoint.stop.send(()).unwrap();
    let address = endpoint.url.trim_start_matches("http://");
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    go_on.send(()).unwrap();
    assert_eq!(client.await.unwrap(), 200);
    endpoint.served.await.unwrap().unwrap();
    assert_eq!(endpoint.objects.head("images", "slow").await.unwrap().size, 200_000);
}

async fn answer_to(stream: &mut tokio::net::TcpStream, request: &str) -> String {
    tokio::io::AsyncWriteExt::write_all(stream, request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = tokio::io::AsyncReadExt::read(stream, &mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_completes_are_swept_after_a_day() {
    let endpoint = Endpoint::start().await;
    let scratch = endpoint.folder.path().join("buckets/.scratch");
    let (old, young) = (scratch.join("uploads/old"), scratch.join("uploads/young"));
    let half = scratch.join("half-written");
    std::fs::create_dir(&young).unwrap();
    std::fs::create_dir(&old).unwrap();
    std::fs::write(&half, "half").unwrap();
    for path in [&old, &half] {
        make_old(path);
    }
    endpoint.objects.sweep().await.unwrap();
    assert!(!old.exists() && !half.exists() && young.exists());
}

fn make_old(path: &Path) {
    let two_days_ago = std::time::SystemTime::now() - Duration::from_secs(48 * 60 * 60);
    let times = std::fs::FileTimes::new().set_modified(two_days_ago);
    std::fs::File::open(path).unwrap().set_times(times).unwrap();
}
