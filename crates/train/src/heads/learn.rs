//! Learning from labelled pictures: features once, every part on every fold, candidates compared, the best fitted to all.

use std::num::NonZeroUsize;
use std::time::Instant;

use linewarden_model::package::Calibration;
use linewarden_model::{AnomalyMap, LabelMask};
use ndarray::Array2;

use super::cells::{CellHead, label_probabilities};
use super::folds::{FOLDS, stratified};
use super::gaussian::Gaussian;
use super::image::{ImageHead, pooled};
use super::mask_head::{self, Shared};
use super::masks::{
    Borders, Drawing, Tried, calibrate as calibrate_masks, is_silent, label_maps, mask, try_borders, without_echoes,
};
use super::patch::{self, Supply, TOP_CELLS, oddness, picture_score};
use super::seen::{Seeing, Seen, see};
use super::stack::{Part, PartScores, Scored, Stack};
use super::taps::Taps;
use crate::backbone::Backbone;
use crate::bank::{BANK_SIZE, Bank, Pool};
use crate::calibration::{FLOOR, calibrate};
use crate::dataset::{Class, LabelColor, Picture, Sample};
use crate::evaluation::{confusion, roc_auc};
use crate::features::{FeatureExtractor, Features, Flip, bank_weights, head_strides};
use crate::parallel::{in_order, in_order_with};
use crate::progress::Progress;
use crate::scoring::{self, smooth};
use crate::trainer::{OneError, TrainError, sort_outcomes};
use crate::views::Views;

/// Pictures that candidates are judged on, at most. Their views' features stay in memory, 1.5 MB each, as long as there are
/// no more of them than this; else these pictures are read again to be judged.
const JUDGED_PICTURES: usize = 400;
/// Label maps that stay in memory, 16 kB each.
const JUDGED_MAPS: usize = 8_000;
/// Masked pictures of many views by which borders are drawn, even if that takes more maps.
const FEWEST_DRAWN: usize = 24;
/// Held-out ROC AUCs this close are equal however many pictures there are, and the separation decides.
const TIE: f64 = 0.002;
/// A candidate that separates the classes by this share of the best one's distance is as good, and taken if it is simpler.
const AS_GOOD: f64 = 0.98;

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
    /// How pictures are cut.
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
    /// Where anomalies are seen, if pictures are looked at whole.
    pub map: Option<AnomalyMap>,
    /// Which labels are seen where, likewise.
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
    pub masks: Option<(CellHead, Borders)>,
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

/// Everything that folds are fitted to.
struct Material<'a> {
    lessons: &'a Lessons<'a>,
    seen: Vec<Seen>,
    is_anomalous: Vec<bool>,
    is_judged: Vec<bool>,
    /// Place of each normal picture in the pool.
    pool: Pool,
    place_in_pool: Vec<Option<usize>>,
    shapes: Vec<(usize, usize)>,
    /// Labels that the patch head learns; none without masks.
    labels: usize,
}

/// Something that is fitted to a fold.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Task {
    Bank,
    Gaussian,
    Patch,
    Masks,
    Image,
}

/// What was fitted.
enum Fitted {
    Bank(Bank),
    Gaussian(Gaussian),
    Patch(CellHead),
    Masks(CellHead),
    Image(ImageHead),
}

/// What parts that were not fitted to it say of a picture.
struct Verdict {
    scored: Scored,
    /// The cells of all its views, of normal pictures.
    bank_map: Vec<f32>,
    /// What the mask head draws in each view, where somebody asks.
    drawn: Vec<Option<Array2<f32>>>,
}

