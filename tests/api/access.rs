//! Who may do what, how often, what else is refused, and what the audit log says of it.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use linewarden_testkit::peers::Peer;
use linewarden_testkit::tls::Certificates;
use serde_json::{Value, json};

use crate::{CONFIG, Kind, PATIENCE, Site, made_key};

/// One user's calls.
struct User(Peer);

impl User {
    fn api(&mut self, method: &str, arguments: &Value) -> Result<Value> {
        self.0.ask(&json!({ "api": method, "with": arguments }), PATIENCE)
    }

    fn s3(&mut self, method: &str, arguments: &Value) -> Result<Value> {
        self.0.ask(&json!({ "s3": method, "with": arguments }), PATIENCE)
    }
}

impl Site {
    /// A new user with these policies, from the next call on.
    fn user(&self, name: &str, policies: &[&str]) -> Result<User> {
        let mut arguments = vec!["keys", "create", "--user", name];
        policies.iter().for_each(|policy| arguments.extend(["--policy", policy]));
        let (key, secret) = made_key(&self.daemon, &arguments)?;
        self.caller(&key, &secret)
    }

    fn caller(&self, key: &str, secret: &str) -> Result<User> {
        self.caller_of(Kind::Boto3, key, secret)
    }

    fn caller_of(&self, kind: Kind, key: &str, secret: &str) -> Result<User> {
        let (api, s3) = (self.address("listening")?, self.address("S3 endpoint listens")?);
        let arguments = [&api, &s3, "eu-west-1", key, secret];
        Ok(User(self.peer(kind, Path::new("tests/api/access.py"), &arguments)?))
    }

    /// The audit log of the API's calls, or of the S3 endpoint's requests.
    fn audited(&self, of: &str) -> Result<Vec<Value>> {
        let mut records = Vec::new();
        for file in std::fs::read_dir(self.daemon.path("data/audit"))? {
            let file = file?;
            if !file.file_name().to_string_lossy().starts_with(of) {
                continue;
            }
            for line in std::fs::read_to_string(file.path())?.lines() {
                records.push(serde_json::from_str(line).with_context(|| format!("a record: {line}"))?);
            }
        }
        Ok(records)
    }
}

/// The command line tells no status.
#[track_caller]
fn refused(answer: &Value, code: &str, status: u16, told: &str) {
    assert_eq!(answer["code"], code, "{answer}");
    assert!(answer["status"].is_null() || answer["status"] == status, "{answer}");
    assert!(answer["message"].as_str().is_some_and(|message| message.contains(told)), "{told}: {answer}");
}

#[track_caller]
fn done(answer: &Value) {
    assert!(answer.get("answer").is_some(), "{answer}");
}

