//! HTTP as it goes over the wire: for requests that no client would send, and for those that nothing may slow down.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use linewarden_access::{BodyHash, Scope, Signed, sign};

/// A connection that is kept while the server keeps it.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: Option<TcpStream>,
}

/// What a server answered.
#[derive(Debug)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The header `x-amzn-ErrorType` in lower case, or nothing.
    pub kind: String,
    /// The whole body.
    pub body: Vec<u8>,
}

/// A caller of the REST API who signs.
#[derive(Debug)]
pub struct Rest {
    connection: Connection,
    region: String,
    key: String,
    secret: String,
}

impl Connection {
    /// To `host:port`, once it is used.
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), stream: None }
    }

    /// Sends the bytes of a request and reads its answer.
    ///
    /// # Errors
    /// When the server hangs up without one.
    pub fn ask(&mut self, request: &[u8]) -> Result<HttpAnswer> {
        // A server may close an idle connection at any time: then it is asked once more, on a new one.
        for _ in 0..2 {
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => {
                    let stream = TcpStream::connect(&self.address)?;
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                    stream
                }
            };
            // It may answer and close before it has read everything.
            let _ = stream.write_all(request);
            if let Some((answer, stays)) = answer(&mut stream)? {
                self.stream = stays.then_some(stream);
                return Ok(answer);
            }
        }
        bail!("the server hangs up without an answer")
    }
}

impl Rest {
    /// A caller at `host:port` with this access key and secret.
    pub fn new(address: &str, region: &str, key: &str, secret: &str) -> Self {
        let connection = Connection::new(address);
        Self { connection, region: region.to_owned(), key: key.to_owned(), secret: secret.to_owned() }
    }

    /// One call; `target` is path and query, encoded.
    ///
    /// # Errors
    /// When the server hangs up without an answer.
    pub fn call(&mut self, method: &str, target: &str, kind: &str, body: &[u8]) -> Result<HttpAnswer> {
        let request = self.request(method, target, kind, body)?;
        self.send(&request)
    }

    /// The same with a request that was signed before, five minutes ago at most.
    ///
    /// # Errors
    /// When the server hangs up without an answer.
    pub fn send(&mut self, request: &[u8]) -> Result<HttpAnswer> {
        self.connection.ask(request)
    }

    /// A signed request as it goes over the wire.
    ///
    /// # Errors
    /// When the address is no header.
    pub fn request(&self, method: &str, target: &str, kind: &str, body: &[u8]) -> Result<Vec<u8>> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(&self.connection.address)?);
        let signed = Signed { method, raw_path: path, raw_query: query, headers: &headers, body: BodyHash::of(body) };
        let scope = Scope { region: &self.region, service: "lookoutvision" };
        let [(date, at), (authorization, signature)] = sign(&signed, scope, Timestamp::now(), &self.key, &self.secret)?;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\ncontent-type: {kind}\r\n\
             {date}: {at}\r\n{authorization}: {signature}\r\n\r\n",
            self.connection.address,
            body.len()
        );
        Ok([head.as_bytes(), body].concat())
    }
}

/// The answer, and whether the connection stays; nothing when the server hung up before it said anything.
fn answer(stream: &mut TcpStream) -> Result<Option<(HttpAnswer, bool)>> {
    let mut received = Vec::new();
    let mut chunk = [0; 65_536];
    loop {
        if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8(received[..end].to_vec())?.to_lowercase();
            let status = head.split(' ').nth(1).context("no status")?.parse()?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(Ok(0), str::parse)?;
            while received.len() < end + 4 + length {
                let read = stream.read(&mut chunk)?;
                ensure!(read > 0, "half a body");
                received.extend(&chunk[..read]);
            }
            let kind = head.lines().find_map(|line| line.strip_prefix("x-amzn-errortype: ")).unwrap_or_default();
            let body = received[end + 4..].to_vec();
            return Ok(Some((HttpAnswer { status, kind: kind.to_owned(), body }, !head.contains("connection: close"))));
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(read) => received.extend(&chunk[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}
