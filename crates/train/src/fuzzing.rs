//! Throws changed files at the parsers: good ones from `fuzz/corpus/NAME` (and those that once broke something), with
//! bytes changed, cut, repeated and spliced. Whatever comes out is fine as long as nothing panics and nothing hangs.
//!
//! `make test` runs a few thousand cases of each parser, the same ones every time; `make soak` as many as
//! `LINEWARDEN_FUZZ_CASES` says, other ones every time. A file that broke something goes into the corpus.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tempfile::TempDir;

const CASES: u32 = 2000;
/// The longest that a parser may take over one file of a few kilobytes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// Numbers at which lengths and sizes go wrong.
const NUMBERS: [u32; 10] = [0, 1, 2, 0x7f, 0xff, 0x7fff, 0xffff, 0x1000_0000, 0x7fff_ffff, u32::MAX];
/// Pieces that parsers act upon.
const WORDS: [&[u8]; 20] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r",
    b"..",
    b"s3://",
    b"file://",
    b"\\u0000",
    b"\xff\xd9",
    b"IDAT",
    b"iCCP",
    b"\xff\xda",
    b"\xef\xbb\xbf",
    b"null",
    b"1e999",
];

#[derive(Clone, Debug)]
enum Change {
    Bit(Index, u8),
    Byte(Index, u8),
    Number { at: Index, number: usize, is_big: bool, bytes: usize },
    Word(Index, usize),
    Noise(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat { at: Index, length: usize, times: usize },
    Cut(Index),
    Splice { at: Index, other: Index, from: Index, length: usize },
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Bit(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (at(), 0..NUMBERS.len(), any::<bool>(), 1..=4_usize).prop_map(|(at, number, is_big, bytes)| Change::Number {
            at,
            number,
            is_big,
            bytes
        }),
        (at(), 0..WORDS.len()).prop_map(|(at, word)| Change::Word(at, word)),
        (at(), vec(any::<u8>(), 1..20)).prop_map(|(at, noise)| Change::Noise(at, noise)),
        (at(), 1..40_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 1..40_usize, 1..40_usize).prop_map(|(at, length, times)| Change::Repeat { at, length, times }),
        at().prop_map(Change::Cut),
        (at(), at(), at(), 1..200_usize).prop_map(|(at, other, from, length)| Change::Splice {
            at,
            other,
            from,
            length
        }),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match self {
            Self::Bit(at, bit) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Self::Byte(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Bit(..) | Self::Byte(..) => {}
            Self::Number { at, number, is_big, bytes: length } => {
                let start = place(at);
                let end = (start + length).min(bytes.len());
                let (big, little) = (NUMBERS[*number].to_be_bytes(), NUMBERS[*number].to_le_bytes());
                let new = if *is_big { &big[4 - length..] } else { &little[..*length] };
                bytes.splice(start..end, new.iter().copied());
            }
            Self::Word(at, word) => {
                let at = place(at);
                bytes.splice(at..at, WORDS[*word].iter().copied());
            }
            Self::Noise(at, noise) => {
                let at = place(at);
                bytes.splice(at..at, noise.iter().copied());
            }
            Self::Remove(at, length) => {
                let start = place(at);
                bytes.drain(start..(start + length).min(bytes.len()));
            }
            Self::Repeat { at, length, times } => {
                let start = place(at);
                let piece = bytes[start..(start + length).min(bytes.len())].repeat(*times);
                bytes.splice(start..start, piece);
            }
            Self::Cut(at) => bytes.truncate(place(at)),
            Self::Splice { at, other, from, length } => {
                let other = &seeds[other.index(seeds.len())];
                let from = from.index(other.len() + 1);
                let piece = other[from..(from + length).min(other.len())].to_vec();
                let at = place(at);
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// Files that are kept for a parser.
pub(crate) fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Shows `parse` the seeds and as many changed ones as there shall be.
pub(crate) fn fuzz(name: &str, seeds: &[Vec<u8>], mut parse: impl FnMut(&[u8])) {
    assert!(!seeds.is_empty(), "no files to begin with for `{name}`");
    for seed in seeds {
        parse(seed);
    }
    let asked = std::env::var("LINEWARDEN_FUZZ_CASES").ok();
    let cases = asked.as_deref().map_or(CASES, |cases| cases.parse().unwrap());
    let mut random = [7; 32];
    if asked.is_some() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        random[..16].copy_from_slice(&now.as_nanos().to_le_bytes());
    }
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &random));
    let start = Instant::now();
    let parse = std::cell::RefCell::new(&mut parse);
    let outcome = runner.run(&(any::<Index>(), vec(change(), 1..8)), |(seed, changes)| {
        let mut bytes = seeds[seed.index(seeds.len())].clone();
        for change in &changes {
            change.apply(&mut bytes, seeds);
        }
        let start = Instant::now();
        (parse.borrow_mut())(&bytes);
        let took = start.elapsed();
        prop_assert!(took < PATIENCE, "took {took:?}");
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("`{name}`: {error}");
    }
    let rate = f64::from(cases) / start.elapsed().as_secs_f64();
    let _ = writeln!(std::io::stderr(), "    {name}: {cases} cases, {rate:.0} a second");
}

/// A folder for files that are written thousands of times a second: in memory, where there is such a place.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Puts a file where a parser reads it.
pub(crate) fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_package_s_description_is_read_or_refused() {
    let folder = scratch();
    fs::create_dir(folder.path().join("golden")).unwrap();
    put(&folder.path().join("golden/golden.json"), br#"[{"file": "a.png", "anomaly_score": 0.1}]"#);
    put(&folder.path().join("golden/a.png"), b"");
    put(&folder.path().join("model.onnx"), b"");
    let path = folder.path().join("model.json");
    let mut was_read = false;
    fuzz("model", &corpus("model"), |bytes| {
        put(&path, bytes);
        was_read |= linewarden_model::package::Package::read(folder.path()).is_ok();
    });
    assert!(was_read, "the corpus has a sound one");
}

#[test]
fn a_package_s_archive_is_read_or_refused() {
    let folder = scratch();
    let path = folder.path().join("model.tar");
    fuzz("archive", &[archive(&corpus("model")[0])], |bytes| {
        put(&path, bytes);
        let _ = linewarden_model::package::Package::read(&path);
    });
}

/// A `.tar` with a file `model.json`, made byte by byte.
fn archive(content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..10].copy_from_slice(b"model.json");
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let padding = vec![0; content.len().next_multiple_of(512) - content.len() + 1024];
    [&header[..], content, &padding].concat()
}
