//! A borrowed picture as cameras deliver it: planes with padded rows, in any of the supported formats.
//!
//! [`FrameView::new`] checks the planes once; after that no reader can meet a row that is not there.

use serde::{Deserialize, Serialize};

/// How pixels lie in memory. Names and layouts are GStreamer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// 3 bytes: red, green, blue.
    Rgb,
    /// 3 bytes: blue, green, red.
    Bgr,
    /// 4 bytes: red, green, blue, and one that is ignored (`RGBx` and `RGBA`).
    Rgbx,
    /// 4 bytes: blue, green, red, and one that is ignored (`BGRx` and `BGRA`).
    Bgrx,
    /// 1 byte of grey, full range.
    Gray8,
    /// Three planes: Y, and U and V at half width and half height.
    I420,
    /// Two planes: Y, and interleaved U, V at half width and half height.
    Nv12,
    /// One plane, two pixels in 4 bytes: Y0 U Y1 V.
    Yuy2,
    /// One plane, two pixels in 4 bytes: U Y0 V Y1.
    Uyvy,
}

/// Coefficients from YUV to RGB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum YuvMatrix {
    /// ITU-R BT.601, the default for standard definition and for JPEG.
    #[default]
    Bt601,
    /// ITU-R BT.709, the default for high definition.
    Bt709,
    /// ITU-R BT.2020, non-constant luminance.
    Bt2020,
}

/// How YUV values are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct YuvColor {
    /// Coefficients.
    pub matrix: YuvMatrix,
    /// Whether values use 0 to 255 (JPEG) instead of 16 to 235 and 16 to 240.
    pub full_range: bool,
}

/// A rectangle in pixels of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub width_px: u32,
    /// Height.
    pub height_px: u32,
}

impl Rect {
    /// A rectangle from the picture's corner.
    pub const fn of_size(width_px: u32, height_px: u32) -> Self {
        Self { x: 0, y: 0, width_px, height_px }
    }

    /// Whether the rectangle has an area and lies within a picture of this size.
    pub fn fits(&self, width_px: u32, height_px: u32) -> bool {
        let within = |start: u32, length: u32, limit: u32| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= limit)
        };
        within(self.x, self.width_px, width_px) && within(self.y, self.height_px, height_px)
    }
}

/// One plane of a picture.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// Bytes of the plane, starting with its first row.
    pub data: &'a [u8],
    /// Bytes from the start of one row to the start of the next.
    pub stride_bytes: usize,
}

/// Why planes cannot be read as a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A plane is missing or there are too many.
    #[error("{format:?} needs {needed} planes, got {got}")]
    Planes {
        /// The format.
        format: PixelFormat,
        /// How many planes the format has.
        needed: usize,
        /// How many were given.
        got: usize,
    },
    /// A plane ends before its last pixel.
    #[error("plane {plane} has {got} bytes, but {needed} are needed for stride {stride_bytes}")]
    Short {
        /// Number of the plane, from 0.
        plane: usize,
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        got: usize,
        /// Stride given.
        stride_bytes: usize,
    },
    /// The crop lies outside the picture.
    #[error("region {crop:?} does not lie within the picture of {width_px}x{height_px} pixels")]
    Crop {
        /// The region asked for.
        crop: Rect,
        /// Width of the picture.
        width_px: u32,
        /// Height of the picture.
        height_px: u32,
    },
}

/// A checked picture.
#[derive(Debug, Clone)]
pub struct FrameView<'a> {
    format: PixelFormat,
    width_px: u32,
    height_px: u32,
    planes: Vec<Plane<'a>>,
    color: YuvColor,
    crop: Rect,
}

impl PixelFormat {
    /// For each plane: bytes of a row that hold pixels, and number of rows.
    pub fn plane_sizes(self, width_px: u32, height_px: u32) -> Vec<(usize, usize)> {
        let (width, height) = (width_px as usize, height_px as usize);
        let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
        match self {
            Self::Rgb | Self::Bgr => vec![(width * 3, height)],
            Self::Rgbx | Self::Bgrx => vec![(width * 4, height)],
            Self::Gray8 => vec![(width, height)],
            Self::I420 => vec![(width, height), (half_width, half_height), (half_width, half_height)],
            Self::Nv12 => vec![(width, height), (half_width * 2, half_height)],
            Self::Yuy2 | Self::Uyvy => vec![(half_width * 4, height)],
        }
    }
}

