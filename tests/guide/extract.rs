//! Programs out of a guide whose pages cut them. What comes in is the guide's text and how to know a program; what goes out is
//! its source, mended where the text came out of a PDF damaged. Nothing here knows which programs there are.

use anyhow::{Context as _, Result, ensure};

/// What the way from page to text did to a program. Each must find what it mends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Repair {
    /// The page was too narrow for a line: the one that ends so goes on in the next, and Python needs them in one.
    Joined(&'static str),
    /// A page break changed the indentation of everything after it, up to the next: number of the piece, from 1, and
    /// spaces that it needs more.
    Page(usize, isize),
    /// The same within a piece, from the line that begins with the first up to the next that begins with the second.
    Lines(&'static str, &'static str, isize),
    /// A line that nobody wrote was put at the end of a piece, where the next one begins so.
    MadeUp(&'static str, &'static str),
    /// A character was read wrongly, lost or made up: what is there, and what was written.
    Written(&'static str, &'static str),
}

/// A line, and which piece of the program it is in.
struct Line {
    piece: usize,
    text: String,
}

/// The program with a line that begins with `marker`: its fenced block, and those that only a page break cuts from it.
pub(crate) fn program(guide: &str, marker: &str, repairs: &[Repair]) -> Result<String> {
    let programs = programs(guide);
    let mut found = programs.into_iter().filter(|program| program.iter().any(|line| line.text.starts_with(marker)));
    let mut lines = found.next().with_context(|| format!("the guide has no program with `{marker}`"))?;
    ensure!(found.next().is_none(), "the guide has more than one program with `{marker}`");
    for repair in repairs {
        mend(&mut lines, *repair).with_context(|| format!("the program with `{marker}`, {repair:?}"))?;
    }
    Ok(text_of(&lines))
}

/// Every fenced block, with what follows it after blank lines only.
fn programs(guide: &str) -> Vec<Vec<Line>> {
    let mut programs: Vec<Vec<Line>> = Vec::new();
    let (mut is_inside, mut is_cut, mut piece) = (false, false, 0);
    for line in guide.lines() {
        if line.trim_start().starts_with("```") {
            is_inside = !is_inside;
            if is_inside && !is_cut {
                programs.push(Vec::new());
                piece = 0;
            }
            piece += usize::from(is_inside);
            is_cut = true;
        } else if is_inside {
            // Some lines end in the two spaces of a line break.
            let text = line.trim_end().to_owned();
            programs.last_mut().expect("a block was begun").push(Line { piece, text });
        } else if !line.trim().is_empty() {
            is_cut = false;
        }
    }
    programs
}

fn mend(lines: &mut Vec<Line>, repair: Repair) -> Result<()> {
    match repair {
        Repair::Joined(end) => join(lines, end),
        Repair::Page(piece, by) => {
            ensure!(lines.iter().any(|line| line.piece == piece), "there is no such piece");
            lines.iter_mut().filter(|line| line.piece == piece).for_each(|line| shift(line, by));
            Ok(())
        }
        Repair::Lines(first, last, by) => {
            let begins = |line: &Line, with: &str| line.text.trim_start().starts_with(with);
            let firsts: Vec<usize> = (0..lines.len()).filter(|&index| begins(&lines[index], first)).collect();
            let [from] = firsts[..] else { anyhow::bail!("{} lines begin so", firsts.len()) };
            let length = lines[from..].iter().position(|line| begins(line, last)).context("it has no end")?;
            lines[from..=from + length].iter_mut().for_each(|line| shift(line, by));
            Ok(())
        }
        Repair::MadeUp(line, next) => {
            let is_made_up = |pair: &[Line]| {
                let [before, after] = pair else { return false };
                let is_cut = before.piece != after.piece && after.text.trim_start().starts_with(next);
                is_cut && before.text.trim() == line
            };
            let place = lines.windows(2).position(is_made_up).context("no piece ends so")?;
            lines.remove(place);
            Ok(())
        }
        Repair::Written(wrong, right) => {
            let text = text_of(lines);
            ensure!(text.contains(wrong), "it is not there");
            // Pieces no longer count once lines may have come or gone.
            *lines = text.replace(wrong, right).lines().map(|line| Line { piece: 0, text: line.to_owned() }).collect();
            Ok(())
        }
    }
}

fn join(lines: &mut Vec<Line>, end: &str) -> Result<()> {
    let before = lines.len();
    let mut index = 0;
    while index + 1 < lines.len() {
        if lines[index].text.ends_with(end) {
            let rest = lines.remove(index + 1);
            lines[index].text = format!("{} {}", lines[index].text, rest.text.trim_start());
        } else {
            index += 1;
        }
    }
    ensure!(lines.len() < before, "no line ends so");
    Ok(())
}

fn shift(line: &mut Line, by: isize) {
    let code = line.text.trim_start();
    if !code.is_empty() {
        let indentation = (line.text.len() - code.len()).saturating_add_signed(by);
        line.text = format!("{}{code}", " ".repeat(indentation));
    }
}

fn text_of(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("{}\n", line.text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str = r#"# Hello

```
ls -l
```

Python

```
def greet(name):  
    text =
name
---
```


```
if text:
    print(f"hello,
{text}")
else:
print('who")
```

The end.

```
def end():
    pass
```
"#;
    const REPAIRS: [Repair; 6] = [
        Repair::MadeUp("---", "if"),
        Repair::Page(2, 4),
        Repair::Lines("print('who", "print", 4),
        Repair::Joined("text ="),
        Repair::Joined("hello,"),
        Repair::Written("'who\"", "'who'"),
    ];

    #[test]
    fn a_program_is_joined_over_page_breaks_and_mended() {
        let greet = program(GUIDE, "def greet(", &REPAIRS).unwrap();
        let expected = "def greet(name):\n    text = name\n    if text:\n        print(f\"hello, {text}\")\n    else:\n        print('who')\n";
        assert_eq!(greet, expected);
        assert_eq!(program(GUIDE, "if text", &[]).unwrap().lines().count(), 9, "any of its lines tells it");
        assert_eq!(program(GUIDE, "def end(", &[]).unwrap(), "def end():\n    pass\n");
    }

    #[test]
    fn what_cannot_be_found_or_mended_is_told() {
        let told = |marker: &str, repairs: &[Repair]| format!("{:#}", program(GUIDE, marker, repairs).unwrap_err());
        assert_eq!(told("def leave(", &[]), "the guide has no program with `def leave(`");
        assert_eq!(told("def ", &[]), "the guide has more than one program with `def `");
        let table = [
            (Repair::Page(3, 4), "there is no such piece"),
            (Repair::Lines("print", "else", 4), "2 lines begin so"),
            (Repair::Lines("else", "if", 4), "it has no end"),
            (Repair::MadeUp("---", "else"), "no piece ends so"),
            (Repair::Joined("farewell"), "no line ends so"),
            (Repair::Written("nobody", "who"), "it is not there"),
        ];
        for (repair, expected) in table {
            let told = told("def greet(", &[repair]);
            assert!(told.ends_with(expected), "{told}");
        }
    }
}
