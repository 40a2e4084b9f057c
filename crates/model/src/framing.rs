//! Which part of a picture a model looks at, and how it is cut for the network: a region of interest, a mask of what is
//! ignored, tiles, and the part brought to where the reference has it.
//!
//! [`Framing`] is what `model.json` records. A [`Framer`] goes from a frame to the pixels of each view and from the
//! views' maps back to one map over the picture. Trainer and detector cut with the same one.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, ImageReader};
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::frame::{FrameView, Rect};
use crate::map::AnomalyMap;
use crate::package::Size;
use crate::preprocess::Preprocessor;
use crate::register::{Grey, Pose, Range, Registrar, Registration, grey_of, grey_size};
use crate::tiles::{TileGrid, merge};

/// What stands where the picture is ignored: a grey that no light changes.
pub const IGNORED_GREY: u8 = 127;
/// Ignored pixels may bleed by so many source pixels more than the scaling filter is wide: chroma comes in pairs.
const BLEED_PX: f64 = 2.0;
/// Pixels of the picture, before it is moved, for one of the network: fewer would blur, more would flicker.
const DENSITY: f64 = 1.5;
/// Pictures are no larger.
const MOST_SIDE_PX: u32 = 4096;
/// Longer side at which the ignored part of a map is looked up.
const LOOK_UP_SIDE: u32 = 1024;

/// A file of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageFile {
    /// Its name within the package.
    pub file: String,
    /// SHA-256 of its content.
    pub sha256: String,
}

/// Which part of a picture counts, and how it is cut. Places are in pixels of the training pictures' size; pictures of
/// another size are cut in proportion.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framing {
    /// Nothing outside of this counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roi: Option<Rect>,
    /// A PNG of the training pictures' size, 0 where the picture counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<PackageFile>,
    /// The region is cut into these, each of them scaled to the network's size; the picture's score is the highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<TileGrid>,
    /// Pictures are turned and shifted to the reference before they are cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<Registration>,
}

/// What is ignored: one byte a pixel, 0 where the picture counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreMask {
    /// Width.
    pub width_px: u32,
    /// Height.
    pub height_px: u32,
    /// Row by row.
    pub pixels: Vec<u8>,
}

/// The files that a [`Framing`] names, read.
#[derive(Debug, Clone, Default)]
pub struct FramingFiles {
    /// The PNG of what is ignored.
    pub ignore: Option<Vec<u8>>,
    /// The PNG of the reference.
    pub reference: Option<Vec<u8>>,
}

/// How the part of the frame in hand lies, if anybody looked.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Placement {
    /// The pose, where a model registers its pictures.
    pub pose: Option<Pose>,
}

/// Goes from frames to the network's pixels and back. Keeps its buffers between frames.
#[derive(Debug)]
pub struct Framer {
    trained: Size,
    input: Size,
    views: Vec<View>,
    columns: usize,
    is_whole: bool,
    ignored: Option<Ignored>,
    registrar: Option<Registrar>,
    preprocessor: Preprocessor,
    moved: Option<Moved>,
}

/// One tile.
#[derive(Debug)]
struct View {
    rect: Rect,
    /// Which of the network's pixels are ignored; nothing when none is.
    ignored: Option<Vec<bool>>,
    is_blind: bool,
}

/// Ignored cells of merged maps.
#[derive(Debug)]
struct Ignored {
    look_up: IgnoreMask,
    /// For the map size that was asked last.
    cells: (usize, usize, Vec<bool>),
}

/// The frame in hand at the density at which it is moved, and from where to where.
#[derive(Debug)]
struct Moved {
    pixels: Vec<u8>,
    width: usize,
    height: usize,
    /// From trained pixels to these pixels: `x' = a x + b y + c`, `y' = d x + e y + f`.
    from_trained: [f64; 6],
}

impl Framing {
    /// Whether pictures are looked at whole and as they are.
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// The region that counts.
    pub fn region(&self, trained: Size) -> Rect {
        self.roi.unwrap_or(Rect::of_size(trained.width_px, trained.height_px))
    }

