//! Scaling of planes to the network's size, band by band.
//!
//! A band is [`LANES`] rows of the target. Rows are scaled first, which leaves few of them; then the band is *woven*: the
//! bytes of one column, one of each row, lie side by side, so that scaling columns works on all rows of the band at once.
//! A band fits the processor's nearest caches, however large the picture is.
//!
//! The filter is a triangle as wide as the source samples that one target sample covers (bilinear when enlarging), in parts
//! of [`UNITS`], rounded to whole levels after each direction. All of it is whole numbers: the same picture gives the same
//! bytes on every processor, and `linewarden_train` has the graph do the very same with whole pictures.
//!
//! The two steps that take longest, sums of rows and weaving, are [`Steps`]: [`portable`] for any processor, and
//! [`avx2`]'s with the same results. While one band is scaled, [`ahead`] has the next one's rows fetched from memory.

mod ahead;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;

use ahead::Ahead;

/// Rows of a band.
pub(crate) const LANES: usize = 16;

/// Weights are parts of this, so that a weighted sum of bytes fits 16 bits.
const UNITS: i64 = 256;
/// Half of [`UNITS`], which rounds a sum to the nearest level.
const HALF_UNIT: u16 = 128;
/// Bytes of a row that are scaled and woven at a time.
const CHUNK: usize = 256;
/// Bytes whose sums the processor holds at once.
const BLOCK: usize = 32;

/// The part of an axis that counts, in half samples: those of subsampled chroma may begin between two samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start_halves: u32,
    pub(crate) length_halves: u32,
}

/// For each target sample: the first source sample that counts for it, and how much it and those after it count.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    first: Vec<usize>,
    /// `count` of each target sample, of which the first `lengths` count.
    weights: Vec<u16>,
    lengths: Vec<usize>,
    count: usize,
}

/// How the rows of a band are summed up and woven.
#[derive(Clone, Copy)]
pub(crate) struct Steps<S, W> {
    /// Sums up rows by their weights. The bytes begin with the first row, whose stride follows; of all rows as many
    /// columns are needed as the last slice has.
    pub(crate) sum: S,
    /// Weaves [`LANES`] rows of equal length. The second slice is room for work, all three have the same length.
    pub(crate) weave: W,
}

/// The rows of a plane that a band is made of.
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) stride_bytes: usize,
    /// Bytes of each row that are needed.
    pub(crate) from_byte: usize,
    pub(crate) to_byte: usize,
}

/// Where one channel lies in a row: every `step`th byte from `first` on.
#[derive(Clone, Copy)]
pub(crate) struct Channel {
    pub(crate) first: usize,
    pub(crate) step: usize,
}

/// See [`Steps::sum`].
pub(crate) trait Sum: Fn(&[u8], usize, &[u16], &mut [u8]) + Copy {}
impl<F: Fn(&[u8], usize, &[u16], &mut [u8]) + Copy> Sum for F {}

/// See [`Steps::weave`].
pub(crate) trait Weave: Fn(&mut [u8], &mut [u8], &mut [u8]) + Copy {}
impl<F: Fn(&mut [u8], &mut [u8], &mut [u8]) + Copy> Weave for F {}

/// One band with the columns of the source, woven.
#[derive(Debug, Default)]
pub(crate) struct Band {
    woven: Vec<u8>,
    from_byte: usize,
    /// Rows of a chunk that are being woven, and as much room again.
    loom: [Vec<u8>; 2],
}

/// The steps as the compiler makes them for the processor that it is told of.
#[inline(always)]
pub(crate) fn portable() -> Steps<impl Sum, impl Weave> {
    Steps { sum: weighted_rows, weave }
}

impl Span {
    /// The samples that the span touches, of `available` ones.
    pub(crate) fn whole_samples(self, available: u32) -> (usize, usize) {
        let end = (self.start_halves + self.length_halves).div_ceil(2).min(available);
        ((self.start_halves / 2) as usize, end as usize)
    }
}

