//! CSV files that become no manifest.

use std::fs;
use std::path::Path;

use crate::{Call, Case, put};

pub(crate) fn cases() -> Vec<Case> {
    let file = |name, s3_path, says: &[&str], content: &[u8]| {
        let content = content.to_vec();
        Case::new("CSV", name, Call::Csv(s3_path), 1, says, move |folder: &Path| {
            put(folder, "set.csv", &content);
        })
    };
    let mut cases = vec![
        file(
            "another class",
            None,
            &["set.csv:2: `b.jpg` has the classification `broken`"],
            b"a.jpg,normal\nb.jpg,broken\n",
        ),
        file("a picture twice", None, &["set.csv:3: `a.jpg` has a row already"], b"a.jpg,normal\n\na.jpg,normal\n"),
        file("a header", None, &["set.csv:1:", "there must be no header row"], b"image,label\na.jpg,normal\n"),
        file("semicolons", None, &["set.csv:1:", "parted by commas"], b"a.jpg;normal\nb.jpg;anomaly\n"),
        file("tabs", None, &["set.csv:1:", "parted by commas"], b"a.jpg\tnormal\n"),
        file("no classes", None, &["set.csv:2: `b.jpg` has the classification ``"], b"a.jpg,normal\nb.jpg\n"),
        file("no picture", None, &["set.csv:2: has no picture"], b"a.jpg,normal\n,normal\n"),
        file("empty", None, &["set.csv: has no rows"], b""),
        file("only commas", None, &["set.csv: has no rows"], b",,,\n,\n"),
        file("only a byte order mark", None, &["set.csv: has no rows"], b"\xef\xbb\xbf\r\n"),
        file("UTF-16", None, &["set.csv:1: is not UTF-8"], b"\xff\xfea\0.\0j\0p\0g\0"),
        file("Latin-1", None, &["set.csv:2: is not UTF-8"], b"a.jpg,normal\r\nf\xeate.jpg,anomaly\r\n"),
        file(
            "an open quote",
            None,
            &["set.csv:2: a double quote in `b.jpg,normal", "never closed"],
            b"a.jpg,normal\n\"b.jpg,normal\nc.jpg,normal\n",
        ),
        file("a quote around the row", None, &["set.csv:1:", "classification ``"], b"\"a.jpg,normal\"\n"),
        file("a line end in the class", None, &["set.csv:1:", r"classification `nor\nmal`"], b"a.jpg,\"nor\nmal\"\n"),
        file(
            "two kinds of place",
            None,
            &["set.csv:2: `b.jpg` does not go with the other rows"],
            b"s3://b/a.jpg,normal\nb.jpg,normal\n",
        ),
        file(
            "a place too many",
            Some("s3://bucket/x"),
            &["set.csv:1:", "with --s3-path none may"],
            b"s3://b/a.jpg,normal\n",
        ),
        file("a folder as S3 path", Some("/x"), &["the S3 path `/x` must begin with `s3://`"], b"a.jpg,normal\n"),
        file("a path that climbs", None, &["set.csv:1: `../a.jpg` leads out of the folder"], b"../a.jpg,normal\n"),
        file("a key that climbs", Some("s3://bucket/x"), &["set.csv:1: `../a.jpg` leads out"], b"../a.jpg,normal\n"),
        file("control characters", None, &["set.csv:1:", r"`\u{1b}[2J`"], b"a.jpg,\x1b[2J\n"),
        file("a picture", None, &["set.csv:1: is not UTF-8"], b"\x89PNG\r\n\x1a\n"),
        file("zeros", None, &["set.csv:1:", "has the classification ``"], &[0; 1000]),
    ];
    cases.push(Case::new("CSV", "a folder", Call::Csv(None), 1, &["set.csv: no such file"], |folder| {
        fs::create_dir(folder.join("set.csv")).unwrap();
    }));
    cases.push(Case::new("CSV", "over 256 MiB", Call::Csv(None), 1, &["set.csv: is a file of 300 MiB"], |folder| {
        fs::File::create(folder.join("set.csv")).unwrap().set_len(300 << 20).unwrap();
    }));
    cases
}
