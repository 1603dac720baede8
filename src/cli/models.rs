//! `safeguard model ..`: what is typed, drawn and said about models.
//!
//! Takes a checked command, has [`crate::models`] do it, draws its progress on stderr and writes what it found to
//! stdout.

use super::args::{Like, Model, Rounding};
use super::{cannot_write, report, say, text_of};
use crate::backend::endpoint::is_address;
use crate::config;
use crate::error::Error;
use crate::model::{GptOss, ModelError, Precision, parse_ids, write_logits};
use crate::models::{
    self, Finding, Hub, Installed, Level, Order, Place, Pulled, Shape, Work, bytes_shown,
};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Hexadecimal digits of a digest that a list shows.
const DIGEST_SHOWN: usize = 12;

/// Does what was typed. Waits for disk and network: not to be called on a thread that serves others.
pub(super) fn run(command: Model) -> ExitCode {
    let done = match command {
        Model::Logits {
            model,
            ids,
            last,
            models,
        } => logits(&model, &models.get(), &ids, last),
        Model::Pull {
            repository,
            revision,
            models,
        } => pull(&repository, &revision, &models.get()),
        Model::List { models } => list(&models.get()),
        Model::Verify {
            model,
            models,
            swap,
        } => verify(&model, &models.get(), swap.allow_swap),
        Model::Bench {
            model,
            prefix_tokens,
            text_tokens,
            rows,
            slots,
            steps,
            precision,
            rows_file,
            unshared,
            json,
            models,
        } => {
            let precision = match precision {
                Rounding::Exact => Precision::Exact,
                Rounding::Int16 => Precision::Int16,
                Rounding::Int8 => Precision::Int8,
            };
            let work = Work {
                prefix_tokens: prefix_tokens.max(1),
                text_tokens,
                rows: rows.max(1),
                slots: slots.max(1),
                steps,
                precision,
                task: rows_file,
                unshared,
            };
            bench(&model, &models.get(), &work, json)
        }
        Model::Synthesize {
            like,
            layers,
            seed,
            dir,
        } => {
            let shape = match like {
                Like::B20 => Shape::B20,
                Like::B120 => Shape::B120,
                Like::Nano => Shape::Nano,
            };
            let layers = layers.map(usize::from);
            let order = Order {
                shape,
                layers,
                seed,
            };
            synthesize(&order, &dir)
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn logits(model: &str, models: &Path, ids: &Path, last: Option<usize>) -> Result<ExitCode, Error> {
    let ids = match text_of(ids) {
        Ok(text) => parse_ids(&text)?,
        Err(message) => return Ok(super::failed(&message)),
    };
    let model = match models::resolve(model, models)? {
        Place::Embedded => {
            let nano = crate::backend::nano_files();
            GptOss::from_bytes(nano.config, nano.weights)?
        }
        Place::Folder(dir) => GptOss::open(&dir)?,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    match write_logits(&model, &ids, last, &mut out) {
        Err(ModelError::Write(error)) => Ok(cannot_write(&error)),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(written(out.flush())),
    }
}

fn bench(model: &str, models: &Path, work: &Work, json: bool) -> Result<ExitCode, Error> {
    let found = models::bench(&models::resolve(model, models)?, work)?;
    let mut out = io::stdout().lock();
    if json {
        let text = serde_json::to_string(&found).unwrap_or_default();
        return Ok(written(writeln!(out, "{text}")));
    }
    Ok(written(writeln!(
        out,
        "reading   {:.1} tokens/s\nlabels    {:.1} rows/s, {} tokens behind a policy of {}\ndecoding  {:.1} tokens/s, {} \
         at once\nload      {:.1} s\nresident  {}\nwith      {} threads, {} kernels, {} activations",
        found.prefill_tokens_per_s,
        found.label_rows_per_s,
        work.text_tokens,
        work.prefix_tokens,
        found.decode_tokens_per_s,
        work.slots,
        found.load_s,
        bytes_shown(found.resident_bytes),
        found.threads,
        found.kernels,
        found.precision,
    )))
}

fn written(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cannot_write(&error),
    }
}

fn pull(repository: &str, revision: &str, models: &Path) -> Result<ExitCode, Error> {
    let hub = Hub::new(&config::hub(), config::hub_token());
    let (bar, begun) = (bytes_bar(), Instant::now());
    let pulled = models::pull(&hub, repository, revision, models, &|now: Pulled<'_>| {
        bar.set_length(now.total);
        bar.set_position(now.done);
        bar.set_message(now.file.to_owned());
    });
    bar.finish_and_clear();
    let pulled = pulled?;
    let (dir, commit) = (pulled.dir.display(), &pulled.commit);
    say(&match pulled.fetched {
        0 => format!("{repository} is in {dir} already, at {commit}"),
        bytes => format!(
            "fetched {} in {}: {repository} at {commit} is in {dir}",
            bytes_shown(bytes),
            HumanDuration(begun.elapsed())
        ),
    });
    Ok(ExitCode::SUCCESS)
}

fn list(models: &Path) -> Result<ExitCode, Error> {
    let all = models::list(models)?;
    let mut rows = vec![["name", "parameters", "size", "digest", "where"].map(str::to_owned)];
    rows.extend(all.iter().map(row));
    Ok(written(
        io::stdout().lock().write_all(columns(&rows).as_bytes()),
    ))
}

fn row(model: &Installed) -> [String; 5] {
    let parameters = match model.parameters {
        None => "not a gpt-oss model".to_owned(),
        Some(n @ 1_000_000_000..) => format!("{:.1} B", n as f64 / 1e9),
        Some(n) => format!("{:.1} M", n as f64 / 1e6),
    };
    let digest = model.digest.as_deref().unwrap_or("-");
    [
        model.name.clone(),
        parameters,
        bytes_shown(model.bytes),
        digest.get(..DIGEST_SHOWN).unwrap_or(digest).to_owned(),
        match &model.place {
            Place::Embedded => "a part of this program".to_owned(),
            Place::Folder(dir) => dir.display().to_string(),
        },
    ]
}

/// Cells below one another, two spaces between columns.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn verify(model: &str, models: &Path, allow_swap: bool) -> Result<ExitCode, Error> {
    let mut out = io::stdout().lock();
    let mut unwritten = None;
    let mut told = |found: Finding| {
        let level = match found.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Fail => "FAIL",
        };
        // A line at a time: a large model takes minutes.
        let line = writeln!(out, "{level:4}  {:9}  {}", found.check, found.detail);
        unwritten = unwritten.take().or(line.and_then(|()| out.flush()).err());
    };
    let sound = match is_address(model) {
        true => models::verify_address(model, config::endpoint_access(), &mut told),
        false => models::verify(&models::resolve(model, models)?, allow_swap, &mut told),
    };
    Ok(match (unwritten, sound) {
        (Some(error), _) => cannot_write(&error),
        (None, true) => ExitCode::SUCCESS,
        (None, false) => ExitCode::FAILURE,
    })
}

