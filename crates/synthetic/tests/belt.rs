//! The belt as its users see it: repeatable, honest about its defects, and never the same part twice.

use linewarden_synthetic::{
    BeltSpec, Defect, FIRST_TRAINING_PART, Part, defect_of, normals, render_belt, render_part, render_part_with_defect,
    render_part_without_defect, render_view, view_of_defect,
};

fn spec() -> BeltSpec {
    BeltSpec { seed: 42, defect_rate: 0.3, ..BeltSpec::default() }
}

/// Largest difference of any channel, for every pixel.
fn differences(part: &Part, other: &Part) -> Vec<u8> {
    let pairs = part.rgb.chunks_exact(3).zip(other.rgb.chunks_exact(3));
    pairs.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)).collect()
}

/// Whether any pixel of the mask lies within `reach` pixels of pixel `index`.
fn is_near_mask(part: &Part, index: usize, reach: usize) -> bool {
    let (width, height) = (part.width_px as usize, part.height_px as usize);
    let (x, y) = (index % width, index / width);
    let columns = x.saturating_sub(reach)..(x + reach + 1).min(width);
    (y.saturating_sub(reach)..(y + reach + 1).min(height))
        .any(|row| columns.clone().any(|column| part.mask[row * width + column] > 0))
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for number in [0, 1, 7, u64::MAX] {
        assert_eq!(render_part(&spec(), number), render_part(&spec(), number));
    }
}

/// Scores of the demo and of the benchmarks are compared between versions, so the pictures behind them must stay.
#[test]
fn the_picture_of_a_part_does_not_change_between_versions() {
    let part = render_part_with_defect(&BeltSpec { width_px: 64, height_px: 48, ..spec() }, 3, Defect::Stain);
    let checksum = part
        .rgb
        .iter()
        .chain(&part.mask)
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3));
    assert_eq!(checksum, 0x1D3D_0C44_F68F_E66D);
}

#[test]
fn another_seed_or_number_gives_another_picture() {
    let part = render_part_without_defect(&spec(), 1);
    assert_ne!(part.rgb, render_part_without_defect(&spec(), 2).rgb);
    assert_ne!(part.rgb, render_part_without_defect(&BeltSpec { seed: 43, ..spec() }, 1).rgb);
}

#[test]
fn the_picture_has_the_size_that_was_asked_for() {
    for (width_px, height_px) in [(640, 480), (1280, 720), (333, 101), (1, 1)] {
        let part = render_part(&BeltSpec { width_px, height_px, ..spec() }, 5);
        let pixels = width_px as usize * height_px as usize;
        assert_eq!((part.rgb.len(), part.mask.len()), (pixels * 3, pixels));
    }
}

#[test]
fn as_many_parts_have_defects_as_was_asked_for() {
    let count = |defect_rate| {
        let spec = BeltSpec { defect_rate, ..spec() };
        (0..2000).filter(|number| defect_of(&spec, *number).is_some()).count()
    };
    assert_eq!(count(0.0), 0);
    assert_eq!(count(1.0), 2000);
    assert!((540..=660).contains(&count(0.3)), "{} of 2000 at a rate of 0.3", count(0.3));
}

#[test]
fn every_kind_of_defect_comes_along() {
    for kind in Defect::ALL {
        let seen = (0..200).filter(|number| defect_of(&spec(), *number) == Some(kind)).count();
        assert!(seen >= 5, "{kind}: {seen} of 200 parts");
    }
}

#[test]
fn a_mask_is_there_exactly_when_there_is_a_defect() {
    for number in 0..40 {
        let part = render_part(&spec(), number);
        assert_eq!(part.defect, defect_of(&spec(), number));
        assert_eq!(part.defect.is_some(), part.mask.iter().any(|pixel| *pixel > 0), "part {number}: {:?}", part.defect);
        assert!(part.mask.iter().all(|pixel| matches!(pixel, 0 | 255)));
    }
}

#[test]
fn the_mask_lies_on_what_the_defect_changed() {
    for kind in Defect::ALL {
        for number in 0..10 {
            let part = render_part_with_defect(&spec(), number, kind);
            let differences = differences(&part, &render_part_without_defect(&spec(), number));
            let masked = part.mask.iter().filter(|pixel| **pixel > 0).count();
            let visible = part.mask.iter().zip(&differences).filter(|(mask, by)| **mask > 0 && **by >= 8).count();
            assert!(visible * 10 >= masked * 8, "{kind} on part {number}: {visible} of {masked} masked pixels changed");
            for (index, by) in differences.iter().enumerate().filter(|(_, by)| **by >= 8) {
                assert!(is_near_mask(&part, index, 5), "{kind} on part {number}: pixel {index} changed by {by}");
            }
        }
    }
}

#[test]
fn every_defect_is_large_enough_to_see_and_small_enough_to_be_hard() {
    for kind in Defect::ALL {
        for number in 0..50 {
            let part = render_part_with_defect(&spec(), number, kind);
            let masked = part.mask.iter().filter(|pixel| **pixel > 0).count();
            assert!((100..3000).contains(&masked), "{kind} on part {number}: {masked} pixels");
        }
    }
}

#[test]
fn normals_are_good_parts_that_never_come_along_the_line() {
    let parts: Vec<Part> = normals(&spec(), 5).collect();
    assert_eq!(parts.len(), 5);
    for (index, part) in parts.iter().enumerate() {
        assert_eq!((part.number, part.defect), (FIRST_TRAINING_PART + index as u64, None));
        assert!(part.mask.iter().all(|pixel| *pixel == 0));
    }
    assert_ne!(parts[0].rgb, parts[1].rgb);
}

#[test]
fn two_cameras_see_one_part_and_only_one_of_them_its_defect() {
    let mut seen_by = [0; 2];
    for number in 0..40 {
        let views = [0, 1].map(|view| render_view(&spec(), number, view, 2));
        let defective = views.iter().filter(|part| part.defect.is_some()).count();
        assert_eq!(defective, usize::from(defect_of(&spec(), number).is_some()), "part {number}");
        if let Some(view) = views.iter().position(|part| part.defect.is_some()) {
            assert_eq!(view_of_defect(&spec(), number, 2) as usize, view);
            seen_by[view] += 1;
        }
        assert_ne!(views[0].rgb, views[1].rgb);
    }
    assert!(seen_by.iter().all(|parts| *parts > 0), "{seen_by:?}");
    assert_eq!(render_view(&spec(), 3, 0, 1), render_part(&spec(), 3), "a single camera sees what it always saw");
}

#[test]
fn between_parts_there_is_nothing_but_belt() {
    let spec = BeltSpec { width_px: 320, height_px: 240, ..spec() };
    let belt = render_belt(&spec, 3, 0);
    let brightest = belt.iter().copied().max().unwrap_or(0);
    assert!(brightest < 90, "metal is brighter than any belt: {brightest}");
    assert!(render_part(&spec, 3).rgb.iter().any(|value| *value > 120));
}
