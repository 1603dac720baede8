//! The settings of a DataFusion session: `safeguard.*` and `datafusion.*`.
//!
//! Takes and gives texts; the session checks them. What the server itself relies on (the dialect, the catalog, how a
//! plan is made known) cannot be changed by a client.

use super::Options;
use crate::error::Error;
use crate::server::failure::Failure;
use datafusion::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::prelude::SessionContext;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a client may read only: the server's own planning and names rest on it.
const FIXED: [&str; 3] = [
    "datafusion.sql_parser.",
    "datafusion.catalog.",
    "datafusion.runtime.",
];

type Change<'a> = &'a mut dyn FnMut(&mut ConfigOptions);
type Look<'a> = &'a mut dyn FnMut(&ConfigOptions);

/// The settings of one session. Holds it weakly, since the session's functions hold the settings.
pub struct SessionOptions {
    change: Box<dyn Fn(Change<'_>) + Send + Sync>,
    look: Box<dyn Fn(Look<'_>) + Send + Sync>,
    /// What RESET goes back to.
    starts: BTreeMap<String, Option<String>>,
}

impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOptions").finish_non_exhaustive()
    }
}

impl SessionOptions {
    /// The settings of a session as it begins.
    pub fn new(context: &SessionContext) -> SessionOptions {
        let (for_change, for_look) = (context.state_weak_ref(), context.state_weak_ref());
        let options = SessionOptions {
            change: Box::new(move |change| {
                let Some(state) = for_change.upgrade() else {
                    return;
                };
                let mut state = state.write();
                change(state.config_mut().options_mut());
                // Some functions keep what they need of the settings, such as the zone of now().
                let options = state.config_options();
                let functions = state.scalar_functions().values();
                let changed: Vec<_> = functions
                    .filter_map(|function| function.inner().with_updated_config(options))
                    .collect();
                for function in changed {
                    let known = state.register_udf(Arc::new(function));
                    debug_assert!(known.is_ok(), "bug: a function cannot be registered again");
                }
            }),
            look: Box::new(move |look| {
                if let Some(state) = for_look.upgrade() {
                    look(state.read().config_options());
                }
            }),
            starts: BTreeMap::new(),
        };
        let starts = options.entries().into_iter();
        SessionOptions {
            starts: starts.map(|(name, value, _)| (name, value)).collect(),
            ..options
        }
    }

    fn entries(&self) -> Vec<(String, Option<String>, &'static str)> {
        let mut entries = Vec::new();
        (self.look)(&mut |options| {
            let all = options.entries().into_iter();
            entries = all.map(|e| (e.key, e.value, e.description)).collect();
        });
        entries
    }

    fn put(&self, name: &str, value: &str) -> Result<(), Failure> {
        let mut outcome = Ok(());
        (self.change)(&mut |options| outcome = options.set(name, value));
        outcome.map_err(|error| Error::Statement(error).into())
    }

    fn unknown(name: &str) -> Failure {
        let message = format!("unrecognized configuration parameter \"{name}\"");
        Failure::new("42704", message).with_hint("SHOW ALL lists the settings")
    }
}

impl Options for SessionOptions {
    fn get(&self, name: &str) -> Result<String, Failure> {
        let found = self.entries().into_iter().find(|(key, ..)| key == name);
        match found {
            Some((_, value, _)) => Ok(value.unwrap_or_default()),
            None => Err(SessionOptions::unknown(name)),
        }
    }

    fn set(&self, name: &str, value: Option<&str>) -> Result<(), Failure> {
        let Some(start) = self.starts.get(name) else {
            // The session says which there are.
            return match name.starts_with("safeguard.") {
                true => self.put(name, value.unwrap_or_default()),
                false => Err(SessionOptions::unknown(name)),
            };
        };
        let value = match value {
            Some(value) => value.to_owned(),
            None => {
                let now = self.get(name)?;
                let start = start.clone().unwrap_or_default();
                if now == start {
                    return Ok(());
                }
                start
            }
        };
        if FIXED.iter().any(|prefix| name.starts_with(prefix)) {
            let message = format!("parameter \"{name}\" cannot be changed");
            return Err(Failure::new("55P02", message));
        }
        self.put(name, &value)
    }

    fn all(&self) -> Vec<(String, String, String)> {
        let entries = self.entries().into_iter();
        entries
            .map(|(name, value, why)| (name, value.unwrap_or_default(), why.to_owned()))
            .collect()
    }

    fn follow(&self, name: &str, values: &[String]) {
        let known = match (name, values) {
            ("TimeZone", [zone]) => self.put("datafusion.execution.time_zone", zone),
            ("search_path", path) => {
                let schema = path.iter().find(|s| *s != "pg_catalog");
                let schema = schema.map_or("public", String::as_str);
                self.put("datafusion.catalog.default_schema", schema)
            }
            _ => Ok(()),
        };
        debug_assert!(known.is_ok(), "bug: the session does not follow {name}");
    }
}
