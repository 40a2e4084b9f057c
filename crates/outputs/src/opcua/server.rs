//! The server's thread: shows what was told, and takes away what is over.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use linewarden_core::{Action, Decision, Verdict};
use opcua::crypto::SecurityPolicy;
use opcua::nodes::Event;
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use opcua::server::{ANONYMOUS_USER_TOKEN_ID, Server, ServerBuilder, ServerEndpoint, ServerHandle, ServerUserToken};
use opcua::types::{DataValue, MessageSecurityMode, NodeId};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{Instant, MissedTickBehavior};

use super::event::{self, DecisionEvent};
use super::space::{self, FIELDS, Shown};
use super::{NAMESPACE, OpcUaConfig, Security};
use crate::OutputError;
use crate::mailbox::{LineNow, Mailbox};
use crate::thread::{self, Running};

/// Subscriptions are looked at this often: what a client waits for at most beyond its own publishing interval.
const TICK_MS: u64 = 20;
/// Changes of one node that may wait for one client.
const LONGEST_QUEUE: usize = 1000;
/// What sessions get to hear the end.
const FAREWELL: Duration = Duration::from_millis(300);
const NAME: &str = "OPC UA";

struct Lines {
    names: Vec<String>,
    shown: Vec<Shown>,
    now: Vec<LineNow>,
    /// What the nodes hold.
    written: Vec<Vec<DataValue>>,
    next_number: u64,
    namespace: u16,
    handle: ServerHandle,
    nodes: Arc<SimpleNodeManager>,
    mailbox: Arc<Mailbox>,
}

pub(crate) fn start(names: Vec<String>, config: OpcUaConfig) -> Result<Running, OutputError> {
    config.check().map_err(wrong)?;
    let users = config.users_file.as_deref().map_or(Ok(Vec::new()), read_users)?;
    let mailbox = Mailbox::new(names.clone());
    let told = Arc::clone(&mailbox);
    // The library wants a certificate even where none is asked for: then one that lives as long as this server.
    let own = tempfile::tempdir().map_err(|error| wrong(format!("cannot create a temporary folder: {error}")))?;
    let pki_dir = config.pki_dir.clone().unwrap_or_else(|| own.path().to_owned());
    thread::start("opcua".to_owned(), Arc::clone(&mailbox), async move || {
        let listen = config.listen;
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|source| OutputError::Listen { output: NAME, address: listen, source })?;
        let (server, handle) = builder(&config, &pki_dir, users).build().map_err(wrong)?;
        let lines = Lines::new(names, handle, told)?;
        tracing::info!(%listen, "OPC UA server listening");
        Ok(lines.serve(server, listener, config.heartbeat_interval, own))
    })
}

fn wrong(problem: String) -> OutputError {
    OutputError::Start { output: NAME, problem }
}

/// A line `user:password` each; empty lines and those that begin with `#` say nothing.
fn read_users(path: &Path) -> Result<Vec<(String, String)>, OutputError> {
    let wrong = |problem: String| OutputError::File { key: "users_file", path: path.to_owned(), problem };
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty() && !line.starts_with('#'));
    let users: Vec<(String, String)> = lines
        .map(|(line, number)| match line.split_once(':') {
            Some((user, password)) if !user.is_empty() && !password.is_empty() => {
                Ok((user.to_owned(), password.to_owned()))
            }
            // Never quotes the line.
            _ => Err(wrong(format!("line {number} must be `user:password`"))),
        })
        .collect::<Result<_, _>>()?;
    match users.is_empty() {
        true => Err(wrong("it must hold at least one line `user:password`".to_owned())),
        false => Ok(users),
    }
}