/// Learns from labelled pictures. The same samples and seed give the same result, whatever the number of threads.
///
/// # Errors
/// When pictures cannot be read (all of them are named) or features cannot be computed.
pub fn learn(lessons: &Lessons<'_>, progress: &dyn Progress) -> Result<Learnt, TrainError> {
    let material = look(lessons, progress)?;
    let fold_of = material.folds();
    let folds = fold_of.iter().max().map_or(0, |last| last + 1);
    let tasks = material.tasks();
    let jobs: Vec<(Task, usize)> = tasks.iter().flat_map(|&task| (0..folds).map(move |fold| (task, fold))).collect();
    progress.stage("fitting candidates without the pictures that judge them", jobs.len());
    let fitted = in_order(lessons.threads, jobs.len(), |job| {
        let (task, fold) = jobs[job];
        let start = Instant::now();
        let rest: Vec<usize> = (0..material.seen.len()).filter(|&index| fold_of[index] != fold).collect();
        let fitted = material.fit(task, &rest);
        tracing::debug!(?task, fold, seconds = start.elapsed().as_secs_f64(), "fitted");
        progress.advance(1);
        fitted
    });
    let mut parts: Vec<Vec<Fitted>> = (0..folds).map(|_| Vec::new()).collect();
    jobs.iter().zip(fitted).for_each(|(&(_, fold), fitted)| parts[fold].push(fitted));
    let verdicts = material.judge_all(&fold_of, &parts, progress)?;
    HeldOut::collect(&material, verdicts).conclude(&material, &fold_of, progress)
}

/// Reads every picture and keeps what the parts learn from.
fn look<'a>(lessons: &'a Lessons<'a>, progress: &dyn Progress) -> Result<Material<'a>, TrainError> {
    let samples = &lessons.samples;
    progress.stage("computing features", samples.len());
    let is_anomalous: Vec<bool> = samples.iter().map(|sample| sample.class == Some(Class::Anomaly)).collect();
    let is_masked: Vec<bool> =
        samples.iter().zip(&is_anomalous).map(|(sample, &odd)| odd && sample.mask.is_some()).collect();
    let masked = is_masked.iter().filter(|&&is_one| is_one).count();
    let labels = if masked > 0 { lessons.labels.len() } else { 0 };
    let views = lessons.views.count();
    // The maps of pictures that are looked at whole are all kept, those of others by their own number.
    let is_judged = judged_pictures(&is_anomalous, if views == 1 { labels } else { 0 }, lessons.seed);
    let judged = is_judged.iter().filter(|&&is_one| is_one).count();
    let is_drawn = drawn_pictures(&is_masked, &is_judged, views * (labels + 1), lessons.seed);
    let anomalies = is_anomalous.iter().filter(|&&odd| odd).count();
    let normals = samples.len() - anomalies;
    let supply = Supply::of(2 * samples.len() * views, 2 * masked, labels);
    let shared = Shared { views: 2 * (samples.len() + masked) * views, masked: 4 * masked };
    let outcomes = in_order_with(extractors(lessons)?, samples.len(), |extractor, index| {
        let seeing = Seeing {
            labels: lessons.labels,
            learns_masks: labels > 0,
            supply,
            shared,
            patches: Pool::patches_per_picture(normals),
            pictures: [normals, anomalies],
            keeps_views: is_judged[index] && judged * views <= JUDGED_PICTURES,
            keeps_truth: is_drawn[index],
            seed: lessons.seed.wrapping_add(index as u64),
        };
        let seen = see(samples[index], extractor, &seeing);
        progress.advance(1);
        seen
    });
    let mut seen = sort_outcomes(outcomes)?;
    let mut pool = Pool::new(bank_weights(lessons.backbone));
    let shapes = seen.first().map_or_else(Vec::new, |picture| picture.shapes.clone());
    let mut place_in_pool = vec![None; samples.len()];
    let given =
        seen.iter_mut().zip(&mut place_in_pool).filter_map(|(picture, place)| Some((picture.patches.take()?, place)));
    for (number, (patches, place)) in given.enumerate() {
        pool.push(patches);
        *place = Some(number);
    }
    Ok(Material { lessons, seen, is_anomalous, is_judged, pool, place_in_pool, shapes, labels })
}

/// One for each thread.
fn extractors(lessons: &Lessons<'_>) -> Result<Vec<FeatureExtractor>, TrainError> {
    let strides = head_strides(lessons.backbone);
    let extractor = |_| Ok(FeatureExtractor::with_taps(lessons.backbone, &strides)?.framed(lessons.views.framer()?));
    (0..lessons.threads.get().min(lessons.samples.len())).map(extractor).collect()
}

