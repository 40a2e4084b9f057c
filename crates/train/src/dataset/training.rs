//! What training asks of a data set: enough normals, and readable pictures of one allowed size.

use std::collections::BTreeMap;

use super::mask::size_differs;
use super::picture::size_text;
use super::{Class, DatasetError, MAXIMUM_SIDE_PX, MINIMUM_SIDE_PX, Picture, Problem, Sample, picture_size};

/// The fewest normals that training works with.
pub const MINIMUM_NORMALS: usize = 10;

/// Width and height of every labelled picture, if training can use them: at least `minimum_normals` normals, and
/// headers that can be read and say one size from 64 to 4096 pixels; masks are of the same size. Otherwise one error
/// that names every file at fault. Samples without a class are not looked at, since training ignores them.
pub fn check_for_training<'a>(
    samples: impl IntoIterator<Item = &'a Sample>,
    minimum_normals: usize,
) -> Result<(usize, usize), DatasetError> {
    let samples: Vec<&Sample> = samples.into_iter().filter(|sample| sample.class.is_some()).collect();
    let mut problems: Vec<Problem> = too_few_normals(&samples, minimum_normals).into_iter().collect();
    let mut sizes = Vec::new();
    for sample in samples {
        let size = match picture_size(&sample.path) {
            Ok(size) => size,
            Err(error) => {
                problems.push(sample.unreadable(&error));
                continue;
            }
        };
        sizes.push((sample, size));
        let Some(mask) = &sample.mask else { continue };
        match picture_size(&mask.path) {
            Ok(mask_size) if mask_size == size => {}
            Ok(mask_size) => problems.push(sample.unreadable(&size_differs(&mask.path, mask_size, size))),
            Err(error) => problems.push(sample.unreadable(&error)),
        }
    }
    problems.extend(size_problems(&sizes));
    DatasetError::unless_empty(problems)?;
    most_frequent(&sizes).ok_or_else(|| nothing_labelled().into())
}

/// Hands each picture, with its index, to `each`. Pictures that cannot be read are all named together at the end;
/// after the first of them `each` is no longer called, since its work would be lost.
pub fn read_pictures<'a>(
    samples: impl IntoIterator<Item = &'a Sample>,
    mut each: impl FnMut(usize, Picture),
) -> Result<(), DatasetError> {
    let mut problems = Vec::new();
    for (index, sample) in samples.into_iter().enumerate() {
        match Picture::read(&sample.path) {
            Ok(picture) if problems.is_empty() => each(index, picture),
            Ok(_) => {}
            Err(error) => problems.push(sample.unreadable(&error)),
        }
    }
    DatasetError::unless_empty(problems)
}

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
