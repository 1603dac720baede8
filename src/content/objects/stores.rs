//! Object stores by place, and the secrets that open them.
//!
//! Takes secrets by name and places (`scheme://bucket`), gives stores, each opened once: with the nearest secret, or with
//! what the environment says where there is none. A store that is opened has asked nobody yet.

use super::allowed::base;
use super::secret::BEARER;
use super::told::Told;
use super::{Allowed, Kind, Secret};
use crate::config::{
    OBJECTS_CONNECT_SECONDS, OBJECTS_REQUEST_SECONDS, OBJECTS_RETRIES, OBJECTS_RETRY_SECONDS,
    variables,
};
use crate::content::ContentError;
use datafusion::object_store::{HeaderMap, HeaderValue, ObjectStore};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use url::Url;

/// A secret as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// What CREATE SECRET called it.
    pub name: String,
    /// `s3`, `gcs`, `azure` or `http`.
    pub kind: &'static str,
    /// `scheme://bucket`, `scheme://`; empty for all of the kind.
    pub scope: String,
    /// The names of its options.
    pub options: Vec<String>,
    /// Whether the next start has it too.
    pub kept: bool,
}

#[derive(Debug, Default)]
struct Inside {
    secrets: BTreeMap<String, Secret>,
    opened: HashMap<String, Arc<dyn ObjectStore>>,
}

/// Every secret, and every store that was opened.
#[derive(Debug, Default)]
pub struct Stores(Mutex<Inside>);

impl Stores {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a secret, and has stores opened anew; whether there is one of that name, which is left then unless it is to
    /// be replaced.
    ///
    /// # Errors
    /// Another secret has the same scope.
    pub fn put(&self, name: &str, secret: Secret, replace: bool) -> Result<bool, ContentError> {
        let mut inside = self.inside();
        let there = inside.secrets.contains_key(name);
        if there && !replace {
            return Ok(true);
        }
        let mut others = inside.secrets.iter().filter(|(other, _)| *other != name);
        if let Some((other, _)) =
            others.find(|(_, other)| (other.kind, other.scope()) == (secret.kind, secret.scope()))
        {
            let why = format!("secret \"{other}\" is for the same places");
            return Err(ContentError::new("42710", why)
                .with_hint("SCOPE 's3://bucket' says for which bucket a secret is"));
        }
        inside.secrets.insert(name.to_owned(), secret);
        inside.opened.clear();
        Ok(there)
    }

    /// Forgets a secret; whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        let mut inside = self.inside();
        inside.opened.clear();
        inside.secrets.remove(name).is_some()
    }

    /// Whether there is a secret of that name.
    pub fn has(&self, name: &str) -> bool {
        self.inside().secrets.contains_key(name)
    }

    /// Every secret by its name, without its values.
    pub fn described(&self) -> Vec<Described> {
        let inside = self.inside();
        let described = inside.secrets.iter().map(|(name, secret)| Described {
            name: name.clone(),
            kind: secret.kind.as_str(),
            scope: secret.scope().to_owned(),
            options: secret.named().to_vec(),
            kept: !secret.holds_secret(),
        });
        described.collect()
    }

    /// The store of a place, through which only what is allowed is read and written. `None` where its scheme is no object
    /// store's.
    ///
    /// # Errors
    /// A secret or the environment holds what cannot be used.
    pub fn get(
        &self,
        place: &Url,
        allowed: &Allowed,
    ) -> Result<Option<Arc<dyn ObjectStore>>, ContentError> {
        let Some(kind) = Kind::of_scheme(place.scheme()) else {
            return Ok(None);
        };
        let base = base(place);
        let mut inside = self.inside();
        let store = match inside.opened.get(&base) {
            Some(store) => Arc::clone(store),
            None => {
                let fitting = inside.secrets.values();
                let nearest = fitting
                    .filter_map(|secret| Some((secret.fits(kind, &base)?, secret)))
                    .max_by_key(|(fit, _)| *fit)
                    .map(|(_, secret)| secret);
                let opened = open(kind, &base, nearest)?;
                inside.opened.insert(base.clone(), Arc::clone(&opened));
                opened
            }
        };
        Ok(Some(Arc::new(Told::new(kind, base, store, allowed))))
    }
}

/// What a store is opened with.
struct Way {
    base: String,
    values: Vec<(String, String)>,
    client: ClientOptions,
    retry: RetryConfig,
}

