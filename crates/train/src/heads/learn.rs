//! Learning from labelled pictures: features once, every part on every fold, candidates compared, the best fitted to all.

use std::num::NonZeroUsize;
use std::time::Instant;

use linewarden_model::package::Calibration;
use linewarden_model::{AnomalyMap, LabelMask};
use ndarray::Array2;

use super::cells::{CellHead, flipped, label_probabilities};
use super::folds::{FOLDS, stratified};
use super::gaussian::Gaussian;
use super::image::{ImageHead, pooled};
use super::mask_head::{self, MaskCells, Shared};
use super::masks::{LabelCurve, Truth, calibrate as calibrate_masks, label_maps, mask, without_echoes};
use super::patch::{self, Cells, Supply, TOP_CELLS, oddness, picture_score};
use super::stack::{Part, PartScores, Stack};
use super::taps::{Grid, Taps};
use crate::backbone::Backbone;
use crate::bank::{BANK_SIZE, Bank, Pool};
use crate::calibration::{FLOOR, calibrate};
use crate::dataset::{Class, LabelColor, LabelPicture, Picture, Sample, read_mask};
use crate::evaluation::{confusion, roc_auc};
use crate::features::{FeatureExtractor, Features, Flip, bank_weights, head_strides};
use crate::parallel::{in_order, in_order_with};
use crate::progress::Progress;
use crate::scoring::{self, smooth};
use crate::trainer::{OneError, TrainError, sort_outcomes};
use crate::views::Views;

/// Pictures whose features stay in memory, 1.5 MB each: those that candidates are judged on.
const JUDGED_PICTURES: usize = 400;
/// Label maps that stay in memory, 16 kB each.
const JUDGED_MAPS: usize = 8_000;
/// A mask is this many times as fine as the maps.
pub(super) const MASK_SCALE: usize = 4;
/// Held-out ROC AUCs this close are equal however many pictures there are, and the separation decides.
const TIE: f64 = 0.002;
/// A candidate that separates the classes by this share of the best one's distance is as good, and taken if it is simpler.
const AS_GOOD: f64 = 0.98;

/// Other ways round in which pictures teach about cells: normals the first, defects all of them.
const FLIPS: [Flip; 3] =
    [Flip { across: true, down: false }, Flip { across: false, down: true }, Flip { across: true, down: true }];

/// What to learn from.
#[derive(Debug)]
pub struct Lessons<'a> {
    /// Labelled pictures, of both classes.
    pub samples: Vec<&'a Sample>,
    /// The labels that number the masks; none to leave the masks aside.
    pub labels: &'a [LabelColor],
    /// Whether the answer has a mask for each label.
    pub with_masks: bool,
    /// The feature network.
    pub backbone: &'a Backbone,
    /// How pictures are cut: into one view.
    pub views: &'a Views,
    /// Seed of everything random.
    pub seed: u64,
    /// Threads.
    pub threads: NonZeroUsize,
    /// The candidate to take, by name, where it is among those that can be had; else the best.
    pub wanted: Option<&'a str>,
}

/// What was tried, and how good it was on held-out pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its name, as `model.json` has it.
    pub name: &'static str,
    /// ROC AUC on pictures that it was not fitted to.
    pub held_out_roc_auc: f64,
    /// F1 on the same pictures, at thresholds chosen on the others.
    pub held_out_f1: f64,
    /// Distance of the classes' means, in deviations within the classes: it tells candidates apart that make no mistake.
    pub separation: f64,
}

/// What a held-out picture was found to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Index among the samples.
    pub sample: usize,
    /// The calibrated score.
    pub score: f64,
    /// Where anomalies are seen.
    pub map: Option<AnomalyMap>,
    /// Which labels are seen where.
    pub mask: Option<LabelMask>,
}

/// What was learnt, ready to be exported.
#[derive(Debug)]
pub struct Learnt {
    /// Name of the candidate that was taken.
    pub algorithm: &'static str,
    /// All candidates, the one that was taken among them.
    pub candidates: Vec<Candidate>,
    /// How the parts' scores make one.
    pub stack: Stack,
    /// The memory bank and what its distances mean, where it scores pictures or draws the map.
    pub bank: Option<Bank>,
    /// What the bank's distances mean on normal pictures alone.
    pub calibration: Calibration,
    /// The per-position Gaussian, where it scores pictures.
    pub gaussian: Option<Gaussian>,
    /// The patch head, where it scores pictures.
    pub patch: Option<CellHead>,
    /// The mask head, where it draws masks or the map, and where each label begins.
    pub masks: Option<(CellHead, Vec<LabelCurve>)>,
    /// The image head, where it scores pictures.
    pub image: Option<ImageHead>,
    /// Mean IoU of each label on held-out pictures.
    pub label_ious: Vec<f64>,
    /// Every judged picture, scored by parts that were not fitted to it.
    pub held_out: Vec<Found>,
}