impl Taps {
    /// Scales a span to `target` samples. The filter reaches beyond its span; samples that the span does not touch are
    /// never seen.
    ///
    /// Weights are rounded such that those of a target sample sum up to [`UNITS`]: each is the difference of two rounded
    /// partial sums.
    pub(crate) fn new(span: Span, available: u32, target: u32) -> Self {
        let (low, high) = span.whole_samples(available);
        let (low, high) = (low as i64, high as i64);
        // In parts of a source sample, as fine as the centres of target samples lie.
        let part = 4 * i64::from(target);
        let (start, length) = (i64::from(span.start_halves), i64::from(span.length_halves));
        let radius = (2 * length).max(part);
        let of_target = |index: i64| {
            let centre = part / 2 * start + (2 * index + 1) * length - part / 2;
            let from = ((centre - radius).div_euclid(part) + 1).clamp(low, high - 1);
            let to = (-(-centre - radius).div_euclid(part)).clamp(from + 1, high);
            let heights = (from..to).map(|sample| (radius - (part * sample - centre).abs()).max(0));
            (from, fixed_point(heights.collect()))
        };
        let rows: Vec<(i64, Vec<u16>)> = (0..i64::from(target)).map(of_target).collect();
        let count = rows.iter().map(|(_, weights)| weights.len()).max().unwrap_or(0);
        let mut taps = Self { weights: vec![0; rows.len() * count], count, ..Self::default() };
        for ((from, weights), padded) in rows.iter().zip(taps.weights.chunks_exact_mut(count.max(1))) {
            padded[..weights.len()].copy_from_slice(weights);
            taps.first.push(*from as usize);
            taps.lengths.push(weights.len());
        }
        taps
    }

    #[inline(always)]
    fn of(&self, target: usize) -> (usize, &[u16]) {
        (self.first[target], &self.weights[target * self.count..][..self.lengths[target]])
    }

    /// The sample behind the last one that the first `targets` of them need.
    #[inline(always)]
    fn end_of(&self, targets: usize) -> usize {
        let last = targets.min(self.first.len()).saturating_sub(1);
        self.first[last] + self.lengths[last]
    }
}

fn fixed_point(heights: Vec<i64>) -> Vec<u16> {
    let total = heights.iter().sum::<i64>().max(1);
    let mut sum = 0;
    let mut before = 0;
    let next = |height| {
        sum += height;
        let now = (2 * UNITS * sum + total) / (2 * total);
        let weight = now - before;
        before = now;
        weight as u16
    };
    heights.into_iter().map(next).collect()
}

impl Band {
    /// Scales rows to band number `band`, and weaves them. A last band that is not full repeats its last row.
    #[inline(always)]
    pub(crate) fn lower<S: Sum, W: Weave>(&mut self, rows: &Rows<'_>, taps: &Taps, band: usize, steps: Steps<S, W>) {
        let row_bytes = rows.to_byte - rows.from_byte;
        self.from_byte = rows.from_byte;
        self.woven.resize(row_bytes * LANES, 0);
        let [chunk, other] = &mut self.loom;
        chunk.resize(LANES * CHUNK, 0);
        other.resize(LANES * CHUNK, 0);
        let last = taps.first.len() - 1;
        if band == 0 {
            Ahead::new(rows, taps.first[0], taps.end_of(LANES)).fetch_all();
        }
        let mut ahead = Ahead::new(rows, taps.end_of((band + 1) * LANES), taps.end_of((band + 2) * LANES));
        ahead.share_among(row_bytes.div_ceil(CHUNK) * LANES);
        for (index, woven) in self.woven.chunks_mut(CHUNK * LANES).enumerate() {
            let length = woven.len() / LANES;
            let column = rows.from_byte + index * CHUNK;
            for (lane, row) in chunk[..woven.len()].chunks_exact_mut(length).enumerate() {
                let (first, weights) = taps.of((band * LANES + lane).min(last));
                (steps.sum)(&rows.data[first * rows.stride_bytes + column..], rows.stride_bytes, weights, row);
                ahead.fetch_share();
            }
            (steps.weave)(&mut chunk[..woven.len()], &mut other[..woven.len()], woven);
        }
    }