    /// What is wrong with it, in words for who wrote it.
    ///
    /// # Errors
    /// When the region does not lie within the picture, or there are too many or too small tiles.
    pub fn check(&self, trained: Size) -> Result<(), String> {
        let region = self.region(trained);
        if !region.fits(trained.width_px, trained.height_px) {
            let Rect { x, y, width_px, height_px } = region;
            return Err(format!(
                "region `{x},{y},{width_px},{height_px}` does not lie within pictures of {}x{} pixels",
                trained.width_px, trained.height_px
            ));
        }
        let Some(tiles) = &self.tiles else { return Ok(()) };
        tiles.check()?;
        match tiles.tiles(region).first() {
            Some(tile) if tile.width_px < 32 || tile.height_px < 32 => {
                Err(format!("tiles would be {}x{} pixels, the least is 32x32", tile.width_px, tile.height_px))
            }
            _ => Ok(()),
        }
    }
}

impl IgnoreMask {
    /// Reads a PNG: whatever is not black (or, in a grey one, not 0) is ignored. Transparency does not count.
    ///
    /// # Errors
    /// When it is no PNG.
    pub fn from_png(png: &[u8]) -> Result<Self, String> {
        let image = read_png(png)?;
        let (width_px, height_px) = (image.width(), image.height());
        let pixels = match image {
            DynamicImage::ImageLuma8(grey) => grey.into_raw(),
            other => other.into_rgb8().as_raw().as_chunks::<3>().0.iter().map(|p| p[0] | p[1] | p[2]).collect(),
        };
        Ok(Self { width_px, height_px, pixels })
    }

    /// A grey PNG of it.
    ///
    /// # Errors
    /// When the pixels do not fill the size.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        grey_png(self.width_px, self.height_px, &self.pixels)
    }

    fn at(&self, x: u32, y: u32) -> bool {
        self.pixels.get((y * self.width_px + x) as usize).is_some_and(|&pixel| pixel != 0)
    }
}

impl Grey {
    /// Reads a PNG.
    ///
    /// # Errors
    /// When it is none, or its sides are no multiples of 4 from 16 to 128 pixels.
    pub fn from_png(png: &[u8]) -> Result<Self, String> {
        let grey = read_png(png)?.into_luma8();
        let fits = |side: u32| (16..=128).contains(&side) && side.is_multiple_of(4);
        if !fits(grey.width()) || !fits(grey.height()) {
            return Err(format!("{}x{} pixels are no size of a reference", grey.width(), grey.height()));
        }
        Ok(Self { width: grey.width() as usize, height: grey.height() as usize, values: grey.into_raw() })
    }

    /// A PNG of it.
    ///
    /// # Errors
    /// When the values do not fill the size.
    pub fn to_png(&self) -> Result<Vec<u8>, String> {
        grey_png(self.width as u32, self.height as u32, &self.values)
    }
}

/// Decodes a PNG, unless it claims to be larger than pictures are.
fn read_png(png: &[u8]) -> Result<DynamicImage, String> {
    let reader = || ImageReader::with_format(Cursor::new(png), ImageFormat::Png);
    let (width, height) = reader().into_dimensions().map_err(|error| format!("no readable PNG: {error}"))?;
    if width > MOST_SIDE_PX || height > MOST_SIDE_PX {
        return Err(format!("is {width}x{height} pixels, the most allowed is {MOST_SIDE_PX}x{MOST_SIDE_PX}"));
    }
    reader().decode().map_err(|error| format!("no readable PNG: {error}"))
}

fn grey_png(width: u32, height: u32, values: &[u8]) -> Result<Vec<u8>, String> {
    let grey = image::GrayImage::from_raw(width, height, values.to_vec()).ok_or("pixels are missing")?;
    let mut png = Cursor::new(Vec::new());
    grey.write_to(&mut png, ImageFormat::Png).map_err(|error| error.to_string())?;
    Ok(png.into_inner())
}

/// A frame's small grey picture, of which references are made.
///
/// # Errors
/// When the frame cannot be scaled.
pub fn small_grey(frame: &FrameView<'_>) -> Result<Grey, ModelError> {
    let size = grey_size(frame.crop().width_px, frame.crop().height_px);
    grey_of(frame, &mut Preprocessor::new(size.0, size.1), &mut Vec::new(), size)
}

