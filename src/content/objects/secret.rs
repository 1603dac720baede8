//! The options of CREATE SECRET: who we are in an object store, and where it is.
//!
//! Takes names and values as typed, gives what they mean. Values that are secrets are never shown, and none is shown in an
//! error. Connects to nothing.

use crate::config::variable;
use crate::content::ContentError;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Whose protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Amazon S3, and what speaks as it does.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// A web server, of which files are read.
    Http,
}

/// The certificates that are trusted beside the system's.
const CA_FILE: &str = "ca_file";
/// Where the secret is used.
const SCOPE: &str = "scope";
/// What the name of a variable of the environment is said with, in place of a secret.
const ENV: &str = "_env";

/// What an option is.
struct Known {
    name: &'static str,
    /// As `object_store` calls it; empty for what is ours.
    key: &'static str,
    secret: bool,
}

const fn said(name: &'static str, key: &'static str) -> Known {
    Known {
        name,
        key,
        secret: false,
    }
}

const fn hidden(name: &'static str, key: &'static str) -> Known {
    Known {
        name,
        key,
        secret: true,
    }
}

const S3: &[Known] = &[
    said("key_id", "aws_access_key_id"),
    hidden("secret", "aws_secret_access_key"),
    hidden("session_token", "aws_session_token"),
    said("region", "aws_region"),
    said("endpoint", "aws_endpoint"),
    said("url_style", "aws_virtual_hosted_style_request"),
    said("anonymous", "aws_skip_signature"),
];
const GCS: &[Known] = &[
    hidden("service_account_key", "google_service_account_key"),
    said("service_account_path", "google_service_account"),
    said("endpoint", "google_base_url"),
    said("anonymous", "google_skip_signature"),
];
const AZURE: &[Known] = &[
    said("account", "azure_storage_account_name"),
    hidden("key", "azure_storage_account_key"),
    hidden("sas", "azure_storage_sas_key"),
    said("tenant_id", "azure_storage_tenant_id"),
    said("client_id", "azure_storage_client_id"),
    hidden("client_secret", "azure_storage_client_secret"),
    said("endpoint", "azure_storage_endpoint"),
    said("anonymous", "azure_skip_signature"),
];
const HTTP: &[Known] = &[hidden("bearer_token", BEARER)];

/// What is sent to a web server as `Authorization: Bearer ..`.
pub(super) const BEARER: &str = "bearer_token";

impl Kind {
    /// Of a location's scheme; `None` for what is no object store's.
    pub fn of_scheme(scheme: &str) -> Option<Kind> {
        Some(match scheme {
            "s3" | "s3a" => Kind::S3,
            "gs" => Kind::Gcs,
            "az" | "abfs" | "abfss" => Kind::Azure,
            "http" | "https" => Kind::Http,
            _ => return None,
        })
    }

    /// As CREATE SECRET names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::S3 => "s3",
            Kind::Gcs => "gcs",
            Kind::Azure => "azure",
            Kind::Http => "http",
        }
    }

    fn options(self) -> &'static [Known] {
        match self {
            Kind::S3 => S3,
            Kind::Gcs => GCS,
            Kind::Azure => AZURE,
            Kind::Http => HTTP,
        }
    }

    fn names(self) -> String {
        let mut names = Vec::new();
        for option in self.options() {
            names.push(option.name.to_owned());
            if option.secret {
                names.push(format!("{}{ENV}", option.name));
            }
        }
        names.extend([SCOPE.to_owned(), CA_FILE.to_owned()]);
        names.join(", ")
    }

    /// What the environment's variables begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Kind::S3 => "AWS_",
            Kind::Gcs => "GOOGLE_",
            Kind::Azure => "AZURE_",
            Kind::Http => "SAFEGUARD_HTTP_",
        }
    }
}

impl FromStr for Kind {
    type Err = ContentError;

    fn from_str(said: &str) -> Result<Kind, ContentError> {
        let kinds = [Kind::S3, Kind::Gcs, Kind::Azure, Kind::Http];
        let found = kinds
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(said));
        found.ok_or_else(|| {
            let why = format!("there is no secret of type {said}");
            ContentError::new("22023", why).with_hint("types are s3, gcs, azure and http")
        })
    }
}

/// Where a value is.
#[derive(Clone, PartialEq, Eq)]
enum Value {
    Said(String),
    /// In a variable of the environment, which is looked at when a store is opened.
    Variable(String),
}

/// Who we are in an object store, and where it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Whose protocol is spoken.
    pub kind: Kind,
    /// `scheme://` or `scheme://bucket`; `None` for all of the kind.
    scope: Option<String>,
    ca_file: Option<PathBuf>,
    /// Names as `object_store` calls them, and values.
    values: Vec<(&'static str, Value)>,
    /// Whether a secret stands in it.
    holds_secret: bool,
    /// The options' names, as typed but in lower case.
    named: Vec<String>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} secret ({})",
            self.kind.as_str(),
            self.named.join(", ")
        )
    }
}

