//! Addresses of servers, as somebody types them.

use crate::backend::BackendError;
use crate::config::ENDPOINT_REPLICAS_MAX;

/// Whether what names a model is the address of a server.
pub fn is_address(said: &str) -> bool {
    said.starts_with("http://") || said.starts_with("https://")
}

/// Servers and the model that they are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Without a slash at the end.
    pub(super) bases: Vec<String>,
    pub(super) model: Option<String>,
}

impl Addresses {
    /// Reads `URL[#MODEL][,URL[#MODEL]..]`. A URL without a path means `/v1`.
    pub(super) fn parse(said: &str) -> Result<Addresses, BackendError> {
        let wrong = |why: String| Err(BackendError::Address(why));
        let (mut bases, mut model): (Vec<String>, Option<String>) = (Vec::new(), None);
        for part in said.split(',').map(str::trim) {
            let (url, named) = match part.split_once('#') {
                Some((url, name)) => (url, Some(name).filter(|name| !name.is_empty())),
                None => (part, None),
            };
            let uri: Option<ureq::http::Uri> = url.parse().ok().filter(|_| is_address(url));
            let host = uri.as_ref().and_then(|uri| Some((uri, uri.host()?)));
            let Some((uri, _)) = host.filter(|(_, host)| !host.is_empty()) else {
                return wrong(format!(
                    "\"{url}\" is not an address such as http://host:8000/v1"
                ));
            };
            if uri
                .authority()
                .is_some_and(|name| name.as_str().contains('@'))
            {
                return wrong(
                    "an address may hold no key: it would be shown; SAFEGUARD_API_KEY may"
                        .to_owned(),
                );
            }
            if uri.query().is_some() {
                return wrong(format!(
                    "\"{url}\" has a query; an address ends with its path"
                ));
            }
            let base = match uri.path() {
                "/" | "" => format!("{}/v1", url.trim_end_matches('/')),
                _ => url.trim_end_matches('/').to_owned(),
            };
            if bases.contains(&base) {
                return wrong(format!("\"{base}\" is there twice"));
            }
            match (&model, named) {
                (Some(one), Some(other)) if one != other => {
                    return wrong(format!("one model is meant, not \"{one}\" and \"{other}\""));
                }
                (None, Some(name)) => model = Some(name.to_owned()),
                _ => {}
            }
            bases.push(base);
        }
        match bases.len() > ENDPOINT_REPLICAS_MAX {
            true => wrong(format!(
                "{} servers are more than {ENDPOINT_REPLICAS_MAX}",
                bases.len()
            )),
            false => Ok(Addresses { bases, model }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        for (said, expected) in [
            ("http://h:8000/v1", Ok((&["http://h:8000/v1"][..], None))),
            (
                "http://h:8000/v1/, https://g/api/v1",
                Ok((&["http://h:8000/v1", "https://g/api/v1"], None)),
            ),
            (
                "http://h:11434#gpt-oss:20b",
                Ok((&["http://h:11434/v1"], Some("gpt-oss:20b"))),
            ),
            (
                "http://a,http://b#m",
                Ok((&["http://a/v1", "http://b/v1"], Some("m"))),
            ),
            (
                "http://a#m,http://b#n",
                Err("one model is meant, not \"m\" and \"n\""),
            ),
            (
                "http://a,http://a/v1",
                Err("\"http://a/v1\" is there twice"),
            ),
            (
                "http://a,b",
                Err("\"b\" is not an address such as http://host:8000/v1"),
            ),
            (
                "http://",
                Err("\"http://\" is not an address such as http://host:8000/v1"),
            ),
            (
                "http://a b",
                Err("\"http://a b\" is not an address such as http://host:8000/v1"),
            ),
            (
                "https://me:secret@a",
                Err("an address may hold no key: it would be shown; SAFEGUARD_API_KEY may"),
            ),
            (
                "http://a/v1?k=1",
                Err("\"http://a/v1?k=1\" has a query; an address ends with its path"),
            ),
        ] {
            let read = Addresses::parse(said).map_err(|e| e.to_string());
            let expected = expected.map(|(bases, model)| Addresses {
                bases: bases.iter().map(|&base| base.to_owned()).collect(),
                model: model.map(str::to_owned),
            });
            assert_eq!(
                read.as_ref().map_err(|e| &**e),
                expected.as_ref().map_err(|e| *e),
                "{said}"
            );
        }
    }
}