impl<'a> FrameView<'a> {
    /// A picture of these planes.
    ///
    /// # Errors
    /// When a plane is missing or too short for its stride.
    pub fn new(
        format: PixelFormat,
        width_px: u32,
        height_px: u32,
        planes: Vec<Plane<'a>>,
        color: YuvColor,
    ) -> Result<Self, FrameError> {
        let sizes = format.plane_sizes(width_px, height_px);
        if planes.len() != sizes.len() {
            return Err(FrameError::Planes { format, needed: sizes.len(), got: planes.len() });
        }
        for (number, (plane, (row_bytes, rows))) in planes.iter().zip(sizes).enumerate() {
            // The last row may legally end before its padding does.
            let needed = plane.stride_bytes * rows.saturating_sub(1) + row_bytes;
            if plane.data.len() < needed || plane.stride_bytes < row_bytes {
                let (got, stride_bytes) = (plane.data.len(), plane.stride_bytes);
                return Err(FrameError::Short { plane: number, needed, got, stride_bytes });
            }
        }
        let crop = Rect::of_size(width_px, height_px);
        Ok(Self { format, width_px, height_px, planes, color, crop })
    }

    /// An RGB picture without padding, such as a decoded file.
    ///
    /// # Errors
    /// When `data` is shorter than `width_px * height_px * 3`.
    pub fn rgb(width_px: u32, height_px: u32, data: &'a [u8]) -> Result<Self, FrameError> {
        let plane = Plane { data, stride_bytes: width_px as usize * 3 };
        Self::new(PixelFormat::Rgb, width_px, height_px, vec![plane], YuvColor::default())
    }

    /// The same picture, of which only a region counts.
    ///
    /// # Errors
    /// When the region is empty or does not lie within the picture.
    pub fn cropped(mut self, crop: Rect) -> Result<Self, FrameError> {
        let (width_px, height_px) = (self.width_px, self.height_px);
        if !crop.fits(width_px, height_px) {
            return Err(FrameError::Crop { crop, width_px, height_px });
        }
        self.crop = crop;
        Ok(self)
    }

    /// Layout of the pixels.
    pub fn format(&self) -> PixelFormat {
        self.format
    }

    /// Width of the whole picture.
    pub fn width_px(&self) -> u32 {
        self.width_px
    }

    /// Height of the whole picture.
    pub fn height_px(&self) -> u32 {
        self.height_px
    }

    /// The region that counts: the whole picture unless cropped.
    pub fn crop(&self) -> Rect {
        self.crop
    }

    /// The planes, in the format's order.
    pub fn planes(&self) -> &[Plane<'a>] {
        &self.planes
    }

    /// How YUV values are to be read.
    pub fn color(&self) -> YuvColor {
        self.color
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_row_may_end_before_its_padding() {
        // 101 pixels of RGB take 303 bytes, rows are padded to 304: a 101x77 frame may have 304 * 76 + 303 bytes.
        let data = vec![0; 304 * 76 + 303];
        let view = |data: &[u8]| {
            FrameView::new(PixelFormat::Rgb, 101, 77, vec![Plane { data, stride_bytes: 304 }], YuvColor::default())
                .map(|view| view.crop())
        };
        assert_eq!(view(&data), Ok(Rect::of_size(101, 77)));
        assert_eq!(
            view(&data[1..]),
            Err(FrameError::Short { plane: 0, needed: data.len(), got: data.len() - 1, stride_bytes: 304 })
        );
    }

    #[test]
    fn a_crop_outside_the_picture_is_refused() {
        let data = [0; 27];
        let picture = || FrameView::rgb(3, 3, &data).unwrap();
        assert!(picture().cropped(Rect { x: 1, y: 1, width_px: 2, height_px: 2 }).is_ok());
        assert!(picture().cropped(Rect { x: 2, y: 1, width_px: 2, height_px: 2 }).is_err());
        assert!(picture().cropped(Rect { x: 0, y: 0, width_px: 0, height_px: 2 }).is_err());
        assert!(picture().cropped(Rect { x: u32::MAX, y: 0, width_px: 2, height_px: 2 }).is_err());
    }
}