/// A set of parts under a name; the simplest first.
struct Recipe {
    name: &'static str,
    parts: &'static [Part],
}

const RECIPES: [Recipe; 6] = [
    Recipe { name: "memory_bank", parts: &[Part::Bank] },
    Recipe { name: "gaussian", parts: &[Part::Gaussian] },
    Recipe { name: "image_head", parts: &[Part::Image] },
    Recipe { name: "patch_head", parts: &[Part::Patch] },
    Recipe { name: "stack", parts: &[Part::Bank, Part::Image] },
    Recipe { name: "stack", parts: &[Part::Bank, Part::Patch, Part::Image] },
];

/// What is kept of one picture.
struct Seen {
    patches: Option<Vec<f32>>,
    cells: Cells,
    mask_cells: MaskCells,
    pooled: Vec<f32>,
    judged: Option<Judged>,
}

/// What a picture needs to be judged.
struct Judged {
    features: Features,
    taps: Taps,
    truth: Option<Truth>,
}

/// Everything that folds are fitted to.
struct Material<'a> {
    lessons: &'a Lessons<'a>,
    seen: Vec<Seen>,
    is_anomalous: Vec<bool>,
    /// Place of each normal picture in the pool.
    pool: Pool,
    place_in_pool: Vec<Option<usize>>,
    shapes: Vec<(usize, usize)>,
    /// Labels that the patch head learns; none without masks.
    labels: usize,
}

/// What one part said of the held-out pictures of one fold.
struct Verdicts {
    scores: Vec<(usize, f32)>,
    maps: Vec<(usize, Vec<f32>)>,
    probabilities: Vec<(usize, Array2<f32>)>,
}

/// Something that is fitted to one fold.
#[derive(Clone, Copy, PartialEq)]
enum Task {
    Bank,
    Gaussian,
    Patch,
    Masks,
    Image,
}

/// Learns from labelled pictures. The same samples and seed give the same result, whatever the number of threads.
///
/// # Errors
/// When pictures cannot be read (all of them are named) or features cannot be computed.
pub fn learn(lessons: &Lessons<'_>, progress: &dyn Progress) -> Result<Learnt, TrainError> {
    let material = look(lessons, progress)?;
    let fold_of = material.folds();
    let folds = fold_of.iter().max().map_or(0, |last| last + 1);
    let mut tasks = vec![Task::Bank, Task::Gaussian, Task::Image];
    if material.labels > 0 {
        // The longest first, so that no thread waits for it in the end.
        tasks.splice(0..0, [Task::Masks, Task::Patch]);
    }
    let jobs: Vec<(Task, usize)> = tasks.iter().flat_map(|&task| (0..folds).map(move |fold| (task, fold))).collect();
    progress.stage("comparing candidates on held-out pictures", jobs.len());
    let verdicts = in_order(lessons.threads, jobs.len(), |job| {
        let (task, fold) = jobs[job];
        let start = Instant::now();
        let verdicts = material.judge_fold(task, &fold_of, fold);
        tracing::debug!(task = ?task_name(task), fold, seconds = start.elapsed().as_secs_f64(), "fold judged");
        progress.advance(1);
        verdicts
    });
    let held_out = HeldOut::collect(&material, &jobs, verdicts);
    held_out.conclude(&material, &fold_of, progress)
}

fn task_name(task: Task) -> &'static str {
    match task {
        Task::Bank => "bank",
        Task::Gaussian => "gaussian",
        Task::Patch => "patch",
        Task::Masks => "masks",
        Task::Image => "image",
    }
}

