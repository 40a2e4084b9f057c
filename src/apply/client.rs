//! The REST API as one more of its callers sees it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use linewarden_access::{Scope, Signed, sign};
use serde_json::Value;

const BASE: &str = "/2020-11-20/";
const TIMEOUT: Duration = Duration::from_secs(60);
/// What a service that is busy or failed may be asked again.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Who asks.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) key: String,
    pub(crate) secret: String,
}

impl Credentials {
    /// From a file with lines `aws_access_key_id = ...` and `aws_secret_access_key = ...`, as `linewarden keys create` prints
    /// them, or from the environment.
    pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else {
            let of = |name: &str| {
                let value = std::env::var(name).ok().filter(|value| !value.is_empty());
                value.with_context(|| format!("set {name}, or name a file by `--credentials`"))
            };
            return Ok(Self { key: of("AWS_ACCESS_KEY_ID")?, secret: of("AWS_SECRET_ACCESS_KEY")? });
        };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let of = |name: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            let value = pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned());
            let value = value.filter(|value| !value.is_empty());
            value.with_context(|| format!("`{}` has no line `{name} = ...`", path.display()))
        };
        Ok(Self { key: of("aws_access_key_id")?, secret: of("aws_secret_access_key")? })
    }
}

/// One endpoint, asked by one caller.
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: reqwest::Url,
    region: String,
    credentials: Credentials,
}

impl Client {
    /// `authority` is a file with certificates to trust besides the system's, as PEM.
    pub(crate) fn new(
        endpoint: &str,
        region: &str,
        credentials: Credentials,
        authority: Option<&Path>,
    ) -> anyhow::Result<Self> {
        // Installed before by another part of this process, it is the same one.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let url: reqwest::Url = endpoint.parse().with_context(|| format!("`{endpoint}` is no address"))?;
        if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
            bail!("the endpoint must be an address such as http://127.0.0.1:8750, got `{endpoint}`");
        }
        let mut http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy();
        if let Some(path) = authority {
            let pem = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            let certificates = certificates.with_context(|| format!("`{}` holds no certificates", path.display()))?;
            http = http.tls_certs_merge(certificates);
        }
        let http = http.build().context("cannot make an HTTP client")?;
        Ok(Self { http, endpoint: url, region: region.to_owned(), credentials })
    }

    /// What the API says of a resource; none when there is no such one.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let (status, answer) = self.ask("GET", path, &Value::Null).await?;
        if status == 404 { Ok(None) } else { self.checked(path, status, answer).map(Some) }
    }

    /// All items of a list, page by page.
    pub(crate) async fn list(&self, path: &str, member: &str) -> anyhow::Result<Vec<Value>> {
        let (mut items, mut target) = (Vec::new(), path.to_owned());
        loop {
            let mut page = self.get(&target).await?.unwrap_or_default();
            if let Some(Value::Array(more)) = page.get_mut(member).map(Value::take) {
                items.extend(more);
            }
            match page["NextToken"].as_str() {
                Some(token) => target = format!("{path}?nextToken={}", encoded(token)),
                None => return Ok(items),
            }
        }
    }

    /// Changes something; `body` may be null.
    pub(crate) async fn change(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = self.ask(method, path, body).await?;
        self.checked(path, status, answer)
    }

    fn checked(&self, path: &str, status: u16, answer: Value) -> anyhow::Result<Value> {
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let told = answer["Message"].as_str().map_or_else(|| format!("status {status}"), str::to_owned);
        bail!("{} refuses `{path}`: {told}", self.endpoint.host_str().unwrap_or_default())
    }

    /// Status and document. What is throttled or failed there is asked again.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let mut tries = 1;
        loop {
            let (status, answer) = self.sent(method, path, &body).await?;
            // A change that failed there may have been made: only what changes nothing is asked again then.
            let may_again = status == 429 || status >= 500 && method == "GET";
            if !may_again || tries == TRIES {
                return Ok((status, answer));
            }
            tokio::time::sleep(PAUSE * tries).await;
            tries += 1;
        }
    }

    async fn sent(&self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<(u16, Value)> {
        let target = format!("{BASE}{path}");
        let (raw_path, raw_query) =
            target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
        let host = match self.endpoint.port() {
            Some(port) => format!("{}:{port}", self.endpoint.host_str().unwrap_or_default()),
            None => self.endpoint.host_str().unwrap_or_default().to_owned(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(&host).context("the endpoint is no host")?);
        let request = Signed { method, raw_path, raw_query, headers: &headers, body };
        let scope = Scope { region: &self.region, service: "lookoutvision" };
        let Credentials { key, secret } = &self.credentials;
        let signed = sign(&request, scope, Timestamp::now(), key, secret).context("the request cannot be signed")?;
        let url = format!("{}{target}", self.endpoint.as_str().trim_end_matches('/'));
        let mut asked = self.http.request(method.parse().context("no method")?, url).body(body.to_vec());
        for (name, value) in signed {
            asked = asked.header(name, value);
        }
        if !body.is_empty() {
            asked = asked.header(header::CONTENT_TYPE, "application/json");
        }
        let answer = asked.send().await.with_context(|| format!("{} does not answer", self.endpoint))?;
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.with_context(|| format!("{} breaks off", self.endpoint))?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }
}

/// One segment of a path, or one value of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut written = String::new();
    for &byte in text.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => written.push(char::from(byte)),
            _ => written.push_str(&format!("%{byte:02X}")),
        }
    }
    written
}
