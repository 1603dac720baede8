//! What a connection may SET and SHOW.
//!
//! Takes names and texts, gives checked values, and undoes them as PostgreSQL does when a transaction rolls back
//! (SET) or ends (SET LOCAL). PostgreSQL's own settings live here; those of `safeguard.*` and `datafusion.*` belong
//! to the connection's session and are reached through [`Options`]. Knows no sockets and runs no statements.

mod command;
mod known;
mod options;
mod value;

pub use command::{Command, Discard};
pub use options::SessionOptions;

use super::failure::Failure;
use known::{Access, Known, Namespace};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The version that clients are told; every driver can read it.
pub const SERVER_VERSION: &str = "16.6";

/// The settings that belong to the session below: `safeguard.*` and `datafusion.*`.
pub trait Options: Send + Sync + std::fmt::Debug {
    /// The value of a setting, by its whole name.
    ///
    /// # Errors
    /// 42704 when there is none of this name.
    fn get(&self, name: &str) -> Result<String, Failure>;

    /// Gives a setting a value, or with `None` the one that the session began with.
    ///
    /// # Errors
    /// 42704 when there is none of this name, 22023 when it does not take this value.
    fn set(&self, name: &str, value: Option<&str>) -> Result<(), Failure>;

    /// Name, value and description of each.
    fn all(&self) -> Vec<(String, String, String)>;

    /// Told when a setting of PostgreSQL has a new value that concerns planning: `TimeZone` (as Arrow spells zones)
    /// and `search_path` (the schemas in order).
    fn follow(&self, name: &str, values: &[String]);
}

/// One connection's settings.
#[derive(Debug)]
pub struct Settings {
    options: Arc<dyn Options>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What differs from the defaults, by canonical name.
    values: BTreeMap<String, String>,
    /// What RESET goes back to, where that is not the default.
    starts: BTreeMap<String, String>,
    transaction: Option<Transaction>,
    /// Those whose value the client has not been told yet.
    unreported: BTreeSet<&'static str>,
}

/// What a transaction changed.
#[derive(Debug, Default)]
struct Transaction {
    /// Values before it; what ROLLBACK gives back.
    before: BTreeMap<String, Option<String>>,
    /// Values that stay when it commits.
    after: BTreeMap<String, Option<String>>,
}

impl Settings {
    /// The settings of a connection that begins; `user` is who it belongs to, `superuser` whether that is an admin.
    pub fn new(options: Arc<dyn Options>, user: &str, superuser: bool) -> Settings {
        let settings = Settings {
            options,
            state: Mutex::default(),
        };
        settings.fix("session_authorization", user);
        settings.fix("is_superuser", if superuser { "on" } else { "off" });
        settings.state().unreported = known::reported().collect();
        for known in known::KNOWN {
            settings.follow(known);
        }
        settings
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what a setting is that clients can only read, such as `max_connections` or `port`.
    pub fn fix(&self, name: &str, value: impl Into<String>) {
        let value = value.into();
        let mut state = self.state();
        state.starts.insert(name.to_owned(), value.clone());
        state.values.insert(name.to_owned(), value);
    }

    /// A value that the client asks for as it connects; RESET goes back to it.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub fn start(&self, name: &str, value: &str) -> Result<(), Failure> {
        self.set(name, Some(value), false)?;
        if let Namespace::Postgres(known) = known::find(name)? {
            let mut state = self.state();
            if let Some(value) = state.values.get(known.name).cloned() {
                state.starts.insert(known.name.to_owned(), value);
            }
        }
        Ok(())
    }

    /// The value of a setting as SHOW gives it.
    ///
    /// # Errors
    /// 42704 when there is none of this name.
    pub fn get(&self, name: &str) -> Result<String, Failure> {
        match known::find(name)? {
            Namespace::Postgres(known) => Ok(self.value_of(known)),
            Namespace::Session(name) => self.options.get(&name),
            Namespace::Custom(name) => {
                let value = self.state().values.get(&name).cloned();
                value.ok_or_else(|| known::unknown(&name))
            }
        }
    }

