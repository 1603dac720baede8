//! The prompt: statements typed at a terminal, with a history.
//!
//! Takes lines until a statement is whole, hands it to the shell, and goes on whatever came of it. Lines are read on
//! a thread of their own, as the terminal blocks.

use super::say;
use super::shell::{Outcome, Shell};
use crate::config::HISTORY_STATEMENTS_MAX;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use std::path::Path;

/// Reads and runs statements until `\q`, Ctrl-D or the end of stdout. Statements are remembered in the file `history`.
///
/// # Errors
/// The terminal cannot be read; what it says.
pub(super) async fn run(shell: &mut Shell, history: Option<&Path>) -> Result<Outcome, String> {
    let mut editor = open(history).map_err(|error| error.to_string())?;
    say(concat!(
        "safeguard ",
        env!("CARGO_PKG_VERSION"),
        ". \\? for help, \\q to quit."
    ));
    let mut typed = String::new();
    loop {
        let prompt = if typed.is_empty() {
            "safeguard=> "
        } else {
            "safeguard-> "
        };
        let line;
        (editor, line) = read(editor, prompt).await?;
        match line {
            Ok(line) if typed.is_empty() && line.starts_with('\\') => {
                remember(&mut editor, &line, history);
                shell.interrupt_answered();
                match shell.command(line.trim()).await {
                    end @ (Outcome::Quit | Outcome::Closed) => return Ok(end),
                    _ => continue,
                }
            }
            Ok(line) => typed.push_str(&line),
            // Ctrl-C gives up what is typed, Ctrl-D leaves.
            Err(ReadlineError::Interrupted) => {
                typed.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(Outcome::Quit),
            Err(error) => return Err(error.to_string()),
        }
        if typed.trim().is_empty() {
            typed.clear();
            continue;
        }
        if shell.is_incomplete(&typed) {
            typed.push('\n');
            continue;
        }
        let sql = std::mem::take(&mut typed);
        remember(&mut editor, &sql, history);
        shell.interrupt_answered();
        if shell.sql(&sql).await == Outcome::Closed {
            return Ok(Outcome::Closed);
        }
    }
}

fn open(history: Option<&Path>) -> rustyline::Result<DefaultEditor> {
    let config = Config::builder()
        .max_history_size(HISTORY_STATEMENTS_MAX)?
        .build();
    let mut editor = DefaultEditor::with_config(config)?;
    if let Some(path) = history.filter(|path| path.exists())
        && let Err(error) = editor.load_history(path)
    {
        say(&format!(
            "WARNING:  cannot read {}: {error}",
            path.display()
        ));
    }
    Ok(editor)
}

type Line = Result<String, ReadlineError>;

async fn read(
    mut editor: DefaultEditor,
    prompt: &'static str,
) -> Result<(DefaultEditor, Line), String> {
    let line = tokio::task::spawn_blocking(move || {
        let line = editor.readline(prompt);
        (editor, line)
    });
    line.await.map_err(|error| error.to_string())
}

fn remember(editor: &mut DefaultEditor, typed: &str, history: Option<&Path>) {
    let added = editor.add_history_entry(typed.trim_end());
    if let (Ok(true), Some(path)) = (added, history)
        && let Err(error) = editor.append_history(path)
    {
        tracing::warn!("cannot write {}: {error}", path.display());
    }
}
