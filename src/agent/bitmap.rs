//! Which bytes make a picture of which size.

/// Sides of a picture that the service takes.
const SIDES_PX: std::ops::RangeInclusive<i32> = 64..=4096;

/// A picture's size, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) width_px: u32,
    pub(super) height_px: u32,
}

impl Shape {
    pub(super) fn new(width: i32, height: i32) -> Result<Self, String> {
        let side = |name: &str, value: i32| match u32::try_from(value) {
            Ok(side) if SIDES_PX.contains(&value) => Ok(side),
            _ => Err(format!("`bitmap.{name}` must be from {} to {}, got {value}", SIDES_PX.start(), SIDES_PX.end())),
        };
        Ok(Self { width_px: side("width", width)?, height_px: side("height", height)? })
    }

    /// Bytes of a picture without padding, three a pixel.
    pub(super) fn packed_bytes(self) -> u64 {
        u64::from(self.width_px) * u64::from(self.height_px) * 3
    }

    /// From row to row in a picture of so many bytes: rows follow each other at once, or each begins at a multiple of 4 as
    /// GStreamer's do.
    pub(super) fn stride_bytes(self, bytes: u64) -> Result<usize, String> {
        let row = self.width_px as usize * 3;
        let padded_row = row.next_multiple_of(4);
        let padded = padded_row as u64 * u64::from(self.height_px);
        match bytes {
            bytes if bytes == self.packed_bytes() => Ok(row),
            bytes if bytes == padded => Ok(padded_row),
            bytes => Err(format!(
                "a bitmap of {}x{} has {} bytes, or {padded} with rows of a multiple of 4 bytes, got {bytes}",
                self.width_px,
                self.height_px,
                self.packed_bytes()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_have_the_limits_of_the_service() {
        for (width, height) in [(64, 64), (4096, 4096), (101, 77)] {
            assert!(Shape::new(width, height).is_ok(), "{width}x{height}");
        }
        for (width, height, named) in [(63, 64, "width"), (64, 4097, "height"), (-64, 64, "width"), (64, 0, "height")] {
            let error = Shape::new(width, height).unwrap_err();
            assert!(error.starts_with(&format!("`bitmap.{named}` must be from 64 to 4096, got")), "{error}");
        }
    }

    #[test]
    fn rows_are_packed_or_padded_to_four_bytes_and_nothing_else() {
        let odd = Shape::new(101, 77).unwrap();
        assert_eq!((odd.stride_bytes(23_331), odd.stride_bytes(23_408)), (Ok(303), Ok(304)));
        for bytes in [0, 23_330, 23_332, 23_407, 23_409, u64::MAX] {
            assert!(odd.stride_bytes(bytes).is_err(), "{bytes}");
        }
        let even = Shape::new(4096, 4096).unwrap();
        assert_eq!(even.stride_bytes(50_331_648), Ok(12_288));
    }
}