impl Secret {
    /// What the options mean: names in any case, values as typed.
    ///
    /// # Errors
    /// An option that is not known or is given twice; a value that cannot be used.
    pub fn parse(kind: Kind, given: &[(String, String)]) -> Result<Secret, ContentError> {
        let mut secret = Secret {
            kind,
            scope: None,
            ca_file: None,
            values: Vec::new(),
            holds_secret: false,
            named: Vec::new(),
        };
        for (name, value) in given {
            let name = name.to_ascii_lowercase();
            if secret.named.contains(&name) {
                let why = format!("option \"{name}\" is given twice");
                return Err(ContentError::new("42710", why));
            }
            secret.take(&name, value)?;
            secret.named.push(name);
        }
        Ok(secret)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), ContentError> {
        match name {
            SCOPE => {
                self.scope = Some(scope(self.kind, value)?);
                return Ok(());
            }
            CA_FILE => {
                self.ca_file = Some(PathBuf::from(value));
                return Ok(());
            }
            _ => {}
        }
        let mut options = self.kind.options().iter();
        let (option, by_name) = options
            .find_map(|option| match name.strip_prefix(option.name)? {
                "" => Some((option, false)),
                ENV if option.secret => Some((option, true)),
                _ => None,
            })
            .ok_or_else(|| {
                let why = format!(
                    "invalid option \"{name}\" of a secret of type {}",
                    self.kind.as_str()
                );
                ContentError::new("HV00D", why)
                    .with_hint(format!("options are {}", self.kind.names()))
            })?;
        if self.values.iter().any(|(key, _)| *key == option.key) {
            let name = option.name;
            let why = format!("give either \"{name}\" or \"{name}{ENV}\"");
            return Err(ContentError::new("22023", why));
        }
        let value = match (option.name, by_name) {
            (_, true) => Value::Variable(value.to_owned()),
            ("url_style", _) => Value::Said(match value.to_ascii_lowercase().as_str() {
                "path" => "false".to_owned(),
                "vhost" => "true".to_owned(),
                _ => return Err(unfit("url_style", value, "path or vhost")),
            }),
            ("anonymous", _) => Value::Said(match value.to_ascii_lowercase().as_str() {
                "true" | "on" | "yes" | "1" => "true".to_owned(),
                "false" | "off" | "no" | "0" => "false".to_owned(),
                _ => return Err(unfit("anonymous", value, "true or false")),
            }),
            ("endpoint", _) if !value.starts_with("http://") && !value.starts_with("https://") => {
                return Err(unfit(
                    "endpoint",
                    value,
                    "a URL: https://host or http://host:port",
                ));
            }
            _ => Value::Said(value.to_owned()),
        };
        self.holds_secret |= option.secret && !by_name;
        self.values.push((option.key, value));
        Ok(())
    }

    /// Whether a secret stands in the statement, so that it is not kept.
    pub fn holds_secret(&self) -> bool {
        self.holds_secret
    }

    /// Where it is used: `scheme://bucket`, `scheme://`; empty for all of the kind.
    pub fn scope(&self) -> &str {
        self.scope.as_deref().unwrap_or_default()
    }

    /// The names of its options.
    pub fn named(&self) -> &[String] {
        &self.named
    }

    /// How well it fits a place (`scheme://bucket`): the greater the better; `None` where it does not.
    pub(super) fn fits(&self, kind: Kind, base: &str) -> Option<usize> {
        let scope = self.scope();
        let all = scope.is_empty() || scope.ends_with("://") && base.starts_with(scope);
        (self.kind == kind && (all || base == scope)).then_some(scope.len())
    }

    pub(super) fn ca_file(&self) -> Option<&PathBuf> {
        self.ca_file.as_ref()
    }

    /// Names as `object_store` calls them, and values.
    ///
    /// # Errors
    /// A variable of the environment that is not set.
    pub(super) fn values(&self) -> Result<Vec<(&'static str, String)>, ContentError> {
        let found = self.values.iter().map(|(key, value)| match value {
            Value::Said(said) => Ok((*key, said.clone())),
            Value::Variable(name) => match variable(name) {
                Some(value) => Ok((*key, value)),
                None => {
                    let why =
                        format!("the environment has no variable {name}, which a secret names");
                    Err(ContentError::new("28000", why))
                }
            },
        });
        found.collect()
    }
}

fn unfit(name: &str, value: &str, wants: &str) -> ContentError {
    let why = format!("option \"{name}\" is {wants}, not {value}");
    ContentError::new("22023", why)
}