#[test]
fn users_do_what_their_policies_allow_and_the_audit_log_has_every_call() -> Result<()> {
    let site = Site::new()?;
    let mut admin = site.caller(&site.key, &site.secret)?;
    done(&admin.api("create_project", &json!({ "ProjectName": "cap" }))?);
    done(&admin.s3("create_bucket", &json!({ "Bucket": "pictures" }))?);

    let mut reader = site.user("reader", &["AmazonLookoutVisionReadOnlyAccess"])?;
    done(&reader.api("describe_project", &json!({ "ProjectName": "cap" }))?);
    let create = json!({ "ProjectName": "mine" });
    refused(
        &reader.api("create_project", &create)?,
        "AccessDeniedException",
        403,
        "User: arn:aws:iam::123456789012:user/reader is not authorized to perform: lookoutvision:CreateProject on \
         resource: arn:aws:lookoutvision:eu-west-1:123456789012:project/mine",
    );
    refused(&reader.s3("list_buckets", &json!({}))?, "AccessDenied", 403, "Access Denied");

    // Who may use the service, but not the bucket, does not get at the bucket through it.
    let mut trainer = site.user("trainer", &["AmazonLookoutVisionFullAccess"])?;
    let source = json!({ "GroundTruthManifest": { "S3Object": { "Bucket": "pictures", "Key": "train.manifest" } } });
    let dataset = json!({ "ProjectName": "cap", "DatasetType": "train", "DatasetSource": source });
    let told = "s3:GetObject on resource: arn:aws:s3:::pictures/train.manifest";
    refused(&trainer.api("create_dataset", &dataset)?, "AccessDeniedException", 403, told);
    let attached = site.daemon.call(&["keys", "attach", "--user", "trainer", "AmazonS3ReadOnlyAccess"])?;
    ensure!(attached.status.success(), "{}", String::from_utf8_lossy(&attached.stderr));
    done(&trainer.api("create_dataset", &dataset)?);
    refused(&trainer.s3("delete_bucket", &json!({ "Bucket": "pictures" }))?, "AccessDenied", 403, "");

    // A policy of one's own, with a condition and a variable; a mistake in it lets nobody in.
    let policy = json!({ "Statement": [
        { "Effect": "Allow", "Action": ["lookoutvision:Describe*", "lookoutvision:CreateProject"],
          "Resource": "arn:aws:lookoutvision:*:*:project/${aws:username}-*" },
        { "Effect": "Allow", "Action": "lookoutvision:ListProjects", "Resource": "*",
          "Condition": { "IpAddress": { "aws:SourceIp": "127.0.0.0/8" } } },
        { "Effect": "Deny", "Action": "*", "Resource": "arn:aws:lookoutvision:*:*:project/anna-secret" },
    ] });
    site.daemon.write("policies/own.json", policy.to_string())?;
    let mut anna = site.user("anna", &["policies/own.json"])?;
    done(&anna.api("create_project", &json!({ "ProjectName": "anna-1" }))?);
    done(&anna.api("list_projects", &json!({}))?);
    refused(&anna.api("create_project", &json!({ "ProjectName": "ben-1" }))?, "AccessDeniedException", 403, "ben-1");
    let secret = json!({ "ProjectName": "anna-secret" });
    refused(&anna.api("create_project", &secret)?, "AccessDeniedException", 403, "explicit deny");
    std::thread::sleep(std::time::Duration::from_millis(20));
    site.daemon.write("policies/own.json", policy.to_string().replace("IpAddress", "IpAdress"))?;
    refused(&anna.api("list_projects", &json!({}))?, "AccessDeniedException", 403, "no policy allows");
    ensure!(site.daemon.log()?.contains("Condition.IpAdress: is not an operator"), "{}", site.daemon.log()?);
    let wrong = site.daemon.call(&["keys", "attach", "--user", "anna", "policies/own.json"])?;
    ensure!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("IpAdress"));

    let short = |record: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let user = text(&record["userIdentity"]["userName"]);
        format!("{user} {} {}", text(&record["eventName"]), text(&record["errorCode"]))
    };
    let wanted = [
        "tester CreateProject -",
        "reader DescribeProject -",
        "reader CreateProject AccessDeniedException",
        "trainer CreateDataset AccessDeniedException",
        "trainer CreateDataset -",
        "anna CreateProject -",
        "anna ListProjects -",
        "anna CreateProject AccessDeniedException",
        "anna CreateProject AccessDeniedException",
        "anna ListProjects AccessDeniedException",
    ];
    let records = site.audited("lookoutvision")?;
    assert_eq!(records.iter().map(short).collect::<Vec<_>>(), wanted);
    let made = &records[4];
    assert_eq!(made["responseElements"]["status"], "CREATE_IN_PROGRESS");
    assert_eq!(made["requestParameters"]["datasetSource"]["groundTruthManifest"]["s3Object"]["key"], "train.manifest");
    assert_eq!((&made["sourceIPAddress"], &made["readOnly"]), (&json!("127.0.0.1"), &json!(false)));

    refused(
        &site.caller(&site.key, "a wrong secret")?.s3("list_buckets", &json!({}))?,
        "SignatureDoesNotMatch",
        403,
        "",
    );
    done(&admin.s3("put_object", &json!({ "Bucket": "pictures", "Key": "a b/1.txt", "Body": "x" }))?);
    // Who asks for encryption and names no key gets that by a key of the store's own.
    let secret =
        json!({ "Bucket": "pictures", "Key": "secret", "Body": "a long secret", "ServerSideEncryption": "AES256" });
    let put = admin.s3("put_object", &secret)?;
    assert_eq!(put["answer"]["ServerSideEncryption"], "AES256", "{put}");
    let stored = std::fs::read(site.daemon.path("data/objects/pictures/secret"));
    ensure!(stored.is_ok_and(|stored| !stored.windows(6).any(|part| part == b"secret")), "in the clear");
    let read = admin.s3("head_object", &json!({ "Bucket": "pictures", "Key": "secret" }))?;
    assert_eq!(
        (&read["answer"]["ServerSideEncryption"], &read["answer"]["ContentLength"]),
        (&json!("AES256"), &json!(13))
    );
    ensure!(read["answer"].get("SSEKMSKeyId").is_none(), "{read}");
    let records = site.audited("s3")?;
    let wanted = [
        "tester CreateBucket -",
        "reader ListBuckets AccessDenied",
        "trainer DeleteBucket AccessDenied",
        "- GET / SignatureDoesNotMatch",
        "tester PutObject -",
        "tester PutObject -",
        "tester HeadObject -",
    ];
    assert_eq!(records.iter().map(short).collect::<Vec<_>>(), wanted);
    let put = &records[4];
    assert_eq!(put["requestParameters"], json!({ "bucketName": "pictures", "key": "a b/1.txt" }));
    assert_eq!((&put["sourceIPAddress"], &put["managementEvent"]), (&json!("127.0.0.1"), &json!(false)));
    site.end()
}

