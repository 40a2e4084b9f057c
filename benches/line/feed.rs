//! A pipeline that stands ready and lets through as many frames as it is asked to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use gst::prelude::*;

use crate::parts::{self, Parts};

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
const FRAME_TIME: gst::ClockTime = gst::ClockTime::from_nseconds(1_000_000_000 / 30);

/// Prepared frames, some elements, and a sink that takes everything.
pub(crate) struct Feed {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    frames: Vec<gst::Buffer>,
    pushed: u64,
    target: Arc<AtomicU64>,
    reached: Receiver<()>,
}

impl Feed {
    /// `elements` as in `gst-launch-1.0`, empty for none; the element to be measured is called `detect`.
    pub(crate) fn start(parts: &Parts, format: gst_video::VideoFormat, elements: &str) -> Result<Self> {
        let between = if elements.is_empty() { String::new() } else { format!("{elements} !") };
        // Every push is wanted, so the queue has no end; the frames in it share their memory.
        let text = format!(
            "appsrc name=source format=time max-bytes=0 max-buffers=0 max-time=0 ! {between} fakesink name=sink sync=false"
        );
        let pipeline = gst::parse::launch(&text)?.downcast::<gst::Pipeline>();
        let pipeline = pipeline.map_err(|_| anyhow::anyhow!("`{text}` is no pipeline"))?;
        let source = element(&pipeline, "source")?.downcast::<gst_app::AppSrc>();
        let source = source.map_err(|_| anyhow::anyhow!("`source` is no appsrc"))?;
        source.set_caps(Some(&parts::caps(format)));
        if let Some(detect) = pipeline.by_name("detect") {
            detect.set_property("model", parts.model().to_str());
            detect.set_property_from_str("device", "cpu");
        }
        // Results are posted for every frame and nobody reads them here: only errors are kept.
        let bus = pipeline.bus().context("a pipeline has a bus")?;
        bus.set_sync_handler(|_, message| match message.type_() {
            gst::MessageType::Error => gst::BusSyncReply::Pass,
            _ => gst::BusSyncReply::Drop,
        });
        let target = Arc::new(AtomicU64::new(0));
        let reached = count(&pipeline, &target)?;
        let feed = Self { pipeline, source, frames: parts.buffers(format)?, pushed: 0, target, reached };
        feed.pipeline.set_state(gst::State::Playing).map_err(|error| feed.trouble(&error.to_string()))?;
        Ok(feed)
    }

    /// Lets `times` frames through and returns when the last one has arrived at the sink.
    pub(crate) fn run(&mut self, times: usize) -> Result<()> {
        let times = u64::try_from(times)?;
        self.target.fetch_add(times, Ordering::Relaxed);
        for _ in 0..times {
            self.push()?;
        }
        self.reached.recv_timeout(PATIENCE).map_err(|error| self.trouble(&error.to_string()))
    }

    /// Sends one frame on its way.
    pub(crate) fn push(&mut self) -> Result<()> {
        // A copy shares the memory and has timestamps of its own.
        let mut buffer = self.frames[self.pushed as usize % self.frames.len()].copy();
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(FRAME_TIME * self.pushed);
            buffer.set_duration(FRAME_TIME);
        }
        self.pushed += 1;
        self.source.push_buffer(buffer).map(drop).map_err(|error| self.trouble(&error.to_string()))
    }

    /// Sends one last frame and waits until it has arrived, and with it all before it.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.target.store(self.pushed + 1, Ordering::Relaxed);
        self.push()?;
        self.reached.recv_timeout(PATIENCE).map_err(|error| self.trouble(&error.to_string()))
    }

    pub(crate) fn element(&self, name: &str) -> Result<gst::Element> {
        element(&self.pipeline, name)
    }

    /// What the pipeline itself says of an error says more.
    fn trouble(&self, fallback: &str) -> anyhow::Error {
        let message = self.pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Error(error)) => {
                anyhow::anyhow!("{} {}", error.error(), error.debug().unwrap_or_default())
            }
            _ => anyhow::anyhow!("the pipeline failed: {fallback}"),
        }
    }

    /// Fails unless every frame was scored: skipped frames would be cheap ones.
    pub(crate) fn check_scored(&self) -> Result<()> {
        let stats: gst::Structure = self.element("detect")?.property("stats");
        let scored: u64 = stats.get("scored")?;
        if scored != self.pushed {
            bail!("of {} frames only {scored} were scored", self.pushed);
        }
        Ok(())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

fn element(pipeline: &gst::Pipeline, name: &str) -> Result<gst::Element> {
    pipeline.by_name(name).with_context(|| format!("the pipeline has no `{name}`"))
}

/// Tells when as many frames as `target` says have come to the sink.
fn count(pipeline: &gst::Pipeline, target: &Arc<AtomicU64>) -> Result<Receiver<()>> {
    let (sender, receiver) = mpsc::channel();
    let target = Arc::clone(target);
    let arrived = AtomicU64::new(0);
    let pad = element(pipeline, "sink")?.static_pad("sink").context("a sink has a pad")?;
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        if arrived.fetch_add(1, Ordering::Relaxed) + 1 == target.load(Ordering::Relaxed) {
            // Nobody waits any more when the run was given up.
            let _ = sender.send(());
        }
        gst::PadProbeReturn::Ok
    });
    Ok(receiver)
}
