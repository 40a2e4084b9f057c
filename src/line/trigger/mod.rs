//! What opens a part: messages, an encoder's counts, an input of a PLC or of this machine, what a camera sees, or time.
//!
//! Triggers go to the [`Gate`](super::gate::Gate), each with the moment at which it happened, as far as its source knows.

mod digital;
mod message;
#[cfg(feature = "modbus")]
mod modbus;
mod picture;
mod rate;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use jiff::Timestamp;
use linewarden_core::parts::EncoderDivider;
use linewarden_publish::{Heard, Subscriber};

use super::gate::Gate;
use super::stop::StoppedOnDrop;
use crate::config::{LineConfig, TriggerConfig};
use message::Message;
pub(super) use picture::PictureTrigger;

/// What brings a line's triggers. Ends when dropped.
pub(super) enum TriggerSource {
    /// Held for its end.
    Heard { _subscriber: Subscriber },
    /// Held for its end.
    OfOurOwn { _thread: StoppedOnDrop },
    /// The pictures of a camera, which asks for it.
    Seen,
    /// Held for its end.
    #[cfg(feature = "modbus")]
    Asked { _poller: modbus::Poller },
}

impl TriggerSource {
    /// Starts what the line's configuration asks for; none on a line without parts.
    pub(super) fn start(line: &LineConfig, gate: &Arc<Gate>) -> anyhow::Result<Option<Self>> {
        let Some(parts) = &line.parts else { return Ok(None) };
        let source = match &parts.trigger {
            TriggerConfig::Mqtt { topic } => hear(line, topic, gate, trigger_heard)?,
            TriggerConfig::Encoder { topic, counts_per_part } => {
                let divider = Mutex::new(EncoderDivider::new(*counts_per_part));
                hear(line, topic, gate, move |gate, message| count_heard(gate, &divider, message))?
            }
            TriggerConfig::Rate { rate_hz } => {
                gate.triggers_connected(None);
                Self::OfOurOwn { _thread: rate::start(&line.name, *rate_hz, Arc::clone(gate))? }
            }
            TriggerConfig::Picture(_) => {
                gate.triggers_connected(None);
                Self::Seen
            }
            TriggerConfig::Digital(digital) => {
                Self::OfOurOwn { _thread: digital::start(&line.name, digital.clone(), Arc::clone(gate))? }
            }
            #[cfg(feature = "modbus")]
            TriggerConfig::Modbus(modbus) => {
                let poller = modbus::Poller::start(&line.name, modbus.clone(), Arc::clone(gate))?;
                Self::Asked { _poller: poller }
            }
        };
        Ok(Some(source))
    }
}

/// What looks for parts in the pictures of this camera, when they are the line's trigger.
pub(super) fn picture_trigger(line: &LineConfig, camera: &str) -> Option<PictureTrigger> {
    let TriggerConfig::Picture(picture) = &line.parts.as_ref()?.trigger else { return None };
    let is_its_own = picture.camera == camera;
    is_its_own.then(|| PictureTrigger::new(picture.region, picture.measure, picture.rules))
}

fn hear(
    line: &LineConfig,
    topic: &str,
    gate: &Arc<Gate>,
    take: impl Fn(&Gate, Message) -> Result<(), String> + Send + 'static,
) -> anyhow::Result<TriggerSource> {
    let config = line.publisher.clone().context("the configuration gives a broker to triggers from messages")?;
    let gate = Arc::clone(gate);
    let listener = move |heard: Heard<'_>| match heard {
        Heard::Subscribed => gate.triggers_connected(None),
        Heard::Lost { error } => gate.triggers_connected(Some(&error)),
        Heard::Message(payload) => {
            let taken = message::read(payload, Timestamp::now()).and_then(|message| take(&gate, message));
            if let Err(why) = taken {
                gate.malformed_trigger(&why);
            }
        }
        _ => {}
    };
    let subscriber = Subscriber::start(config, topic, Box::new(listener));
    let subscriber = subscriber.with_context(|| format!("cannot listen for the triggers of line `{}`", line.name))?;
    Ok(TriggerSource::Heard { _subscriber: subscriber })
}

fn trigger_heard(gate: &Gate, message: Message) -> Result<(), String> {
    gate.trigger(message.trigger()?);
    Ok(())
}

fn count_heard(gate: &Gate, divider: &Mutex<EncoderDivider>, message: Message) -> Result<(), String> {
    let (count, at) = message.count()?;
    gate.encoder(count, at);
    let parts = divider.lock().unwrap_or_else(PoisonError::into_inner).count(count, at);
    parts.into_iter().for_each(|part| gate.trigger(part));
    Ok(())
}
