//! safeguard-nano through the whole backend against Hugging Face transformers in f32.
//!
//! `eval.csv` beside its weights has, for 379 texts that it was not trained on, transformers' P(violates) behind an empty
//! analysis, and the greedy analysis with its label. Prompts, tokenizer, model, prefix reuse, forced headers and labels
//! must all be right for these to agree.
#![allow(clippy::unwrap_used)]

use futures::StreamExt;
use safeguard::backend::local::Local;
use safeguard::backend::{Answer, Backend, Prompt, PromptPolicy, Reply};
use safeguard::model::Precision;
use safeguard_udfs::{Effort, Lane, Mode};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

struct Row {
    policy: Arc<PromptPolicy>,
    text: Arc<str>,
    p_violates: f64,
    analysis: String,
    label: String,
}

fn rows() -> Vec<Row> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/nano");
    let mut policies: HashMap<String, Arc<PromptPolicy>> = HashMap::new();
    let mut table = csv::Reader::from_path(dir.join("eval.csv")).unwrap();
    let mut rows = Vec::new();
    for record in table.records() {
        let record = record.unwrap();
        let name = record[0].to_owned();
        let policy = policies.entry(name).or_insert_with_key(|name| {
            let text = std::fs::read_to_string(dir.join(format!("policies/{name}.md"))).unwrap();
            let text = text.strip_suffix('\n').unwrap();
            Arc::new(PromptPolicy {
                digest: name.as_str().into(),
                text: text.into(),
                labels: vec!["allowed".into(), "violates".into()],
            })
        });
        rows.push(Row {
            policy: Arc::clone(policy),
            text: record[1].into(),
            p_violates: record[3].parse().unwrap(),
            analysis: record[4].to_owned(),
            label: record[5].to_owned(),
        });
    }
    assert_eq!((rows.len(), policies.len()), (379, 12));
    rows
}

/// The replies to all rows, many in flight at once, in order.
async fn ask(precision: Precision, mode: Mode, rows: &[Row]) -> Vec<Reply> {
    let nano = Local::nano_as(precision).unwrap();
    let prompts = rows.iter().map(|row| Prompt {
        policy: Arc::clone(&row.policy),
        text: Arc::clone(&row.text),
        mode,
        effort: Effort::Low,
        lane: Lane::Backfill,
    });
    let prompts: Vec<Prompt> = prompts.collect();
    let estimates: Vec<u64> = prompts.iter().map(|prompt| nano.tokens(prompt)).collect();
    let started = std::time::Instant::now();
    let replies: Vec<Reply> = futures::stream::iter(prompts)
        .map(|prompt| nano.ask(prompt))
        .buffered(64)
        .map(Result::unwrap)
        .collect()
        .await;
    let seconds = started.elapsed().as_secs_f64();
    let decoded: u64 = replies.iter().map(|reply| reply.tokens_out).sum();
    eprintln!(
        "{precision:?} {mode:?}: {:.0} rows/s, {:.0} decoded tokens/s",
        rows.len() as f64 / seconds,
        decoded as f64 / seconds
    );
    assert_eq!(nano.work_done().prefixes, 12);
    assert!(replies.iter().map(|reply| reply.tokens_in).eq(estimates));
    replies
}

#[tokio::test]
async fn score_mode_reads_the_probability_of_transformers() {
    let rows = rows();
    let mut worst = 0f64;
    for (row, reply) in rows
        .iter()
        .zip(ask(Precision::Exact, Mode::Score, &rows).await)
    {
        let Answer::Label {
            index,
            probabilities,
            ..
        } = reply.answer
        else {
            panic!("{}", row.text)
        };
        assert_eq!(index == 1, probabilities[1] > probabilities[0]);
        worst = worst.max((probabilities[1] - row.p_violates).abs());
    }
    eprintln!("largest difference of P(violates): {worst:.1e}");
    assert!(worst <= 1e-3, "{worst}");
}

#[tokio::test]
async fn reason_mode_decodes_the_analysis_of_transformers() {
    let rows = rows();
    let (mut analyses, mut labels) = (0, 0);
    for (row, reply) in rows
        .iter()
        .zip(ask(Precision::Exact, Mode::Reason, &rows).await)
    {
        let Answer::Label {
            index,
            analysis,
            reasoned,
            ..
        } = reply.answer
        else {
            panic!("{}", row.text)
        };
        assert!(reasoned);
        analyses += usize::from(analysis.as_deref() == Some(row.analysis.as_str()));
        labels += usize::from(*row.policy.labels[index] == *row.label);
    }
    eprintln!(
        "equal analyses: {analyses} of {}, equal labels: {labels}",
        rows.len()
    );
    assert!(
        analyses * 100 >= rows.len() * 99,
        "{analyses} of {}",
        rows.len()
    );
    assert!(
        labels * 100 >= rows.len() * 99,
        "{labels} of {}",
        rows.len()
    );
}

#[tokio::test]
async fn rounded_activations_agree_with_exact_ones() {
    let rows = rows();
    let exact = ask(Precision::Exact, Mode::Score, &rows).await;
    let violates = |reply: &Reply| match &reply.answer {
        Answer::Label {
            index,
            probabilities,
            ..
        } => (*index, probabilities[1]),
        Answer::None(_) | Answer::TooLong { .. } => panic!("a short text"),
    };
    // Largest and median difference of P(violates), and labels that may differ.
    for (precision, largest, middle, flips_max) in [
        (Precision::Int16, 0.02, 0.002, 0),
        (Precision::Int8, 0.2, 0.002, 1),
    ] {
        let quick = ask(precision, Mode::Score, &rows).await;
        let (mut distances, mut flips) = (Vec::new(), 0);
        for (exact, quick) in exact.iter().zip(&quick) {
            let ((label, p), (quick_label, quick_p)) = (violates(exact), violates(quick));
            flips += usize::from(label != quick_label);
            distances.push((p - quick_p).abs());
        }
        distances.sort_by(f64::total_cmp);
        let (median, worst) = (distances[rows.len() / 2], distances[rows.len() - 1]);
        eprintln!(
            "{precision:?}: |dP| median {median:.1e}, largest {worst:.1e}; {flips} labels differ"
        );
        assert!(worst <= largest && median <= middle && flips <= flips_max);
    }
}