#[test]
fn the_last_boto3_is_told_every_error_of_the_service() -> Result<()> {
    errors(Kind::Boto3)
}

#[test]
fn the_newest_boto3_is_told_every_error_of_the_service() -> Result<()> {
    errors(Kind::NewestBoto3)
}

#[test]
fn the_aws_command_is_told_every_error_of_the_service() -> Result<()> {
    errors(Kind::AwsCommand)
}

/// The seven errors of the contract; the whole life of a project provokes validation, conflict and absence in many places more.
fn errors(kind: Kind) -> Result<()> {
    let site = Site::with(&format!("{CONFIG}calls_per_second = 1000\n"))?;
    let mut admin = site.caller(&site.key, &site.secret)?;
    for number in 0..100 {
        done(&admin.api("create_project", &json!({ "ProjectName": format!("p{number}") }))?);
    }
    let mut client = site.caller_of(kind, &site.key, &site.secret)?;
    let mut create = |name: &str| client.api("create_project", &json!({ "ProjectName": name }));
    let quota = create("one-more")?;
    refused(&quota, "ServiceQuotaExceededException", 402, "100 projects");
    if kind != Kind::AwsCommand {
        ensure!(quota["more"]["QuotaCode"].is_string() && quota["more"]["ServiceCode"] == "lookoutvision", "{quota}");
    }
    refused(&create("p1")?, "ConflictException", 409, "exists already");
    refused(&create("no spaces")?, "ValidationException", 400, "regular expression pattern");
    let absent = json!({ "ProjectName": "absent" });
    refused(&client.api("describe_project", &absent)?, "ResourceNotFoundException", 404, "does not exist");
    let (key, secret) = made_key(
        &site.daemon,
        &["keys", "create", "--user", "reader", "--policy", "AmazonLookoutVisionReadOnlyAccess"],
    )?;
    let mut reader = site.caller_of(kind, &key, &secret)?;
    refused(
        &reader.api("delete_project", &json!({ "ProjectName": "p1" }))?,
        "AccessDeniedException",
        403,
        "DeleteProject",
    );
    site.end()?;

    let site = Site::with(&format!("{CONFIG}calls_per_second = 1\n"))?;
    // What the command line takes half a second for, boto3 does at once.
    let mut admin = site.caller(&site.key, &site.secret)?;
    (0..2).try_for_each(|_| admin.api("list_projects", &json!({})).map(|_| ()))?;
    let mut client = site.caller_of(kind, &site.key, &site.secret)?;
    let throttled = (0..40).find_map(|_| {
        // Each keeps the key's calls used up.
        let _ = (0..3).try_for_each(|_| admin.api("list_projects", &json!({})).map(|_| ()));
        client.api("list_projects", &json!({})).ok().filter(|answer| answer.get("code").is_some())
    });
    let throttled = throttled.context("never throttled")?;
    refused(&throttled, "ThrottlingException", 429, "ListProjects");
    if kind != Kind::AwsCommand {
        let told = (&throttled["retry-after"], &throttled["more"]["ServiceCode"]);
        assert_eq!(told, (&json!("1"), &json!("lookoutvision")));
    }
    // Another operation, and another key, have their own rate.
    done(&admin.api("create_project", &json!({ "ProjectName": "cap" }))?);
    done(&site.user("other", &["AdministratorAccess"])?.api("list_projects", &json!({}))?);
    site.end()?;

    // What cannot be written down is not answered, and the client learns nothing of the cause.
    let site = Site::prepared(CONFIG, |daemon| daemon.write("data/audit", "in the way").map(|_| ()))?;
    let mut client = site.caller_of(kind, &site.key, &site.secret)?;
    refused(&client.api("list_projects", &json!({}))?, "InternalServerException", 500, "the service failed");
    ensure!(site.daemon.log()?.contains("the audit log cannot be written"), "{}", site.daemon.log()?);
    let unwritten = client.s3("list_buckets", &json!({}))?;
    ensure!(unwritten.get("answer").is_none(), "{unwritten}");
    site.end()
}