impl Framer {
    /// For pictures of the trained size and a network of this input size.
    ///
    /// # Errors
    /// When the framing is wrong, in words for who wrote it.
    pub fn new(trained: Size, input: Size, framing: &Framing, files: &FramingFiles) -> Result<Self, String> {
        framing.check(trained)?;
        let region = framing.region(trained);
        let (tiles, columns) = match &framing.tiles {
            Some(grid) => (grid.tiles(region), grid.columns as usize),
            None => (vec![region], 1),
        };
        let ignore = match (&framing.ignore, &files.ignore) {
            (Some(named), Some(png)) => Some(read_ignore(&named.file, png, trained)?),
            (Some(named), None) => return Err(format!("`{}` is missing", named.file)),
            (None, _) => None,
        };
        let registrar = match (&framing.registration, &files.reference) {
            (Some(registration), Some(png)) => Some(read_registrar(registration, png)?),
            (Some(registration), None) => return Err(format!("`{}` is missing", registration.reference.file)),
            (None, _) => None,
        };
        let views: Vec<View> = match &ignore {
            Some(mask) => {
                let sums = Area::of(mask);
                tiles.into_iter().map(|rect| View::masked(rect, &sums, input)).collect()
            }
            None => tiles.into_iter().map(|rect| View { rect, ignored: None, is_blind: false }).collect(),
        };
        if views.iter().all(|view| view.is_blind) {
            return Err("everything is ignored: nothing is left to look at".to_owned());
        }
        Ok(Self {
            trained,
            input,
            views,
            columns,
            is_whole: framing.is_whole(),
            ignored: ignore.map(|mask| Ignored { look_up: reduced(&mask), cells: (0, 0, Vec::new()) }),
            registrar,
            preprocessor: Preprocessor::new(input.width_px, input.height_px),
            moved: None,
        })
    }

    /// Number of views that a picture is cut into.
    pub fn views(&self) -> usize {
        self.views.len()
    }

    /// Where a view lies, in pixels of the trained size.
    pub fn rect(&self, view: usize) -> Rect {
        let whole = Rect::of_size(self.trained.width_px, self.trained.height_px);
        self.views.get(view).map_or(whole, |view| view.rect)
    }

    /// Whether everything in a view is ignored: nobody needs to look at it.
    pub fn is_blind(&self, view: usize) -> bool {
        self.views.get(view).is_none_or(|view| view.is_blind)
    }

    /// Which of the network's pixels are ignored in a view, row by row; nothing when none is.
    pub fn ignored(&self, view: usize) -> Option<&[bool]> {
        self.views.get(view)?.ignored.as_deref()
    }

    /// Takes a frame in hand: finds out how its part lies, where the model wants to know. [`Framer::cut`] cuts this
    /// frame, until another is placed.
    ///
    /// # Errors
    /// When the frame cannot be scaled.
    pub fn place(&mut self, frame: &FrameView<'_>) -> Result<Placement, ModelError> {
        let Some(registrar) = &mut self.registrar else { return Ok(Placement::default()) };
        let pose = registrar.pose(frame)?;
        let to_picture = self.to_picture(&pose);
        let region = self.views.iter().map(|view| view.rect);
        let crop = frame.crop();
        let corners = region.flat_map(corners).map(|(x, y)| apply(&to_picture, x, y));
        let needed = bounds(corners, crop);
        // As dense as the densest view wants it, but never denser than the picture.
        let tile = self.views.first().map_or(Rect::of_size(1, 1), |view| view.rect);
        let density = |input: u32, tile: u32, trained: u32, crop: u32| {
            let tile_px = f64::from(tile) * f64::from(crop) / f64::from(trained);
            (DENSITY * f64::from(input) / tile_px).min(1.0)
        };
        let across = density(self.input.width_px, tile.width_px, self.trained.width_px, crop.width_px);
        let down = density(self.input.height_px, tile.height_px, self.trained.height_px, crop.height_px);
        let width = (f64::from(needed.width_px) * across).ceil().max(2.0);
        let height = (f64::from(needed.height_px) * down).ceil().max(2.0);
        let mut pixels = self.moved.take().map(|moved| moved.pixels).unwrap_or_default();
        let absolute = Rect { x: crop.x + needed.x, y: crop.y + needed.y, ..needed };
        Preprocessor::new(width as u32, height as u32).run(&frame.clone().cropped(absolute)?, &mut pixels)?;
        let [a, b, c, d, e, f] = to_picture;
        let (crop_x, crop_y) = (f64::from(crop.width_px), f64::from(crop.height_px));
        let (x_scale, y_scale) = (width / f64::from(needed.width_px), height / f64::from(needed.height_px));
        let (left, top) = (f64::from(needed.x), f64::from(needed.y));
        let from_trained = [
            a * crop_x * x_scale,
            b * crop_x * x_scale,
            (c * crop_x - left) * x_scale,
            d * crop_y * y_scale,
            e * crop_y * y_scale,
            (f * crop_y - top) * y_scale,
        ];
        self.moved = Some(Moved { pixels, width: width as usize, height: height as usize, from_trained });
        Ok(Placement { pose: Some(pose) })
    }

