//! The REST API as one more of its callers sees it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use linewarden_access::{BodyHash, Credentials, Scope, Signed, encoded, sign};
use serde_json::Value;

const BASE: &str = "/2020-11-20/";
const TIMEOUT: Duration = Duration::from_secs(60);
/// What a service that is busy or failed may be asked again.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

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
        let request = Signed { method, raw_path, raw_query, headers: &headers, body: BodyHash::of(body) };
        let scope = Scope { region: &self.region, service: "lookoutvision" };
        let Credentials { id, secret } = &self.credentials;
        let signed = sign(&request, scope, Timestamp::now(), id, secret).context("the request cannot be signed")?;
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