    /// The name of a setting as PostgreSQL spells it: `TimeZone` for `timezone`.
    pub fn canonical(&self, name: &str) -> String {
        match known::find(name) {
            Ok(Namespace::Postgres(known)) => known.name.to_owned(),
            Ok(Namespace::Session(name) | Namespace::Custom(name)) => name,
            Err(_) => name.to_owned(),
        }
    }

    fn value_of(&self, known: &Known) -> String {
        let state = self.state();
        let name = match known.name {
            // Outside of a transaction they are what the next one begins with.
            "transaction_isolation" if state.transaction.is_none() => {
                "default_transaction_isolation"
            }
            "transaction_read_only" if state.transaction.is_none() => {
                "default_transaction_read_only"
            }
            name => name,
        };
        let value = state.values.get(name).or_else(|| state.starts.get(name));
        value.map_or_else(|| known::default_of(name).to_owned(), Clone::clone)
    }

    /// Gives a setting a value (`None`: the one that RESET gives). With `local` it ends with the transaction; outside
    /// of one it has no effect, of which the caller warns (25P01).
    ///
    /// # Errors
    /// 42704 for an unknown name, 22023 for a value it does not take, 55P02 where only the server's start sets it,
    /// 42501 where only an admin may, 0A000 for what PostgreSQL has and this server has not.
    pub fn set(&self, name: &str, value: Option<&str>, local: bool) -> Result<(), Failure> {
        let place = known::find(name)?;
        let (name, checked) = match &place {
            Namespace::Postgres(known) => {
                self.allowed(known)?;
                let checked = match value {
                    Some(value) => Some(value::check(known, value)?),
                    None => None,
                };
                (known.name.to_owned(), checked)
            }
            Namespace::Session(name) | Namespace::Custom(name) => {
                (name.clone(), value.map(str::to_owned))
            }
        };
        if local && self.state().transaction.is_none() {
            return Ok(());
        }
        let before = self.raw(&place, &name);
        self.apply(&place, &name, checked.as_deref())?;
        let after = self.raw(&place, &name);
        if let Some(transaction) = &mut self.state().transaction {
            let first = transaction.before.entry(name.clone());
            first.or_insert_with(|| before.clone());
            // A transaction's own settings never outlive it.
            if local || name.starts_with("transaction_") {
                transaction.after.entry(name).or_insert(before);
            } else {
                transaction.after.insert(name, after);
            }
        }
        Ok(())
    }

    fn allowed(&self, known: &Known) -> Result<(), Failure> {
        let name = known.name;
        match known.access {
            Access::User => Ok(()),
            Access::Internal => {
                let message = format!("parameter \"{name}\" cannot be changed");
                Err(Failure::new("55P02", message))
            }
            Access::Server => {
                let message =
                    format!("parameter \"{name}\" cannot be changed without restarting the server");
                Err(Failure::new("55P02", message))
            }
            Access::Admin => match self.get("is_superuser")?.as_str() {
                "on" => Ok(()),
                _ => {
                    let message = format!("permission denied to set parameter \"{name}\"");
                    Err(Failure::new("42501", message))
                }
            },
        }
    }

    /// What would have to be set for things to be as they are.
    fn raw(&self, place: &Namespace, name: &str) -> Option<String> {
        match place {
            Namespace::Session(name) => self.options.get(name).ok(),
            _ => self.state().values.get(name).cloned(),
        }
    }

    fn apply(&self, place: &Namespace, name: &str, value: Option<&str>) -> Result<(), Failure> {
        match place {
            Namespace::Session(name) => return self.options.set(name, value),
            Namespace::Custom(name) => {
                // PostgreSQL keeps the name of a custom setting that was reset, with an empty value.
                let value = value.unwrap_or_default().to_owned();
                self.state().values.insert(name.clone(), value);
            }
            Namespace::Postgres(known) => {
                let mut state = self.state();
                match value {
                    Some(value) => {
                        state.values.insert(name.to_owned(), value.to_owned());
                    }
                    None => {
                        state.values.remove(name);
                    }
                }
                if known.reported {
                    state.unreported.insert(known.name);
                }
                drop(state);
                self.follow(known);
            }
        }
        Ok(())
    }

