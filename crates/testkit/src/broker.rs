//! A real MQTT broker under control, somebody who listens to it, and a cable that can be cut.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::tls::Certificates;

/// How long a broker may take to start or stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the broker's door for publishers is kept.
#[derive(Debug, Default)]
pub struct MosquittoOptions<'a> {
    /// Speaks TLS with this server certificate.
    pub tls: Option<&'a Certificates>,
    /// Also asks clients for a certificate of the same authority.
    pub require_client_certificate: bool,
    /// Lets in only this user with this password.
    pub credentials: Option<(&'a str, &'a str)>,
    /// Keeps sessions, and thus what subscribers missed, on disk after every change.
    pub persistence: bool,
    /// Sends each packet at once, as is advised for gates.
    pub no_delay: bool,
}

/// The real `mosquitto` on free loopback ports. Killed on drop.
#[derive(Debug)]
pub struct Mosquitto {
    folder: TempDir,
    is_tls: bool,
    port: u16,
    /// Second door, plain and open, so that a test sees what arrives without keys of its own.
    watch_port: u16,
    child: Option<Child>,
}

impl Mosquitto {
    /// A plain broker that lets everyone in.
    ///
    /// # Errors
    /// When mosquitto is missing or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&MosquittoOptions::default())
    }

    /// A broker with these options.
    ///
    /// # Errors
    /// When mosquitto is missing or does not start.
    pub fn start_with(options: &MosquittoOptions<'_>) -> Result<Self> {
        // Another process may take a free port before the broker does: then the next pair is tried.
        let mut last_error = None;
        for _ in 0..5 {
            match Self::try_start(options) {
                Ok(broker) => return Ok(broker),
                Err(error) if format!("{error:#}").contains("in use") => last_error = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last_error.context("no attempt was made")?)
    }

    fn try_start(options: &MosquittoOptions<'_>) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a folder for the broker")?;
        let (port, watch_port) = (free_port()?, free_port()?);
        let config = configuration(folder.path(), options, port, watch_port)?;
        fs::write(folder.path().join("mosquitto.conf"), config)?;
        let mut broker = Self { folder, is_tls: options.tls.is_some(), port, watch_port, child: None };
        broker.restart()?;
        Ok(broker)
    }

    /// Starts the broker again on its old port, after [`Mosquitto::stop`] or [`Mosquitto::kill`], and waits until it
    /// accepts connections.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let log = File::options().append(true).create(true).open(self.log_path())?;
        let child = Command::new(find("mosquitto")?)
            .arg("-c")
            .arg(self.folder.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start mosquitto")?;
        let child = self.child.insert(child);
        let deadline = Instant::now() + PATIENCE;
        while [self.port, self.watch_port].into_iter().any(|port| TcpStream::connect(loopback(port)).is_err()) {
            if let Some(status) = child.try_wait()? {
                bail!("mosquitto ended at once ({status}):\n{}", fs::read_to_string(self.folder.path().join(LOG))?);
            }
            ensure!(Instant::now() < deadline, "mosquitto did not open its port within {PATIENCE:?}");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the broker as an operator would.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                self.child = Some(child);
                bail!("mosquitto did not end within {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the broker without warning.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// The broker keeps its connections but no longer answers, until [`Mosquitto::thaw`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// The broker goes on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the broker is not running")?;
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// Port for publishers.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Address for publishers, by name for TLS, without credentials.
    pub fn url(&self) -> String {
        match self.is_tls {
            true => format!("mqtts://localhost:{}", self.port),
            false => format!("mqtt://127.0.0.1:{}", self.port),
        }
    }

    /// Somebody who hears everything under `filter`, through a door of its own that needs no keys.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn subscribe(&self, filter: &str) -> Result<Subscriber> {
        Subscriber::connect(self.watch_port, filter)
    }

    /// What the broker wrote about itself.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(self.log_path()).context("cannot read the broker's log")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join(LOG)
    }
}

const LOG: &str = "mosquitto.log";

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // Nothing can be done about a process that cannot be killed.
        let _ = self.kill();
    }
}