/// Reads every picture, as it is and turned over, and keeps what the parts learn from.
fn look<'a>(lessons: &'a Lessons<'a>, progress: &dyn Progress) -> Result<Material<'a>, TrainError> {
    let samples = &lessons.samples;
    progress.stage("computing features", samples.len());
    let strides = head_strides(lessons.backbone);
    let is_anomalous: Vec<bool> = samples.iter().map(|sample| sample.class == Some(Class::Anomaly)).collect();
    let masked = samples.iter().filter(|sample| is_masked(sample)).count();
    let labels = if masked > 0 { lessons.labels.len() } else { 0 };
    let judged = judged_pictures(&is_anomalous, labels, lessons.seed);
    let normals = is_anomalous.iter().filter(|&&odd| !odd).count();
    let supply = Supply::of(2 * samples.len(), 2 * masked, labels);
    let shared = Shared { views: 2 * samples.len() + 2 * masked, masked: 4 * masked };
    let extractors = (0..lessons.threads.get().min(samples.len()))
        .map(|_| Ok(FeatureExtractor::with_taps(lessons.backbone, &strides)?.framed(lessons.views.framer()?)))
        .collect::<Result<Vec<_>, TrainError>>()?;
    let outcomes = in_order_with(extractors, samples.len(), |extractor, index| {
        let seen = see(
            samples[index],
            extractor,
            &Seeing {
                labels: lessons.labels,
                learns_masks: labels > 0,
                supply,
                shared,
                patches: Pool::patches_per_picture(normals),
                is_judged: judged[index],
                seed: lessons.seed.wrapping_add(index as u64),
            },
        );
        progress.advance(1);
        seen
    });
    let mut seen = sort_outcomes(outcomes)?;
    let first = seen.iter().find_map(|picture| picture.judged.as_ref());
    let mut pool = Pool::new(bank_weights(lessons.backbone));
    let shapes = first.map_or_else(Vec::new, |judged| shapes(&judged.taps));
    let mut place_in_pool = vec![None; samples.len()];
    let given =
        seen.iter_mut().zip(&mut place_in_pool).filter_map(|(picture, place)| Some((picture.patches.take()?, place)));
    for (number, (patches, place)) in given.enumerate() {
        pool.push(patches);
        *place = Some(number);
    }
    Ok(Material { lessons, seen, is_anomalous, pool, place_in_pool, shapes, labels })
}

fn is_masked(sample: &Sample) -> bool {
    sample.class == Some(Class::Anomaly) && sample.mask.is_some()
}

/// How one picture is looked at.
struct Seeing<'a> {
    labels: &'a [LabelColor],
    learns_masks: bool,
    supply: Supply,
    shared: Shared,
    patches: usize,
    is_judged: bool,
    seed: u64,
}

fn see(sample: &Sample, extractor: &mut FeatureExtractor, seeing: &Seeing<'_>) -> Result<Seen, OneError> {
    let picture = Picture::read(&sample.path).map_err(OneError::Picture)?;
    let mask = match sample.mask {
        Some(_) if seeing.learns_masks => Some(read_mask(sample, seeing.labels).map_err(OneError::Picture)?),
        _ => None,
    };
    let mask = match mask {
        Some(mask) => Some(extractor.cut_mask(&picture, mask).map_err(OneError::Features)?),
        None => None,
    };
    let is_normal = sample.class == Some(Class::Normal);
    let (features, taps) = extractor.run_with_taps(&picture, Flip::default()).map_err(OneError::Features)?;
    let grid = Grid::new(&shapes(&taps));
    let mut taught = Taught::default();
    // An anomaly without a mask says nothing about its cells.
    if seeing.learns_masks && (is_normal || mask.is_some()) {
        let mut random = fastrand::Rng::with_seed(seeing.seed);
        taught.draw(&taps, &grid, mask.as_ref(), Flip::default(), seeing, &mut random);
        // Defects are few, and any way round they are what they are.
        let flips = if is_normal { &FLIPS[..1] } else { &FLIPS };
        for &flip in flips {
            let (_, taps) = extractor.run_with_taps(&picture, flip).map_err(OneError::Features)?;
            let mask = mask.as_ref().map(|mask| flipped(mask, flip));
            taught.draw(&taps, &grid, mask.as_ref(), flip, seeing, &mut random);
        }
    }
    let patches = is_normal.then(|| Pool::draw(&features, seeing.patches, seeing.seed));
    let truth = mask.as_ref().map(|mask: &LabelPicture| Truth::of(mask, grid.side * MASK_SCALE));
    let pooled = pooled(&taps);
    let judged = seeing.is_judged.then_some(Judged { features, taps, truth });
    Ok(Seen { patches, cells: taught.cells, mask_cells: taught.mask_cells, pooled, judged })
}