    /// Writes the network's pixels of one view of the frame in hand, RGB888 of the input size.
    ///
    /// # Errors
    /// When the frame cannot be scaled.
    pub fn cut(&mut self, frame: &FrameView<'_>, view: usize, rgb: &mut Vec<u8>) -> Result<(), ModelError> {
        let Some(view) = self.views.get(view) else { return Ok(()) };
        match &self.moved {
            Some(moved) => moved.cut(view.rect, self.input, rgb),
            None => {
                let rect = scaled_rect(view.rect, self.trained, frame.crop());
                self.preprocessor.run(&frame.clone().cropped(rect)?, rgb)?;
            }
        }
        if let Some(ignored) = &view.ignored {
            for (pixel, _) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(ignored).filter(|&(_, &ignored)| ignored) {
                pixel.fill(IGNORED_GREY);
            }
        }
        Ok(())
    }

    /// One map over the picture from those of its views: 0 where the picture does not count.
    pub fn merge(&mut self, mut maps: Vec<Option<AnomalyMap>>, placement: &Placement) -> AnomalyMap {
        if self.is_whole
            && let Some(map) = maps.first_mut().and_then(Option::take)
        {
            return map;
        }
        let tiles: Vec<Rect> = self.views.iter().map(|view| view.rect).collect();
        let trained = (self.trained.width_px, self.trained.height_px);
        let nothing = || AnomalyMap { width: 1, height: 1, values: vec![0.0] };
        let mut map = merge(trained, &tiles, self.columns, &maps).unwrap_or_else(nothing);
        if let Some(ignored) = &mut self.ignored {
            let cells = ignored.cells(map.width, map.height);
            map.values.iter_mut().zip(cells).filter(|&(_, &ignored)| ignored).for_each(|(value, _)| *value = 0.0);
        }
        match &placement.pose {
            Some(pose) if pose.applied => moved_back(&map, &self.to_picture(pose), self.trained),
            _ => map,
        }
    }

    /// Where a point of a view lies in the picture: both as shares of their sides, `None` outside of the picture. For
    /// whoever cuts a label mask as the picture was cut.
    pub fn in_picture(&self, view: usize, placement: &Placement, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        let rect = self.views.get(view)?.rect;
        let x = f64::from(rect.x) + x * f64::from(rect.width_px);
        let y = f64::from(rect.y) + y * f64::from(rect.height_px);
        let unmoved =
            [1.0 / f64::from(self.trained.width_px), 0.0, 0.0, 0.0, 1.0 / f64::from(self.trained.height_px), 0.0];
        let to_picture = placement.pose.map_or(unmoved, |pose| self.to_picture(&pose));
        let (x, y) = apply(&to_picture, x, y);
        ((0.0..1.0).contains(&x) && (0.0..1.0).contains(&y)).then_some((x, y))
    }

