//! How training cuts its pictures: exactly as a detector will. What the user asks for comes in, a [`Framing`] with its
//! files goes out, and from it a [`Framer`] for each thread.

use std::path::{Path, PathBuf};

use linewarden_model::package::{Package, Size, sha256_hex};
use linewarden_model::{
    Framer, Framing, FramingFiles, Grey, IgnoreMask, ModelError, PackageFile, Placement, Range, Rect, Registration,
    TileGrid, reference_of, small_grey,
};

use crate::dataset::{LabelPicture, Picture, PictureError, Sample};
use crate::features::picture_view;
use crate::progress::Progress;

/// Rotations and shifts that a registration looks for: parts on a belt lie straighter, parts put down by hand do not.
const RANGE: Range = Range { angle_deg: 15.0, shift: 0.15 };
/// Below this correlation a picture shows another part, or none.
const LEAST_CONFIDENCE: f64 = 0.5;
/// Pictures that the reference is made of, at most.
const REFERENCE_PICTURES: usize = 24;
/// Longest side of a label mask that was cut.
const MOST_MASK_SIDE: u32 = 512;

/// How many tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tiling {
    /// One.
    #[default]
    Whole,
    /// So many.
    Grid {
        /// Tiles in a row.
        columns: u32,
        /// Rows of tiles.
        rows: u32,
    },
    /// As many as the region's size asks for, see [`TileGrid::automatic`].
    Auto,
}

/// What the user asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct FramingRequest {
    /// The part of the picture that counts.
    pub roi: Option<Rect>,
    /// A PNG of the pictures' size: what is not black is ignored.
    pub ignore_mask: Option<PathBuf>,
    /// Into how many tiles the region is cut.
    pub tiling: Tiling,
    /// Share of a tile's side that it has in common with its neighbour.
    pub overlap: f64,
    /// Whether pictures are turned and shifted to a reference first.
    pub register: bool,
}

impl Default for FramingRequest {
    fn default() -> Self {
        Self {
            roi: None,
            ignore_mask: None,
            tiling: Tiling::Whole,
            overlap: TileGrid::DEFAULT_OVERLAP,
            register: false,
        }
    }
}

