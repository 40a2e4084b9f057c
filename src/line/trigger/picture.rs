//! A part is there when a region of the picture looks like one: the trigger of a line without a sensor.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use linewarden_core::parts::Trigger;
use linewarden_core::presence::{Presence, PresenceChange, PresenceRules};
use linewarden_model::glance::Glance;
use linewarden_model::{FrameView, Rect};

use crate::config::Measure;
use crate::line::gate::Gate;

/// Looks for parts in the pictures of one camera. Runs on its source's streaming thread, and the lock is that thread's alone.
pub(in crate::line) struct PictureTrigger {
    region: Option<Rect>,
    measure: Measure,
    seen: Mutex<Seen>,
    told_of_region: AtomicBool,
}

struct Seen {
    presence: Presence,
    parts: u64,
}

impl PictureTrigger {
    pub(in crate::line) fn new(region: Option<Rect>, measure: Measure, rules: PresenceRules) -> Self {
        let seen = Mutex::new(Seen { presence: Presence::new(rules), parts: 0 });
        Self { region, measure, seen, told_of_region: AtomicBool::new(false) }
    }

    /// A picture was taken then. A part that begins in it opens.
    pub(in crate::line) fn look(&self, view: &FrameView<'_>, at: Timestamp, gate: &Gate) {
        let glance = match Glance::of(view, self.region) {
            Ok(glance) => glance,
            Err(error) => {
                // The next picture has the same size: once is enough.
                if !self.told_of_region.swap(true, Ordering::Relaxed) {
                    gate.malformed_trigger(&format!("`region` of the part trigger: {error}"));
                }
                return;
            }
        };
        let level = match self.measure {
            Measure::Brightness => glance.mean(),
            Measure::Contrast => glance.deviation(),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(PresenceChange::Opened(at)) = seen.presence.look(at, level) else { return };
        let number = seen.parts;
        seen.parts += 1;
        drop(seen);
        gate.trigger(Trigger { number: Some(number), encoder: None, at });
    }
}
