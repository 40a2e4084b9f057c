#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use super::*;

/// Answers by the name of the project.
#[derive(Default)]
struct Echo {
    reached: Notify,
    go_on: Notify,
}

#[async_trait]
impl Operations for Echo {
    async fn call(&self, call: &Call) -> Result<Value, Fault> {
        match call.input.get("ProjectName").and_then(Value::as_str) {
            Some("broken") => Err(Fault::internal("disk /secret is full")),
            Some("panics") => panic!("as asked"),
            Some("busy") => Err(Fault::Throttled {
                message: "later".to_owned(),
                quota_code: None,
                retry_after: Some(Duration::from_millis(1200)),
            }),
            Some("silent") => Ok(Value::Null),
            Some("slow") => {
                self.reached.notify_one();
                self.go_on.notified().await;
                Ok(json!({}))
            }
            _ => Ok(
                json!({"operation": call.operation.name(), "input": call.input, "bytes": call.body.len(), "by": call.caller.user}),
            ),
        }
    }
}

/// Lets those in that say who they are, but `eve` may do nothing; tells the test what is recorded.
struct Door {
    records: Mutex<mpsc::UnboundedSender<String>>,
}

#[async_trait]
impl Gate for Door {
    fn glance(&self, headers: &HeaderMap) -> Result<Option<BodyHasher>, Fault> {
        if headers.contains_key("authorization") { Ok(Some(BodyHasher::default())) } else { Err(Fault::MissingToken) }
    }

    async fn identify(&self, request: Signed<'_>) -> Result<Caller, Fault> {
        let user = request.headers["authorization"].to_str().unwrap().to_owned();
        let is_signed = user != "signs abcdef" || request.body == Some(BodyHash::of(b"abcdef"));
        if user == "nobody" || !is_signed {
            return Err(Fault::UnrecognizedClient);
        }
        Ok(Caller {
            user,
            access_key_id: format!("{} {} {:?}", request.method, request.raw_path, request.raw_query),
            source: request.source,
            is_tls: request.is_tls,
        })
    }

    async fn admit(&self, caller: &Caller, operation: &'static Operation, _: &Input) -> Result<(), Fault> {
        if caller.user == "eve" { Err(Fault::access_denied(format!("not {}", operation.name()))) } else { Ok(()) }
    }

    async fn record(&self, record: Record<'_>) -> Result<(), Fault> {
        let user = record.caller.map_or("?", |caller| caller.user.as_str());
        let outcome = record.outcome.map_or_else(Fault::error_type, |_| "done");
        let told = format!(
            "{} {user} {} {outcome} {}",
            record.operation.name(),
            record.input.is_some(),
            record.source.unwrap()
        );
        self.records.lock().unwrap().send(told).unwrap();
        if user == "unrecorded" { Err(Fault::internal("the audit log is full")) } else { Ok(()) }
    }
}

struct Server {
    address: SocketAddr,
    echo: Arc<Echo>,
    records: mpsc::UnboundedReceiver<String>,
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Value,
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, records) = mpsc::unbounded_channel();
        let echo = Arc::new(Echo::default());
        let routes = router(Arc::clone(&echo) as _, Arc::new(Door { records: Mutex::new(sender) }), limits);
        let service = routes.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(axum::serve(listener, service).into_future());
        Self { address, echo, records }
    }

    async fn ask(&self, method: &str, target: &str, user: &str, body: &[u8]) -> Answer {
        let head = format!("authorization: {user}\r\ncontent-type: image/png\r\ncontent-length: {}\r\n", body.len());
        self.send(method, target, &head, body).await
    }

    async fn send(&self, method: &str, target: &str, head: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let start = format!("{method} {target} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n{head}\r\n");
        stream.write_all(start.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut whole = String::new();
        stream.read_to_string(&mut whole).await.unwrap();
        let (head, body) = whole.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers =
            lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.to_owned(), value.to_owned()));
        Answer { status, headers: headers.collect(), body: serde_json::from_str(body).unwrap_or_default() }
    }
}

/// A path for an operation, with a name in each of its labels.
fn target(operation: &Operation) -> String {
    let query = if operation.name() == "UntagResource" { "?tagKeys=a" } else { "" };
    let names = [
        ("{projectName}", "cap"),
        ("{datasetType}", "train"),
        ("{modelVersion}", "1"),
        ("{jobName}", "job"),
        ("{resourceArn}", "arn%3Aaws%3Alookoutvision%3Aeu-west-1%3A123456789012%3Amodel%2Fcap%2F1"),
    ];
    names.iter().fold(operation.uri().to_owned(), |uri, (label, name)| uri.replace(label, name)) + query
}