/// What one picture teaches about cells.
#[derive(Default)]
struct Taught {
    cells: Cells,
    mask_cells: MaskCells,
}

impl Taught {
    /// The patch head sees pictures mirrored, but not upside down: it tells better what is normal that way.
    fn draw(
        &mut self,
        taps: &Taps,
        grid: &Grid,
        mask: Option<&LabelPicture>,
        flip: Flip,
        seeing: &Seeing<'_>,
        random: &mut fastrand::Rng,
    ) {
        let labels = seeing.labels.len();
        if !flip.down {
            self.cells.draw(taps, grid, mask, labels, seeing.supply, random);
        }
        self.mask_cells.draw(taps, grid, mask, labels, seeing.shared, random);
    }
}

/// Channels and cells per side of each map.
fn shapes(taps: &Taps) -> Vec<(usize, usize)> {
    taps.maps.iter().map(|map| (map.channels, map.size)).collect()
}

/// Which pictures candidates are judged on: all, or of many a random sample with as many of both classes as there are.
fn judged_pictures(is_anomalous: &[bool], labels: usize, seed: u64) -> Vec<bool> {
    let most = JUDGED_PICTURES.min(JUDGED_MAPS / (labels + 1));
    let anomalies = is_anomalous.iter().filter(|&&odd| odd).count();
    let normals = is_anomalous.len() - anomalies;
    let of_anomalies = anomalies.min(most.saturating_sub(normals).max(most / 2));
    let mut left = [most - of_anomalies, of_anomalies];
    let mut order: Vec<usize> = (0..is_anomalous.len()).collect();
    fastrand::Rng::with_seed(seed ^ 0x5eed_ca11).shuffle(&mut order);
    let mut judged = vec![false; is_anomalous.len()];
    for index in order {
        let left = &mut left[usize::from(is_anomalous[index])];
        if *left > 0 {
            *left -= 1;
            judged[index] = true;
        }
    }
    judged
}

impl Material<'_> {
    /// Stratified by class and label.
    fn folds(&self) -> Vec<usize> {
        let first_label = |index: usize| {
            let truth = self.seen[index].judged.as_ref().and_then(|judged| judged.truth.as_ref());
            truth.and_then(|truth| truth.labels.iter().copied().find(|&label| label > 0)).unwrap_or(0)
        };
        let kind = |index: usize| {
            // Judged pictures are dealt out apart from the others, so that every fold has as many to judge.
            let is_judged = usize::from(self.seen[index].judged.is_some());
            2 * (usize::from(self.is_anomalous[index]) + usize::from(first_label(index))) + is_judged
        };
        let kinds: Vec<usize> = (0..self.seen.len()).map(kind).collect();
        let rarer = self.is_anomalous.iter().filter(|&&odd| odd).count();
        stratified(&kinds, FOLDS.min(rarer).max(2), self.lessons.seed)
    }

    fn judge_fold(&self, task: Task, fold_of: &[usize], fold: usize) -> Verdicts {
        let rest: Vec<usize> = (0..self.seen.len()).filter(|&index| fold_of[index] != fold).collect();
        let held_out = (0..self.seen.len()).filter(|&index| fold_of[index] == fold);
        let judged: Vec<(usize, &Judged, &Seen)> =
            held_out.filter_map(|index| Some((index, self.seen[index].judged.as_ref()?, &self.seen[index]))).collect();
        let mut verdicts = Verdicts { scores: Vec::new(), maps: Vec::new(), probabilities: Vec::new() };
        match task {
            Task::Bank => {
                let bank = self.bank(&rest);
                for (index, judged, _) in judged {
                    let map = smooth(&bank.distances(&judged.features));
                    verdicts.scores.push((index, logarithm(scoring::picture_score(&map))));
                    verdicts.maps.push((index, map));
                }
            }
            Task::Gaussian => {
                let gaussian = self.gaussian(&rest);
                for (index, judged, _) in judged {
                    let map = smooth(&gaussian.distances(&judged.features));
                    verdicts.scores.push((index, logarithm(scoring::picture_score(&map))));
                }
            }
            Task::Patch => {
                let head = self.patch(&rest);
                for (index, judged, _) in judged {
                    let values = head.values(&judged.taps);
                    verdicts.scores.push((index, picture_score(&oddness(&values), TOP_CELLS)));
                }
            }
            Task::Masks => {
                let head = self.masks(&rest);
                for (index, judged, _) in judged {
                    let mut probabilities = label_probabilities(&head.values(&judged.taps));
                    without_echoes(&mut probabilities);
                    verdicts.probabilities.push((index, probabilities));
                }
            }
            Task::Image => {
                let head = self.image(&rest);
                verdicts.scores.extend(judged.iter().map(|(index, _, seen)| (*index, head.score(&seen.pooled))));
            }
        }
        verdicts
    }

    fn bank(&self, pictures: &[usize]) -> Bank {
        let normals: Vec<usize> = pictures.iter().filter_map(|&index| self.place_in_pool[index]).collect();
        Bank::fit(&self.pool, &normals, BANK_SIZE, self.lessons.seed)
    }

    fn gaussian(&self, pictures: &[usize]) -> Gaussian {
        let normal = |&index: &usize| {
            let judged = self.seen[index].judged.as_ref().filter(|_| !self.is_anomalous[index])?;
            Some(&judged.features)
        };
        Gaussian::fit(&pictures.iter().filter_map(normal).collect::<Vec<_>>(), self.lessons.seed)
    }

    fn patch(&self, pictures: &[usize]) -> CellHead {
        let cells = pictures.iter().map(|&index| &self.seen[index].cells);
        patch::fit(cells, &self.shapes, self.labels, self.lessons.seed)
    }

    fn masks(&self, pictures: &[usize]) -> CellHead {
        let cells = pictures.iter().map(|&index| &self.seen[index].mask_cells);
        mask_head::fit(cells, &self.shapes, self.labels, self.lessons.seed)
    }

    fn image(&self, pictures: &[usize]) -> ImageHead {
        let rows: Vec<&[f32]> = pictures.iter().map(|&index| self.seen[index].pooled.as_slice()).collect();
        let classes: Vec<bool> = pictures.iter().map(|&index| self.is_anomalous[index]).collect();
        ImageHead::fit(&rows, &classes)
    }
}