fn configuration(folder: &Path, options: &MosquittoOptions<'_>, port: u16, watch_port: u16) -> Result<String> {
    let mut lines = vec![
        "per_listener_settings true".to_owned(),
        // Started by root, mosquitto would become a user who cannot read our folder; for anyone else this says nothing.
        "user root".to_owned(),
        "log_dest stderr".to_owned(),
        "log_type all".to_owned(),
        format!("persistence {}", options.persistence),
        format!("persistence_location {}/", folder.display()),
        "autosave_on_changes true".to_owned(),
        "autosave_interval 1".to_owned(),
        format!("set_tcp_nodelay {}", options.no_delay),
        // A slow test subscriber must not lose messages: 0 is no limit.
        "max_queued_messages 0".to_owned(),
        "max_inflight_messages 0".to_owned(),
        format!("listener {watch_port} 127.0.0.1"),
        "allow_anonymous true".to_owned(),
        format!("listener {port} 127.0.0.1"),
        format!("allow_anonymous {}", options.credentials.is_none()),
    ];
    if let Some((user, password)) = options.credentials {
        let file = folder.join("passwords");
        let status =
            Command::new(find("mosquitto_passwd")?).arg("-c").arg("-b").arg(&file).args([user, password]).status()?;
        ensure!(status.success(), "mosquitto_passwd failed: {status}");
        lines.push(format!("password_file {}", file.display()));
    }
    if let Some(certificates) = options.tls {
        lines.push(format!("cafile {}", certificates.ca().display()));
        lines.push(format!("certfile {}", certificates.server_cert().display()));
        lines.push(format!("keyfile {}", certificates.server_key().display()));
        lines.push(format!("require_certificate {}", options.require_client_certificate));
    }
    Ok(lines.join("\n") + "\n")
}

/// Debian keeps daemons where a user's `PATH` does not look.
fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut candidates = folders.map(|folder| folder.join(program));
    candidates
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("`{program}` is missing: run `make setup`"))
}

/// A loopback port that was free a moment ago.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(loopback(0))?.local_addr()?.port())
}

fn loopback(port: u16) -> (Ipv4Addr, u16) {
    (Ipv4Addr::LOCALHOST, port)
}

/// A message as a subscriber sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// What it says.
    pub payload: Vec<u8>,
    /// Whether the broker had kept it from before the subscription.
    pub retained: bool,
    /// Whether the sender waits for an acknowledgement (QoS 1).
    pub acknowledged: bool,
}

impl Message {
    /// The payload as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.payload).with_context(|| format!("`{}` did not get JSON", self.topic))
    }
}

/// Hears everything under a topic filter, in order, and connects again after the broker was away. Its session is a lasting
/// one: a broker with persistence keeps for it what it missed.
#[derive(Debug)]
pub struct Subscriber {
    messages: Receiver<Message>,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Subscriber {
    /// Subscribes at a plain, open port on loopback, and waits until the broker has confirmed it.
    ///
    /// # Errors
    /// When the broker does not confirm.
    pub fn connect(port: u16, filter: &str) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let id = format!("subscriber-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut options = MqttOptions::new(id, Ipv4Addr::LOCALHOST.to_string(), port);
        options.set_clean_session(false).set_keep_alive(Duration::from_secs(5)).set_max_packet_size(1 << 24, 1 << 24);
        let (client, event_loop) = AsyncClient::new(options, 16);
        let (message_sender, messages) = mpsc::channel();
        let (ready_sender, ready) = mpsc::channel();
        let stop = Arc::new(Notify::new());
        let ear = Ear { client, filter: filter.to_owned(), messages: message_sender, ready: ready_sender };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stopped = Arc::clone(&stop);
        let listen = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.notified() => {}
                    () = ear.listen(event_loop) => {}
                }
            });
        };
        let thread = thread::Builder::new().name("subscriber".to_owned()).spawn(listen)?;
        let subscriber = Self { messages, stop, thread: Some(thread) };
        ready.recv_timeout(PATIENCE).context("the broker did not confirm the subscription")?;
        Ok(subscriber)
    }

    /// The next message under the filter.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn next_message(&self, timeout: Duration) -> Result<Message> {
        match self.messages.recv_timeout(timeout) {
            Ok(message) => Ok(message),
            Err(RecvTimeoutError::Timeout) => bail!("no message within {timeout:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the subscriber's thread has ended"),
        }
    }

    /// The next message that `is_wanted`; those before it are thrown away.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn next_where(&self, timeout: Duration, mut is_wanted: impl FnMut(&Message) -> bool) -> Result<Message> {
        let deadline = Instant::now() + timeout;
        loop {
            let message = self.next_message(deadline.saturating_duration_since(Instant::now()))?;
            if is_wanted(&message) {
                return Ok(message);
            }
        }
    }

    /// What has arrived by now.
    pub fn arrived(&self) -> Vec<Message> {
        self.messages.try_iter().collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed already.
            let _ = thread.join();
        }
    }
}