fn document(operation: &Operation) -> Value {
    let location = json!({"S3Location": {"Bucket": "out"}});
    match operation.name() {
        "CreateProject" => json!({"ProjectName": "cap"}),
        "CreateDataset" => json!({"DatasetType": "train"}),
        "CreateModel" => json!({"OutputConfig": location}),
        "StartModel" => json!({"MinInferenceUnits": 1}),
        "StartModelPackagingJob" => json!({"ModelVersion": "1", "Configuration": {"Greengrass": {
            "S3OutputLocation": location["S3Location"], "ComponentName": "Cap"}}}),
        "TagResource" => json!({"Tags": []}),
        "UpdateDatasetEntries" => json!({"Changes": "e30="}),
        "DetectAnomalies" => json!("eight"),
        _ => Value::Null,
    }
}

#[tokio::test]
async fn every_operation_is_reached_and_answered_with_its_code() {
    let mut server = Server::start(Limits::default()).await;
    for operation in Contract::get().operations() {
        let document = document(operation);
        let body = if document.is_null() { Vec::new() } else { document.to_string().into_bytes() };
        let answer = server.ask(operation.method(), &target(operation), "ann", &body).await;
        assert_eq!((answer.status, &answer.body["operation"]), (operation.success(), &json!(operation.name())));
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.headers["x-amzn-requestid"].len(), 36);
        let payload = if operation.payload_member().is_some() { body.len() } else { 0 };
        assert_eq!((&answer.body["bytes"], &answer.body["by"]), (&json!(payload), &json!("ann")));
        assert_eq!(server.records.recv().await.unwrap(), format!("{} ann true done 127.0.0.1", operation.name()));
    }
}