/// A distance as parts are weighed by.
pub(super) fn logarithm(distance: f32) -> f32 {
    (f64::from(distance) + FLOOR).ln() as f32
}

/// What all parts said of the judged pictures.
struct HeldOut {
    /// The judged pictures.
    pictures: Vec<usize>,
    is_anomalous: Vec<bool>,
    scores: Vec<PartScores>,
    bank_maps: Vec<Vec<f32>>,
    masks: Option<HeldOutMasks>,
}

/// What the mask head drew.
struct HeldOutMasks {
    probabilities: Vec<Array2<f32>>,
    curves: Vec<LabelCurve>,
    ious: Vec<f64>,
}

impl HeldOut {
    fn collect(material: &Material<'_>, jobs: &[(Task, usize)], verdicts: Vec<Verdicts>) -> Self {
        let pictures: Vec<usize> =
            (0..material.seen.len()).filter(|&index| material.seen[index].judged.is_some()).collect();
        let mut place = vec![usize::MAX; material.seen.len()];
        pictures.iter().enumerate().for_each(|(at, &index)| place[index] = at);
        let is_anomalous = pictures.iter().map(|&index| material.is_anomalous[index]).collect();
        let mut held_out = Self {
            scores: vec![[0.0; Part::ALL.len()]; pictures.len()],
            bank_maps: vec![Vec::new(); pictures.len()],
            masks: None,
            is_anomalous,
            pictures,
        };
        let mut probabilities = vec![Array2::default((0, 0)); held_out.pictures.len()];
        for (&(task, _), verdicts) in jobs.iter().zip(verdicts) {
            let part = match task {
                Task::Bank => Part::Bank,
                Task::Gaussian => Part::Gaussian,
                Task::Image => Part::Image,
                Task::Patch | Task::Masks => Part::Patch,
            };
            for (index, score) in verdicts.scores {
                held_out.scores[place[index]][part as usize] = score;
            }
            for (index, map) in verdicts.maps {
                held_out.bank_maps[place[index]] = map;
            }
            for (index, map) in verdicts.probabilities {
                probabilities[place[index]] = map;
            }
        }
        if material.labels > 0 {
            held_out.masks = Some(held_out.begin_labels(material, probabilities));
        }
        held_out
    }

