//! The steps in AVX2's own instructions, with the results of the portable ones.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_maddubs_epi16, _mm256_packus_epi16, _mm256_set1_epi16, _mm256_setzero_si256,
    _mm256_srli_epi16, _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
};

use super::{HALF_UNIT, LANES};

/// Bytes of a vector.
const VECTOR: usize = 32;
/// Columns whose sums stay in registers: as many vectors as there is room for.
const BLOCK: usize = 2 * VECTOR;
/// More pairs of rows than a picture of 4096 pixels needs for 256.
const MOST_PAIRS: usize = 24;

/// Two rows at a time: their bytes side by side, times their weights, summed up in one instruction.
///
/// That instruction takes weights up to 127 and keeps to sums below 2^15, so that those of a pair may be 128 together. The
/// first row is paired with the middle one and so on, since weights form a triangle: such pairs all weigh the same. Where a
/// triangle is cut off at the picture's edge, or is too steep, it is the portable step's turn.
#[target_feature(enable = "avx2")]
pub(crate) fn weighted_rows(data: &[u8], stride_bytes: usize, weights: &[u16], target: &mut [u8]) {
    let half = weights.len().div_ceil(2);
    let (upper, lower) = weights.split_at(half);
    if half > MOST_PAIRS || target.len() < BLOCK || !are_light(upper, lower) {
        return super::weighted_rows(data, stride_bytes, weights, target);
    }
    let mut pairs = [_mm256_setzero_si256(); MOST_PAIRS];
    for (index, pair) in pairs[..half].iter_mut().enumerate() {
        let below = lower.get(index).copied().unwrap_or(0);
        *pair = _mm256_set1_epi16((upper[index] | below << 8).cast_signed());
    }
    let pairs = &pairs[..half];
    let last_row = (weights.len() - 1) * stride_bytes;
    let end = target.len();
    let starts = (0..end).step_by(BLOCK).map(|start| start.min(end - BLOCK));
    for start in starts {
        let mut sums = [_mm256_set1_epi16(HALF_UNIT.cast_signed()); 4];
        let mut above = start;
        for &pair in pairs {
            // An odd row has itself as its partner, which weighs nothing.
            let below = (above + half * stride_bytes).min(start + last_row);
            let rows = two_vectors(data, above).into_iter().zip(two_vectors(data, below));
            for (sums, (above, below)) in sums.as_chunks_mut::<2>().0.iter_mut().zip(rows) {
                let low = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(above, below), pair);
                let high = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(above, below), pair);
                *sums = [_mm256_add_epi16(sums[0], low), _mm256_add_epi16(sums[1], high)];
            }
            above += stride_bytes;
        }
        // Unpacking and packing both keep to halves of a vector, so that the bytes are back in their order.
        let levels = sums.map(|sum| _mm256_srli_epi16::<8>(sum));
        let [a, b, c, d] = levels;
        store(&mut target[start..], _mm256_packus_epi16(a, b));
        store(&mut target[start + VECTOR..], _mm256_packus_epi16(c, d));
    }
}

fn are_light(upper: &[u16], lower: &[u16]) -> bool {
    let below = lower.iter().copied().chain(std::iter::once(0));
    upper.iter().zip(below).all(|(&above, below)| above < 128 && below < 128 && above + below <= 128)
}

/// Rows of [`VECTOR`] columns become columns of [`LANES`] rows in registers.
#[target_feature(enable = "avx2")]
pub(crate) fn weave(rows: &mut [u8], other: &mut [u8], woven: &mut [u8]) {
    let length = rows.len() / LANES;
    if length < VECTOR {
        return super::weave(rows, other, woven);
    }
    let starts = (0..length).step_by(VECTOR).map(|start| start.min(length - VECTOR));
    for start in starts {
        let mut block: [__m256i; LANES] = std::array::from_fn(|row| vector(rows, row * length + start));
        for _ in 0..LANES.ilog2() {
            block = shuffled(&block);
        }
        // The lower half of vector number n is column n, the upper one column n + 16.
        let (left, right) = woven[start * LANES..][..VECTOR * LANES].split_at_mut(VECTOR * LANES / 2);
        for ((vector, left), right) in block.iter().zip(left.as_chunks_mut().0).zip(right.as_chunks_mut().0) {
            [*left, *right] = bytemuck::cast::<__m256i, [[u8; LANES]; 2]>(*vector);
        }
    }
}

