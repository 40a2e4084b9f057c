//! Feeds the pictures of a folder into a pipeline, in the order of their names.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use image::RgbImage;

use super::clock::Captured;
use super::frames::Frames;
use crate::config::Folder;
use crate::metrics::NotScored;

/// Distance of presentation times when no rate is given.
const NOMINAL_HZ: f64 = 25.0;

/// A thread that feeds. Dropping it ends the thread once its pipeline has been stopped.
pub(crate) struct Feeder {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    pub(crate) fn start(folder: &Folder, source: gst_app::AppSrc, frames: Arc<Frames>) -> anyhow::Result<Self> {
        let pictures = pictures(&folder.path)?;
        let (stop, stopped) = mpsc::channel();
        let folder = folder.clone();
        let work = move || feed(&folder, &pictures, &source, &frames, &stopped);
        let thread =
            thread::Builder::new().name("lw-folder".to_owned()).spawn(work).context("cannot start a thread")?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that feeds a folder's pictures panicked");
        }
    }
}

/// The folder's pictures by name.
fn pictures(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cannot_read = || format!("cannot read folder `{}`", folder.display());
    let mut pictures = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot_read)? {
        let path = entry.with_context(cannot_read)?.path();
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if ["jpg", "jpeg", "png"].contains(&extension.as_str()) {
            pictures.push(path);
        }
    }
    anyhow::ensure!(!pictures.is_empty(), "folder `{}` has no picture (.jpg, .jpeg, .png)", folder.display());
    pictures.sort();
    Ok(pictures)
}

fn feed(
    folder: &Folder,
    pictures: &[PathBuf],
    source: &gst_app::AppSrc,
    frames: &Frames,
    stopped: &mpsc::Receiver<()>,
) {
    let interval = Duration::from_secs_f64(1.0 / folder.rate_hz.unwrap_or(NOMINAL_HZ));
    let start = Instant::now();
    let mut number = 0_u32;
    loop {
        for path in pictures {
            let due = if folder.rate_hz.is_some() { start + interval * number } else { start };
            let wait = due.saturating_duration_since(Instant::now());
            // Without a wait this only asks whether the pipeline is going away.
            if stopped.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Disconnected) {
                return;
            }
            if !push(path, interval * number, source, frames) {
                return;
            }
            number = number.wrapping_add(1);
        }
        if !folder.again {
            // An error means that the pipeline is stopping, which ends the source just as well.
            let _ = source.end_of_stream();
            return;
        }
    }
}

/// False when the pipeline takes no more.
fn push(path: &Path, pts: Duration, source: &gst_app::AppSrc, frames: &Frames) -> bool {
    let sample =
        image::open(path).map_err(anyhow::Error::from).and_then(|picture| sample(&picture.into_rgb8(), pts, frames));
    match sample {
        Ok(sample) => source.push_sample(&sample).is_ok(),
        Err(error) => {
            frames.events().picture_unreadable(path, &format!("{error:#}"));
            frames.lose(NotScored::Unreadable, Captured::now());
            true
        }
    }
}

/// The picture with its capture stamp, its rows padded as GStreamer's default layout has them.
fn sample(picture: &RgbImage, pts: Duration, frames: &Frames) -> anyhow::Result<gst::Sample> {
    let (width, height) = picture.dimensions();
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, width, height).build()?;
    let stride_bytes = usize::try_from(info.stride().first().copied().unwrap_or(0))?;
    let row_bytes = width as usize * 3;
    let mut pixels = vec![0; info.size()];
    for (to, from) in pixels.chunks_mut(stride_bytes.max(1)).zip(picture.chunks(row_bytes.max(1))) {
        to[..row_bytes].copy_from_slice(from);
    }
    let mut buffer = gst::Buffer::from_mut_slice(pixels);
    let writable = buffer.make_mut();
    writable.set_pts(gst::ClockTime::try_from(pts).ok());
    frames.stamp(writable, Captured::now());
    Ok(gst::Sample::builder().buffer(&buffer).caps(&info.to_caps()?).build())
}
