//! Dividing one data set into one for training and one for the test.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::duplicates::{ALIKE_SHARE, Alike, duplicates};
use super::look::{Seen, look_at};
use super::{Class, Dataset, DatasetError};
use crate::progress::Progress;

/// The share of the pictures that a single data set gives to the test, unless another is asked for. The guide says only
/// that the service divides such a data set itself; its minimum counts (20 normals alone, 10 in each of two) need a test
/// of at most half.
pub const TEST_SHARE: f64 = 0.2;

/// Pictures that show the same kind of thing.
type Kind = (Class, Vec<u8>);

impl Dataset {
    /// Divides the data set into training and test. Normals, and anomalies by the labels that their masks show, are
    /// shuffled and divided apart, so that both parts have `share` of each kind. Pictures that are alike stay together,
    /// since a test on what was learnt says more than is true; where all stand so still that looks tell nothing, only
    /// those that are the same in every pixel. A kind of a single picture stays in training, and so do pictures without
    /// a class. The same seed divides the same data set alike, whatever its pictures are called.
    ///
    /// # Errors
    /// When a picture or a mask cannot be read; all of them are named.
    pub fn split(&self, seed: u64, share: f64, progress: &dyn Progress) -> Result<(Self, Self), DatasetError> {
        progress.stage("dividing pictures", self.samples.len());
        let seen = look_at(self, progress);
        let labelled = || self.samples.iter().zip(&seen).filter(|(sample, _)| sample.class.is_some());
        let problems = labelled().filter_map(|(sample, seen)| Some(sample.unreadable(seen.error.as_ref()?))).collect();
        DatasetError::unless_empty(problems)?;
        let mut kinds = self.kinds(&seen);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut in_test = vec![false; self.samples.len()];
        for class in [Class::Normal, Class::Anomaly] {
            // One kind after the other, so that what rounding takes from one it gives to the next.
            let mut owed = 0.5;
            for groups in kinds.iter_mut().filter(|((of, _), _)| *of == class).map(|(_, groups)| groups) {
                random.shuffle(groups);
                owed += groups.iter().map(Vec::len).sum::<usize>() as f64 * share;
                // The last group is for training, however large the share.
                for group in &groups[..groups.len() - 1] {
                    if group.len() as f64 <= owed {
                        owed -= group.len() as f64;
                        group.iter().for_each(|&index| in_test[index] = true);
                    }
                }
                owed = owed.min(1.0);
            }
        }
        Ok((self.subset(|index, _| !in_test[index]), self.subset(|index, _| in_test[index])))
    }

    /// The samples of each kind, in groups that are alike.
    fn kinds(&self, seen: &[Seen]) -> BTreeMap<Kind, Vec<Vec<usize>>> {
        let printed: Vec<_> = self
            .samples
            .iter()
            .zip(seen)
            .filter_map(|(sample, seen)| Some((sample, seen.fingerprint.as_ref()?)))
            .collect();
        let pairs = duplicates(&printed, &[]);
        let near = pairs.iter().filter(|pair| pair.alike == Alike::Near).count();
        let near_counts = near as f64 <= self.samples.len() as f64 * ALIKE_SHARE;
        // Each picture's pair names an earlier one, whose group is known by then.
        let earlier: HashMap<&Path, &Path> = pairs
            .iter()
            .filter(|pair| pair.alike == Alike::Exact || near_counts)
            .map(|pair| (pair.second.as_path(), pair.first.as_path()))
            .collect();
        let mut group_of: HashMap<&Path, (Kind, usize)> = HashMap::new();
        let mut kinds: BTreeMap<Kind, Vec<Vec<usize>>> = BTreeMap::new();
        for (index, (sample, seen)) in self.samples.iter().zip(seen).enumerate() {
            let Some(class) = sample.class else { continue };
            let path = sample.path.as_path();
            let known = group_of.get(path).or_else(|| group_of.get(*earlier.get(path)?)).cloned();
            let (kind, group) = known.unwrap_or_else(|| {
                let labels = seen.mask.as_ref().filter(|_| class == Class::Anomaly);
                let kind = (class, labels.map(|mask| mask.labels.clone()).unwrap_or_default());
                let group = kinds.get(&kind).map_or(0, Vec::len);
                (kind, group)
            });
            let groups = kinds.entry(kind.clone()).or_default();
            match groups.get_mut(group) {
                Some(members) => members.push(index),
                None => groups.push(vec![index]),
            }
            group_of.insert(path, (kind, group));
        }
        kinds
    }
}
