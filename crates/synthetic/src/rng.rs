//! SplitMix64 by Sebastiano Vigna: ten lines of our own, because pictures must not change with a crate's version.

pub(crate) struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The chance of one part. Each `stream` of a part is independent of its others.
    pub(crate) fn for_part(seed: u64, number: u64, stream: u64) -> Self {
        let mut mixed = Self { state: seed };
        for word in [number, stream] {
            mixed.state = mixed.next_u64() ^ word;
        }
        Self { state: mixed.next_u64() }
    }

    #[inline]
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to just below 1.
    pub(crate) fn share_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From `low` to `high`.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.share_f64() as f32
    }

    pub(crate) fn below(&mut self, end: u32) -> u32 {
        (self.share_f64() * f64::from(end)) as u32
    }

    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = self.below(u32::try_from(choices.len()).unwrap_or(u32::MAX));
        &choices[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_published_sequence() {
        let mut rng = SplitMix64 { state: 1_234_567 };
        let drawn: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn streams_of_a_part_differ() {
        let first = |number, stream| SplitMix64::for_part(7, number, stream).next_u64();
        assert_ne!(first(1, 1), first(1, 2));
        assert_ne!(first(1, 2), first(2, 1));
    }
}
