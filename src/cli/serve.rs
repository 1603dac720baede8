//! `safeguard serve`: the settings file and the command line as one.

use super::args::Serve;
use super::{USAGE, report, say};
use crate::config::{ConfigError, ServeConfig, ServeOptions};
use crate::error::Error;
use std::process::ExitCode;

/// Serves until the process is told to stop.
pub(super) async fn run(args: Serve) -> ExitCode {
    let served = match config(args) {
        Ok(config) => crate::server::serve(config, say).await,
        Err(error) => Err(Error::Config(error)),
    };
    ended(served)
}

/// The exit code of a process that served, and on stderr why it ended.
pub(super) fn ended(served: Result<(), Error>) -> ExitCode {
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(match error {
                Error::Config(_) | Error::Usage(_) => USAGE,
                _ => 1,
            })
        }
    }
}

/// What was typed, over what the settings file says, checked.
///
/// # Errors
/// A file or a value that cannot be used.
pub(super) fn config(args: Serve) -> Result<ServeConfig, ConfigError> {
    let file = match &args.config {
        Some(path) => ServeOptions::read(path)?,
        None => ServeOptions::default(),
    };
    ServeConfig::new(args.options().or(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Args;
    use crate::cli::args::Command;
    use std::ffi::OsString;

    fn read(line: &str) -> Result<ServeConfig, String> {
        let args = Args::read(line.split(' ').map(OsString::from)).map_err(|e| e.to_string())?;
        match args.command {
            Command::Serve(serve) => config(serve).map_err(|e| e.to_string()),
            _ => panic!("{line}"),
        }
    }

    #[test]
    fn the_command_line_is_checked_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("serve.toml");
        std::fs::write(&file, "model = 'a'\nmax_connections = 7\nallow_swap = true").unwrap();
        let line = format!(
            "safeguard serve --config {} --model b --backfill-workers 8 --listen 127.0.0.1:0 --content-root {1} --content-root /",
            file.display(),
            dir.path().display()
        );
        let config = read(&line).unwrap();
        assert_eq!(config.engine.model, "b");
        assert_eq!(config.listen.port(), 0);
        assert_eq!(
            (config.max_connections, config.engine.allow_swap),
            (7, true)
        );
        assert_eq!(config.backfill_workers, 8);
        assert_eq!(config.engine.content_roots.unwrap().len(), 2);
        std::fs::write(&file, "modell = 'a'").unwrap();
        let expected = format!(
            "{}: key \"modell\" is not known; the nearest one is \"model\"",
            file.display()
        );
        assert_eq!(read(&line).unwrap_err(), expected);
        let open = read("safeguard serve --listen 0.0.0.0:1").unwrap_err();
        assert!(
            open.starts_with("will not listen on 0.0.0.0:1 without TLS"),
            "{open}"
        );
        assert!(read("safeguard serve --listen 0.0.0.0:1 --allow-insecure").is_ok());
    }
}