fn scope(kind: Kind, said: &str) -> Result<String, ContentError> {
    let wrong = || {
        unfit(
            SCOPE,
            said,
            "a bucket such as s3://name, or a scheme such as s3://",
        )
    };
    let (scheme, bucket) = said.split_once("://").ok_or_else(wrong)?;
    let bucket = bucket.trim_end_matches('/');
    let scheme = scheme.to_ascii_lowercase();
    match Kind::of_scheme(&scheme) == Some(kind) && !bucket.contains('/') {
        true => Ok(format!("{scheme}://{bucket}")),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: Kind, given: &[(&str, &str)]) -> Result<Secret, ContentError> {
        let given: Vec<_> = given
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Secret::parse(kind, &given)
    }

    #[test]
    fn options_mean_what_they_say_and_show_nothing() {
        let secret = parse(
            Kind::S3,
            &[
                ("KEY_ID", "AKIA"),
                ("SECRET", "hush"),
                ("scope", "S3://posts/"),
                ("endpoint", "http://localhost:9000"),
            ],
        )
        .unwrap();
        assert!(secret.holds_secret());
        assert_eq!(secret.scope(), "s3://posts");
        assert_eq!(
            format!("{secret:?}"),
            "s3 secret (key_id, secret, scope, endpoint)"
        );
        assert_eq!(
            secret.values().unwrap(),
            [
                ("aws_access_key_id", "AKIA".to_owned()),
                ("aws_secret_access_key", "hush".to_owned()),
                ("aws_endpoint", "http://localhost:9000".to_owned()),
            ]
        );
        let named = parse(Kind::S3, &[("secret_env", "NO_SUCH_VARIABLE_HERE")]).unwrap();
        assert!(!named.holds_secret());
        let error = named.values().unwrap_err();
        assert_eq!(error.sqlstate, "28000");
        assert!(error.why.contains("NO_SUCH_VARIABLE_HERE"), "{error}");
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_its_value() {
        for (kind, given, state, want) in [
            (
                Kind::S3,
                vec![("secrets", "hush")],
                "HV00D",
                "invalid option \"secrets\" of a secret of type s3",
            ),
            (
                Kind::S3,
                vec![("region_env", "A")],
                "HV00D",
                "invalid option \"region_env\"",
            ),
            (
                Kind::Gcs,
                vec![("key_id", "A")],
                "HV00D",
                "invalid option \"key_id\" of a secret of type gcs",
            ),
            (
                Kind::S3,
                vec![("secret", "hush"), ("SECRET", "hush")],
                "42710",
                "option \"secret\" is given twice",
            ),
            (
                Kind::S3,
                vec![("secret", "hush"), ("secret_env", "A")],
                "22023",
                "give either \"secret\" or \"secret_env\"",
            ),
            (
                Kind::S3,
                vec![("endpoint", "localhost:9000")],
                "22023",
                "option \"endpoint\" is a URL",
            ),
            (
                Kind::S3,
                vec![("url_style", "any")],
                "22023",
                "option \"url_style\" is path or vhost, not any",
            ),
            (
                Kind::S3,
                vec![("scope", "gs://posts")],
                "22023",
                "option \"scope\" is a bucket",
            ),
            (
                Kind::S3,
                vec![("scope", "s3://posts/a")],
                "22023",
                "option \"scope\" is a bucket",
            ),
            (
                Kind::S3,
                vec![("scope", "posts")],
                "22023",
                "option \"scope\" is a bucket",
            ),
        ] {
            let error = parse(kind, &given).unwrap_err();
            assert_eq!(error.sqlstate, state, "{given:?}: {error}");
            assert!(error.why.contains(want), "{given:?}: {error}");
            assert!(
                !format!("{error} {:?}", error.hint).contains("hush"),
                "{error:?}"
            );
        }
        assert_eq!("ftp".parse::<Kind>().unwrap_err().sqlstate, "22023");
    }

    #[test]
    fn the_nearest_secret_fits_best() {
        let fits = |scope: &[(&str, &str)], base: &str| {
            let kind = Kind::of_scheme(base.split_once("://").unwrap().0).unwrap();
            parse(Kind::S3, scope).unwrap().fits(kind, base)
        };
        assert_eq!(fits(&[], "s3://posts"), Some(0));
        assert_eq!(fits(&[("scope", "s3://")], "s3://posts"), Some(5));
        assert_eq!(fits(&[("scope", "s3://posts")], "s3://posts"), Some(10));
        assert_eq!(fits(&[("scope", "s3://posts")], "s3://posts2"), None);
        assert_eq!(fits(&[("scope", "s3a://")], "s3://posts"), None);
        assert_eq!(fits(&[], "gs://posts"), None);
    }
}
