//! Says texts on one topic, and nothing else: for programs that read no envelope, heartbeat or state.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use linewarden_core::BootId;
use tokio::sync::Notify;

use crate::config::{Connection, PublisherConfig};
use crate::error::PublishError;
use crate::rounds::Rounds;
use crate::subscriber::check_topic;
use crate::wire::{Client, Dial, Heard, Publication, Qos};

/// Messages that the broker has yet to acknowledge; further ones wait in the queue.
const WINDOW: u16 = 32;

/// What became of the texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnnouncerStats {
    /// Whether a broker is connected now.
    pub connected: bool,
    /// Texts that wait.
    pub waiting: u64,
    /// Texts that the broker acknowledged.
    pub delivered: u64,
    /// Texts that found the queue full: the oldest gave way.
    pub dropped: u64,
}

/// Is told when the connection comes and goes, on the announcer's thread: `None`, or why it went.
pub type AnnouncerObserver = Box<dyn Fn(Option<&str>) + Send>;

/// A connection that texts are said over, each at least once. It connects again by itself, and ends when dropped.
pub struct Announcer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    capacity: usize,
    queue: Mutex<VecDeque<Vec<u8>>>,
    /// Something was put in, or the end is wanted.
    changed: Notify,
    is_stopping: AtomicBool,
    is_connected: AtomicBool,
    unacknowledged: AtomicU64,
    delivered: AtomicU64,
    dropped: AtomicU64,
}

struct Speaker {
    config: PublisherConfig,
    connections: Vec<Connection>,
    client_id: String,
    topic: String,
    shared: Arc<Shared>,
    observer: AnnouncerObserver,
}

impl Announcer {
    /// Says texts on `topic` at the first broker of `config` that answers. `outbox_capacity` texts wait at most.
    ///
    /// # Errors
    /// When the configuration or the topic is wrong, or the thread cannot start. An absent broker is no error.
    pub fn start(config: PublisherConfig, topic: &str, observer: AnnouncerObserver) -> Result<Self, PublishError> {
        check_topic("publish-topic", topic)?;
        let connections = config.checked()?;
        let shared = Arc::new(Shared {
            capacity: config.outbox_capacity,
            queue: Mutex::default(),
            changed: Notify::new(),
            is_stopping: AtomicBool::new(false),
            is_connected: AtomicBool::new(false),
            unacknowledged: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let id = BootId::random().to_string();
        let client_id = config.client_id.clone();
        let client_id = client_id.unwrap_or_else(|| format!("linewarden-say-{}", id.get(..8).unwrap_or_default()));
        let topic = topic.to_owned();
        let speaker = Speaker { config, connections, client_id, topic, shared: Arc::clone(&shared), observer };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PublishError::Thread)?;
        let spawned = thread::Builder::new().name("lw-announce".to_owned()).spawn(move || {
            runtime.block_on(speaker.speak());
            // A name that is still being looked up must not hold up the end.
            runtime.shutdown_background();
        });
        Ok(Self { shared, thread: Some(spawned.map_err(PublishError::Thread)?) })
    }

    /// Queues a text without waiting. With a full queue the oldest one gives way; then tells how many were dropped so far.
    pub fn say(&self, text: impl Into<Vec<u8>>) -> Option<u64> {
        let mut dropped = None;
        let mut queue = self.shared.queue();
        if queue.len() >= self.shared.capacity {
            queue.pop_front();
            dropped = Some(self.shared.dropped.fetch_add(1, Ordering::Relaxed) + 1);
        }
        queue.push_back(text.into());
        drop(queue);
        self.shared.changed.notify_one();
        dropped
    }

    /// What became of the texts so far.
    pub fn stats(&self) -> AnnouncerStats {
        let shared = &self.shared;
        let queued = u64::try_from(shared.queue().len()).unwrap_or(u64::MAX);
        AnnouncerStats {
            connected: shared.is_connected.load(Ordering::Relaxed),
            waiting: queued + shared.unacknowledged.load(Ordering::Relaxed),
            delivered: shared.delivered.load(Ordering::Relaxed),
            dropped: shared.dropped.load(Ordering::Relaxed),
        }
    }

    /// Waits until the broker has everything, and ends; tells whether it has.
    pub fn stop(&mut self, timeout: Duration) -> bool {
        const LOOK_EVERY: Duration = Duration::from_millis(5);
        let until = Instant::now() + timeout;
        while self.stats().waiting > 0 && Instant::now() < until {
            thread::sleep(LOOK_EVERY);
        }
        self.end();
        self.stats().waiting == 0
    }

    fn end(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.changed.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the announcer's thread panicked");
        }
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Announcer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Announcer").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Locks even after a panic elsewhere: entries are whole.
    fn queue(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }
}

impl Speaker {
    async fn speak(&self) {
        let mut rounds = Rounds::of(self.connections.len());
        let mut window = VecDeque::new();
        while let Some(connection) = self.connections.get(rounds.current()) {
            let began = Instant::now();
            let Err(error) = self.speak_over(connection, &mut window).await else { return };
            let wait = rounds.ended(began.elapsed());
            self.shared.is_connected.store(false, Ordering::Relaxed);
            (self.observer)(Some(&error));
            if let Some(wait) = wait
                && self.is_stopped_within(wait).await
            {
                return;
            }
        }
    }

