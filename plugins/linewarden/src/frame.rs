//! From a buffer and its caps to the picture that the model sees, or that is drawn on.
//!
//! Buffers are mapped whole and cut into planes here by checked offsets, for reading or for writing; what is cut out is
//! handed to [`FrameView`] or [`Canvas`], which check rows against strides. A frame that lies in several memories is merged
//! by GStreamer's map, at the price of a copy.

use linewarden_model::overlay::{Canvas, CanvasPlane};
use linewarden_model::{FrameError, FrameView, PixelFormat, Plane, Rect, YuvColor, YuvMatrix};

/// The formats that every element here takes, in the order in which they are preferred.
const FORMATS: [gst_video::VideoFormat; 11] = [
    gst_video::VideoFormat::Rgb,
    gst_video::VideoFormat::Bgr,
    gst_video::VideoFormat::Rgbx,
    gst_video::VideoFormat::Bgrx,
    gst_video::VideoFormat::Rgba,
    gst_video::VideoFormat::Bgra,
    gst_video::VideoFormat::Gray8,
    gst_video::VideoFormat::I420,
    gst_video::VideoFormat::Nv12,
    gst_video::VideoFormat::Yuy2,
    gst_video::VideoFormat::Uyvy,
];

/// Why a buffer is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// No element here takes the format.
    #[error("format {0} is not supported")]
    Format(gst_video::VideoFormat),
    /// The memory cannot be read.
    #[error("cannot map the buffer")]
    Map,
    /// A plane does not lie within the memory.
    #[error("plane {plane} starts at byte {offset} of {size} with a stride of {stride}")]
    Layout {
        /// Number of the plane, from 0.
        plane: usize,
        /// Where it starts.
        offset: usize,
        /// Bytes of the buffer.
        size: usize,
        /// Bytes from row to row.
        stride: i32,
    },
    /// A plane is too short for its rows.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Where the planes of one buffer lie.
struct Layout {
    format: PixelFormat,
    width_px: u32,
    height_px: u32,
    color: YuvColor,
    /// Offset and stride of each plane.
    planes: Vec<(usize, i32)>,
}

/// The caps of sink and source pads.
pub(crate) fn caps() -> gst::Caps {
    gst_video::VideoCapsBuilder::new().format_list(FORMATS).build()
}

/// The pad templates of an in-place element on these caps.
pub(crate) fn pad_templates(caps: &gst::Caps) -> Vec<gst::PadTemplate> {
    let template = |name, direction| gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps);
    let both = [template("sink", gst::PadDirection::Sink), template("src", gst::PadDirection::Src)];
    both.into_iter().map(|template| template.expect("name, direction and presence agree")).collect()
}

