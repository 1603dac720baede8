//! The URL of a shared store: `postgres://user@host:port/database?schema=..`.
//!
//! Takes what was typed, gives where to connect and how the way is protected. A password is never shown. Connects to
//! nothing.

use crate::config::{local_user, variable};
use crate::postgres::SslMode;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::Config;

/// The schema where the URL names none.
const SCHEMA: &str = "safeguard_store";
/// Bytes of a name in PostgreSQL.
const NAME_BYTES_MAX: usize = 63;
/// Where a password is that is not in the URL, as for libpq.
const PASSWORD: &str = "PGPASSWORD";
/// What may stand behind the `?`.
const KNOWN: &str =
    "host, port, user, password, sslmode, sslrootcert, search_path or options=-csearch_path=NAME";

/// Where a shared store is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) dbname: String,
    pub(super) schema: String,
    pub(super) sslmode: SslMode,
    pub(super) sslrootcert: Option<PathBuf>,
    password: Option<String>,
}

impl Address {
    /// What a URL means; what it does not say is what libpq would take, but that nothing goes in the clear to another
    /// machine.
    pub(super) fn parse(url: &str) -> Result<Address, String> {
        let rest = ["postgres://", "postgresql://"]
            .into_iter()
            .find_map(|scheme| url.strip_prefix(scheme))
            .ok_or("a store's URL begins with postgres://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (who, place) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match who.split_once(':') {
            Some((user, password)) => (decoded(user)?, Some(decoded(password)?)),
            None => (decoded(who)?, None),
        };
        let (host, port) = host_and_port(place)?;
        let mut address = Address {
            host: if host.is_empty() {
                "localhost".to_owned()
            } else {
                decoded(host)?
            },
            port: port.map_or(Ok(5432), number)?,
            user,
            dbname: decoded(path)?,
            schema: SCHEMA.to_owned(),
            sslmode: SslMode::Disable,
            sslrootcert: None,
            password,
        };
        let mut sslmode = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            address.set(key, decoded(value)?, &mut sslmode)?;
        }
        address.sslmode = sslmode.unwrap_or_else(|| SslMode::of_host(&address.host));
        if address.user.is_empty() {
            address.user = local_user();
        }
        if address.dbname.is_empty() {
            address.dbname.clone_from(&address.user);
        }
        let fits = (1..=NAME_BYTES_MAX).contains(&address.schema.len());
        match fits && !address.schema.contains('\0') {
            true => Ok(address),
            false => Err(format!("a schema's name has 1 to {NAME_BYTES_MAX} bytes")),
        }
    }

    fn set(&mut self, key: &str, value: String, mode: &mut Option<SslMode>) -> Result<(), String> {
        match key {
            "host" => self.host = value,
            "port" => self.port = number(&value)?,
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "sslrootcert" => self.sslrootcert = Some(PathBuf::from(value)),
            "search_path" => self.schema = value,
            "sslmode" => {
                let known = SslMode::parse(&value);
                let wrong = || format!("sslmode is {}, not {value}", SslMode::WORDS);
                *mode = Some(known.ok_or_else(wrong)?);
            }
            "options" => {
                let set = value.trim_start_matches("-c").trim_start();
                let path = set.strip_prefix("search_path=");
                let wrong = || "options may only say -csearch_path=NAME".to_owned();
                self.schema = path.ok_or_else(wrong)?.to_owned();
            }
            other => return Err(format!("{other} is not known: a store's URL takes {KNOWN}")),
        }
        Ok(())
    }

    /// For a connection.
    pub(super) fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .dbname(&self.dbname)
            // A way that is cut in silence is found out within half a minute.
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(20));
        if let Some(password) = self.password.clone().or_else(|| variable(PASSWORD)) {
            config.password(password);
        }
        config
    }

    /// The URL without its password.
    pub(super) fn shown(&self) -> String {
        let Address {
            host,
            port,
            user,
            dbname,
            ..
        } = self;
        let mut shown = format!("postgres://{user}@{host}:{port}/{dbname}");
        if self.schema != SCHEMA {
            shown.push_str(&format!("?search_path={}", self.schema));
        }
        shown
    }
}

/// Parts at the last colon that is not within brackets.
fn host_and_port(place: &str) -> Result<(&str, Option<&str>), String> {
    if place.contains(',') {
        return Err("a store has one host".to_owned());
    }
    if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("a bracket is not closed")?;
        return Ok((host, rest.strip_prefix(':')));
    }
    Ok(match place.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (place, None),
    })
}

fn number(port: &str) -> Result<u16, String> {
    port.parse()
        .map_err(|_| format!("{port} is no port: a number from 1 to 65535"))
}

/// What `%20` and its like stand for.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next(), rest.next()].map(|d| d.and_then(|d| (d as char).to_digit(16)));
        let [Some(high), Some(low)] = digits else {
            return Err("a % is not followed by two hex digits".to_owned());
        };
        bytes.push(u8::try_from(high * 16 + low).expect("bug: two digits that are no byte"));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_how() {
        for (url, want, mode) in [
            (
                "postgres://ann@db.example.org/app",
                "postgres://ann@db.example.org:5432/app",
                SslMode::VerifyFull,
            ),
            (
                "postgresql://ann:p%40ss@localhost:5433/app",
                "postgres://ann@localhost:5433/app",
                SslMode::Disable,
            ),
            (
                "postgres://ann@[::1]:7/a?sslmode=require",
                "postgres://ann@::1:7/a",
                SslMode::Require,
            ),
            (
                "postgres://ann@/a?host=%2Frun%2Fpg&port=6&search_path=mine",
                "postgres://ann@/run/pg:6/a?search_path=mine",
                SslMode::Disable,
            ),
            (
                "postgres://ann@h/a?options=-c%20search_path%3Dx",
                "postgres://ann@h:5432/a?search_path=x",
                SslMode::VerifyFull,
            ),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.shown(), want);
            assert_eq!(address.sslmode, mode, "{url}");
        }
        let secret = Address::parse("postgres://ann:p%40ss@h/a").unwrap();
        assert_eq!(secret.password.as_deref(), Some("p@ss"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (url, why) in [
            ("mysql://h/a", "begins with postgres://"),
            ("postgres://a,b/c", "one host"),
            ("postgres://h:x/c", "x is no port"),
            (
                "postgres://h/c?sslmode=prefer",
                "disable, require or verify-full",
            ),
            ("postgres://h/c?timeout=3", "timeout is not known"),
            ("postgres://h/c?search_path=", "1 to 63 bytes"),
            ("postgres://h/c?options=-cwork_mem=1", "search_path"),
            ("postgres://h/%c", "two hex digits"),
        ] {
            let said = Address::parse(url).err().expect(url);
            assert!(said.contains(why), "{url}: {said}");
        }
    }
}