#[tokio::test]
async fn a_refusal_is_written_as_clients_read_it_and_recorded() {
    let mut server = Server::start(Limits::default()).await;
    let at = |name: &str| format!("/2020-11-20/projects/{name}");
    let cases = [
        (
            "GET",
            at("cap"),
            "nobody",
            403,
            "UnrecognizedClientException",
            "DescribeProject ? false UnrecognizedClientException",
        ),
        ("GET", at("cap"), "eve", 403, "AccessDeniedException", "DescribeProject eve true AccessDeniedException"),
        ("GET", at("a%20b"), "ann", 400, "ValidationException", "DescribeProject ann false ValidationException"),
        ("GET", at("busy"), "ann", 429, "ThrottlingException", "DescribeProject ann true ThrottlingException"),
        (
            "DELETE",
            at("broken"),
            "ann",
            500,
            "InternalServerException",
            "DeleteProject ann true InternalServerException",
        ),
        ("DELETE", at("cap"), "unrecorded", 500, "InternalServerException", "DeleteProject unrecorded true done"),
    ];
    for (method, path, user, status, error_type, recorded) in cases {
        let answer = server.ask(method, &path, user, b"").await;
        assert_eq!((answer.status, answer.headers["x-amzn-errortype"].as_str()), (status, error_type), "{path} {user}");
        assert_eq!(answer.headers.get("retry-after").map(String::as_str), (status == 429).then_some("2"));
        let message = answer.body["Message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.contains("secret") && !message.contains("audit"), "{message}");
        assert_eq!(answer.headers["x-amzn-requestid"].len(), 36);
        assert_eq!(server.records.recv().await.unwrap(), format!("{recorded} 127.0.0.1"));
    }
}

#[tokio::test]
async fn what_is_no_operation_or_not_signed_is_refused_at_once() {
    let server = Server::start(Limits::default()).await;
    let missing = server.send("GET", "/2020-11-20/projects", "", b"").await;
    assert_eq!(
        (missing.status, missing.headers["x-amzn-errortype"].as_str()),
        (403, "MissingAuthenticationTokenException")
    );
    let unknown = server.ask("GET", "/2020-11-20/nothing", "ann", b"").await;
    assert_eq!((unknown.status, unknown.headers["x-amzn-errortype"].as_str()), (404, "UnknownOperationException"));
    let wrong = server.ask("PUT", "/2020-11-20/projects", "ann", b"").await;
    assert_eq!((wrong.status, wrong.headers["allow"].as_str()), (405, "POST, GET"));
}

#[tokio::test]
async fn an_operation_that_panics_is_a_failure_of_ours_and_the_next_is_answered() {
    let mut server = Server::start(Limits::default()).await;
    let answer = server.ask("GET", "/2020-11-20/projects/panics", "ann", b"").await;
    assert_eq!((answer.status, answer.headers["x-amzn-errortype"].as_str()), (500, "InternalServerException"));
    assert_eq!(server.records.recv().await.unwrap(), "DescribeProject ann true InternalServerException 127.0.0.1");
    let silent = server.ask("GET", "/2020-11-20/projects/silent", "ann", b"").await;
    assert_eq!((silent.status, silent.headers["content-length"].as_str()), (200, "0"));
}

#[tokio::test]
async fn a_client_that_leaves_breaks_off_neither_its_call_nor_the_record() {
    let mut server = Server::start(Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"DELETE /2020-11-20/projects/slow HTTP/1.1\r\nhost: h\r\nauthorization: ann\r\n\r\n")
        .await
        .unwrap();
    server.echo.reached.notified().await;
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the server has noticed, and closed too");
    server.echo.go_on.notify_one();
    assert_eq!(server.records.recv().await.unwrap(), "DeleteProject ann true done 127.0.0.1");
}

#[tokio::test]
async fn no_body_is_larger_than_is_allowed() {
    let limits = Limits { picture_bytes: 4096, document_bytes: 2048, together_bytes: 4096, ..Limits::default() };
    let server = Server::start(limits).await;
    let detect = "/2020-11-20/projects/cap/models/1/detect";
    assert_eq!(server.ask("POST", detect, "ann", &[0; 4096]).await.status, 200);
    let refused = |answer: Answer| (answer.status, answer.headers["x-amzn-errortype"].clone());
    let too_large = (413, "RequestEntityTooLargeException".to_owned());
    assert_eq!(refused(server.ask("POST", detect, "ann", &[0; 4097]).await), too_large);
    assert_eq!(refused(server.ask("POST", "/2020-11-20/projects", "ann", &[b' '; 2049]).await), too_large);
    // Far more than fits into the buffers between the two: the client can send all of it, and then reads why.
    assert_eq!(refused(server.ask("POST", detect, "ann", &vec![0; 16 << 20]).await), too_large);
    let chunked = "authorization: ann\r\ntransfer-encoding: chunked\r\n";
    let body = [b"1001\r\n".as_slice(), &[0; 4097], b"\r\n0\r\n\r\n"].concat();
    assert_eq!(refused(server.send("POST", detect, chunked, &body).await), too_large);
}

#[tokio::test]
async fn a_body_is_hashed_as_a_whole_however_it_comes() {
    let server = Server::start(Limits::default()).await;
    let detect = "/2020-11-20/projects/cap/models/1/detect";
    let chunked = "authorization: signs abcdef\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n";
    let sent = |body: &'static [u8]| server.send("POST", detect, chunked, body);
    assert_eq!(sent(b"6\r\nabcdef\r\n0\r\n\r\n").await.status, 200);
    let answer = sent(b"1\r\na\r\n3\r\nbcd\r\n2\r\nef\r\n0\r\n\r\n").await;
    assert_eq!((answer.status, &answer.body["bytes"]), (200, &json!(6)));
    assert_eq!(sent(b"3\r\nabc\r\n2\r\nef\r\n0\r\n\r\n").await.status, 403);
    let broken = sent(b"3\r\nabc\r\nno length\r\n").await;
    assert_eq!((broken.status, broken.headers["x-amzn-errortype"].as_str()), (400, "SerializationException"));
}

#[tokio::test]
async fn bodies_share_a_budget_that_is_given_back() {
    let limits = Limits { together_bytes: 4096, ..Limits::default() };
    let server = Server::start(limits).await;
    let detect = "/2020-11-20/projects/cap/models/1/detect";
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /2020-11-20/projects/slow/models/1/detect HTTP/1.1\r\nhost: h\r\nauthorization: ann\r\ncontent-type: image/png\r\ncontent-length: 3000\r\nconnection: close\r\n\r\n{}",
        "x".repeat(3000)
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    server.echo.reached.notified().await;
    let answer = server.ask("POST", detect, "ann", &[0; 2000]).await;
    assert_eq!((answer.status, answer.headers["retry-after"].as_str()), (429, "1"));
    assert_eq!(server.ask("POST", detect, "ann", &[0; 1000]).await.status, 200);
    server.echo.go_on.notify_one();
    let mut whole = String::new();
    slow.read_to_string(&mut whole).await.unwrap();
    assert_eq!(server.ask("POST", detect, "ann", &[0; 4000]).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = Server::start(Limits::default()).await;
    let head = "authorization: ann\r\ncontent-length: 5\r\n";
    let answer = server.send("POST", "/2020-11-20/projects", head, b"{").await;
    assert_eq!((answer.status, answer.headers["x-amzn-errortype"].as_str()), (400, "SerializationException"));
    assert_eq!(answer.body["Message"], "the body did not arrive within 60s");
}