/// Reads a buffer as a picture of which only the visible part counts, and hands it to `read`.
///
/// # Errors
/// When the buffer is no picture of a known format.
pub fn with_view<T>(
    buffer: &gst::BufferRef,
    info: &gst_video::VideoInfo,
    read: impl FnOnce(FrameView<'_>) -> Result<T, PictureError>,
) -> Result<T, PictureError> {
    let layout = Layout::of(buffer, info)?;
    let map = buffer.map_readable().map_err(|_| PictureError::Map)?;
    let bytes = map.as_slice();
    let planes = layout.planes.iter().enumerate().map(|(plane, &(offset, stride))| {
        let wrong = PictureError::Layout { plane, offset, size: bytes.len(), stride };
        match (bytes.get(offset..), usize::try_from(stride)) {
            (Some(data), Ok(stride_bytes)) => Ok(Plane { data, stride_bytes }),
            _ => Err(wrong),
        }
    });
    let planes = planes.collect::<Result<Vec<_>, _>>()?;
    let view = FrameView::new(layout.format, layout.width_px, layout.height_px, planes, layout.color)?;
    read(view.cropped(visible(buffer, (layout.width_px, layout.height_px)))?)
}

/// The visible part of an RGB buffer: width, height, and its rows, each padded to a multiple of four bytes.
pub(crate) fn padded_rgb(
    buffer: &gst::BufferRef,
    info: &gst_video::VideoInfo,
) -> Result<(u32, u32, Vec<u8>), PictureError> {
    let layout = Layout::of(buffer, info)?;
    if layout.format != PixelFormat::Rgb {
        return Err(PictureError::Format(info.format()));
    }
    let map = buffer.map_readable().map_err(|_| PictureError::Map)?;
    let bytes = map.as_slice();
    let (offset, stride) = layout.planes.first().copied().unwrap_or_default();
    let wrong = || PictureError::Layout { plane: 0, offset, size: bytes.len(), stride };
    let stride_bytes = usize::try_from(stride).map_err(|_| wrong())?;
    let Rect { x, y, width_px, height_px } = visible(buffer, (layout.width_px, layout.height_px));
    let width_bytes = 3 * width_px as usize;
    let padding = vec![0; width_bytes.next_multiple_of(4) - width_bytes];
    let mut rows = Vec::with_capacity((width_bytes + padding.len()) * height_px as usize);
    for row in 0..height_px as usize {
        let start = offset + (y as usize + row) * stride_bytes + 3 * x as usize;
        rows.extend_from_slice(bytes.get(start..start + width_bytes).ok_or_else(wrong)?);
        rows.extend_from_slice(&padding);
    }
    Ok((width_px, height_px, rows))
}

/// Opens a buffer as a canvas, and hands it to `draw`. Memory that others read too is copied first.
pub(crate) fn with_canvas<T>(
    buffer: &mut gst::BufferRef,
    info: &gst_video::VideoInfo,
    draw: impl FnOnce(&mut Canvas<'_>) -> T,
) -> Result<T, PictureError> {
    let layout = Layout::of(buffer, info)?;
    let mut map = buffer.map_writable().map_err(|_| PictureError::Map)?;
    let planes = cut(&layout.planes, map.as_mut_slice())?;
    let mut canvas = Canvas::new(layout.format, layout.width_px, layout.height_px, planes, layout.color)?;
    Ok(draw(&mut canvas))
}

/// The size in pixels of what lies in the buffer, visible or not.
pub(crate) fn size(buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> (u32, u32) {
    let meta = buffer.meta::<gst_video::VideoMeta>();
    meta.map_or((info.width(), info.height()), |meta| (meta.width(), meta.height()))
}

/// Width as it is shown and height: pixels that are not square are as wide as they look.
pub(crate) fn display_size(width_px: u32, height_px: u32, info: &gst_video::VideoInfo) -> (u32, u32) {
    let (numerator, denominator) = (i64::from(info.par().numer()), i64::from(info.par().denom()));
    if numerator <= 0 || denominator <= 0 || numerator == denominator {
        return (width_px, height_px);
    }
    let shown = (i64::from(width_px) * numerator + denominator / 2) / denominator;
    (u32::try_from(shown).unwrap_or(u32::MAX), height_px)
}

/// The part of the buffer that `GstVideoCropMeta` leaves visible.
pub(crate) fn visible(buffer: &gst::BufferRef, (width_px, height_px): (u32, u32)) -> Rect {
    let crop = buffer.meta::<gst_video::VideoCropMeta>();
    crop.map_or(Rect::of_size(width_px, height_px), |crop| {
        let (x, y, width_px, height_px) = crop.rect();
        Rect { x, y, width_px, height_px }
    })
}

impl Layout {
    /// What the buffer says of itself counts more than what its caps say.
    fn of(buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> Result<Self, PictureError> {
        let format = pixel_format(info.format())?;
        let color = yuv_color(&info.colorimetry());
        let (width_px, height_px) = size(buffer, info);
        let join = |offsets: &[usize], strides: &[i32]| offsets.iter().copied().zip(strides.iter().copied()).collect();
        let planes = match buffer.meta::<gst_video::VideoMeta>() {
            Some(meta) => join(meta.offset(), meta.stride()),
            None => join(info.offset(), info.stride()),
        };
        Ok(Self { format, width_px, height_px, color, planes })
    }
}

/// Cuts a buffer's bytes into planes that may be written side by side.
fn cut<'a>(layout: &[(usize, i32)], bytes: &'a mut [u8]) -> Result<Vec<CanvasPlane<'a>>, PictureError> {
    let size = bytes.len();
    let mut numbered: Vec<(usize, (usize, i32))> = layout.iter().copied().enumerate().collect();
    // From the last in memory to the first, each takes what is behind its offset.
    numbered.sort_by_key(|&(_, (offset, _))| std::cmp::Reverse(offset));
    let mut planes = Vec::with_capacity(layout.len());
    let mut before = bytes;
    for (number, (offset, stride)) in numbered {
        let wrong = PictureError::Layout { plane: number, offset, size, stride };
        let (Some((rest, data)), Ok(stride_bytes)) = (before.split_at_mut_checked(offset), usize::try_from(stride))
        else {
            return Err(wrong);
        };
        planes.push((number, CanvasPlane { data, stride_bytes }));
        before = rest;
    }
    planes.sort_by_key(|&(number, _)| number);
    Ok(planes.into_iter().map(|(_, plane)| plane).collect())
}

fn pixel_format(format: gst_video::VideoFormat) -> Result<PixelFormat, PictureError> {
    Ok(match format {
        gst_video::VideoFormat::Rgb => PixelFormat::Rgb,
        gst_video::VideoFormat::Bgr => PixelFormat::Bgr,
        gst_video::VideoFormat::Rgbx | gst_video::VideoFormat::Rgba => PixelFormat::Rgbx,
        gst_video::VideoFormat::Bgrx | gst_video::VideoFormat::Bgra => PixelFormat::Bgrx,
        gst_video::VideoFormat::Gray8 => PixelFormat::Gray8,
        gst_video::VideoFormat::I420 => PixelFormat::I420,
        gst_video::VideoFormat::Nv12 => PixelFormat::Nv12,
        gst_video::VideoFormat::Yuy2 => PixelFormat::Yuy2,
        gst_video::VideoFormat::Uyvy => PixelFormat::Uyvy,
        other => return Err(PictureError::Format(other)),
    })
}

/// Caps without colorimetry have had GStreamer's default for their size filled in.
fn yuv_color(colorimetry: &gst_video::VideoColorimetry) -> YuvColor {
    let matrix = match colorimetry.matrix() {
        gst_video::VideoColorMatrix::Bt709 => YuvMatrix::Bt709,
        gst_video::VideoColorMatrix::Bt2020 => YuvMatrix::Bt2020,
        _ => YuvMatrix::Bt601,
    };
    YuvColor { matrix, full_range: colorimetry.range() == gst_video::VideoColorRange::Range0_255 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_cut_wherever_they_lie() {
        let mut bytes: Vec<u8> = (0..12).collect();
        // V lies before U, as in YV12.
        let planes = cut(&[(0, 4), (10, 2), (8, 2)], &mut bytes).unwrap();
        let firsts: Vec<u8> = planes.iter().map(|plane| plane.data[0]).collect();
        assert_eq!(firsts, [0, 10, 8]);
    }

    #[test]
    fn planes_outside_the_buffer_are_refused() {
        assert!(cut(&[(13, 4)], &mut [0; 12]).is_err());
        assert!(cut(&[(0, -4)], &mut [0; 12]).is_err());
    }

    #[test]
    fn pixels_that_are_not_square_are_as_wide_as_they_look() {
        gst::init().unwrap();
        let info = |numerator, denominator| {
            let builder = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, 720, 576);
            builder.par(gst::Fraction::new(numerator, denominator)).build().unwrap()
        };
        assert_eq!(display_size(720, 576, &info(1, 1)), (720, 576));
        assert_eq!(display_size(720, 576, &info(16, 15)), (768, 576));
    }
}
