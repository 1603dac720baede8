//! Which resource is the limit, for `/metrics`: what work waits for, what the model takes at once, and the processors.
//!
//! Takes an engine, gives lines in the text format of Prometheus. Knows no HTTP.

use crate::engine::Engine;
use crate::waits::Waited;
use std::fmt::Write;
use std::time::Instant;

/// Ticks in a second, by which Linux tells a process's time on processors.
const TICKS: f64 = 100.0;

/// The lines.
pub fn text(engine: &Engine) -> String {
    let now = Instant::now();
    let store = engine.store().waits();
    let waits = [
        ("model", engine.waits().questions.read(now)),
        ("store_read", store.reads.read(now)),
        ("store_write", store.writes.read(now)),
        ("source", engine.waits().sources.read(now)),
    ];
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, show: fn(&Waited) -> String| {
        head(&mut text, name, kind, help);
        for (what, waited) in &waits {
            let _ = writeln!(text, "{name}{{for=\"{what}\"}} {}", show(waited));
        }
    };
    let help = "What waits now: questions for the model, statements for the store, backfills for rows of their source.";
    family("safeguard_waiting", "gauge", help, |w| {
        w.waiting.to_string()
    });
    let help = "Waits that are over.";
    family("safeguard_waits_total", "counter", help, |w| {
        w.ended.to_string()
    });
    let help = "Seconds waited, all together: their growth in a second is how many waited at once.";
    family("safeguard_wait_seconds_total", "counter", help, |w| {
        w.seconds.to_string()
    });
    let mut one = |name: &str, kind: &str, help: &str, value: String| {
        head(&mut text, name, kind, help);
        let _ = writeln!(text, "{name} {value}");
    };
    if let Some(places) = engine.places() {
        for (name, help, value) in [
            (
                "safeguard_model_in_hand",
                "Questions that are at a server of the model.",
                places.in_hand,
            ),
            (
                "safeguard_model_places",
                "Questions that the model's servers bear at once, as far as is known; further ones wait here.",
                places.most,
            ),
            (
                "safeguard_model_servers",
                "Servers of the model.",
                places.servers,
            ),
            (
                "safeguard_model_servers_well",
                "Those that are not left alone because they failed.",
                places.well,
            ),
        ] {
            one(name, "gauge", help, value.to_string());
        }
    }
    if let Some(seconds) = processor_seconds() {
        let help = "Seconds of processors that this process has used.";
        one(
            "process_cpu_seconds_total",
            "counter",
            help,
            seconds.to_string(),
        );
    }
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    let help =
        "Processors that this process may use: seconds of processors in a second at the most.";
    one(
        "safeguard_processors",
        "gauge",
        help,
        processors.to_string(),
    );
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}");
    let _ = writeln!(text, "# TYPE {name} {kind}");
}

/// Of user and system; only Linux is asked.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    of_stat(&stat)
}

/// The program's name, in brackets, may hold anything.
fn of_stat(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11);
    let mut next = || ticks.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::local::Local;
    use crate::store::Store;
    use std::sync::Arc;

    #[test]
    fn a_process_tells_its_time() {
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194560 100 0 0 0 250 50 7 7 20 0 9 0 100 200 300";
        assert_eq!(of_stat(stat), Some(3.0));
        assert_eq!(of_stat("12 (a) S 1"), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_waited_for_is_counted() {
        let backend = Arc::new(Local::nano().unwrap());
        let engine = Engine::with_backend(Store::ephemeral().unwrap(), backend);
        let engine = crate::jobs::complete(engine.await.unwrap());
        let value = |text: &str, line: &str| -> f64 {
            let found = text.lines().find_map(|said| said.strip_prefix(line));
            found
                .unwrap_or_else(|| panic!("{line}\n{text}"))
                .trim()
                .parse()
                .unwrap()
        };
        let questions = "safeguard_waits_total{for=\"model\"}";
        let writes = "safeguard_waits_total{for=\"store_write\"}";
        let before = super::text(&engine);
        assert_eq!(value(&before, questions), 0.0);
        let session = engine.session("me");
        let ask = "SELECT safeguard_classify('hate', 'text ' || value) FROM generate_series(1, 3)";
        let statement = session.split(ask).remove(0).unwrap();
        let (rows, ended) = session.run(&statement).await.unwrap().split();
        let rows: Vec<_> = futures::TryStreamExt::try_collect(rows).await.unwrap();
        assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 3);
        session.finish(ended, crate::engine::End::Done).await;
        let after = super::text(&engine);
        assert_eq!(value(&after, questions), 3.0);
        assert!(value(&after, "safeguard_wait_seconds_total{for=\"model\"}") > 0.0);
        assert!(value(&after, writes) > value(&before, writes));
        assert_eq!(value(&after, "safeguard_waiting{for=\"model\"}"), 0.0);
        assert!(value(&after, "safeguard_processors") >= 1.0);
        assert!(
            !after.contains("safeguard_model_places"),
            "it is no server's"
        );
    }
}