/// The subscriber's thread.
struct Ear {
    client: AsyncClient,
    filter: String,
    messages: Sender<Message>,
    ready: Sender<()>,
}

impl Ear {
    async fn listen(self, mut event_loop: EventLoop) {
        loop {
            match event_loop.poll().await {
                Ok(Event::Incoming(packet)) => self.hear(packet),
                Ok(Event::Outgoing(_)) => {}
                // Quicker than any publisher comes back.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Nobody may be waiting any more: then sending fails, and that is fine.
    fn hear(&self, packet: Packet) {
        match packet {
            Packet::ConnAck(_) => {
                let _ = self.client.try_subscribe(&self.filter, QoS::AtLeastOnce);
            }
            Packet::SubAck(_) => {
                let _ = self.ready.send(());
            }
            Packet::Publish(publish) => {
                let _ = self.messages.send(Message {
                    topic: publish.topic,
                    payload: publish.payload.to_vec(),
                    retained: publish.retain,
                    acknowledged: publish.qos != QoS::AtMostOnce,
                });
            }
            _ => {}
        }
    }
}

/// A cable between a client and a loopback port that can be cut.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    inner: Arc<ProxyInner>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct ProxyInner {
    is_stopped: AtomicBool,
    /// Nothing comes back from the target.
    is_silent: Mutex<bool>,
    heard_again: Condvar,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Carries every connection to a port of its own on to `target_port`.
    ///
    /// # Errors
    /// When no port can be opened.
    pub fn start(target_port: u16) -> Result<Self> {
        Self::start_at(0, target_port)
    }

    /// The same at a port of the caller's choice, such as that of an earlier cable; 0 is any.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub fn start_at(port: u16, target_port: u16) -> Result<Self> {
        let listener = TcpListener::bind(loopback(port))?;
        let port = listener.local_addr()?.port();
        let inner = Arc::new(ProxyInner::default());
        let accepting = Arc::clone(&inner);
        let thread =
            thread::Builder::new().name("proxy".to_owned()).spawn(move || accepting.accept(&listener, target_port))?;
        Ok(Self { port, inner, thread: Some(thread) })
    }

    /// Where to connect.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection of this moment, without a goodbye on either side; new ones are carried again.
    pub fn cut(&self) {
        self.inner.cut();
    }

    /// From now on nothing that the target sends arrives, though nothing breaks; at the end of the silence all of it does.
    pub fn set_silent(&self, is_silent: bool) {
        self.inner.set_silent(is_silent);
    }
}

impl ProxyInner {
    fn accept(self: &Arc<Self>, listener: &TcpListener, target_port: u16) {
        for client in listener.incoming().map_while(io::Result::ok) {
            if self.is_stopped.load(Ordering::Acquire) {
                return;
            }
            // An absent target shows as a connection that closes at once.
            if let Ok(server) = TcpStream::connect(loopback(target_port)) {
                let _ = self.carry(client, server);
            }
        }
    }

    fn carry(self: &Arc<Self>, client: TcpStream, server: TcpStream) -> io::Result<()> {
        // A cable gathers nothing.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
        let inner = Arc::clone(self);
        thread::spawn(move || {
            let _ = inner.carry_back(&mut from_server, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).extend([client, server]);
        Ok(())
    }

    fn carry_back(&self, from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let length = from.read(&mut buffer)?;
            let is_silent = self.is_silent.lock().unwrap_or_else(PoisonError::into_inner);
            let heard = self.heard_again.wait_while(is_silent, |is_silent| *is_silent);
            drop(heard.unwrap_or_else(PoisonError::into_inner));
            match buffer.get(..length) {
                Some(bytes) if length > 0 => to.write_all(bytes)?,
                _ => return Ok(()),
            }
        }
    }

    fn set_silent(&self, is_silent: bool) {
        *self.is_silent.lock().unwrap_or_else(PoisonError::into_inner) = is_silent;
        self.heard_again.notify_all();
    }

    fn cut(&self) {
        for stream in self.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.inner.is_stopped.store(true, Ordering::Release);
        self.set_silent(false);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(loopback(self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