/// Why pictures cannot be cut as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewsError {
    /// The mask cannot be read or does not fit.
    #[error("cannot use the ignore mask `{path}`: {reason}")]
    Mask {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Region or tiles are wrong.
    #[error("cannot cut the pictures: {0}")]
    Framing(String),
    /// A picture of which the reference is made cannot be read.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A picture cannot be scaled.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// How pictures are cut.
#[derive(Debug, Clone)]
pub struct Views {
    size: Size,
    input: Size,
    framing: Framing,
    files: FramingFiles,
}

impl Views {
    /// Pictures as they are.
    pub fn whole(size: Size, input: Size) -> Self {
        Self { size, input, framing: Framing::default(), files: FramingFiles::default() }
    }

    /// As a package's model cuts them.
    pub fn of_package(package: &Package) -> Self {
        let info = package.info();
        let (size, input) = (info.image_size, info.input_size);
        Self { size, input, framing: info.framing.clone(), files: package.framing_files().clone() }
    }

    /// What was asked for, for pictures of this size. A reference is made of the normal pictures.
    ///
    /// # Errors
    /// When the mask cannot be read or has another size, or region or tiles do not fit the pictures.
    pub fn plan(
        request: &FramingRequest,
        size: Size,
        input: Size,
        normals: &[&Sample],
        progress: &dyn Progress,
    ) -> Result<Self, ViewsError> {
        let mut views = Self::whole(size, input);
        views.framing.roi = request.roi.filter(|&roi| roi != Rect::of_size(size.width_px, size.height_px));
        views.framing.check(size).map_err(ViewsError::Framing)?;
        let region = views.framing.region(size);
        let grid = match request.tiling {
            Tiling::Whole => None,
            Tiling::Grid { columns, rows } => Some(TileGrid { columns, rows, overlap: request.overlap }),
            Tiling::Auto => Some(TileGrid::automatic(region.width_px, region.height_px, request.overlap)),
        };
        views.framing.tiles = grid.filter(|grid| grid.count() != 1);
        if let Some(path) = &request.ignore_mask {
            let png = read_mask(path, size).map_err(|reason| ViewsError::Mask { path: path.clone(), reason })?;
            views.framing.ignore = Some(named("ignore.png", &png));
            views.files.ignore = Some(png);
        }
        if request.register {
            let png = reference(normals, progress)?.to_png().map_err(ViewsError::Framing)?;
            views.framing.registration = Some(Registration {
                reference: named("reference.png", &png),
                most_angle_deg: RANGE.angle_deg,
                most_shift: RANGE.shift,
                least_confidence: LEAST_CONFIDENCE,
            });
            views.files.reference = Some(png);
        }
        views.framer()?;
        Ok(views)
    }

    /// What `model.json` says of it.
    pub fn framing(&self) -> &Framing {
        &self.framing
    }

    /// The files that the framing names.
    pub fn files(&self) -> &FramingFiles {
        &self.files
    }

    /// The pictures' size.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Views that a picture is cut into.
    pub fn count(&self) -> usize {
        self.framing.tiles.map_or(1, |tiles| tiles.count())
    }

    /// Which of the network's pixels are ignored, where there is one view: the graph can paint over them by itself.
    ///
    /// # Errors
    /// As [`Views::framer`].
    pub fn ignored(&self) -> Result<Option<Vec<bool>>, ViewsError> {
        let framer = self.framer()?;
        Ok(if framer.views() == 1 { framer.ignored(0).map(<[bool]>::to_vec) } else { None })
    }

    /// What cuts pictures, for one thread.
    ///
    /// # Errors
    /// When region, tiles and files do not fit each other, which [`Views::plan`] has found already.
    pub fn framer(&self) -> Result<Framer, ViewsError> {
        Framer::new(self.size, self.input, &self.framing, &self.files).map_err(ViewsError::Framing)
    }
}

/// The labels of one view: the mask cut as the picture was. What is ignored has no label.
pub fn cut_mask(framer: &Framer, placement: &Placement, view: usize, mask: &LabelPicture) -> LabelPicture {
    let region = framer.rect(view);
    let side = |length: u32| length.clamp(1, MOST_MASK_SIDE) as usize;
    let (width, height) = (side(region.width_px), side(region.height_px));
    let label = |index: usize| {
        let place = (((index % width) as f64 + 0.5) / width as f64, ((index / width) as f64 + 0.5) / height as f64);
        if framer.is_ignored(view, place) {
            return 0;
        }
        let Some((x, y)) = framer.in_picture(view, placement, place) else { return 0 };
        let (column, row) = ((x * mask.width as f64) as usize, (y * mask.height as f64) as usize);
        mask.labels.get(row * mask.width + column).copied().unwrap_or(0)
    };
    LabelPicture { width, height, labels: (0..width * height).map(label).collect() }
}

fn named(file: &str, content: &[u8]) -> PackageFile {
    PackageFile { file: file.to_owned(), sha256: sha256_hex(content) }
}

fn read_mask(path: &Path, size: Size) -> Result<Vec<u8>, String> {
    let png = std::fs::read(path).map_err(|error| format!("cannot read: {error}"))?;
    let mask = IgnoreMask::from_png(&png)?;
    if (mask.width_px, mask.height_px) != (size.width_px, size.height_px) {
        return Err(format!(
            "is {}x{} pixels, but the pictures are {}x{}",
            mask.width_px, mask.height_px, size.width_px, size.height_px
        ));
    }
    mask.to_png()
}

/// Made of pictures from all over the set.
fn reference(normals: &[&Sample], progress: &dyn Progress) -> Result<Grey, ViewsError> {
    let step = normals.len().div_ceil(REFERENCE_PICTURES).max(1);
    let chosen: Vec<&&Sample> = normals.iter().step_by(step).collect();
    progress.stage("making the reference that parts are turned to", chosen.len());
    let mut greys = Vec::with_capacity(chosen.len());
    for sample in chosen {
        greys.push(small_grey(&picture_view(&Picture::read(&sample.path)?)?)?);
        progress.advance(1);
    }
    reference_of(&greys, RANGE, LEAST_CONFIDENCE)
        .ok_or_else(|| ViewsError::Framing("there is no normal picture to make a reference of".to_owned()))
}
