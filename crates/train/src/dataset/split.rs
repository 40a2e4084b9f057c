//! Dividing one data set into one for training and one for the test.

use std::collections::BTreeMap;

use super::{Class, Dataset, DatasetError, read_mask};

/// The share of the pictures that a single data set gives to the test, unless another is asked for. The guide says only
/// that the service divides such a data set itself; its minimum counts (20 normals alone, 10 in each of two) need a test
/// of at most half.
pub const TEST_SHARE: f64 = 0.2;

impl Dataset {
    /// Divides the data set into training and test. Normals, and anomalies by the labels that their masks show, are
    /// shuffled and divided apart, so that both parts have `share` of each kind; a kind of a single picture stays in
    /// training. Pictures without a class are of no use to a test and stay in training, too. The same seed divides the
    /// same data set alike, whatever its pictures are called.
    ///
    /// # Errors
    /// When a mask cannot be read; all of them are named.
    pub fn split(&self, seed: u64, share: f64) -> Result<(Self, Self), DatasetError> {
        let mut kinds: BTreeMap<(Class, Vec<u8>), Vec<usize>> = BTreeMap::new();
        let mut problems = Vec::new();
        for (index, sample) in self.samples.iter().enumerate() {
            let Some(class) = sample.class else { continue };
            let labels = match &sample.mask {
                Some(_) if class == Class::Anomaly => match read_mask(sample, &self.labels) {
                    Ok(mask) => mask.found(),
                    Err(error) => {
                        problems.push(sample.unreadable(&error));
                        continue;
                    }
                },
                _ => Vec::new(),
            };
            kinds.entry((class, labels)).or_default().push(index);
        }
        DatasetError::unless_empty(problems)?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut in_test = vec![false; self.samples.len()];
        for class in [Class::Normal, Class::Anomaly] {
            // One after the other in one row, so that what rounding takes from one kind it gives to the next.
            let mut owed = 0.5;
            for members in kinds.iter_mut().filter(|((of, _), _)| *of == class).map(|(_, members)| members) {
                random.shuffle(members);
                let most = members.len() - 1;
                owed += members.len() as f64 * share;
                let taken = (owed.floor() as usize).min(most);
                owed = (owed - taken as f64).min(1.0);
                for &index in &members[..taken] {
                    in_test[index] = true;
                }
            }
        }
        Ok((self.subset(|index, _| !in_test[index]), self.subset(|index, _| in_test[index])))
    }
}