#[test]
fn over_tls_clients_know_the_daemon_and_a_policy_may_ask_for_it() -> Result<()> {
    let certificates = Certificates::generate()?;
    let tls = format!(
        "[api.tls]\nlisten = \"127.0.0.1:0\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
        certificates.server_cert().display(),
        certificates.server_key().display()
    );
    let site = Site::with(&format!("{CONFIG}{tls}"))?;
    let policy = json!({ "Effect": "Allow", "Action": "*", "Resource": "*",
        "Condition": { "Bool": { "aws:SecureTransport": "true" } } });
    site.daemon.write("policies/tls.json", policy.to_string())?;
    let (key, secret) =
        made_key(&site.daemon, &["keys", "create", "--user", "careful", "--policy", "policies/tls.json"])?;
    let secure = |message: &str| Ok::<_, anyhow::Error>(site.address(message)?.replace("http://", "https://"));
    let (plain, tls, s3) = (site.address("listening")?, secure("listening for TLS")?, secure("S3 endpoint listens")?);
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/access.py");
    let (trusted, foreign) = (certificates.ca(), Certificates::generate()?);
    let caller = |api: &str, authority: &Path| -> Result<User> {
        let environment = [("AWS_CA_BUNDLE", authority.as_os_str())];
        let arguments = [api, &s3, "eu-west-1", &key, &secret, "boto3"];
        Ok(User(Peer::start_with("peers", &environment, &program, &arguments)?))
    };
    let list = json!({});
    let mut careful = caller(&tls, &trusted)?;
    done(&careful.api("list_projects", &list)?);
    done(&careful.s3("create_bucket", &json!({ "Bucket": "pictures" }))?);
    refused(&caller(&plain, &trusted)?.api("list_projects", &list)?, "AccessDeniedException", 403, "no policy allows");
    let stranger = caller(&tls, &foreign.ca())?.api("list_projects", &list)?;
    ensure!(stranger["failed"].as_str().is_some_and(|told| told.contains("SSL")), "{stranger}");
    // What only this machine may ask has no door there.
    let mut open = std::net::TcpStream::connect(tls.trim_start_matches("https://"))?;
    std::io::Write::write_all(&mut open, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = Vec::new();
    // Whether it is told by an alert or by a reset.
    let _ = std::io::Read::read_to_end(&mut open, &mut answer);
    ensure!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    let records = site.audited("lookoutvision")?;
    assert_eq!(records[0]["sourceIPAddress"], "127.0.0.1");
    site.end()
}
