//! The exported graph computes what these parts do, so that what was judged while it was held out is what runs.

use linewarden_model::package::{Calibration, INPUT, LABELS_OUTPUT, MAP_OUTPUT, SCORE_OUTPUT};
use linewarden_model::runtime;
use ndarray::Array2;
use ort::value::TensorRef;

use super::cells::label_probabilities;
use super::image::{ImageHead, pooled};
use super::learn::logarithm;
use super::masks::{label_maps, without_echoes};
use super::patch::{TOP_CELLS, oddness, picture_score};
use super::stack::{Part, PartScores, Stack};
use super::taps::Taps;
use super::{Borders, CellHead, Gaussian, LabelCurve, Learnt};
use crate::backbone::{Backbone, BackboneSource};
use crate::bank::{Bank, Pool};
use crate::calibration::Curve;
use crate::dataset::Picture;
use crate::export::learnt_model;
use crate::features::{FeatureExtractor, Features, INPUT_SIZE_PX, bank_weights, head_strides};
use crate::scoring::{self, smooth};

const SIDE: usize = INPUT_SIZE_PX as usize;

fn picture(seed: u64) -> Picture {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut rgb: Vec<u8> = (0..SIDE * SIDE).flat_map(|pixel| [(pixel % 251) as u8, (pixel / SIDE) as u8, 90]).collect();
    for _ in 0..40 {
        let (left, top, level) = (random.usize(..SIDE - 20), random.usize(..SIDE - 20), random.u8(..));
        for row in top..top + random.usize(4..20) {
            rgb[(row * SIDE + left) * 3..][..45].fill(level);
        }
    }
    Picture { width_px: SIDE, height_px: SIDE, rgb }
}

/// Weights that keep values of the size of the features' small.
fn cell_head(taps: &Taps, labels: usize, units: Option<usize>, random: &mut fastrand::Rng) -> CellHead {
    let mut matrix = |rows: usize, columns: usize, gain: f32| {
        let spread = gain / (columns as f32).sqrt();
        Array2::from_shape_simple_fn((rows, columns), || (random.f32() - 0.5) * spread)
    };
    let outputs = units.unwrap_or(labels + 1);
    let inner = taps.maps.iter().map(|map| matrix(outputs, map.channels, 0.5)).collect();
    let outer = units
        .map(|units| (matrix(labels + 1, units, 2.0), (0..=labels).map(|class| 0.6 - 0.6 * class as f32).collect()));
    CellHead { inner, inner_bias: (0..outputs).map(|unit| 0.05 * unit as f32).collect(), outer }
}

/// All parts at once, fitted to two pictures or drawn at random.
fn everything(backbone: &Backbone, seen: &[(Features, Taps)], labels: usize) -> Learnt {
    let mut random = fastrand::Rng::with_seed(7);
    let mut pool = Pool::new(bank_weights(backbone));
    seen.iter().zip(0..).for_each(|((features, _), seed)| pool.push(Pool::draw(features, 400, seed)));
    let taps = &seen[0].1;
    let inputs = pooled(taps).len();
    let weights = (0..inputs).map(|_| (random.f32() - 0.5) / inputs as f32).collect();
    let curves = (0..labels).map(|label| LabelCurve { odds: 0.5 + label as f32 }).collect();
    Learnt {
        algorithm: "stack",
        candidates: Vec::new(),
        stack: Stack { weights: Part::ALL.into_iter().zip([0.4, -0.3, 0.2, 0.5]).collect(), bias: 0.3 },
        bank: Some(Bank::fit(&pool, &[0, 1], 50, 1)),
        calibration: Calibration { tau: 9.0, median_ln: 1.5, pixel_tau: 8.0, pixel_median_ln: 1.2, held_out: 2 },
        gaussian: Some(Gaussian::fit(&seen.iter().map(|(features, _)| features).collect::<Vec<_>>(), 1)),
        patch: Some(cell_head(taps, labels, None, &mut random)),
        masks: Some((cell_head(taps, labels, Some(16), &mut random), Borders { curves, echo: 0.8 })),
        image: Some(ImageHead { weights, bias: 0.2 }),
        label_ious: Vec::new(),
        held_out: Vec::new(),
    }
}

