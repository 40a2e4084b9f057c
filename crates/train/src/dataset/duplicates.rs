//! Pictures that are in a data set twice: the same pixels, or the same photograph saved again.
//!
//! A picture that is in training and in test makes the test say more than is true, and one that is in training twice
//! counts twice. Pixels are compared by their SHA-256, looks by a perceptual hash of 256 bits: the signs of the lowest
//! frequencies, which compression, scaling and exposure leave alone.

use std::collections::HashMap;
use std::path::PathBuf;

use image::RgbImage;
use image_hasher::{HashAlg, Hasher, HasherConfig};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Picture, Sample};

const HASH_SIDE: u32 = 16;
/// Bits that differ at most between two savings of one photograph. Of the tile and cookie photographs at hand, a JPEG of
/// quality 60 differs from its original in 2 to 8 bits, two different cookies in 56 or more.
const NEAR_BITS: u32 = 10;

/// Above this share of pictures that look like another one, parts and camera stand so still that looks tell nothing.
pub(super) const ALIKE_SHARE: f64 = 0.25;

type LookBytes = [u8; 32];

/// How two pictures are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Alike {
    /// Every pixel is the same.
    Exact,
    /// They look the same: saved again, scaled, or taken of the same part in the same place.
    Near,
}

/// Two pictures that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// How.
    pub alike: Alike,
    /// The earlier one.
    pub first: PathBuf,
    /// The later one.
    pub second: PathBuf,
    /// The first is for training, the second for the test.
    pub across: bool,
    /// One is labelled normal, the other anomalous.
    pub classes_differ: bool,
}

/// What is compared of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint {
    pixels: [u8; 32],
    /// Nothing for a picture of one colour, which looks like nothing.
    look: Option<[u64; 4]>,
}

/// Takes fingerprints.
pub(super) struct Printer(Hasher<LookBytes>);

impl Printer {
    pub(super) fn new() -> Self {
        let config = HasherConfig::with_bytes_type::<LookBytes>();
        Self(config.hash_size(HASH_SIDE, HASH_SIDE).hash_alg(HashAlg::Median).preproc_dct().to_hasher())
    }

    /// The fingerprint of a picture, and whether it has one colour only.
    pub(super) fn of(&self, picture: Picture) -> (Fingerprint, bool) {
        let (width, height) = (picture.width_px, picture.height_px);
        let mut pixels = Sha256::new();
        pixels.update(width.to_le_bytes());
        pixels.update(height.to_le_bytes());
        pixels.update(&picture.rgb);
        let pixels = pixels.finalize().into();
        let colors = picture.rgb.as_chunks::<3>().0;
        let is_flat = colors.iter().all(|color| Some(color) == colors.first());
        let sides = u32::try_from(width).ok().zip(u32::try_from(height).ok()).filter(|_| !is_flat);
        let image = sides.and_then(|(width, height)| RgbImage::from_raw(width, height, picture.rgb));
        let look = image.map(|image| words(self.0.hash_image(&image).as_bytes()));
        (Fingerprint { pixels, look }, is_flat)
    }
}

fn words(bytes: &[u8]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

fn distance(one: &[u64; 4], other: &[u64; 4]) -> u32 {
    one.iter().zip(other).map(|(one, other)| (one ^ other).count_ones()).sum()
}

/// A picture with its fingerprint.
pub(super) type Printed<'a> = (&'a Sample, &'a Fingerprint);

/// For each picture the earlier one that it repeats, if there is one; for each test picture also the training picture.
pub(super) fn duplicates(train: &[Printed<'_>], test: &[Printed<'_>]) -> Vec<Duplicate> {
    let mut found = within(train);
    found.extend(within(test));
    let first_of = first_by_pixels(train);
    for picture in test {
        let exact = first_of.get(&picture.1.pixels).map(|&index| (Alike::Exact, &train[index]));
        let other = exact.or_else(|| Some((Alike::Near, nearest(picture, train)?)));
        found.extend(other.map(|(alike, other)| pair(alike, other, picture, true)));
    }
    found
}

fn within(pictures: &[Printed<'_>]) -> Vec<Duplicate> {
    let first_of = first_by_pixels(pictures);
    let mut found = Vec::new();
    for (index, picture) in pictures.iter().enumerate() {
        let other = match first_of.get(&picture.1.pixels) {
            Some(&first) if first < index => Some((Alike::Exact, &pictures[first])),
            _ => nearest(picture, &pictures[..index]).map(|other| (Alike::Near, other)),
        };
        found.extend(other.map(|(alike, other)| pair(alike, other, picture, false)));
    }
    found
}

fn first_by_pixels(pictures: &[Printed<'_>]) -> HashMap<[u8; 32], usize> {
    let mut first_of = HashMap::with_capacity(pictures.len());
    for (index, (_, fingerprint)) in pictures.iter().enumerate() {
        first_of.entry(fingerprint.pixels).or_insert(index);
    }
    first_of
}

/// The picture that looks most like this one, if it looks the same.
fn nearest<'a, 'b>(picture: &Printed<'_>, others: &'b [Printed<'a>]) -> Option<&'b Printed<'a>> {
    let look = picture.1.look.as_ref()?;
    let near = others.iter().filter_map(|other| Some((distance(look, other.1.look.as_ref()?), other)));
    near.filter(|&(bits, _)| bits <= NEAR_BITS).min_by_key(|&(bits, _)| bits).map(|(_, other)| other)
}

fn pair(alike: Alike, first: &Printed<'_>, second: &Printed<'_>, across: bool) -> Duplicate {
    let (first, second) = (first.0, second.0);
    let classes_differ = first.class.zip(second.class).is_some_and(|(one, other)| one != other);
    Duplicate { alike, first: first.path.clone(), second: second.path.clone(), across, classes_differ }
}
