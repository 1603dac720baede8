//! A process killed at any instant: what it returned is stored, nothing is asked twice, the file opens.
//!
//! The program runs as a child on real files and is killed with SIGKILL at instants that a seeded generator chooses.

use crate::input::{Said, say, sql};
use crate::stores;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;

const TEXTS: usize = 500;

/// How many stores there are, and how often each is killed before its statement may end. In PostgreSQL what a dead program
/// asked about is nobody's for as long as its lease holds.
fn times() -> (usize, usize) {
    match stores::are_shared() {
        true => (1, 3),
        false => (4, 5),
    }
}
const SELECT: &str = "SELECT id, safeguard_classify('keywords', body) AS label FROM texts";

/// Steele, Lea and Flood's SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

fn body(id: usize) -> String {
    let words = ["money for", "a walk to", "the bank of", "a song about"];
    format!("{} number {id}", words[id % words.len()])
}

fn write_texts(dir: &Path) {
    let lines: String = (0..TEXTS)
        .map(|id| format!("{id},{}\n", body(id)))
        .collect();
    std::fs::write(dir.join("texts.csv"), format!("id,body\n{lines}")).unwrap();
}

/// What follows `sql` on the command line, for one statement over all texts.
fn arguments() -> [&'static str; 8] {
    [
        "--data-dir",
        "data",
        "-c",
        "CREATE EXTERNAL TABLE IF NOT EXISTS texts (id BIGINT, body TEXT) STORED AS CSV LOCATION 'texts.csv' OPTIONS ('format.has_header' 'true')",
        "-c",
        "SET safeguard.mode = 'score'",
        "-c",
        SELECT,
    ]
}

/// Label by id: whole lines only, the header left out.
fn labels(lines: &str) -> BTreeMap<usize, String> {
    let whole = lines.rfind('\n').map_or("", |end| &lines[..end]);
    let rows = whole.lines().skip(1);
    rows.map(|row| {
        let (id, label) = row.split_once(',').unwrap();
        (id.parse().unwrap(), label.to_owned())
    })
    .collect()
}

/// Starts the statement, kills it after so many lines of stdout, or at its first sign of life on stderr; gives what it
/// had returned by then.
fn killed(dir: &Path, lines: Option<usize>) -> BTreeMap<usize, String> {
    let format = ["sql", "--format", "csv"];
    let mut child = stores::program(dir, format.into_iter().chain(arguments()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut read = String::new();
    match lines {
        Some(lines) => {
            for _ in 0..lines {
                out.read_line(&mut read).unwrap();
            }
        }
        None => {
            let mut first = [0];
            child
                .stderr
                .as_mut()
                .unwrap()
                .read_exact(&mut first)
                .unwrap();
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    out.read_to_string(&mut read).unwrap();
    labels(&read)
}

/// Label by id of what is stored. The file opens, and no verdict is there twice.
fn stored(dir: &Path) -> BTreeMap<usize, String> {
    let all = "SELECT text_digest, label, verdict_digest FROM safeguard.verdicts";
    let said = sql(dir, &["--data-dir", "data", "-c", all]);
    assert_eq!(said.code, 0, "{}", said.err);
    let ids: BTreeMap<String, usize> = (0..TEXTS)
        .map(|id| (blake3::hash(body(id).as_bytes()).to_hex().to_string(), id))
        .collect();
    let (mut labels, mut digests) = (BTreeMap::new(), BTreeSet::new());
    for row in said.out.lines().skip(1) {
        let cells: Vec<&str> = row.split(',').collect();
        assert!(digests.insert(cells[2].to_owned()), "{row} is stored twice");
        let other = labels.insert(ids[cells[0]], cells[1].to_owned());
        assert_eq!(other, None, "{row} is stored twice");
    }
    labels
}

fn assert_holds(all: &BTreeMap<usize, String>, some: &BTreeMap<usize, String>) {
    for (id, label) in some {
        assert_eq!(all.get(id), Some(label), "text {id}");
    }
}

fn to_the_end(dir: &Path) -> (BTreeMap<usize, String>, String) {
    let Said { code, out, err } = sql(dir, &arguments());
    assert_eq!(code, 0, "{err}");
    (labels(&out), err)
}

#[test]
fn a_killed_statement_loses_nothing_and_asks_nothing_twice() {
    let mut random = Random(20);
    let (stores, kills) = times();
    let (mut middle, mut returned_in_all) = (0, 0);
    for _ in 0..stores {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write_texts(dir);
        let mut known = BTreeMap::new();
        let silent = random.below(kills);
        for kill in 0..kills {
            // The header, what is recalled, and some that are asked.
            let lines = (kill != silent).then(|| known.len() + 2 + random.below(90));
            let returned = killed(dir, lines);
            let now = stored(dir);
            assert_holds(&now, &returned);
            assert_holds(&now, &known);
            middle += usize::from(!now.is_empty() && now.len() < TEXTS);
            returned_in_all += returned.len();
            known = now;
        }
        let missing = TEXTS - known.len();
        let (answers, notice) = to_the_end(dir);
        let expected = format!(
            "NOTICE:  safeguard: {TEXTS} rows, {} recalled, {missing} asked\n",
            known.len()
        );
        assert_eq!(notice, expected);
        assert_eq!(answers.len(), TEXTS);
        assert_holds(&answers, &known);
        assert_eq!(stored(dir), answers);
        let (again, notice) = to_the_end(dir);
        let expected = format!("NOTICE:  safeguard: {TEXTS} rows, {TEXTS} recalled, 0 asked\n");
        assert_eq!((again, notice), (answers, expected));
    }
    assert!(
        middle * 2 >= kills * stores && returned_in_all * 20 > TEXTS * kills * stores,
        "{middle} kills of {} came in the middle, after {returned_in_all} rows",
        kills * stores
    );
}

/// Of each NOTICE, in order.
fn asked(said: &Said) -> Vec<u64> {
    let notices = said
        .err
        .lines()
        .filter_map(|line| line.strip_prefix("NOTICE:  "));
    let asked = notices.map(|notice| {
        let part = notice
            .split(", ")
            .find_map(|part| part.strip_suffix(" asked"));
        part.unwrap_or_else(|| panic!("{notice}")).parse().unwrap()
    });
    asked.collect()
}

#[test]
fn the_quickstart_run_a_second_time_asks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = || {
        let script = ["-f", "examples/quickstart.sql", "--data-dir"].map(AsRef::as_ref);
        let said = say(root, script.into_iter().chain([data.as_os_str()]));
        assert_eq!(said.code, 0, "{}", said.err);
        said
    };
    let first = asked(&run());
    assert!(first.iter().sum::<u64>() > 0, "{first:?}");
    let second = asked(&run());
    assert_eq!(second, vec![0; first.len()]);
}