fn builder(config: &OpcUaConfig, pki_dir: &Path, users: Vec<(String, String)>) -> ServerBuilder {
    let host = config.host.clone().unwrap_or_else(|| config.listen.ip().to_string());
    let tokens: Vec<String> = match users.is_empty() {
        true => vec![ANONYMOUS_USER_TOKEN_ID.to_owned()],
        false => (0..users.len()).map(|user| format!("user-{user}")).collect(),
    };
    let metadata = NamespaceMetadata { namespace_uri: NAMESPACE.to_owned(), ..NamespaceMetadata::default() };
    let mut builder = ServerBuilder::new()
        .application_name("Linewarden")
        .application_uri("urn:linewarden")
        .product_uri("urn:linewarden")
        .host(host)
        .port(config.listen.port())
        .discovery_urls(vec!["/".to_owned()])
        .create_sample_keypair(true)
        .pki_dir(pki_dir)
        .with_node_manager(simple_node_manager(metadata, "lines"));
    for (token, (user, password)) in tokens.iter().zip(users) {
        builder = builder.add_user_token(token, ServerUserToken::user_pass(user, password));
    }
    for security in &config.security {
        let (name, policy) = match security {
            Security::None => ("none", SecurityPolicy::None),
            Security::Basic256Sha256 => ("basic256sha256", SecurityPolicy::Basic256Sha256),
            Security::Aes128Sha256RsaOaep => ("aes128_sha256_rsaoaep", SecurityPolicy::Aes128Sha256RsaOaep),
            Security::Aes256Sha256RsaPss => ("aes256_sha256_rsapss", SecurityPolicy::Aes256Sha256RsaPss),
        };
        let mode = match security {
            Security::None => MessageSecurityMode::None,
            _ => MessageSecurityMode::SignAndEncrypt,
        };
        builder = builder.add_endpoint(name, ServerEndpoint::new("/", policy, mode, &tokens));
    }
    let settings = builder.config_mut();
    settings.subscription_poll_interval_ms = TICK_MS;
    let limits = &mut settings.limits.subscriptions;
    // Changes are told as they happen; nothing is sampled.
    (limits.min_sampling_interval_ms, limits.min_publishing_interval_ms) = (0.0, TICK_MS as f64);
    limits.max_monitored_item_queue_size = LONGEST_QUEUE;
    builder
}

impl Lines {
    fn new(names: Vec<String>, handle: ServerHandle, mailbox: Arc<Mailbox>) -> Result<Self, OutputError> {
        let nodes = handle.node_managers().get_of_type::<SimpleNodeManager>();
        let nodes = nodes.ok_or_else(|| wrong("the server has no place for our nodes".to_owned()))?;
        let namespace = handle.get_namespace_index(NAMESPACE);
        let namespace = namespace.ok_or_else(|| wrong("the server does not know our namespace".to_owned()))?;
        space::build(&mut nodes.address_space().write(), namespace, &names);
        let now = mailbox.take().lines;
        let shown = names.iter().map(|_| Shown::default()).collect();
        let written = vec![Vec::new(); names.len()];
        let mut lines = Self { names, shown, now, written, next_number: 1, namespace, handle, nodes, mailbox };
        lines.write();
        Ok(lines)
    }

