//! How the bucket is reached: HTTP client and keys.

use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector};

use super::Result;
use crate::registry::error::EmbeddedError;
use crate::registry::registry_host;
use crate::settings;

/// Gives the S3 client the HTTP client that registries are spoken to by: the authorities of the
/// settings, and no proxy before this host.
#[derive(Debug)]
pub(super) struct Connector(reqwest::Client);

impl Connector {
    pub(super) fn new(settings: &settings::Registry) -> Result<Self> {
        let refuse = EmbeddedError::BucketSettings;
        let endpoint = settings.s3.endpoint.as_deref().unwrap_or_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none());
        if let Some(file) = &settings.ca_bundle {
            let at = |e: &dyn std::error::Error| {
                refuse(format!("`registry.ca_bundle` {}: {e}", file.display()))
            };
            let pem = std::fs::read(file).map_err(|e| at(&e))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| at(&e))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let host = registry_host(endpoint);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| refuse(e.to_string()))?;
        Ok(Self(http))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// Keys of an AWS credentials file, of its section `default`.
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

impl Keys {
    pub(super) fn read(file: &std::path::Path) -> Result<Self> {
        let refuse = |detail: &str| {
            let place = file.display();
            EmbeddedError::BucketSettings(format!("`registry.s3.credentials` {place}: {detail}"))
        };
        let text = std::fs::read_to_string(file).map_err(|e| refuse(&e.to_string()))?;
        Self::parse(&text).ok_or_else(|| {
            refuse(
                "expected a file with `[default]`, `aws_access_key_id = …` and `aws_secret_access_key = …`",
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut section = "default".to_owned();
        let (mut id, mut secret, mut token) = (None, None, None);
        for line in text.lines().map(str::trim) {
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                name.trim().clone_into(&mut section);
            } else if section == "default"
                && !line.starts_with(['#', ';'])
                && let Some((key, value)) = line.split_once('=')
            {
                let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
                match key.trim() {
                    "aws_access_key_id" => id = value,
                    "aws_secret_access_key" => secret = value,
                    "aws_session_token" => token = value,
                    _ => {}
                }
            }
        }
        Some(Self {
            id: id?,
            secret: secret?,
            token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_files() {
        let check = |text: &str, expect: Option<(&str, &str, Option<&str>)>| {
            let keys = Keys::parse(text);
            let got = keys
                .as_ref()
                .map(|keys| (&*keys.id, &*keys.secret, keys.token.as_deref()));
            assert_eq!(got, expect, "{text}");
        };
        let plain = "[default]\naws_access_key_id = A\naws_secret_access_key=b/c=\n";
        check(plain, Some(("A", "b/c=", None)));
        check(
            "aws_access_key_id=A\naws_secret_access_key=b\naws_session_token = t\n",
            Some(("A", "b", Some("t"))),
        );
        check(
            "[other]\naws_access_key_id=X\naws_secret_access_key=y\n[default]\n# aws_access_key_id=Z\naws_access_key_id=A\naws_secret_access_key=b",
            Some(("A", "b", None)),
        );
        check(
            "[other]\naws_access_key_id=X\naws_secret_access_key=y",
            None,
        );
        check(
            "[default]\naws_access_key_id=\naws_secret_access_key=y",
            None,
        );
        check("", None);
    }
}