    /// Where each label begins, so that the masks are as right as can be.
    fn begin_labels(&self, material: &Material<'_>, probabilities: Vec<Array2<f32>>) -> HeldOutMasks {
        let truth = |index: usize| material.seen[index].judged.as_ref()?.truth.as_ref();
        let pairs = self.pictures.iter().zip(&probabilities);
        let judged: Vec<(&Array2<f32>, &Truth)> =
            pairs.filter_map(|(&index, map)| Some((map, truth(index)?))).collect();
        let (curves, ious): (Vec<LabelCurve>, Vec<f64>) = calibrate_masks(&judged, material.labels).into_iter().unzip();
        tracing::debug!(?ious, ?curves, "mask head");
        HeldOutMasks { probabilities, curves, ious }
    }

    fn conclude(
        self,
        material: &Material<'_>,
        fold_of: &[usize],
        progress: &dyn Progress,
    ) -> Result<Learnt, TrainError> {
        let recipes: Vec<&Recipe> = RECIPES.iter().filter(|recipe| self.is_possible(recipe)).collect();
        let candidates: Vec<Candidate> = recipes.iter().map(|recipe| self.judge(recipe, fold_of)).collect();
        let anomalies = self.is_anomalous.iter().filter(|&&odd| odd).count();
        let rarer = anomalies.min(self.is_anomalous.len() - anomalies);
        let wanted = |recipe: &&&Recipe| material.lessons.wanted == Some(recipe.name);
        let recipe = recipes.iter().find(wanted).unwrap_or(&recipes[best_of(&candidates, rarer)]);
        let stack =
            Stack::fit(recipe.parts, &self.scores, &self.is_anomalous).calibrated(&self.scores, &self.is_anomalous);

        let draws_masks = self.masks.is_some() && (material.lessons.with_masks || stack.has(Part::Patch));
        let needs_bank = stack.has(Part::Bank) || !draws_masks;
        let everything: Vec<usize> = (0..material.seen.len()).collect();
        progress.stage("fitting the best candidate to all pictures", 1);
        let normals = || self.is_anomalous.iter().enumerate().filter(|(_, odd)| !**odd).map(|(at, _)| at);
        let bank_scores: Vec<f64> = normals().map(|at| f64::from(self.scores[at][Part::Bank as usize]).exp()).collect();
        let calibration = calibrate(&bank_scores, normals().map(|at| self.bank_maps[at].as_slice()));
        let masks = self.masks.as_ref().filter(|_| draws_masks);
        let held_out = (0..self.pictures.len()).map(|at| self.found(at, &stack, masks)).collect();
        let learnt = Learnt {
            algorithm: recipe.name,
            candidates,
            bank: needs_bank.then(|| material.bank(&everything)),
            calibration,
            gaussian: stack.has(Part::Gaussian).then(|| material.gaussian(&everything)),
            patch: stack.has(Part::Patch).then(|| material.patch(&everything)),
            masks: masks.map(|masks| (material.masks(&everything), masks.curves.clone())),
            image: stack.has(Part::Image).then(|| material.image(&everything)),
            label_ious: masks.map_or_else(Vec::new, |masks| masks.ious.clone()),
            stack,
            held_out,
        };
        progress.advance(1);
        Ok(learnt)
    }

    fn is_possible(&self, recipe: &Recipe) -> bool {
        let needs_patch = recipe.parts.contains(&Part::Patch);
        let is_stack = recipe.parts.len() > 1;
        self.masks.is_some() == needs_patch || (!is_stack && !needs_patch)
    }

    /// Every fold is scored by weights that were fitted to the others.
    fn judge(&self, recipe: &Recipe, fold_of: &[usize]) -> Candidate {
        let folds = fold_of.iter().max().map_or(0, |last| last + 1);
        let mut scores = vec![0.0; self.pictures.len()];
        for fold in 0..folds {
            let is_rest = |&at: &usize| fold_of[self.pictures[at]] != fold;
            let rest: Vec<usize> = (0..self.pictures.len()).filter(is_rest).collect();
            let rest_scores: Vec<PartScores> = rest.iter().map(|&at| self.scores[at]).collect();
            let rest_classes: Vec<bool> = rest.iter().map(|&at| self.is_anomalous[at]).collect();
            let stack = Stack::fit(recipe.parts, &rest_scores, &rest_classes).calibrated(&rest_scores, &rest_classes);
            for at in (0..self.pictures.len()).filter(|at| !is_rest(at)) {
                scores[at] = f64::from(stack.value(&self.scores[at]));
            }
        }
        let confusion = confusion(&scores, &self.is_anomalous, 0.0);
        Candidate {
            name: recipe.name,
            held_out_roc_auc: roc_auc(&scores, &self.is_anomalous).unwrap_or(0.5),
            held_out_f1: confusion.f1(),
            separation: separation(&scores, &self.is_anomalous),
        }
    }

