//! Has the processor fetch from memory what is needed next.
//!
//! By itself it only guesses rightly within a row. A frame lies in memory when inference has just used the caches for itself,
//! and a band takes some columns of very many rows at a time: without this, a third of the time is spent waiting.

use super::Rows;

/// What the processor fetches at a time.
const CACHE_LINE: usize = 64;

/// Rows that will be needed soon, fetched a few bytes at a time in between of other work.
pub(super) struct Ahead<'a> {
    rows: &'a Rows<'a>,
    row: usize,
    end_row: usize,
    column: usize,
    share_bytes: usize,
}

impl<'a> Ahead<'a> {
    #[inline(always)]
    pub(super) fn new(rows: &'a Rows<'a>, row: usize, end_row: usize) -> Self {
        Self { rows, row, end_row, column: rows.from_byte, share_bytes: 0 }
    }

    /// Spreads what is left over so many calls of [`Ahead::fetch_share`].
    #[inline(always)]
    pub(super) fn share_among(&mut self, calls: usize) {
        let bytes = self.end_row.saturating_sub(self.row) * (self.rows.to_byte - self.rows.from_byte);
        self.share_bytes = bytes.div_ceil(calls.max(1)).next_multiple_of(CACHE_LINE);
    }

    #[inline(always)]
    pub(super) fn fetch_share(&mut self) {
        let mut left = self.share_bytes;
        while left > 0 && self.row < self.end_row {
            let until = self.rows.to_byte.min(self.column + left);
            let row = &self.rows.data[self.row * self.rows.stride_bytes..];
            row[self.column..until].chunks(CACHE_LINE).for_each(fetch);
            left -= until - self.column;
            self.column = until;
            if until == self.rows.to_byte {
                self.column = self.rows.from_byte;
                self.row += 1;
            }
        }
    }

    /// Everything at once.
    #[inline(always)]
    pub(super) fn fetch_all(mut self) {
        self.share_among(1);
        self.fetch_share();
    }
}

#[inline(always)]
fn fetch(line: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    // SAFETY: a hint, which reads and writes nothing; the address is that of a slice.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