/// The first half of the vectors with the second, byte by byte.
#[target_feature(enable = "avx2")]
fn shuffled(block: &[__m256i; LANES]) -> [__m256i; LANES] {
    std::array::from_fn(|index| {
        let (above, below) = (block[index / 2], block[index / 2 + LANES / 2]);
        if index % 2 == 0 { _mm256_unpacklo_epi8(above, below) } else { _mm256_unpackhi_epi8(above, below) }
    })
}

#[target_feature(enable = "avx2")]
fn two_vectors(data: &[u8], start: usize) -> [__m256i; 2] {
    let mut bytes = [0; BLOCK];
    bytes.copy_from_slice(&data[start..start + BLOCK]);
    bytemuck::cast(bytes)
}

#[target_feature(enable = "avx2")]
fn vector(data: &[u8], start: usize) -> __m256i {
    let mut bytes = [0; VECTOR];
    bytes.copy_from_slice(&data[start..start + VECTOR]);
    bytemuck::cast(bytes)
}

#[target_feature(enable = "avx2")]
fn store(target: &mut [u8], vector: __m256i) {
    target[..VECTOR].copy_from_slice(&bytemuck::cast::<__m256i, [u8; VECTOR]>(vector));
}

#[cfg(test)]
mod tests {
    use super::super::{Span, Taps};
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        (0..length as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 23) as u8).collect()
    }

    fn both(run: impl Fn(bool) -> Vec<u8>) {
        assert!(std::arch::is_x86_feature_detected!("avx2"), "this test needs a processor with AVX2");
        assert_eq!(run(true), run(false));
    }

    #[test]
    #[allow(unsafe_code)]
    fn sums_are_those_of_the_portable_step() {
        for (length, target) in [(720, 256), (4096, 256), (300, 256), (512, 256), (200, 256), (9, 2), (40_000, 4)] {
            let taps = Taps::new(Span { start_halves: 0, length_halves: 2 * length }, length, target);
            for columns in [64, 65, 100, 256, 63] {
                let (row, weights) = taps.of(target as usize / 2);
                let (edge_row, edge) = taps.of(0);
                let stride_bytes = columns + 3;
                let data = noise(length as usize * stride_bytes);
                for (first, weights) in [(row, weights), (edge_row, edge)] {
                    both(|wide| {
                        let mut sums = vec![0; columns];
                        let data = &data[first * stride_bytes..];
                        if wide {
                            // SAFETY: `both` has seen that the processor has AVX2.
                            unsafe { weighted_rows(data, stride_bytes, weights, &mut sums) };
                        } else {
                            super::super::weighted_rows(data, stride_bytes, weights, &mut sums);
                        }
                        sums
                    });
                }
            }
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn the_heaviest_pair_still_fits() {
        let data = [255; 128];
        let mut sums = [0; 64];
        for weights in [[127, 1], [64, 64], [1, 127], [0, 128], [128, 0], [128, 128]] {
            assert!(std::arch::is_x86_feature_detected!("avx2"), "this test needs a processor with AVX2");
            // SAFETY: just seen.
            unsafe { weighted_rows(&data, 64, &weights, &mut sums) };
            let expected = ((255 * (weights[0] + weights[1]) + 128) / 256) as u8;
            assert_eq!(sums, [expected; 64], "{weights:?}");
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn weaving_is_that_of_the_portable_step() {
        for length in [1, 31, 32, 33, 50, 64, 256] {
            both(|wide| {
                let (mut rows, mut other, mut woven) =
                    (noise(length * LANES), vec![0; length * LANES], vec![0; length * LANES]);
                if wide {
                    // SAFETY: `both` has seen that the processor has AVX2.
                    unsafe { weave(&mut rows, &mut other, &mut woven) };
                } else {
                    super::super::weave(&mut rows, &mut other, &mut woven);
                }
                woven
            });
        }
    }
}