    async fn serve(mut self, server: Server, listener: TcpListener, heartbeat_interval: Duration, _own: TempDir) {
        let handle = self.handle.clone();
        let mut served = std::pin::pin!(server.run_with(listener));
        let mut heartbeat = tokio::time::interval(heartbeat_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let over = self.next_end().unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                outcome = &mut served => {
                    if let Err(error) = outcome {
                        tracing::error!(error, "OPC UA server ended");
                    }
                    // Whoever tells us something must not be kept in our memory for ever.
                    return self.ignore().await;
                }
                () = self.mailbox.news() => {}
                _ = heartbeat.tick() => {
                    self.shown.iter_mut().for_each(|shown| shown.heartbeat = shown.heartbeat.wrapping_add(1));
                }
                () = tokio::time::sleep_until(Instant::now() + over) => {}
            }
            if self.take_mail() {
                break;
            }
            self.write();
        }
        self.now.iter_mut().for_each(|line| line.state = "stopped");
        self.shown.iter_mut().for_each(|shown| shown.is_live = false);
        self.write();
        // Long enough for a last notification, then for the sessions to close.
        let _ = tokio::time::timeout(FAREWELL, &mut served).await;
        handle.cancel();
        let _ = tokio::time::timeout(FAREWELL, served).await;
    }

    async fn ignore(self) {
        while !self.mailbox.take().is_stopping {
            self.mailbox.news().await;
        }
    }

    /// How long the first of the live decisions still is.
    fn next_end(&self) -> Option<Duration> {
        let live = self.shown.iter().filter(|shown| shown.is_live).filter_map(|shown| shown.decision.as_ref());
        let first = live.map(|(_, decision)| decision.expires_at).min()?;
        Some(Duration::try_from(first.duration_since(Timestamp::now())).unwrap_or_default())
    }

    /// True when the end has come.
    fn take_mail(&mut self) -> bool {
        let mail = self.mailbox.take();
        self.now = mail.lines;
        for (line, decision) in mail.decisions {
            let now = Timestamp::now();
            let tally = &self.mailbox.tally;
            if decision.expires_at <= now {
                tally.expired.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            tally.delivered.fetch_add(1, Ordering::Relaxed);
            let number = self.next_number;
            self.next_number += 1;
            self.tell(line, number, &decision);
            if let Some(shown) = self.shown.get_mut(line) {
                (shown.decision, shown.is_live) = (Some((number, decision)), true);
            }
            // One by one, so that a client that queues changes gets each.
            self.write_line(line);
        }
        let now = Timestamp::now();
        for shown in &mut self.shown {
            shown.is_live &= shown.decision.as_ref().is_some_and(|(_, decision)| decision.expires_at > now);
        }
        mail.is_stopping
    }

    fn tell(&self, line: usize, number: u64, decision: &Decision) {
        let Some(name) = self.names.get(line) else { return };
        let source = space::node(self.namespace, name);
        let severity = match (decision.action, decision.verdict) {
            (Action::Stop, _) => 900,
            (_, Verdict::Unknown) => 600,
            (_, Verdict::Reject) => 400,
            (_, Verdict::Pass) => 100,
        };
        let message = format!("decision {number}: part {} {}", decision.part, decision.verdict.as_str());
        let event_type = space::event_type(self.namespace);
        let time = space::date_time(decision.decided_at);
        let base = event::base(event_type, source.clone(), name, &message, severity, time);
        let values = std::iter::once(space::text(name)).chain(space::decision_values(number, decision)).collect();
        let event = DecisionEvent { base, namespace: self.namespace, values };
        // Whoever listens to the server object hears it too.
        self.handle.subscriptions().notify_events(std::iter::once((&event as &dyn Event, &source)));
    }

    fn write(&mut self) {
        (0..self.names.len()).for_each(|line| self.write_line(line));
    }

    /// Only what changed: a subscriber is told of each write.
    fn write_line(&mut self, line: usize) {
        let (Some(name), Some(now), Some(shown)) = (self.names.get(line), self.now.get(line), self.shown.get(line))
        else {
            return;
        };
        let values = space::values(now, shown, Timestamp::now());
        let before = self.written.get(line).map(Vec::as_slice).unwrap_or_default();
        let is_new = |at: usize, value: &DataValue| {
            let same = |before: &DataValue| before.value == value.value && before.status == value.status;
            !before.get(at).is_some_and(same)
        };
        let changed = FIELDS.iter().zip(&values).enumerate().filter(|(at, (_, value))| is_new(*at, value));
        let changed: Vec<(NodeId, DataValue)> =
            changed.map(|(_, (field, value))| (space::variable(self.namespace, name, field), value.clone())).collect();
        let writes = changed.iter().map(|(node, value)| (node, None, value.clone()));
        if let Err(status) = self.nodes.set_values(self.handle.subscriptions(), writes) {
            tracing::error!(line = name, %status, "OPC UA nodes cannot be written");
        }
        if let Some(written) = self.written.get_mut(line) {
            *written = values;
        }
    }
}
