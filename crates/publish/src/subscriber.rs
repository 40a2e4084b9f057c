//! Hears one topic of the line's broker, over a connection of its own: what comes in must not wait for what goes out.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use linewarden_core::BootId;
use tokio::sync::Notify;

use crate::config::{Connection, PublisherConfig};
use crate::error::PublishError;
use crate::rounds::Rounds;
use crate::wire::{self, Dial, Qos};

/// A subscription and a ping are all that this connection ever sends.
const CHANNEL: usize = 4;
/// Packet ids: a subscription's, and none beside it.
const PACKET_IDS: u16 = 8;

/// What a subscriber hears.
#[derive(Debug)]
#[non_exhaustive]
pub enum Heard<'a> {
    /// The broker has accepted the subscription: from now on messages come.
    Subscribed,
    /// The connection is gone, or did not come about. What is published meanwhile is never heard.
    Lost {
        /// Why; never holds a password.
        error: String,
    },
    /// A message of the topic that is not an old, retained one.
    Message(&'a [u8]),
}

/// Is told of everything heard, on the subscriber's thread: it must return quickly.
pub type Listener = Box<dyn Fn(Heard<'_>) + Send>;

/// A subscription that connects again by itself. It ends when dropped.
pub struct Subscriber {
    topic: String,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

struct Ear {
    config: PublisherConfig,
    connections: Vec<Connection>,
    client_id: String,
    topic: String,
    listener: Listener,
}

impl Subscriber {
    /// Listens to `topic` at the first broker of `config` that answers, with QoS 1 and a clean session: what comes while nobody listens is too
    /// old to be heard later.
    ///
    /// # Errors
    /// When the configuration or the topic is wrong, or the thread cannot start. An absent broker is no error.
    pub fn start(config: PublisherConfig, topic: &str, listener: Listener) -> Result<Self, PublishError> {
        check_topic("topic", topic)?;
        let connections = config.checked()?;
        let id = BootId::random().to_string();
        let client_id = format!("linewarden-{}-ear-{}", config.line, id.get(..8).unwrap_or_default());
        let ear = Ear { config, connections, client_id, topic: topic.to_owned(), listener };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(PublishError::Thread)?;
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let spawned = thread::Builder::new().name("lw-subscribe".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.notified() => {}
                    () = ear.listen() => {}
                }
            });
            // A name that is still being looked up must not hold up the end.
            runtime.shutdown_background();
        });
        let thread = Some(spawned.map_err(PublishError::Thread)?);
        Ok(Self { topic: topic.to_owned(), stop, thread })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.stop.notify_one();
        let Some(thread) = self.thread.take() else { return };
        // A listener that drops its own subscriber cannot wait for itself.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!(topic = self.topic, "the subscriber's thread panicked");
        }
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Subscriber").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Ear {
    async fn listen(&self) {
        let mut rounds = Rounds::of(self.connections.len());
        while let Some(connection) = self.connections.get(rounds.current()) {
            let began = Instant::now();
            let error = self.hear_one_connection(connection).await;
            let wait = rounds.ended(began.elapsed());
            (self.listener)(Heard::Lost { error });
            if let Some(wait) = wait {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Why it ended.
    async fn hear_one_connection(&self, connection: &Connection) -> String {
        let dial = Dial::plain(&self.config, connection, &self.client_id, PACKET_IDS, CHANNEL);
        let (client, mut wire) = dial.open();
        loop {
            let heard = match wire.poll().await {
                Ok(heard) => heard,
                Err(error) => return error,
            };
            match heard {
                wire::Heard::Connected => {
                    if let Err(error) = client.subscribe(&self.topic, Qos::AtLeastOnce) {
                        return error;
                    }
                }
                wire::Heard::SubscriptionRefused(reason) => {
                    return format!("the broker refuses to let this client hear `{}`: {reason}", self.topic);
                }
                wire::Heard::Subscribed => (self.listener)(Heard::Subscribed),
                wire::Heard::Message { payload, is_retained: false, .. } => {
                    (self.listener)(Heard::Message(&payload));
                }
                _ => {}
            }
        }
    }
}

/// Whether one topic, without wildcards, can be listened to.
///
/// # Errors
/// Names `key` and what is allowed.
pub fn check_topic(key: &'static str, topic: &str) -> Result<(), PublishError> {
    let is_allowed = |letter: char| !matches!(letter, '+' | '#') && !letter.is_control();
    if (1..=1024).contains(&topic.len()) && topic.chars().all(is_allowed) && !topic.starts_with('$') {
        return Ok(());
    }
    let allowed = "a topic of 1 to 1024 bytes without `+`, `#` and control characters, and not start with `$`";
    Err(PublishError::Name { key, name: topic.to_owned(), allowed })
}
