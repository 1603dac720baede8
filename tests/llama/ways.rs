//! How a real llama-server is asked, and that it says what the same model says in this program.

use super::{NAME, Server, gguf, here, llama, released, safeguard, texts, write_rows};
use std::path::Path;

const TABLE: &str = "CREATE EXTERNAL TABLE mail STORED AS CSV LOCATION 'mail.csv'";
/// Of one slot, as `serve.py` shares it out.
const CONTEXT: &str = "note context 4096 tokens for a policy, a text and an analysis, of which the longest that are put have \
                       22784: what does not fit is undecided";
/// The file for the server rounds embeddings and attention to eight bits.
const PROBABILITY: f64 = 0.05;
/// So many of a hundred labels may differ for the same reason.
const DIFFERENT_PERCENT: usize = 5;

/// What `safeguard model verify` finds: word, check, detail.
async fn verified(folder: &Path, server: &Server) -> Vec<String> {
    let (found, _) = safeguard(folder, &["model", "verify", &server.address()]).await;
    let found = found
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    found.collect()
}

/// The last column of a SELECT by a model, row by row.
async fn judged(folder: &Path, data: &str, model: &str, select: &[&str]) -> Vec<String> {
    let first = [
        "sql",
        "--data-dir",
        data,
        "--model",
        model,
        "--format",
        "csv",
        "-c",
        TABLE,
    ];
    let (rows, told) = safeguard(folder, &[&first, select].concat()).await;
    assert!(!told.contains("undecided"), "{told}");
    let last = |row: &str| row.rsplit(',').next().unwrap().to_owned();
    rows.lines().skip(1).map(last).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_released_vocabulary_is_asked_by_ids_and_scores_as_here() {
    const ROWS: usize = 100;
    let Some(python) = llama() else { return };
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    released(&python, here);
    write_rows(&here.join("mail.csv"), &texts(ROWS));
    // A name that does not say which tokens are its model's is asked by text, in which the server finds them.
    for (name, more, form) in [
        ("mine", &[][..], "rendered text"),
        (NAME, &["--special"], "token ids"),
        (NAME, &[], "token ids"),
    ] {
        let server = Server::start(&python, &here.join("model.gguf"), name, more);
        let found = verified(here, &server).await;
        let expected = [
            format!("ok server {} has {name}", server.address()),
            format!("ok reason {form} to /completions, the reply read as it comes"),
            format!("ok score {form} to /completions, with probabilities"),
            CONTEXT.to_owned(),
        ];
        assert_eq!(found[..4], expected);
        for (line, mode) in found[4..].iter().zip(["reason", "score"]) {
            let expected = format!("ok self-test mode {mode}: 6 labels to 6 questions");
            assert!(line.starts_with(&expected), "{name} {more:?}: {line}");
        }
    }
    let server = Server::start(&python, &here.join("model.gguf"), NAME, &[]);
    let address = server.address();
    let select = [
        "-c",
        "SET safeguard.mode = score",
        "-c",
        "SELECT id, safeguard_score('keywords', body) FROM mail",
    ];
    let there = judged(here, "there", &address, &select).await;
    let local = judged(here, "local", "model", &select).await;
    assert_eq!((there.len(), local.len()), (ROWS, ROWS));
    let number = |said: &String| said.parse::<f64>().unwrap();
    let pairs: Vec<(f64, f64)> = there
        .iter()
        .map(number)
        .zip(local.iter().map(number))
        .collect();
    let far = pairs
        .iter()
        .filter(|(a, b)| (a - b).abs() > PROBABILITY)
        .collect::<Vec<_>>();
    assert!(far.len() * 100 <= ROWS * DIFFERENT_PERCENT, "{far:?}");
    let violating = pairs.iter().filter(|(a, _)| *a > 0.5).count();
    assert!(
        (ROWS / 4..=ROWS * 3 / 4).contains(&violating),
        "{violating}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_vocabulary_is_asked_by_messages_and_answers_as_here() {
    const ROWS: usize = 100;
    let Some(python) = llama() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nano.gguf");
    gguf(&python, &here("src/backend/nano"), &file);
    write_rows(&folder.path().join("mail.csv"), &texts(ROWS));
    let template = here("tests/llama/nano.jinja");
    let server = Server::start(
        &python,
        &file,
        "safeguard-nano",
        &["--template", template.to_str().unwrap()],
    );
    let found = verified(folder.path(), &server).await;
    assert_eq!(
        found[..3],
        [
            format!("ok server {} has safeguard-nano", server.address()),
            "ok reason messages to /chat/completions, the reply read as it comes".to_owned(),
            "note score no probabilities behind prompts of ours: modes reason and auto alone"
                .to_owned(),
        ]
    );
    assert!(
        found[4].starts_with("ok self-test mode reason: 6 labels to 6 questions"),
        "{}",
        found[4]
    );
    let select = [
        "-c",
        "SET safeguard.mode = reason",
        "-c",
        "SELECT id, safeguard_classify('keywords', body) FROM mail",
    ];
    let there = judged(folder.path(), "there", &server.address(), &select).await;
    let local = judged(folder.path(), "local", "nano", &select).await;
    assert_eq!((there.len(), local.len()), (ROWS, ROWS));
    let different = there.iter().zip(&local).filter(|(a, b)| a != b).count();
    assert!(
        different * 100 <= ROWS * DIFFERENT_PERCENT,
        "{different} of {ROWS}"
    );
}