/// What the graph makes of a picture: the score, the map and the labels' maps.
fn run(onnx: &[u8], picture: &Picture, with_labels: bool) -> (f64, Vec<f32>, Vec<f32>) {
    let mut session = runtime::session_builder(1).unwrap().commit_from_memory(onnx).unwrap();
    let input = TensorRef::from_array_view(([1, SIDE, SIDE, 3], picture.rgb.as_slice())).unwrap();
    let outputs = session.run(ort::inputs![INPUT => input]).unwrap();
    let values = |name: &str| outputs[name].try_extract_tensor::<f32>().unwrap().1.to_vec();
    let labels = if with_labels { values(LABELS_OUTPUT) } else { Vec::new() };
    (f64::from(values(SCORE_OUTPUT)[0]), values(MAP_OUTPUT), labels)
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3, "{worst}");
    let spread = expected.iter().fold(f32::NEG_INFINITY, |most, &value| most.max(value))
        - expected.iter().fold(f32::INFINITY, |least, &value| least.min(value));
    assert!(spread > 0.01, "everything is the same: {spread}");
}

#[test]
fn the_graph_of_all_parts_computes_what_the_parts_do_for_one_label_and_for_several() {
    let backbone = Backbone::load(&BackboneSource::Bundled).expect("the bundled weights: run `make setup`");
    let mut extractor = FeatureExtractor::with_taps(&backbone, &head_strides(&backbone)).unwrap();
    let mut look = |seed| extractor.run_with_taps(&picture(seed)).unwrap();
    let seen = [look(1), look(2)];
    let (features, taps) = look(3);
    for labels in [1, 3] {
        let mut learnt = everything(&backbone, &seen, labels);
        let bank_map = smooth(&learnt.bank.as_ref().unwrap().distances(&features));
        let gaussian_map = smooth(&learnt.gaussian.as_ref().unwrap().distances(&features));
        let cells = learnt.patch.as_ref().unwrap().values(&taps);
        let scores: PartScores = [
            logarithm(scoring::picture_score(&bank_map)),
            logarithm(scoring::picture_score(&gaussian_map)),
            picture_score(&oddness(&cells), TOP_CELLS),
            learnt.image.as_ref().unwrap().score(&pooled(&taps)),
        ];
        let (head, borders) = learnt.masks.as_ref().unwrap();
        let mut probabilities = label_probabilities(&head.values(&taps));
        without_echoes(&mut probabilities, borders.echo);
        let silent = probabilities.outer_iter().filter(|row| row.iter().all(|&value| value == 0.0)).count();
        assert_eq!(silent > 0, labels > 1, "some label of several is an echo");
        let maps = label_maps(&probabilities, &borders.curves);
        let highest = |cell: usize| maps.iter().map(|map| map.values[cell]).fold(0.0, f32::max);

        let onnx = learnt_model(&backbone, &learnt, true, None).unwrap();
        let (score, map, label_values) = run(&onnx, &picture(3), true);
        assert!(
            (score - learnt.stack.score_of_view(&scores)).abs() < 1e-3,
            "{score}, not {}",
            learnt.stack.score_of_view(&scores)
        );
        assert_close(&label_values, &maps.iter().flat_map(|map| map.values.clone()).collect::<Vec<_>>());
        assert_close(&map, &(0..maps[0].values.len()).map(highest).collect::<Vec<_>>());

        // Each part alone: nothing hides behind the others.
        for part in Part::ALL {
            learnt.stack = Stack { weights: vec![(part, 0.3)], bias: -0.1 };
            let onnx = learnt_model(&backbone, &learnt, false, None).unwrap();
            let expected = learnt.stack.score_of_view(&scores);
            let score = run(&onnx, &picture(3), false).0;
            assert!((score - expected).abs() < 1e-3, "{part:?}: {score}, not {expected}");
        }

        // Without masks the map is the bank's.
        learnt.masks = None;
        let curve = Curve::through(learnt.calibration.pixel_tau, learnt.calibration.pixel_median_ln);
        let expected: Vec<f32> = bank_map.iter().map(|&value| curve.apply(f64::from(value)) as f32).collect();
        assert_close(&run(&learnt_model(&backbone, &learnt, false, None).unwrap(), &picture(3), false).1, &expected);
    }
}
