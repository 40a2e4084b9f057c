//! Pictures of parts with the guide's manifests, and what a shown picture must be.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use image::{Rgb, RgbImage};
use linewarden_synthetic::{BeltSpec, Defect, Part, normals, render_part_with_defect};
use serde_json::{Value, json};

/// Number and colour of each label in the masks.
const LABELS: [(Defect, &str, [u8; 3]); 1] = [(Defect::Scratch, "1", [0x2c, 0xa0, 0x2c])];
const WHITE: Rgb<u8> = Rgb([255; 3]);
/// The sample's lines of text end well above.
const TEXT_PX: u32 = 60;

/// Data sets of one bucket.
pub(crate) struct Parts<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) bucket: &'a str,
}

/// What a data set is made of.
pub(crate) struct Set {
    /// The manifest's lines.
    pub(crate) lines: Vec<Value>,
    /// Keys of everything in the bucket, pictures before masks.
    pub(crate) keys: Vec<String>,
}

impl Parts<'_> {
    /// Good parts and parts of each label: pictures and masks in `kind/`, and `kind.manifest`.
    pub(crate) fn draw(&self, kind: &str, seed: u64, good: usize, bad: usize) -> Result<Set> {
        std::fs::create_dir_all(self.folder.join(kind))?;
        let spec = BeltSpec { seed, width_px: 160, height_px: 120, ..BeltSpec::default() };
        let mut set = Set { lines: Vec::new(), keys: Vec::new() };
        for (index, part) in normals(&spec, good).enumerate() {
            let key = self.save(&format!("{kind}/good-{index:02}.png"), picture(&part)?)?;
            set.lines.push(self.line(&key, "normal"));
            set.keys.push(key);
        }
        let mut masks = Vec::new();
        for index in 0..bad {
            for (defect, _, color) in LABELS {
                let part = render_part_with_defect(&spec, index as u64, defect);
                let key = self.save(&format!("{kind}/{defect}-{index:02}.png"), picture(&part)?)?;
                let painted = |x, y| match part.mask[(y * part.width_px + x) as usize] {
                    0 => WHITE,
                    _ => Rgb(color),
                };
                let painted = RgbImage::from_fn(part.width_px, part.height_px, painted);
                let mask = self.save(&format!("{kind}/{defect}-{index:02}-mask.png"), painted)?;
                let mut line = self.line(&key, "anomaly");
                line["anomaly-mask-ref"] = json!(self.address(&mask));
                line["anomaly-mask-ref-metadata"] = mask_metadata();
                set.lines.push(line);
                set.keys.push(key);
                masks.push(mask);
            }
        }
        set.keys.append(&mut masks);
        let mut manifest = String::new();
        set.lines.iter().try_for_each(|line| writeln!(manifest, "{line}"))?;
        let name = format!("{kind}.manifest");
        std::fs::write(self.folder.join(&name), manifest)?;
        set.keys.push(name);
        Ok(set)
    }

    fn save(&self, key: &str, picture: RgbImage) -> Result<String> {
        picture.save(self.folder.join(key))?;
        Ok(key.to_owned())
    }

    fn address(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    fn line(&self, key: &str, class: &str) -> Value {
        let metadata = json!({
            "confidence": 1, "job-name": "labeling-job/anomaly-label", "class-name": class, "human-annotated": "yes",
            "creation-date": "2021-06-22T10:10:10.000", "type": "groundtruth/image-classification",
        });
        let label = u8::from(class == "anomaly");
        json!({ "source-ref": self.address(key), "anomaly-label": label, "anomaly-label-metadata": metadata })
    }
}

fn picture(part: &Part) -> Result<RgbImage> {
    RgbImage::from_raw(part.width_px, part.height_px, part.rgb.clone()).context("a whole picture")
}

fn mask_metadata() -> Value {
    let mut colors = json!({ "0": { "class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0 } });
    for (defect, number, [red, green, blue]) in LABELS {
        let color = format!("#{red:02x}{green:02x}{blue:02x}");
        colors[number] = json!({ "class-name": defect.as_str(), "hex-color": color, "confidence": 0.0 });
    }
    json!({
        "internal-color-map": colors, "type": "groundtruth/semantic-segmentation", "human-annotated": "yes",
        "creation-date": "2021-11-23T20:31:57.758889", "job-name": "labeling-job/segmentation-job",
    })
}

fn open(path: &Path) -> Result<RgbImage> {
    Ok(image::open(path).with_context(|| format!("cannot open `{}`", path.display()))?.into_rgb8())
}

/// How many pixels of a mask have a label where no text is drawn over them.
pub(crate) fn labelled(mask: &Path) -> Result<usize> {
    Ok(open(mask)?.enumerate_pixels().filter(|(_, y, pixel)| *y >= TEXT_PX && **pixel != WHITE).count())
}

/// What was shown is the picture, of the same size, with text over it; and with the mask, where there is one, half and half.
pub(crate) fn shows(shown: &Path, picture: &Path, mask: Option<&Path>) -> Result<()> {
    let (shown, picture) = (open(shown)?, open(picture)?);
    let mask = mask.map(open).transpose()?;
    ensure!(shown.dimensions() == picture.dimensions(), "{:?} of {:?}", shown.dimensions(), picture.dimensions());
    let mut of_text = 0;
    for (x, y, pixel) in shown.enumerate_pixels() {
        let below = picture.get_pixel(x, y).0;
        let above = mask.as_ref().map_or(below, |mask| mask.get_pixel(x, y).0);
        let expected: [u8; 3] = std::array::from_fn(|channel| below[channel].midpoint(above[channel]));
        let is_so = pixel.0.iter().zip(expected).all(|(value, expected)| value.abs_diff(expected) <= 1);
        ensure!(is_so || y < TEXT_PX, "{pixel:?} at {x}, {y}, not {expected:?}");
        of_text += usize::from(!is_so);
    }
    ensure!(of_text > 100, "there is no text on it");
    Ok(())
}
