//! What is kept of the labelled pictures. Each is read once, as it is and turned over, view by view.
//!
//! A view of a picture that was cut into several is a picture of its own, with its own part of the mask: only where that
//! shows a defect does it teach one, and elsewhere it teaches what is normal. Without a mask nobody knows which view shows
//! the defect: then one of them does. What is normal alone, the memory bank, learns from pictures that are normal whole.

use super::cells::flipped;
use super::image::{Lesson, pooled};
use super::mask_head::{MaskCells, Shared};
use super::masks::Truth;
use super::patch::{Cells, Supply};
use super::taps::{Grid, Taps};
use crate::dataset::{Class, LabelColor, LabelPicture, Picture, Sample, read_mask};
use crate::features::{FeatureExtractor, Features, Flip};
use crate::trainer::{OneError, drawn_patches};

/// A mask is this many times as fine as the maps.
pub(super) const MASK_SCALE: usize = 4;
/// A view shows its picture's defect if it shows at least this share of what the view shows that shows most of it. What
/// shows less is a sliver, that teaches the image head neither.
const LEAST_OF_MOST: f64 = 0.1;
/// Rows of normal views that all pictures together give the image head, 6 kB each, but one of each picture at least.
const NORMAL_ROWS: usize = 1_500;
/// Rows of views that may show an anomaly.
const CHOICES: usize = 16_000;

/// Other ways round in which pictures teach about cells: normals the first, defects all of them.
const FLIPS: [Flip; 3] =
    [Flip { across: true, down: false }, Flip { across: false, down: true }, Flip { across: true, down: true }];

/// What is kept of one picture.
pub(super) struct Seen {
    /// Of normal pictures, for the memory bank.
    pub(super) patches: Option<Vec<f32>>,
    pub(super) cells: Cells,
    pub(super) mask_cells: MaskCells,
    pub(super) pooled: Vec<Lesson>,
    /// Of each view, while all views of all judged pictures are few; otherwise these pictures are read again.
    pub(super) views: Option<Vec<(Features, Taps)>>,
    /// Which views may speak for the picture.
    pub(super) may_speak: Vec<bool>,
    /// What there is to be drawn in each view, where the picture has a mask and drawing is judged by it.
    pub(super) truths: Option<Vec<Option<Truth>>>,
    /// Channels and cells per side of each of the network's maps.
    pub(super) shapes: Vec<(usize, usize)>,
}

/// How one picture is looked at.
pub(super) struct Seeing<'a> {
    pub(super) labels: &'a [LabelColor],
    pub(super) learns_masks: bool,
    pub(super) supply: Supply,
    pub(super) shared: Shared,
    /// For the memory bank.
    pub(super) patches: usize,
    /// Normal and anomalous pictures there are.
    pub(super) pictures: [usize; 2],
    /// Whether features are kept.
    pub(super) keeps_views: bool,
    /// Whether the mask is kept.
    pub(super) keeps_truth: bool,
    pub(super) seed: u64,
}

