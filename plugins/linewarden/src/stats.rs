//! What an `anomalydetect` did so far: counters, and how long its stages take.

use std::time::Duration;

use linewarden_model::{DeviceChoice, StageTimes};

/// How many of the last times percentiles are taken over.
const WINDOW: usize = 512;

/// Counters and times since the element's start.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) frames: u64,
    pub(crate) scored: u64,
    pub(crate) anomalous: u64,
    pub(crate) skipped_interval: u64,
    pub(crate) dropped_late: u64,
    pub(crate) errors: u64,
    preprocess: StageStats,
    inference: StageStats,
    postprocess: StageStats,
    total: StageStats,
}

/// Times of one stage.
#[derive(Debug, Default)]
struct StageStats {
    last: Duration,
    sum: Duration,
    count: u32,
    recent: Vec<Duration>,
}

impl Stats {
    pub(crate) fn add_times(&mut self, times: &StageTimes) {
        self.preprocess.add(times.preprocess);
        self.inference.add(times.inference);
        self.postprocess.add(times.postprocess);
        self.total.add(times.total());
    }

    /// All but the slowest hundredth of the last detections took at most this long.
    pub(crate) fn total_p99(&self) -> Duration {
        self.total.percentile(0.99)
    }

    /// The property `stats`.
    pub(crate) fn to_structure(&self, choice: Option<&DeviceChoice>) -> gst::Structure {
        let device = choice.map_or("", |choice| choice.device.as_str());
        gst::Structure::builder("anomalydetect-stats")
            .field("frames", self.frames)
            .field("scored", self.scored)
            .field("anomalous", self.anomalous)
            .field("skipped-interval", self.skipped_interval)
            .field("dropped-late", self.dropped_late)
            .field("errors", self.errors)
            .field("device", device)
            .field("passed-over", passed_over(choice))
            .field("preprocess", self.preprocess.to_structure("preprocess"))
            .field("inference", self.inference.to_structure("inference"))
            .field("postprocess", self.postprocess.to_structure("postprocess"))
            .field("total", self.total.to_structure("total"))
            .build()
    }
}

/// `device: reason` for each device that `auto` tried in vain.
pub(crate) fn passed_over(choice: Option<&DeviceChoice>) -> gst::Array {
    let tried = choice.into_iter().flat_map(|choice| &choice.passed_over);
    gst::Array::new(tried.map(|(device, reason)| format!("{device}: {reason}")))
}

impl StageStats {
    fn add(&mut self, time: Duration) {
        self.last = time;
        self.sum += time;
        if self.recent.len() < WINDOW {
            self.recent.push(time);
        } else {
            self.recent[self.count as usize % WINDOW] = time;
        }
        self.count = self.count.wrapping_add(1);
    }

    fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.recent.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * share).ceil() as usize).copied().unwrap_or_default()
    }

    fn to_structure(&self, name: &str) -> gst::Structure {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        gst::Structure::builder(name)
            .field("last-ms", milliseconds(self.last))
            .field("mean-ms", milliseconds(self.sum / self.count.max(1)))
            .field("p50-ms", milliseconds(self.percentile(0.5)))
            .field("p99-ms", milliseconds(self.percentile(0.99)))
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_times_only() {
        let mut stage = StageStats::default();
        for milliseconds in 0..u64::try_from(WINDOW).unwrap() * 2 {
            stage.add(Duration::from_millis(milliseconds));
        }
        assert_eq!(stage.percentile(0.0), Duration::from_millis(512));
        assert_eq!(stage.percentile(0.5), Duration::from_millis(512 + 256));
        assert_eq!(stage.percentile(1.0), Duration::from_millis(1023));
        assert_eq!(StageStats::default().percentile(0.99), Duration::ZERO);
    }
}