    /// Scales the columns of packed pixels, whose red, green and blue are those of the first `CHANNELS` bytes that `order`
    /// names.
    #[inline(always)]
    pub(crate) fn narrow_pixels<const CHANNELS: usize>(
        &self,
        pixel_bytes: usize,
        order: [usize; 3],
        taps: &Taps,
        target: &mut [[u8; LANES]],
    ) {
        let channel = Channel { first: 0, step: pixel_bytes };
        for (index, pixel) in target.as_chunks_mut::<3>().0.iter_mut().enumerate() {
            let sums = self.sums::<CHANNELS>(channel, taps.of(index), HALF_UNIT);
            for (levels, of) in pixel.iter_mut().zip(order) {
                set_levels(levels, &sums[of]);
            }
        }
    }

    /// Scales the columns of one channel, without the last rounding: levels in parts of [`UNITS`].
    #[inline(always)]
    pub(crate) fn narrow_finely(&self, channel: Channel, taps: &Taps, target: &mut [[u16; LANES]]) {
        for (index, target) in target.iter_mut().enumerate() {
            [*target] = self.sums(channel, taps.of(index), 0);
        }
    }

    /// Weighted sums of a channel's columns, and of as many channels that lie behind it, from `start` on.
    #[inline(always)]
    fn sums<const CHANNELS: usize>(
        &self,
        channel: Channel,
        (first, weights): (usize, &[u16]),
        start: u16,
    ) -> [[u16; LANES]; CHANNELS] {
        let (columns, _) = self.woven.as_chunks::<LANES>();
        let mut sums = [[start; LANES]; CHANNELS];
        let mut at = channel.first + first * channel.step - self.from_byte;
        for &weight in weights {
            for (sums, samples) in sums.iter_mut().zip(&columns[at..at + CHANNELS]) {
                add_weighted(sums, weight, samples);
            }
            at += channel.step;
        }
        sums
    }
}

/// Sums up rows by their weights. `data` begins with the first row; of all rows as many columns are needed as `target` has.
#[inline(always)]
fn weighted_rows(data: &[u8], stride_bytes: usize, weights: &[u16], target: &mut [u8]) {
    let (blocks, rest) = target.as_chunks_mut::<BLOCK>();
    let rest_from = blocks.len() * BLOCK;
    for (index, block) in blocks.iter_mut().enumerate() {
        let mut sums = [HALF_UNIT; BLOCK];
        let mut at = index * BLOCK;
        for &weight in weights {
            if let Some(samples) = data[at..at + BLOCK].first_chunk() {
                add_weighted(&mut sums, weight, samples);
            }
            at += stride_bytes;
        }
        set_levels(block, &sums);
    }
    for (index, target) in rest.iter_mut().enumerate() {
        let mut sum = [HALF_UNIT];
        for (row, &weight) in weights.iter().enumerate() {
            add_weighted(&mut sum, weight, &[data[row * stride_bytes + rest_from + index]]);
        }
        set_levels(std::array::from_mut(target), &sum);
    }
}

// Loops over indices here: with iterators the compiler does not always see that all lanes go the same way.
#[inline(always)]
fn add_weighted<const N: usize>(sums: &mut [u16; N], weight: u16, samples: &[u8; N]) {
    for lane in 0..N {
        sums[lane] = sums[lane].wrapping_add(weight.wrapping_mul(u16::from(samples[lane])));
    }
}

#[inline(always)]
fn set_levels<const N: usize>(target: &mut [u8; N], sums: &[u16; N]) {
    for lane in 0..N {
        target[lane] = (sums[lane] / UNITS as u16) as u8;
    }
}

/// Weaves rows of equal length: pairs of rows become rows of pairs, four times.
#[inline(always)]
fn weave(rows: &mut [u8], other: &mut [u8], woven: &mut [u8]) {
    weave_pairs::<16>(rows, other);
    weave_pairs::<8>(other, rows);
    weave_pairs::<4>(rows, other);
    weave_pairs::<2>(other, woven);
}

/// The first half of `ROWS` rows with the second.
#[inline(always)]
fn weave_pairs<const ROWS: usize>(rows: &[u8], woven: &mut [u8]) {
    let length = rows.len() / ROWS;
    let (upper, lower) = rows.split_at(rows.len() / 2);
    let pairs = upper.chunks_exact(length).zip(lower.chunks_exact(length));
    for ((upper, lower), woven) in pairs.zip(woven.chunks_exact_mut(2 * length)) {
        weave_pair(upper, lower, woven);
    }
}