/// Which masked pictures say how well labels are drawn: all, or of many with many maps each a random sample.
fn drawn_pictures(is_masked: &[bool], is_judged: &[bool], maps: usize, seed: u64) -> Vec<bool> {
    let mut eligible: Vec<usize> = (0..is_masked.len()).filter(|&index| is_masked[index] && is_judged[index]).collect();
    fastrand::Rng::with_seed(seed ^ 0x5eed_d2a3).shuffle(&mut eligible);
    let mut is_drawn = vec![false; is_masked.len()];
    eligible.iter().take((JUDGED_MAPS / maps).max(FEWEST_DRAWN)).for_each(|&index| is_drawn[index] = true);
    is_drawn
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
    /// Stratified by class and label; all views of a picture are in one fold.
    fn folds(&self) -> Vec<usize> {
        let first_label = |index: usize| {
            let mut truths = self.seen[index].truths.iter().flatten().flatten();
            truths.find_map(|truth| truth.labels.iter().copied().find(|&label| label > 0)).unwrap_or(0)
        };
        let kind = |index: usize| {
            // Judged pictures are dealt out apart from the others, so that every fold has as many to judge.
            let is_judged = usize::from(self.is_judged[index]);
            2 * (usize::from(self.is_anomalous[index]) + usize::from(first_label(index))) + is_judged
        };
        let kinds: Vec<usize> = (0..self.seen.len()).map(kind).collect();
        let rarer = self.is_anomalous.iter().filter(|&&odd| odd).count();
        stratified(&kinds, FOLDS.min(rarer).max(2), self.lessons.seed)
    }

    /// What there is to fit, the longest first, so that no thread waits for it in the end.
    fn tasks(&self) -> Vec<Task> {
        let mut tasks = if self.labels > 0 { vec![Task::Masks, Task::Patch] } else { Vec::new() };
        tasks.push(Task::Bank);
        // What is normal at a place differs from tile to tile.
        if self.lessons.views.count() == 1 {
            tasks.push(Task::Gaussian);
        }
        tasks.push(Task::Image);
        tasks
    }

    fn fit(&self, task: Task, pictures: &[usize]) -> Fitted {
        match task {
            Task::Bank => Fitted::Bank(self.bank(pictures)),
            Task::Gaussian => Fitted::Gaussian(self.gaussian(pictures)),
            Task::Patch => Fitted::Patch(self.patch(pictures)),
            Task::Masks => Fitted::Masks(self.masks(pictures)),
            Task::Image => Fitted::Image(self.image(pictures)),
        }
    }

    /// What the judged pictures are found to be, in their order.
    fn judge_all(
        &self,
        fold_of: &[usize],
        parts: &[Vec<Fitted>],
        progress: &dyn Progress,
    ) -> Result<Vec<(usize, Verdict)>, TrainError> {
        let judged: Vec<usize> = (0..self.seen.len()).filter(|&index| self.is_judged[index]).collect();
        progress.stage("comparing candidates on held-out pictures", judged.len());
        let remembers = judged.iter().all(|&index| self.seen[index].views.is_some());
        let readers: Vec<Option<FeatureExtractor>> = if remembers {
            (0..self.lessons.threads.get().min(judged.len())).map(|_| None).collect()
        } else {
            extractors(self.lessons)?.into_iter().map(Some).collect()
        };
        let verdicts = in_order_with(readers, judged.len(), |reader, at| {
            let index = judged[at];
            let verdict = self.judge(index, &parts[fold_of[index]], reader.as_mut());
            progress.advance(1);
            Ok((index, verdict?))
        });
        sort_outcomes(verdicts)
    }

    fn judge(
        &self,
        index: usize,
        parts: &[Fitted],
        reader: Option<&mut FeatureExtractor>,
    ) -> Result<Verdict, OneError> {
        let seen = &self.seen[index];
        let scored = Scored { views: Vec::new(), may_speak: seen.may_speak.clone() };
        let mut verdict = Verdict { scored, bank_map: Vec::new(), drawn: Vec::new() };
        if let Some(views) = &seen.views {
            views.iter().for_each(|(features, taps)| self.judge_view(index, parts, features, taps, &mut verdict));
        } else if let Some(reader) = reader {
            let picture = Picture::read(&self.lessons.samples[index].path).map_err(OneError::Picture)?;
            for view in reader.place(&picture).map_err(OneError::Features)?.1 {
                let (features, taps) = reader.run_view(&picture, view, Flip::default()).map_err(OneError::Features)?;
                self.judge_view(index, parts, &features, &taps, &mut verdict);
            }
        }
        Ok(verdict)
    }

    fn judge_view(&self, index: usize, parts: &[Fitted], features: &Features, taps: &Taps, verdict: &mut Verdict) {
        let mut scores: PartScores = [0.0; Part::ALL.len()];
        for part in parts {
            match part {
                Fitted::Bank(bank) => {
                    let map = smooth(&bank.distances(features));
                    scores[Part::Bank as usize] = logarithm(scoring::picture_score(&map));
                    if !self.is_anomalous[index] {
                        verdict.bank_map.extend(map);
                    }
                }
                Fitted::Gaussian(gaussian) => {
                    let map = smooth(&gaussian.distances(features));
                    scores[Part::Gaussian as usize] = logarithm(scoring::picture_score(&map));
                }
                Fitted::Patch(head) => {
                    scores[Part::Patch as usize] = picture_score(&oddness(&head.values(taps)), TOP_CELLS);
                }
                Fitted::Masks(head) => {
                    let drawn = self.draw(index, verdict.scored.views.len(), head, taps);
                    verdict.drawn.push(drawn);
                }
                Fitted::Image(head) => scores[Part::Image as usize] = head.score(&pooled(taps)),
            }
        }
        verdict.scored.views.push(scores);
    }

    /// What the mask head draws in a view. Where pictures are cut, only pictures with masks are held against them, and
    /// only views in which something is to be seen or drawn.
    fn draw(&self, index: usize, view: usize, head: &CellHead, taps: &Taps) -> Option<Array2<f32>> {
        let is_whole = self.lessons.views.framing().is_whole();
        let truths = self.seen[index].truths.as_ref();
        if !is_whole && truths.is_none() {
            return None;
        }
        let probabilities = label_probabilities(&head.values(taps));
        let shows = truths.is_some_and(|truths| truths.get(view).is_some_and(Option::is_some));
        (is_whole || shows || !is_silent(&probabilities)).then_some(probabilities)
    }

    fn bank(&self, pictures: &[usize]) -> Bank {
        let normals: Vec<usize> = pictures.iter().filter_map(|&index| self.place_in_pool[index]).collect();
        Bank::fit(&self.pool, &normals, BANK_SIZE, self.lessons.seed)
    }

    fn gaussian(&self, pictures: &[usize]) -> Gaussian {
        let normal = |&index: &usize| {
            let (features, _) = self.seen[index].views.as_ref().filter(|_| !self.is_anomalous[index])?.first()?;
            Some(features)
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
        ImageHead::fit(&pictures.iter().flat_map(|&index| &self.seen[index].pooled).collect::<Vec<_>>())
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
    scored: Vec<Scored>,
    bank_maps: Vec<Vec<f32>>,
    masks: Option<HeldOutMasks>,
}

/// What the mask head drew.
struct HeldOutMasks {
    /// In each view of each judged picture.
    drawn: Vec<Vec<Option<Array2<f32>>>>,
    borders: Borders,
    ious: Vec<f64>,
}

impl HeldOut {
    fn collect(material: &Material<'_>, verdicts: Vec<(usize, Verdict)>) -> Self {
        let (mut scored, mut bank_maps, mut drawn) = (Vec::new(), Vec::new(), Vec::new());
        let mut pictures = Vec::with_capacity(verdicts.len());
        for (index, verdict) in verdicts {
            pictures.push(index);
            scored.push(verdict.scored);
            bank_maps.push(verdict.bank_map);
            drawn.push(verdict.drawn);
        }
        let is_anomalous = pictures.iter().map(|&index| material.is_anomalous[index]).collect();
        let mut held_out = Self { pictures, is_anomalous, scored, bank_maps, masks: None };
        if material.labels > 0 {
            held_out.masks = Some(held_out.begin_labels(material, drawn));
        }
        held_out
    }

    /// Where each label begins, so that the masks are as right as can be.
    fn begin_labels(&self, material: &Material<'_>, drawn: Vec<Vec<Option<Array2<f32>>>>) -> HeldOutMasks {
        let judged: Vec<usize> =
            (0..self.pictures.len()).filter(|&at| material.seen[self.pictures[at]].truths.is_some()).collect();
        let tried: Vec<Tried> = in_order(material.lessons.threads, judged.len(), |place| {
            let at = judged[place];
            let truths = material.seen[self.pictures[at]].truths.iter().flatten();
            let views = drawn[at].iter().zip(truths);
            views.filter_map(|(map, truth)| Some(try_borders(map.as_ref()?, truth.as_ref()))).collect()
        });
        let Drawing { borders, ious } = calibrate_masks(&tried, material.labels);
        tracing::debug!(?ious, ?borders, "mask head");
        HeldOutMasks { drawn, borders, ious }
    }

    fn conclude(
        self,
        material: &Material<'_>,
        fold_of: &[usize],
        progress: &dyn Progress,
    ) -> Result<Learnt, TrainError> {
        let recipes: Vec<&Recipe> = RECIPES.iter().filter(|recipe| self.is_possible(recipe, material)).collect();
        let candidates: Vec<Candidate> = recipes.iter().map(|recipe| self.judge(recipe, fold_of)).collect();
        let anomalies = self.is_anomalous.iter().filter(|&&odd| odd).count();
        let rarer = anomalies.min(self.is_anomalous.len() - anomalies);
        let wanted = |recipe: &&&Recipe| material.lessons.wanted == Some(recipe.name);
        let recipe = recipes.iter().find(wanted).unwrap_or(&recipes[best_of(&candidates, rarer)]);
        let scored: Vec<&Scored> = self.scored.iter().collect();
        let stack = Stack::fit(recipe.parts, &scored, &self.is_anomalous).calibrated(&scored, &self.is_anomalous);

        let draws_masks = self.masks.is_some() && (material.lessons.with_masks || stack.has(Part::Patch));
        let needs_bank = stack.has(Part::Bank) || !draws_masks;
        let everything: Vec<usize> = (0..material.seen.len()).collect();
        progress.stage("fitting the best candidate to all pictures", 1);
        let normals = || self.is_anomalous.iter().enumerate().filter(|(_, odd)| !**odd).map(|(at, _)| at);
        let bank_score = |at: usize| {
            let of_views = self.scored[at].views.iter().map(|scores| scores[Part::Bank as usize]);
            f64::from(of_views.fold(f32::NEG_INFINITY, f32::max)).exp()
        };
        let bank_scores: Vec<f64> = normals().map(bank_score).collect();
        let calibration = calibrate(&bank_scores, normals().map(|at| self.bank_maps[at].as_slice()));
        let masks = self.masks.as_ref().filter(|_| draws_masks);
        // What is found in a view that was cut lies there, and the masks that it would be held against lie in the picture.
        let shown = masks.filter(|_| material.lessons.views.framing().is_whole());
        let held_out = (0..self.pictures.len()).map(|at| self.found(at, &stack, shown)).collect();
        let learnt = Learnt {
            algorithm: recipe.name,
            candidates,
            bank: needs_bank.then(|| material.bank(&everything)),
            calibration,
            gaussian: stack.has(Part::Gaussian).then(|| material.gaussian(&everything)),
            patch: stack.has(Part::Patch).then(|| material.patch(&everything)),
            masks: masks.map(|masks| (material.masks(&everything), masks.borders.clone())),
            image: stack.has(Part::Image).then(|| material.image(&everything)),
            label_ious: masks.map_or_else(Vec::new, |masks| masks.ious.clone()),
            stack,
            held_out,
        };
        progress.advance(1);
        Ok(learnt)
    }

    fn is_possible(&self, recipe: &Recipe, material: &Material<'_>) -> bool {
        if recipe.parts.contains(&Part::Gaussian) && !material.tasks().contains(&Task::Gaussian) {
            return false;
        }
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
            let rest_scored: Vec<&Scored> = rest.iter().map(|&at| &self.scored[at]).collect();
            let rest_classes: Vec<bool> = rest.iter().map(|&at| self.is_anomalous[at]).collect();
            let stack = Stack::fit(recipe.parts, &rest_scored, &rest_classes).calibrated(&rest_scored, &rest_classes);
            for at in (0..self.pictures.len()).filter(|at| !is_rest(at)) {
                scores[at] = f64::from(stack.value(&self.scored[at]));
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
        let score = stack.score(&self.scored[at]);
        let maps = masks.and_then(|masks| {
            let mut probabilities = masks.drawn[at].first()?.clone()?;
            without_echoes(&mut probabilities, masks.borders.echo);
            Some(label_maps(&probabilities, &masks.borders.curves))
        });
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