fn synthesize(order: &Order, dir: &Path) -> Result<ExitCode, Error> {
    let (bar, begun) = (bytes_bar(), Instant::now());
    let written = models::synthesize(order, dir, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let (size, dir) = (bytes_shown(written?), dir.display());
    let seconds = begun.elapsed().as_secs_f64();
    say(&format!(
        "wrote {size} of random weights to {dir} in {seconds:.1} s"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Bytes done and to do, on a terminal.
fn bytes_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let line = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(line) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_stands_in_columns() {
        let model = |name: &str, parameters, digest: Option<&str>| Installed {
            name: name.to_owned(),
            parameters,
            bytes: 13_800_000_000,
            digest: digest.map(str::to_owned),
            place: Place::Embedded,
        };
        let rows = [
            row(&model(
                "openai/x",
                Some(20_914_757_184),
                Some("0123456789abcdef"),
            )),
            row(&model("y", Some(4_850_000), None)),
            row(&model("z", None, Some("short"))),
        ];
        assert_eq!(
            columns(&rows),
            "openai/x  20.9 B               13.8 GB  0123456789ab  a part of this program\n\
             y         4.8 M                13.8 GB  -             a part of this program\n\
             z         not a gpt-oss model  13.8 GB  short         a part of this program\n"
        );
    }
}