    /// Tells the session what its planning has to know.
    fn follow(&self, known: &Known) {
        match known.name {
            "TimeZone" => self.options.follow("TimeZone", &[self.time_zone()]),
            "search_path" => self.options.follow("search_path", &self.search_path()),
            _ => {}
        }
    }

    /// Back to what the connection began with.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub fn reset(&self, name: &str) -> Result<(), Failure> {
        if let Namespace::Custom(name) = known::find(name)?
            && !self.state().values.contains_key(&name)
        {
            return Err(known::unknown(&name));
        }
        self.set(name, None, false)
    }

    /// Everything that a user may set back to what the connection began with.
    pub fn reset_all(&self) {
        let mut names: Vec<String> = self.state().values.keys().cloned().collect();
        names.extend(self.options.all().into_iter().map(|(name, ..)| name));
        for name in names {
            // What cannot be set was never changed.
            let _ = self.set(&name, None, false);
        }
    }

    /// Name, value and description of each, in SHOW ALL's order.
    pub fn all(&self) -> Vec<(String, String, String)> {
        let own = known::KNOWN.iter().map(|known| {
            (
                known.name.to_owned(),
                self.value_of(known),
                known.description.to_owned(),
            )
        });
        let mut all: Vec<_> = own.chain(self.options.all()).collect();
        all.sort_by_key(|(name, ..)| name.to_lowercase());
        all
    }

    /// Begins a transaction: what is set from here can be undone.
    pub fn begin(&self) {
        let mut state = self.state();
        for (name, default) in [
            ("transaction_isolation", "default_transaction_isolation"),
            ("transaction_read_only", "default_transaction_read_only"),
        ] {
            let value = state
                .values
                .get(default)
                .or_else(|| state.starts.get(default));
            let value = value.map_or_else(|| known::default_of(default).to_owned(), Clone::clone);
            state.values.insert(name.to_owned(), value);
        }
        state.transaction = Some(Transaction::default());
    }

    /// Ends the transaction and keeps what was SET in it, without what was SET LOCAL.
    pub fn commit(&self) {
        self.end(|transaction| transaction.after);
    }

    /// Ends the transaction and undoes what was set in it.
    pub fn rollback(&self) {
        self.end(|transaction| transaction.before);
    }

    /// Whether a transaction has begun and not ended.
    pub fn in_transaction(&self) -> bool {
        self.state().transaction.is_some()
    }

    fn end(&self, outcome: impl Fn(Transaction) -> BTreeMap<String, Option<String>>) {
        let Some(transaction) = self.state().transaction.take() else {
            return;
        };
        for (name, value) in outcome(transaction) {
            let place = known::find(&name).expect("bug: a setting that was set is known");
            match (&place, value) {
                (Namespace::Custom(name), None) => {
                    self.state().values.remove(name);
                }
                // It was in force before.
                (place, value) => {
                    let _ = self.apply(place, &name, value.as_deref());
                }
            }
        }
        let mut state = self.state();
        state.values.remove("transaction_isolation");
        state.values.remove("transaction_read_only");
        state.values.remove("transaction_deferrable");
    }

    /// What clients are told of by itself and that has changed since the last call; all of it at the first. Names as
    /// PostgreSQL spells them.
    pub fn report(&self) -> Vec<(&'static str, String)> {
        let names = std::mem::take(&mut self.state().unreported);
        names
            .into_iter()
            .filter_map(|name| Some((name, self.get(name).ok()?)))
            .collect()
    }

    /// A setting that is a time, such as `statement_timeout`; `None` when it is 0 (off) or not a time.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        let millis = value::millis(&self.get(name).ok()?)?;
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    /// `TimeZone` as Arrow spells zones: `Europe/Berlin` or `+05:30` (east is +).
    pub fn time_zone(&self) -> String {
        let shown = self.get("TimeZone").unwrap_or_default();
        value::arrow_zone(&shown)
    }

    /// The schemas in which names are looked up, in order, `"$user"` left out.
    pub fn search_path(&self) -> Vec<String> {
        let shown = self.get("search_path").unwrap_or_default();
        let mut path = value::list(&shown);
        path.retain(|schema| schema != "$user");
        path
    }
}

#[cfg(test)]
mod tests;
