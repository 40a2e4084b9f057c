//! Looking at every picture and mask of a data set, on all cores, in little memory.

use std::fs;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::duplicates::{Fingerprint, Printer};
use super::picture::Oddity;
use super::{Dataset, LabelColor, Picture, PictureError, Sample, picture_size, read_mask};
use crate::progress::Progress;

/// More threads wait for the disk, not for the processor.
const MAXIMUM_THREADS: usize = 8;
/// Pictures above this are looked at one at a time: the largest takes some 300 MB while it is decoded.
const LARGE_PIXELS: usize = 4 << 20;

/// What a picture has shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) size: Option<(usize, usize)>,
    pub(super) file_bytes: u64,
    pub(super) oddities: Vec<Oddity>,
    pub(super) fingerprint: Option<Fingerprint>,
    /// Every pixel has the same colour.
    pub(super) is_flat: bool,
    pub(super) mask: Option<MaskSeen>,
    /// Why the picture or its mask cannot be read.
    pub(super) error: Option<PictureError>,
}

/// What a mask has shown.
#[derive(Debug)]
pub(super) struct MaskSeen {
    /// The numbers of its labels.
    pub(super) labels: Vec<u8>,
    /// The share of the picture that it covers.
    pub(super) share: f64,
}

/// Looks at all samples of a data set, in their order.
pub(super) fn look_at(dataset: &Dataset, progress: &dyn Progress) -> Vec<Seen> {
    let samples = &dataset.samples;
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = cores.min(MAXIMUM_THREADS).min(samples.len());
    let next = AtomicUsize::new(0);
    let large = Mutex::new(());
    let work = || {
        let printer = Printer::new();
        let mut seen = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(sample) = samples.get(index) else { return seen };
            seen.push((index, look(sample, &dataset.labels, &printer, &large)));
            progress.advance(1);
        }
    };
    let mut all: Vec<(usize, Seen)> = thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for worker in workers {
            match worker.join() {
                Ok(seen) => all.extend(seen),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_by_key(|&(index, _)| index);
    all.into_iter().map(|(_, seen)| seen).collect()
}

fn look(sample: &Sample, labels: &[LabelColor], printer: &Printer, large: &Mutex<()>) -> Seen {
    let mut seen = Seen { file_bytes: file_bytes(sample), ..Seen::default() };
    let is_large = seen.file_bytes > LARGE_PIXELS as u64
        || picture_size(&sample.path).is_ok_and(|(width, height)| width * height > LARGE_PIXELS);
    let _alone = is_large.then(|| large.lock().unwrap_or_else(PoisonError::into_inner));
    match Picture::read_closely(&sample.path) {
        Ok((picture, oddities)) => {
            seen.size = Some((picture.width_px, picture.height_px));
            seen.oddities = oddities;
            let (fingerprint, is_flat) = printer.of(picture);
            (seen.fingerprint, seen.is_flat) = (Some(fingerprint), is_flat);
        }
        Err(error) => seen.error = Some(error),
    }
    if sample.mask.is_some() && seen.error.is_none() {
        match read_mask(sample, labels) {
            Ok(mask) => {
                let drawn = mask.labels.iter().filter(|&&label| label != 0).count();
                let share = drawn as f64 / mask.labels.len().max(1) as f64;
                seen.mask = Some(MaskSeen { labels: mask.found(), share });
            }
            Err(error) => seen.error = Some(error),
        }
    }
    seen
}

/// Of the picture, or of its mask if that is longer.
fn file_bytes(sample: &Sample) -> u64 {
    let paths = [Some(&sample.path), sample.mask.as_ref().map(|mask| &mask.path)];
    let length = |path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    paths.into_iter().flatten().map(length).max().unwrap_or(0)
}
