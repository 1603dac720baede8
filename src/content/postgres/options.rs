//! The options of CREATE SERVER: where a database is, who we are there, how the way is protected.
//!
//! Takes names and values as typed, gives what they mean. A password is never shown. Reads no file and connects to nothing.

use crate::config::{SERVER_READERS_MAX, variable};
use crate::content::ContentError;
use crate::postgres::SslMode;
use std::fmt;
use std::path::PathBuf;

/// What an option may be called.
const KNOWN: [&str; 10] = [
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "password_env",
    "schema",
    "sslmode",
    "sslrootcert",
    "connections",
];

/// Where a database is and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// A name, an address, or the folder of a socket.
    pub host: String,
    /// Of the host, 5432 unless said otherwise.
    pub port: u16,
    /// The database.
    pub dbname: String,
    /// Its user.
    pub user: String,
    /// The schema of the database whose tables are attached.
    pub schema: String,
    /// How the way is protected.
    pub sslmode: SslMode,
    /// Certificates that are trusted in place of the public ones.
    pub sslrootcert: Option<PathBuf>,
    /// Over how many connections one table is read at once.
    pub connections: usize,
    password: Password,
}

/// Where the password is.
#[derive(Clone, PartialEq, Eq)]
enum Password {
    None,
    Said(String),
    /// In a variable of the environment, which is looked at when a connection is made.
    Variable(String),
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{}:{}/{}",
            self.user, self.host, self.port, self.dbname
        )
    }
}

impl Options {
    /// What the options mean: names in any case, values as typed.
    ///
    /// # Errors
    /// An option that is not known, is given twice or is missing; a value that cannot be used.
    pub fn parse(given: &[(String, String)]) -> Result<Options, ContentError> {
        let mut seen: Vec<String> = Vec::new();
        for (name, _) in given {
            let name = name.to_ascii_lowercase();
            if !KNOWN.contains(&name.as_str()) {
                let hint = format!("options are {}", KNOWN.join(", "));
                let why = format!("invalid option \"{name}\"");
                return Err(ContentError::new("HV00D", why).with_hint(hint));
            }
            if seen.contains(&name) {
                let why = format!("option \"{name}\" is given twice");
                return Err(ContentError::new("42710", why));
            }
            seen.push(name);
        }
        let find = |name: &str| {
            let given = given.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            given.map(|(_, value)| value.clone())
        };
        let needed = |name: &str| {
            let value = find(name).filter(|value| !value.is_empty());
            let missing = || ContentError::new("HV00B", format!("option \"{name}\" is missing"));
            value.ok_or_else(missing)
        };
        let host = find("host").unwrap_or_else(|| "localhost".to_owned());
        let sslmode = match find("sslmode") {
            Some(mode) => match SslMode::parse(&mode) {
                Some(mode) => mode,
                None => return Err(invalid("sslmode", &mode, SslMode::WORDS)),
            },
            None => SslMode::of_host(&host),
        };
        let port = find("port").unwrap_or_else(|| "5432".to_owned());
        let port = port
            .parse()
            .map_err(|_| invalid("port", &port, "a number from 1 to 65535"))?;
        let connections = find("connections").unwrap_or_else(|| "1".to_owned());
        let most = 1..=SERVER_READERS_MAX;
        let connections = connections.parse().ok().filter(|n| most.contains(n));
        let connections = connections.ok_or_else(|| {
            let given = find("connections").unwrap_or_default();
            let want = format!("a number from 1 to {SERVER_READERS_MAX}");
            invalid("connections", &given, &want)
        })?;
        let password = match (find("password"), find("password_env")) {
            (Some(_), Some(_)) => {
                let why = "give either \"password\" or \"password_env\"";
                return Err(ContentError::new("22023", why));
            }
            (Some(said), None) => Password::Said(said),
            (None, Some(variable)) => Password::Variable(variable),
            (None, None) => Password::None,
        };
        Ok(Options {
            port,
            dbname: needed("dbname")?,
            user: needed("user")?,
            schema: find("schema").unwrap_or_else(|| "public".to_owned()),
            sslmode,
            sslrootcert: find("sslrootcert").map(PathBuf::from),
            connections,
            password,
            host,
        })
    }