    fn found(&self, at: usize, stack: &Stack, masks: Option<&HeldOutMasks>) -> Found {
        let score = stack.score(&self.scores[at]);
        let maps = masks.map(|masks| label_maps(&masks.probabilities[at], &masks.curves));
        Found {
            sample: self.pictures[at],
            score,
            map: maps.as_deref().and_then(highest),
            mask: maps.as_deref().and_then(mask),
        }
    }
}

/// The place of the candidate to take: of those whose ROC AUC is as high as the highest, the first that separates the
/// classes nearly as well as any. `rarer` pictures of the rarer class say how far chance alone moves a ROC AUC.
fn best_of(candidates: &[Candidate], rarer: usize) -> usize {
    let highest = candidates.iter().map(|candidate| candidate.held_out_roc_auc).fold(0.0, f64::max);
    let chance = (highest * (1.0 - highest) / rarer.max(1) as f64).sqrt();
    let is_high = |candidate: &&Candidate| candidate.held_out_roc_auc >= highest - chance.max(TIE);
    let widest = candidates.iter().filter(is_high).map(|candidate| candidate.separation).fold(0.0, f64::max);
    let is_good = |candidate: &Candidate| is_high(&candidate) && candidate.separation >= AS_GOOD * widest;
    candidates.iter().position(is_good).unwrap_or(0)
}

/// Distance of the classes' means over the root of the mean of their variances.
fn separation(scores: &[f64], is_anomalous: &[bool]) -> f64 {
    let moments = |class: bool| {
        let values = || scores.iter().zip(is_anomalous).filter(|(_, odd)| **odd == class).map(|(score, _)| *score);
        let count = values().count().max(1) as f64;
        let mean = values().sum::<f64>() / count;
        (mean, values().map(|value| (value - mean).powi(2)).sum::<f64>() / count)
    };
    let ((normal, normal_variance), (odd, odd_variance)) = (moments(false), moments(true));
    (odd - normal) / f64::midpoint(normal_variance, odd_variance).sqrt().max(f64::MIN_POSITIVE)
}

/// For each cell the highest of the labels' values.
fn highest(maps: &[AnomalyMap]) -> Option<AnomalyMap> {
    let (first, others) = maps.split_first()?;
    let mut highest = first.clone();
    for map in others {
        highest.values.iter_mut().zip(&map.values).for_each(|(most, &value)| *most = most.max(value));
    }
    Some(highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simplest_of_those_that_are_as_good_is_taken() {
        type Row<'a> = (&'a [(f64, f64)], usize, usize);
        let table: [Row<'_>; 5] = [
            (&[(0.90, 3.0), (0.99, 1.0)], 500, 1),
            (&[(1.0, 3.0), (1.0, 3.05)], 20, 0),
            (&[(1.0, 3.0), (0.999, 5.0), (1.0, 5.1)], 20, 1),
            // With so few pictures chance explains the better ROC AUC, but not the better separation.
            (&[(0.91, 1.7), (0.90, 1.8)], 20, 1),
            (&[(0.5, 0.0)], 4, 0),
        ];
        for (measures, rarer, expected) in table {
            let candidate = |&(held_out_roc_auc, separation): &(f64, f64)| Candidate {
                name: "some",
                held_out_roc_auc,
                held_out_f1: 0.5,
                separation,
            };
            assert_eq!(best_of(&measures.iter().map(candidate).collect::<Vec<_>>(), rarer), expected, "{measures:?}");
        }
    }

    #[test]
    fn separation_is_counted_in_deviations() {
        let scores = [-1.0, 1.0, 9.0, 11.0];
        assert!((separation(&scores, &[false, false, true, true]) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn of_many_pictures_both_classes_are_judged() {
        let is_anomalous: Vec<bool> = (0..2000).map(|index| index % 10 == 0).collect();
        let judged = judged_pictures(&is_anomalous, 1, 3);
        let count =
            |class: bool| judged.iter().zip(&is_anomalous).filter(|(kept, odd)| **kept && **odd == class).count();
        assert_eq!((count(false), count(true)), (200, 200));
        assert!(judged_pictures(&is_anomalous[..100], 1, 3).iter().all(|&kept| kept));
    }
}