    async fn is_stopped_within(&self, delay: Duration) -> bool {
        let mut delay = pin!(tokio::time::sleep(delay));
        while !self.shared.is_stopping() {
            tokio::select! {
                () = &mut delay => return false,
                () = self.shared.changed.notified() => {}
            }
        }
        true
    }

    /// Ends well only when it is to stop; otherwise says why. What stays in the window has yet to be acknowledged.
    async fn speak_over(&self, connection: &Connection, window: &mut VecDeque<Vec<u8>>) -> Result<(), String> {
        let dial = Dial::plain(&self.config, connection, &self.client_id, WINDOW * 2, usize::from(WINDOW) * 2);
        let (client, mut wire) = dial.open();
        let mut is_connected = false;
        loop {
            let mut poll = pin!(wire.poll());
            // Polled to its end even while others are heard: what it has read must not be lost.
            let heard = loop {
                if self.shared.is_stopping() {
                    client.disconnect();
                    return Ok(());
                }
                if is_connected {
                    self.fill(&client, window)?;
                }
                tokio::select! {
                    biased;
                    heard = &mut poll => break heard,
                    () = self.shared.changed.notified() => {}
                }
            };
            match heard? {
                Heard::Connected => {
                    is_connected = true;
                    self.shared.is_connected.store(true, Ordering::Relaxed);
                    (self.observer)(None);
                    // What the last connection left open is said again: at least once.
                    for text in &*window {
                        self.hand_over(&client, text)?;
                    }
                }
                Heard::Acknowledged(_) => self.took(window, &self.shared.delivered),
                Heard::Refused(..) => self.took(window, &self.shared.dropped),
                _ => {}
            }
        }
    }

    /// Brokers acknowledge in the order in which they were told.
    fn took(&self, window: &mut VecDeque<Vec<u8>>, count: &AtomicU64) {
        if window.pop_front().is_some() {
            count.fetch_add(1, Ordering::Relaxed);
            self.shared.unacknowledged.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn fill(&self, client: &Client, window: &mut VecDeque<Vec<u8>>) -> Result<(), String> {
        while window.len() < usize::from(WINDOW) {
            let text = {
                let mut queue = self.shared.queue();
                let Some(text) = queue.pop_front() else { return Ok(()) };
                // Counted before the queue is let go, so that it is never in neither.
                self.shared.unacknowledged.fetch_add(1, Ordering::Relaxed);
                text
            };
            let handed = self.hand_over(client, &text);
            window.push_back(text);
            handed?;
        }
        Ok(())
    }

    fn hand_over(&self, client: &Client, text: &[u8]) -> Result<(), String> {
        client.publish(Publication {
            topic: self.topic.clone(),
            qos: Some(Qos::AtLeastOnce),
            retain: false,
            payload: text.to_vec(),
            life: None,
            id: None,
        })
    }
}
