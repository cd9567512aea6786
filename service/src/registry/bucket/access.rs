//! How the bucket is reached: HTTP client and keys.

use std::fmt;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore as _, RetryConfig};

use super::Result;
use crate::registry::error::EmbeddedError;
use crate::registry::registry_host;
use crate::settings;

/// How a bucket is reached.
#[derive(Clone)]
pub struct BucketAccess {
    pub(super) s3: AmazonS3,
    prefix: String,
    /// For messages: bucket, prefix and end-point.
    pub(super) place: String,
}

impl fmt::Debug for BucketAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BucketAccess").field(&self.place).finish()
    }
}

impl fmt::Display for BucketAccess {
    /// Bucket, prefix and end-point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl BucketAccess {
    /// Access to the bucket that the settings name; `None` when they name none. Connects to nothing.
    ///
    /// # Errors
    /// [`EmbeddedError::BucketSettings`].
    pub fn new(settings: &settings::Registry) -> Result<Option<Self>> {
        let s3 = &settings.s3;
        let Some(bucket) = &s3.bucket else {
            return Ok(None);
        };
        let refuse = EmbeddedError::BucketSettings;
        let prefix = s3.prefix.as_deref().unwrap_or_default().trim_matches('/');
        Path::parse(prefix).map_err(|e| refuse(format!("`registry.s3.prefix`: {e}")))?;
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_http_connector(Connector::new(settings)?)
            // Not every store has the call that removes many at once.
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(200),
                    max_backoff: Duration::from_secs(5),
                    base: 2.0,
                },
                max_retries: 6,
                retry_timeout: Duration::from_secs(30),
            });
        let mut place = format!("s3://{bucket}/{prefix}");
        if let Some(region) = &s3.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &s3.endpoint {
            if endpoint.contains('@') {
                return Err(refuse(
                    "`registry.s3.endpoint` is a URL without a login: expected `https://host[:port]`"
                        .to_owned(),
                ));
            }
            let plain = endpoint.starts_with("http://");
            builder = builder.with_endpoint(endpoint).with_allow_http(plain);
            place = format!("{place} at {endpoint}");
        }
        if let Some(file) = &s3.credentials {
            let keys = Keys::read(file)?;
            builder = builder
                .with_access_key_id(keys.id)
                .with_secret_access_key(keys.secret);
            if let Some(token) = keys.token {
                builder = builder.with_token(token);
            }
        }
        let s3 = builder.build().map_err(|e| refuse(e.to_string()))?;
        Ok(Some(Self {
            s3,
            prefix: prefix.to_owned(),
            place,
        }))
    }

    /// Sees that the bucket is there and lets us in.
    ///
    /// # Errors
    /// [`EmbeddedError::Bucket`].
    pub async fn check(&self) -> Result<()> {
        let prefix = self.path("repositories");
        let listed = self.s3.list_with_delimiter(Some(&prefix)).await;
        listed.map_err(self.failed("list", "repositories"))?;
        Ok(())
    }

    pub(super) fn path(&self, key: &str) -> Path {
        match self.prefix.as_str() {
            "" => Path::from(key),
            prefix => Path::from(format!("{prefix}/{key}")),
        }
    }

    pub(super) fn failed(
        &self,
        action: &'static str,
        key: &str,
    ) -> impl FnOnce(object_store::Error) -> EmbeddedError + use<> {
        let (key, place) = (key.to_owned(), self.place.clone());
        move |error| EmbeddedError::Bucket {
            action,
            key,
            place,
            detail: causes(&error),
        }
    }
}

/// An error with its causes, on one line and without what only repeats.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(600)
        .collect();
    line
}

/// Gives the S3 client the HTTP client that registries are spoken to by: the authorities of the
/// settings, and no proxy before this host.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl Connector {
    fn new(settings: &settings::Registry) -> Result<Self> {
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
struct Keys {
    id: String,
    secret: String,
    token: Option<String>,
}

impl Keys {
    fn read(file: &std::path::Path) -> Result<Self> {
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