pub(super) fn see(sample: &Sample, extractor: &mut FeatureExtractor, seeing: &Seeing<'_>) -> Result<Seen, OneError> {
    let picture = Picture::read(&sample.path).map_err(OneError::Picture)?;
    let mask = match sample.mask {
        Some(_) if seeing.learns_masks => Some(read_mask(sample, seeing.labels).map_err(OneError::Picture)?),
        _ => None,
    };
    let (placement, views) = extractor.place(&picture).map_err(OneError::Features)?;
    let cut = |mask: &LabelPicture| views.iter().map(|&view| extractor.cut_mask(&placement, view, mask)).collect();
    let masks: Option<Vec<LabelPicture>> = mask.as_ref().map(cut);
    let is_normal = sample.class == Some(Class::Normal);
    let shown = masks.as_deref().map(|masks| masks.iter().map(labelled_pixels).collect::<Vec<_>>());
    let showing = shown.as_deref().map_or(0, |shown| shown.iter().filter(|&&pixels| pixels > 0).count());
    let (supply, shared) = (seeing.supply.among(showing), seeing.shared.among(showing));

    let mut random = fastrand::Rng::with_seed(seeing.seed);
    let (mut cells, mut mask_cells) = (Cells::default(), MaskCells::default());
    let (mut features_of_views, mut taps_of_views, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    let mut known_shapes = Vec::new();
    for (place, &view) in views.iter().enumerate() {
        let (features, taps) = extractor.run_view(&picture, view, Flip::default()).map_err(OneError::Features)?;
        known_shapes = shapes(&taps);
        let grid = Grid::new(&known_shapes);
        let mask = masks.as_deref().map(|masks| &masks[place]);
        // An anomaly without a mask says nothing about its cells.
        if seeing.learns_masks && (is_normal || mask.is_some()) {
            let labels = seeing.labels.len();
            let mut teach = |taps: &Taps, flip: Flip| {
                let mask = mask.map(|mask| flipped(mask, flip));
                // The patch head sees pictures mirrored, but not upside down: it tells better what is normal that way.
                if !flip.down {
                    cells.draw(taps, &grid, mask.as_ref(), labels, supply, &mut random);
                }
                mask_cells.draw(taps, &grid, mask.as_ref(), labels, shared, &mut random);
            };
            teach(&taps, Flip::default());
            // Defects are few, and any way round they are what they are.
            let shows_defect = shown.as_deref().is_some_and(|shown| shown[place] > 0);
            let flips = if shows_defect { &FLIPS } else { &FLIPS[..1] };
            for &flip in flips {
                teach(&extractor.run_view(&picture, view, flip).map_err(OneError::Features)?.1, flip);
            }
        }
        rows.push(pooled(&taps));
        if is_normal || seeing.keeps_views {
            features_of_views.push(features);
        }
        if seeing.keeps_views {
            taps_of_views.push(taps);
        }
    }
    let side = known_shapes.first().map_or(0, |&(_, side)| side) * MASK_SCALE;
    let truth = |mask: &LabelPicture| (labelled_pixels(mask) > 0).then(|| Truth::of(mask, side));
    let odd = shown.as_deref().and_then(odd_views);
    Ok(Seen {
        patches: is_normal.then(|| drawn_patches(&features_of_views, seeing.patches, seeing.seed)),
        cells,
        mask_cells,
        pooled: lessons(rows, is_normal, shown.as_deref(), odd.as_deref(), seeing),
        views: seeing.keeps_views.then(|| features_of_views.into_iter().zip(taps_of_views).collect()),
        may_speak: odd.unwrap_or_else(|| vec![true; views.len()]),
        truths: masks.filter(|_| seeing.keeps_truth).map(|masks| masks.iter().map(truth).collect()),
        shapes: known_shapes,
    })
}

/// Channels and cells per side of each map.
fn shapes(taps: &Taps) -> Vec<(usize, usize)> {
    taps.maps.iter().map(|map| (map.channels, map.size)).collect()
}

fn labelled_pixels(mask: &LabelPicture) -> usize {
    mask.labels.iter().filter(|&&label| label > 0).count()
}

/// Which views show their picture's defect, by how many pixels of it they show; nothing if none shows any.
fn odd_views(shown: &[usize]) -> Option<Vec<bool>> {
    let most = shown.iter().copied().max().filter(|&most| most > 0)?;
    Some(shown.iter().map(|&pixels| pixels > 0 && pixels as f64 >= LEAST_OF_MOST * most as f64).collect())
}

/// What a picture's views teach the image head.
fn lessons(
    rows: Vec<Vec<f32>>,
    is_normal: bool,
    shown: Option<&[usize]>,
    odd: Option<&[bool]>,
    seeing: &Seeing<'_>,
) -> Vec<Lesson> {
    let lesson = |choices: Vec<Vec<f32>>, is_anomalous: bool| Lesson { choices, is_anomalous };
    if rows.len() == 1 {
        return vec![lesson(rows, !is_normal)];
    }
    let mut random = fastrand::Rng::with_seed(seeing.seed ^ 0x5eed_0bad);
    let [normals, anomalies] = seeing.pictures;
    let some = |mut rows: Vec<Vec<f32>>, most: usize, random: &mut fastrand::Rng| {
        random.shuffle(&mut rows);
        rows.truncate(most.max(1));
        rows
    };
    let each_normal = NORMAL_ROWS / (normals + anomalies).max(1);
    if is_normal {
        return some(rows, each_normal, &mut random).into_iter().map(|row| lesson(vec![row], false)).collect();
    }
    let (Some(shown), Some(odd)) = (shown, odd) else {
        // The mask shows nothing where the picture counts, or there is none.
        return if shown.is_some() {
            Vec::new()
        } else {
            vec![lesson(some(rows, CHOICES / anomalies.max(1), &mut random), true)]
        };
    };
    let (mut anomalous, mut normal) = (Vec::new(), Vec::new());
    for ((row, &pixels), &is_odd) in rows.into_iter().zip(shown).zip(odd) {
        match (pixels, is_odd) {
            (0, _) => normal.push(row),
            (_, true) => anomalous.push(row),
            (_, false) => {}
        }
    }
    let normal = some(normal, each_normal, &mut random).into_iter().map(|row| lesson(vec![row], false));
    let anomalous =
        some(anomalous, CHOICES / anomalies.max(1), &mut random).into_iter().map(|row| lesson(vec![row], true));
    anomalous.chain(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_odd_where_its_mask_shows_more_than_a_sliver() {
        let table: [(&[usize], Option<&[bool]>); 5] = [
            (&[0, 0, 0], None),
            (&[0, 3, 0], Some(&[false, true, false])),
            (&[100, 9, 10, 0], Some(&[true, false, true, false])),
            (&[1, 2], Some(&[true, true])),
            (&[7], Some(&[true])),
        ];
        for (shown, expected) in table {
            assert_eq!(odd_views(shown).as_deref(), expected, "{shown:?}");
        }
    }

    #[test]
    fn views_teach_the_image_head_what_their_masks_say() {
        let rows = || (0..4).map(|view| vec![view as f32]).collect::<Vec<_>>();
        let seeing = Seeing {
            labels: &[],
            learns_masks: true,
            supply: Supply::of(1, 1, 1),
            shared: Shared { views: 1, masked: 1 },
            patches: 1,
            pictures: [10, 10],
            keeps_views: false,
            keeps_truth: false,
            seed: 1,
        };
        let taught = |is_normal: bool, shown: Option<&[usize]>| {
            let odd = shown.and_then(odd_views);
            let lessons = lessons(rows(), is_normal, shown, odd.as_deref(), &seeing);
            let mut taught: Vec<(Vec<f32>, bool)> = lessons
                .into_iter()
                .map(|lesson| (lesson.choices.concat(), lesson.is_anomalous))
                .map(|(mut row, odd)| {
                    row.sort_by(f32::total_cmp);
                    (row, odd)
                })
                .collect();
            taught.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
            taught
        };
        let normal = |view: f32| (vec![view], false);
        assert_eq!(taught(true, None), [normal(0.0), normal(1.0), normal(2.0), normal(3.0)]);
        // Nobody says which.
        assert_eq!(taught(false, None), [(vec![0.0, 1.0, 2.0, 3.0], true)]);
        // A defect in one view, a sliver of it in another.
        assert_eq!(taught(false, Some(&[0, 200, 3, 0])), [normal(0.0), (vec![1.0], true), normal(3.0)]);
        assert!(taught(false, Some(&[0; 4])).is_empty());
    }
}