// As a function with slices of equal length: only so the compiler knows that they are apart, and leaves out all checks.
#[inline(always)]
fn weave_pair(upper: &[u8], lower: &[u8], woven: &mut [u8]) {
    let length = upper.len();
    let (lower, woven) = (&lower[..length], &mut woven[..2 * length]);
    for index in 0..length {
        woven[2 * index] = upper[index];
        woven[2 * index + 1] = lower[index];
    }
}

/// The way back: rows of a band one after the other, in `woven` itself; `other` has as much room.
#[inline(always)]
pub(crate) fn unweave(woven: &mut [u8], other: &mut [u8]) {
    part_pairs::<1>(woven, other);
    part_pairs::<2>(other, woven);
    part_pairs::<4>(woven, other);
    part_pairs::<8>(other, woven);
}

#[inline(always)]
fn part_pairs<const ROWS: usize>(woven: &[u8], rows: &mut [u8]) {
    let length = woven.len() / ROWS / 2;
    let (upper, lower) = rows.split_at_mut(woven.len() / 2);
    let rows = upper.chunks_exact_mut(length).zip(lower.chunks_exact_mut(length));
    for ((upper, lower), woven) in rows.zip(woven.chunks_exact(2 * length)) {
        part_pair(woven, upper, lower);
    }
}

#[inline(always)]
fn part_pair(woven: &[u8], upper: &mut [u8], lower: &mut [u8]) {
    let length = upper.len();
    let (lower, woven) = (&mut lower[..length], &woven[..2 * length]);
    for index in 0..length {
        upper[index] = woven[2 * index];
        lower[index] = woven[2 * index + 1];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taps(length: u32, target: u32) -> Taps {
        Taps::new(Span { start_halves: 0, length_halves: 2 * length }, length, target)
    }

    fn of(taps: &Taps, target: usize) -> (usize, Vec<u16>) {
        let (first, weights) = taps.of(target);
        (first, weights.to_vec())
    }

    #[test]
    fn a_triangle_as_wide_as_what_a_target_sample_covers() {
        assert_eq!(
            of(&taps(4, 2), 0),
            (0, vec![110, 109, 37]),
            "3, 3 and 1 sevenths: what would lie before is cut off"
        );
        assert_eq!(of(&taps(8, 4), 1), (1, vec![32, 96, 96, 32]));
        assert_eq!(of(&taps(5, 5), 3).1.iter().filter(|&&weight| weight > 0).count(), 1, "nothing to scale");
        assert_eq!(of(&taps(2, 4), 1), (0, vec![192, 64]), "bilinear when enlarging");
    }

    #[test]
    fn weights_sum_up_to_one_at_any_length() {
        for length in [1, 2, 3, 63, 255, 256, 257, 720, 1280, 4095, 4096] {
            for (start_halves, length_halves) in [(0, 2 * length), (length / 2, length), (length, 1)] {
                let taps = Taps::new(Span { start_halves, length_halves }, length, 256);
                for target in 0..256 {
                    let (first, weights) = taps.of(target);
                    assert_eq!(weights.iter().sum::<u16>(), 256, "{length}, {target}");
                    assert!(first + weights.len() <= length as usize);
                }
            }
        }
    }

    #[test]
    fn a_span_sees_nothing_beyond_its_ends() {
        let taps = Taps::new(Span { start_halves: 5, length_halves: 6 }, 100, 4);
        assert_eq!(taps.first.iter().min(), Some(&2));
        assert!((0..4).all(|target| taps.of(target).0 + taps.of(target).1.len() <= 6));
    }

    #[test]
    fn weaving_and_back() {
        let length = 21;
        let mut rows: Vec<u8> = (0..LANES * length).map(|index| (index * 7 % 251) as u8).collect();
        let (straight, mut woven, mut other) = (rows.clone(), vec![0; rows.len()], vec![0; rows.len()]);
        weave(&mut rows, &mut other, &mut woven);
        assert_eq!(woven[5 * LANES + 3], straight[3 * length + 5]);
        unweave(&mut woven, &mut other);
        assert_eq!(woven, straight);
    }
}