fn open(
    kind: Kind,
    base: &str,
    secret: Option<&Secret>,
) -> Result<Arc<dyn ObjectStore>, ContentError> {
    let values = match secret {
        Some(secret) => {
            let said = secret.values()?.into_iter();
            said.map(|(key, value)| (key.to_owned(), value)).collect()
        }
        None => variables(kind.prefix())
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect(),
    };
    let way = Way {
        base: base.to_owned(),
        values,
        client: client(secret)?,
        retry: RetryConfig {
            backoff: BackoffConfig {
                max_backoff: Duration::from_secs(2),
                ..BackoffConfig::default()
            },
            max_retries: OBJECTS_RETRIES,
            retry_timeout: Duration::from_secs(OBJECTS_RETRY_SECONDS),
        },
    };
    let opened = match kind {
        Kind::S3 => way.s3(),
        Kind::Gcs => way.gcs(),
        Kind::Azure => way.azure(),
        Kind::Http => way.http()?,
    };
    opened.map_err(|error| {
        let why = format!("cannot open {base}: {error}");
        ContentError::new("22023", why).with_hint("CREATE SECRET says who we are there")
    })
}

fn client(secret: Option<&Secret>) -> Result<ClientOptions, ContentError> {
    let mut client = ClientOptions::new()
        .with_user_agent(HeaderValue::from_static(concat!(
            "safeguard-sql/",
            env!("CARGO_PKG_VERSION")
        )))
        .with_connect_timeout(Duration::from_secs(OBJECTS_CONNECT_SECONDS))
        .with_timeout(Duration::from_secs(OBJECTS_REQUEST_SECONDS));
    if let Some(file) = secret.and_then(Secret::ca_file) {
        let failed = |why: &dyn std::fmt::Display| {
            let why = format!("cannot read the certificates of {}: {why}", file.display());
            ContentError::new("58P01", why)
        };
        let pem = std::fs::read(file).map_err(|e| failed(&e))?;
        let trusted = Certificate::from_pem_bundle(&pem).map_err(|e| failed(&e))?;
        if trusted.is_empty() {
            return Err(failed(&"there is none in it"));
        }
        for certificate in trusted {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

type Opened = object_store::Result<Arc<dyn ObjectStore>>;

impl Way {
    /// Whoever names a plain address means it.
    fn plain(&self, endpoint: Option<String>) -> bool {
        endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
    }

    /// The keys and values that a builder knows. The environment may say more, of other programs.
    fn known<K: std::str::FromStr>(&self) -> impl Iterator<Item = (K, &String)> {
        let values = self.values.iter();
        values.filter_map(|(name, value)| Some((name.parse().ok()?, value)))
    }

    fn s3(self) -> Opened {
        let mut builder = AmazonS3Builder::new()
            .with_url(&self.base)
            .with_retry(self.retry.clone())
            .with_client_options(self.client.clone());
        for (key, value) in self.known() {
            builder = builder.with_config(key, value);
        }
        let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
            .iter()
            .find_map(|key| builder.get_config_value(key));
        if self.plain(endpoint) {
            builder = builder.with_allow_http(true);
        }
        Ok(Arc::new(builder.build()?))
    }

    fn gcs(self) -> Opened {
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_url(&self.base)
            .with_retry(self.retry.clone())
            .with_client_options(self.client.clone());
        for (key, value) in self.known() {
            builder = builder.with_config(key, value);
        }
        if self.plain(builder.get_config_value(&GoogleConfigKey::BaseUrl)) {
            let client = self.client.clone().with_allow_http(true);
            builder = builder.with_client_options(client);
        }
        Ok(Arc::new(builder.build()?))
    }

    fn azure(self) -> Opened {
        let mut builder = MicrosoftAzureBuilder::new()
            .with_url(&self.base)
            .with_retry(self.retry.clone())
            .with_client_options(self.client.clone());
        for (key, value) in self.known() {
            builder = builder.with_config(key, value);
        }
        if self.plain(builder.get_config_value(&AzureConfigKey::Endpoint)) {
            builder = builder.with_allow_http(true);
        }
        Ok(Arc::new(builder.build()?))
    }

    fn http(self) -> Result<Opened, ContentError> {
        let mut client = self
            .client
            .clone()
            .with_allow_http(self.base.starts_with("http://"));
        if let Some((_, token)) = self.values.iter().find(|(key, _)| key == BEARER) {
            let said = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut said = said.map_err(|_| {
                let why = "option \"bearer_token\" holds what no header may hold";
                ContentError::new("22023", why)
            })?;
            said.set_sensitive(true);
            let mut headers = HeaderMap::new();
            headers.insert("authorization", said);
            client = client.with_default_headers(headers);
        }
        let builder = HttpBuilder::new()
            .with_url(&self.base)
            .with_retry(self.retry)
            .with_client_options(client);
        Ok(builder
            .build()
            .map(|store| Arc::new(store) as Arc<dyn ObjectStore>))
    }
}