    /// Whether a point of a view, as shares of its sides, is ignored.
    pub fn is_ignored(&self, view: usize, (x, y): (f64, f64)) -> bool {
        let Some(ignored) = self.ignored(view) else { return false };
        let (width, height) = (self.input.width_px as usize, self.input.height_px as usize);
        let place = |share: f64, length: usize| ((share * length as f64) as usize).min(length.saturating_sub(1));
        ignored.get(place(y, height) * width + place(x, width)).copied().unwrap_or(false)
    }

    /// From pixels of the trained size, part where the reference has it, to shares of the picture's sides.
    fn to_picture(&self, pose: &Pose) -> [f64; 6] {
        let (width, height) = (f64::from(self.trained.width_px), f64::from(self.trained.height_px));
        let Some((grey_width, grey_height)) = self.registrar.as_ref().map(Registrar::size).filter(|_| pose.applied)
        else {
            return [1.0 / width, 0.0, 0.0, 0.0, 1.0 / height, 0.0];
        };
        // The turn is one of the small picture, whose pixels may be not quite square.
        let (grey_width, grey_height) = (grey_width as f64, grey_height as f64);
        let (to_x, to_y) = (grey_width / width, grey_height / height);
        let (sine, cosine) = pose.angle_deg.to_radians().sin_cos();
        let (half_x, half_y) = (grey_width / 2.0, grey_height / 2.0);
        [
            cosine * to_x / grey_width,
            -sine * to_y / grey_width,
            (half_x - cosine * half_x + sine * half_y) / grey_width + pose.shift_x,
            sine * to_x / grey_height,
            cosine * to_y / grey_height,
            (half_y - sine * half_x - cosine * half_y) / grey_height + pose.shift_y,
        ]
    }
}

fn read_ignore(name: &str, png: &[u8], trained: Size) -> Result<IgnoreMask, String> {
    let mask = IgnoreMask::from_png(png).map_err(|error| format!("cannot read `{name}`: {error}"))?;
    if (mask.width_px, mask.height_px) != (trained.width_px, trained.height_px) {
        return Err(format!(
            "`{name}` is {}x{} pixels, but the pictures are {}x{}",
            mask.width_px, mask.height_px, trained.width_px, trained.height_px
        ));
    }
    Ok(mask)
}

fn read_registrar(registration: &Registration, png: &[u8]) -> Result<Registrar, String> {
    let Registration { reference, most_angle_deg, most_shift, least_confidence } = registration;
    if !(0.0..=45.0).contains(most_angle_deg) || !(0.0..=0.4).contains(most_shift) {
        return Err("a registration may search 0 to 45 degrees and 0 to 0.4 of the sides".to_owned());
    }
    let grey = Grey::from_png(png).map_err(|error| format!("cannot read `{}`: {error}", reference.file))?;
    let range = Range { angle_deg: *most_angle_deg, shift: *most_shift };
    Ok(Registrar::new(&grey, range, *least_confidence))
}

impl View {
    fn masked(rect: Rect, ignored: &Area, input: Size) -> Self {
        // A pixel is ignored when any ignored pixel has a part in it.
        let reach = |start: u32, length: u32, index: u32, count: u32| {
            let scale = f64::from(length) / f64::from(count);
            let centre = f64::from(start) + (f64::from(index) + 0.5) * scale;
            let radius = scale.max(1.0) + BLEED_PX;
            ((centre - radius).floor().max(0.0) as u32, (centre + radius).ceil() as u32)
        };
        let columns: Vec<(u32, u32)> =
            (0..input.width_px).map(|x| reach(rect.x, rect.width_px, x, input.width_px)).collect();
        let rows = (0..input.height_px).map(|y| reach(rect.y, rect.height_px, y, input.height_px));
        let pixels: Vec<bool> =
            rows.flat_map(|rows| columns.iter().map(move |&columns| ignored.count(columns, rows) > 0)).collect();
        let is_blind = pixels.iter().all(|&ignored| ignored);
        let any = pixels.contains(&true);
        Self { rect, ignored: any.then_some(pixels), is_blind }
    }
}

/// How many ignored pixels lie left of and above each place.
struct Area {
    width: usize,
    height: usize,
    sums: Vec<u32>,
}