    /// The password, if there is to be one.
    ///
    /// # Errors
    /// The variable that should hold it is not set.
    pub(super) fn password(&self) -> Result<Option<String>, ContentError> {
        match &self.password {
            Password::None => Ok(None),
            Password::Said(said) => Ok(Some(said.clone())),
            Password::Variable(name) => match variable(name) {
                Some(value) => Ok(Some(value)),
                None => {
                    let why = format!("the environment has no variable {name} (password_env)");
                    Err(ContentError::new("28P01", why))
                }
            },
        }
    }
}

fn invalid(option: &str, value: &str, want: &str) -> ContentError {
    let why = format!("invalid value \"{value}\" for option \"{option}\": it is {want}");
    ContentError::new("22023", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<Options, ContentError> {
        let given: Vec<_> = given
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Options::parse(&given)
    }

    #[test]
    fn what_is_not_said_is_what_libpq_would_take_but_for_open_ways() {
        let base = [("dbname", "app"), ("user", "ann")];
        for (host, want) in [
            ("localhost", SslMode::Disable),
            ("127.0.0.1", SslMode::Disable),
            ("::1", SslMode::Disable),
            ("/run/postgresql", SslMode::Disable),
            ("db.example.org", SslMode::VerifyFull),
            ("10.0.0.7", SslMode::VerifyFull),
        ] {
            let with_host = [base[0], base[1], ("HOST", host)];
            let options = parse(&with_host).unwrap();
            assert_eq!((options.sslmode, options.port), (want, 5432), "{host}");
            assert_eq!(options.schema, "public");
        }
        assert_eq!(parse(&base).unwrap().host, "localhost");
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        let (dbname, user) = (("dbname", "app"), ("user", "ann"));
        for (given, sqlstate, want) in [
            (vec![dbname], "HV00B", "option \"user\" is missing"),
            (vec![user], "HV00B", "option \"dbname\" is missing"),
            (
                vec![dbname, user, ("hots", "x")],
                "HV00D",
                "invalid option \"hots\"",
            ),
            (
                vec![dbname, user, ("User", "x")],
                "42710",
                "option \"user\" is given twice",
            ),
            (
                vec![dbname, user, ("port", "99999")],
                "22023",
                "invalid value \"99999\" for option \"port\": it is a number from 1 to 65535",
            ),
            (
                vec![dbname, user, ("connections", "0")],
                "22023",
                "invalid value \"0\" for option \"connections\": it is a number from 1 to 16",
            ),
            (
                vec![dbname, user, ("sslmode", "prefer")],
                "22023",
                "invalid value \"prefer\" for option \"sslmode\": it is disable, require or verify-full",
            ),
            (
                vec![dbname, user, ("password", "x"), ("password_env", "Y")],
                "22023",
                "give either \"password\" or \"password_env\"",
            ),
        ] {
            let error = parse(&given).unwrap_err();
            assert_eq!((error.sqlstate, error.why.as_str()), (sqlstate, want));
        }
    }

    #[test]
    fn a_password_is_not_shown_and_one_from_the_environment_must_be_there() {
        let given = [("dbname", "app"), ("user", "ann"), ("password", "s3cret")];
        let options = parse(&given).unwrap();
        assert_eq!(options.password().unwrap().as_deref(), Some("s3cret"));
        assert_eq!(format!("{options:?}"), "ann@localhost:5432/app");
        let given = [
            ("dbname", "app"),
            ("user", "ann"),
            ("password_env", "SAFEGUARD_NO_SUCH_VARIABLE"),
        ];
        assert_eq!(
            parse(&given).unwrap().password().unwrap_err().sqlstate,
            "28P01"
        );
    }
}
