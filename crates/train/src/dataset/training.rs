//! What training asks of a data set: enough normals, and pictures of one allowed size.

use std::collections::BTreeMap;

use super::picture::size_text;
use super::{Class, MAXIMUM_SIDE_PX, MINIMUM_SIDE_PX, Problem, Sample};

/// The fewest normals that training works with.
pub const MINIMUM_NORMALS: usize = 10;

pub(super) fn too_few_normals(labelled: &[&Sample], minimum: usize) -> Option<Problem> {
    let normals = labelled.iter().filter(|sample| sample.class == Some(Class::Normal)).count();
    let message = format!("training needs at least {minimum} normal pictures, the data set has {normals}");
    (normals < minimum).then(|| Problem::new("", message))
}

pub(super) fn nothing_labelled() -> Problem {
    Problem::new("", "the data set has no labelled pictures")
}

/// A sample with the size of its picture.
pub(super) type Sized<'a> = (&'a Sample, (usize, usize));

/// The files outside the allowed sizes, and those that differ from what most have.
pub(super) fn size_problems(sizes: &[Sized<'_>]) -> Vec<Problem> {
    let Some(usual) = most_frequent(sizes) else { return Vec::new() };
    let allowed = MINIMUM_SIDE_PX..=MAXIMUM_SIDE_PX;
    let count = sizes.iter().filter(|(_, other)| *other == usual).count();
    let mut problems = Vec::new();
    for &(sample, size) in sizes {
        let written = size_text(size);
        if !allowed.contains(&size.0) || !allowed.contains(&size.1) {
            let range = format!("{MINIMUM_SIDE_PX} to {MAXIMUM_SIDE_PX}");
            let message = format!("is {written}, allowed are {range} pixels in width and height");
            problems.push(sample.problem(&sample.path, message));
        } else if size != usual {
            let most = format!("{count} of {} pictures are {}", sizes.len(), size_text(usual));
            problems.push(sample.problem(&sample.path, format!("is {written}, but {most}; all must have one size")));
        }
    }
    problems
}

/// The size that most pictures have; of equals, the one that came first.
pub(super) fn most_frequent(sizes: &[Sized<'_>]) -> Option<(usize, usize)> {
    let mut counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for &(_, size) in sizes {
        *counts.entry(size).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    sizes.iter().map(|&(_, size)| size).find(|size| counts.get(size) == Some(&most))
}