impl Area {
    fn of(mask: &IgnoreMask) -> Self {
        let (width, height) = (mask.width_px as usize, mask.height_px as usize);
        let mut sums = vec![0; (width + 1) * (height + 1)];
        for y in 0..height {
            let mut row = 0;
            for x in 0..width {
                row += u32::from(mask.pixels[y * width + x] != 0);
                sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
            }
        }
        Self { width, height, sums }
    }

    fn count(&self, columns: (u32, u32), rows: (u32, u32)) -> u32 {
        let at =
            |x: u32, y: u32| self.sums[(y as usize).min(self.height) * (self.width + 1) + (x as usize).min(self.width)];
        at(columns.1, rows.1) + at(columns.0, rows.0) - at(columns.0, rows.1) - at(columns.1, rows.0)
    }
}

/// At most `LOOK_UP_SIDE` long, by the nearest pixel.
fn reduced(mask: &IgnoreMask) -> IgnoreMask {
    let (width_px, height_px) = (mask.width_px.min(LOOK_UP_SIDE), mask.height_px.min(LOOK_UP_SIDE));
    let nearest = |index: u32, to: u32, from: u32| (u64::from(index) * 2 + 1) * u64::from(from) / (u64::from(to) * 2);
    let pixel = |x: u32, y: u32| {
        let (x, y) = (nearest(x, width_px, mask.width_px), nearest(y, height_px, mask.height_px));
        if mask.at(x as u32, y as u32) { 255 } else { 0 }
    };
    let pixels = (0..height_px).flat_map(|y| (0..width_px).map(move |x| (x, y))).map(|(x, y)| pixel(x, y)).collect();
    IgnoreMask { width_px, height_px, pixels }
}

impl Ignored {
    /// Cells of which half or more is ignored.
    fn cells(&mut self, width: usize, height: usize) -> &[bool] {
        if (self.cells.0, self.cells.1) != (width, height) {
            let area = Area::of(&self.look_up);
            let edge =
                |index: usize, cells: usize, length: u32| (index as u64 * u64::from(length) / cells as u64) as u32;
            let cell = |index: usize| {
                let (x, y) = (index % width, index / width);
                let side = |index, cells, length| {
                    let start = edge(index, cells, length);
                    (start, edge(index + 1, cells, length).max(start + 1))
                };
                let (columns, rows) = (side(x, width, self.look_up.width_px), side(y, height, self.look_up.height_px));
                let all = (columns.1 - columns.0) * (rows.1 - rows.0);
                area.count(columns, rows) * 2 >= all
            };
            self.cells = (width, height, (0..width * height).map(cell).collect());
        }
        &self.cells.2
    }
}

impl Moved {
    fn cut(&self, rect: Rect, input: Size, rgb: &mut Vec<u8>) {
        rgb.resize(input.width_px as usize * input.height_px as usize * 3, 0);
        let (step_x, step_y) = (
            f64::from(rect.width_px) / f64::from(input.width_px),
            f64::from(rect.height_px) / f64::from(input.height_px),
        );
        let [a, _, _, d, _, _] = self.from_trained;
        let across = ((a * step_x) as f32, (d * step_x) as f32);
        for (y, row) in rgb.chunks_exact_mut(input.width_px as usize * 3).enumerate() {
            let (left, top) = (f64::from(rect.x) + 0.5 * step_x, f64::from(rect.y) + (y as f64 + 0.5) * step_y);
            let (start_x, start_y) = apply(&self.from_trained, left, top);
            // Pixels are where their middles are.
            let (start_x, start_y) = ((start_x - 0.5) as f32, (start_y - 0.5) as f32);
            for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let x = x as f32;
                *pixel = self.at(start_x + across.0 * x, start_y + across.1 * x);
            }
        }
    }

    /// Bilinear; beyond the edge the picture goes on in the mirror.
    fn at(&self, x: f32, y: f32) -> [u8; 3] {
        let (x, y) = (mirrored(x, self.width), mirrored(y, self.height));
        let (left, top) = ((x as usize).min(self.width - 2), (y as usize).min(self.height - 2));
        let (across, down) = (x - left as f32, y - top as f32);
        let index = (top * self.width + left) * 3;
        let below = index + self.width * 3;
        let (upper, lower) = (&self.pixels[index..index + 6], &self.pixels[below..below + 6]);
        std::array::from_fn(|channel| {
            let value = |byte: u8| f32::from(byte);
            let above = value(upper[channel]) + (value(upper[channel + 3]) - value(upper[channel])) * across;
            let under = value(lower[channel]) + (value(lower[channel + 3]) - value(lower[channel])) * across;
            (above + (under - above) * down + 0.5) as u8
        })
    }
}

fn mirrored(position: f32, length: usize) -> f32 {
    let last = length as f32 - 1.0;
    let turned = if position < 0.0 { -position } else { position };
    let back = if turned > last { 2.0 * last - turned } else { turned };
    back.clamp(0.0, last)
}

/// A map in the reference's place, moved to where the part lies in the picture.
fn moved_back(map: &AnomalyMap, to_picture: &[f64; 6], trained: Size) -> AnomalyMap {
    let [a, b, c, d, e, f] = *to_picture;
    let determinant = a * e - b * d;
    let (width, height) = (map.width as f64, map.height as f64);
    let value = |index: usize| {
        let x = ((index % map.width) as f64 + 0.5) / width - c;
        let y = ((index / map.width) as f64 + 0.5) / height - f;
        let trained_x = (e * x - b * y) / determinant / f64::from(trained.width_px) * width - 0.5;
        let trained_y = (a * y - d * x) / determinant / f64::from(trained.height_px) * height - 0.5;
        let beyond = trained_x < -0.5 || trained_y < -0.5 || trained_x > width - 0.5 || trained_y > height - 0.5;
        if beyond { 0.0 } else { map.between(trained_x as f32, trained_y as f32) }
    };
    AnomalyMap { values: (0..map.values.len()).map(value).collect(), ..*map }
}

/// A place in trained pixels in a picture of another size; never empty.
fn scaled_rect(rect: Rect, trained: Size, crop: Rect) -> Rect {
    let side = |start: u32, length: u32, trained: u32, crop: u32| {
        let place = |at: u32| (u64::from(at) * u64::from(crop) + u64::from(trained) / 2) / u64::from(trained.max(1));
        let start_px = (place(start) as u32).min(crop.saturating_sub(1));
        (start_px, (place(start + length) as u32).clamp(start_px + 1, crop.max(start_px + 1)) - start_px)
    };
    let (x, width_px) = side(rect.x, rect.width_px, trained.width_px, crop.width_px);
    let (y, height_px) = side(rect.y, rect.height_px, trained.height_px, crop.height_px);
    Rect { x: crop.x + x, y: crop.y + y, width_px, height_px }
}

fn apply([a, b, c, d, e, f]: &[f64; 6], x: f64, y: f64) -> (f64, f64) {
    (a * x + b * y + c, d * x + e * y + f)
}

fn corners(rect: Rect) -> [(f64, f64); 4] {
    let (left, top) = (f64::from(rect.x), f64::from(rect.y));
    let (right, bottom) = (left + f64::from(rect.width_px), top + f64::from(rect.height_px));
    [(left, top), (right, top), (left, bottom), (right, bottom)]
}

/// The part of a picture, in its own pixels, that holds all points given as shares of its sides.
fn bounds(points: impl Iterator<Item = (f64, f64)>, picture: Rect) -> Rect {
    let (mut low, mut high) = ((1.0_f64, 1.0_f64), (0.0_f64, 0.0_f64));
    for (x, y) in points {
        low = (low.0.min(x), low.1.min(y));
        high = (high.0.max(x), high.1.max(y));
    }
    let side = |low: f64, high: f64, length: u32| {
        // A pixel more each way, for what lies between pixels.
        let start = ((low * f64::from(length)).floor() - 1.0).clamp(0.0, f64::from(length.saturating_sub(2))) as u32;
        let end = ((high * f64::from(length)).ceil() + 1.0).clamp(f64::from(start) + 1.0, f64::from(length)) as u32;
        (start, end - start)
    };
    let (x, width_px) = side(low.0, high.0, picture.width_px);
    let (y, height_px) = side(low.1, high.1, picture.height_px);
    Rect { x, y, width_px, height_px }
}
