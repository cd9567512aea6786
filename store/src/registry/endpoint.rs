//! The servers that stand behind a registry's name: its mirrors, then itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;

use super::Client;
use super::error::RegistryError;
use super::options::Options;

/// One server that speaks the distribution API for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Registry as references name it.
    pub(super) registry: String,
    /// API root with a trailing slash: `https://registry-1.docker.io/v2/`.
    pub(super) base: Url,
    /// Name under which its credentials are kept: the registry's, or the mirror's own host.
    pub(super) login: String,
    /// Whether this is a mirror: asked first, never written to.
    pub(super) mirror: bool,
    /// Whether its scheme is yet to be found out by asking.
    pub(super) unsettled: bool,
}

impl Endpoint {
    /// Host and port, for messages.
    pub(super) fn host(&self) -> String {
        host_of(&self.base)
    }

    /// URL below the API root. `path` holds only names that were validated.
    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.base.join(path).map_err(|e| RegistryError::Protocol {
            host: self.host(),
            what: path.to_owned(),
            detail: e.to_string(),
        })
    }

    /// A URL that this server gave, with TLS where the server has it: registries behind a proxy that
    /// ends TLS often do not know their own scheme. `None` when it leads elsewhere without TLS.
    pub(super) fn raised(&self, mut url: Url) -> Option<Url> {
        if self.base.scheme() == "https" && url.scheme() != "https" {
            let own = url.host_str() == self.base.host_str();
            if !own || url.set_scheme("https").is_err() {
                return None;
            }
        }
        Some(url)
    }

    /// Whether `url` lies on this very server, so that its login may be sent along.
    pub(super) fn owns(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }
}

/// Host and port of a URL, without a default port.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// How long a server that gave no answer is not asked again for its scheme: requests to it fail by
/// themselves.
const SILENT: Duration = Duration::from_secs(10);

/// What asking servers for their schemes brought, by host and port. Each has its own lock, which is
/// held while it is asked: one that does not answer keeps nobody from the others.
#[derive(Debug, Default)]
pub(super) struct Schemes(Mutex<BTreeMap<String, Asked>>);

type Asked = Arc<tokio::sync::Mutex<Option<Found>>>;

#[derive(Debug, Clone, Copy)]
enum Found {
    Scheme(&'static str),
    Silent(Instant),
}

impl Schemes {
    fn of(&self, host: &str) -> Asked {
        // A poisoned lock guards a map that is sound all the same.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(host.to_owned()).or_default())
    }
}

impl Client {
    /// Servers to read `registry` from, in order: its mirrors, then its origin.
    pub(super) async fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
        let mut all = endpoints(&self.inner.options, registry)?;
        for endpoint in &mut all {
            self.settle(endpoint).await;
        }
        Ok(all)
    }

    /// The registry itself, to write to.
    pub(super) async fn origin(&self, registry: &str) -> Result<Endpoint, RegistryError> {
        let mut endpoint = origin(&self.inner.options, registry)?;
        self.settle(&mut endpoint).await;
        Ok(endpoint)
    }

    /// Finds out whether an insecure registry speaks TLS, as Docker does: by trying it first. The
    /// answer is kept; without one the scheme stays, and the request itself says what is wrong.
    async fn settle(&self, endpoint: &mut Endpoint) {
        if !endpoint.unsettled {
            return;
        }
        let host = endpoint.host();
        let found = self.inner.schemes.of(&host);
        let mut found = found.lock().await;
        match *found {
            Some(Found::Scheme(scheme)) => {
                let _ = endpoint.base.set_scheme(scheme);
                return;
            }
            Some(Found::Silent(since)) if since.elapsed() < SILENT => return,
            _ => {}
        }
        let explicit = endpoint.base.port();
        for scheme in ["https", "http"] {
            let mut base = endpoint.base.clone();
            if base.set_scheme(scheme).is_err() || base.set_port(explicit).is_err() {
                continue;
            }
            let ask = self.inner.lenient.get(base.clone()).send();
            let answer = tokio::time::timeout(self.inner.options.connect_timeout, ask).await;
            if matches!(answer, Ok(Ok(_))) {
                tracing::debug!(host, scheme, "insecure registry answers");
                *found = Some(Found::Scheme(scheme));
                endpoint.base = base;
                return;
            }
        }
        *found = Some(Found::Silent(Instant::now()));
    }
}

/// What the settings say of [`Client::endpoints`].
pub(super) fn endpoints(options: &Options, registry: &str) -> Result<Vec<Endpoint>, RegistryError> {
    let mut all = Vec::new();
    for text in options.mirrors.get(registry).into_iter().flatten() {
        all.push(mirror(options, registry, text)?);
    }
    all.push(origin(options, registry)?);
    Ok(all)
}

fn origin(options: &Options, registry: &str) -> Result<Endpoint, RegistryError> {
    if let Some(root) = options.roots.get(registry) {
        return rooted(registry, root);
    }
    // Docker Hub's API has a host of its own.
    let host = if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    };
    let (scheme, unsettled) = scheme(options, host);
    let base =
        Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|e| RegistryError::Setting {
            setting: format!("registry `{registry}`"),
            detail: e.to_string(),
        })?;
    Ok(Endpoint {
        registry: registry.to_owned(),
        base,
        login: registry.to_owned(),
        mirror: false,
        unsettled,
    })
}

/// A registry whose API is not where the specification has it.
fn rooted(registry: &str, root: &str) -> Result<Endpoint, RegistryError> {
    let refuse = |detail: String| RegistryError::Setting {
        setting: format!("API of registry {registry}"),
        detail,
    };
    let mut base = Url::parse(root).map_err(|e| refuse(e.to_string()))?;
    let path = base.path().trim_end_matches('/').to_owned();
    // Without a default port, as that of `base`.
    let named = Url::parse(&format!("{}://{registry}", base.scheme()));
    let fits = matches!(base.scheme(), "http" | "https")
        && named.is_ok_and(|named| host_of(&named) == host_of(&base))
        && path.ends_with("/v2")
        && base.username().is_empty()
        && base.query().is_none();
    if !fits {
        let expected = format!("expected a URL such as `https://{registry}/path/v2`");
        return Err(refuse(expected));
    }
    base.set_path(&format!("{path}/"));
    Ok(Endpoint {
        registry: registry.to_owned(),
        base,
        login: registry.to_owned(),
        mirror: false,
        unsettled: false,
    })
}

/// A server that is asked before a registry.
pub(super) fn mirror(
    options: &Options,
    registry: &str,
    text: &str,
) -> Result<Endpoint, RegistryError> {
    let refuse = |detail: String| RegistryError::Setting {
        setting: format!("mirror `{text}` of {registry}"),
        detail,
    };
    let (full, unsettled) = if text.contains("://") {
        (text.to_owned(), false)
    } else {
        let host = text.split('/').next().unwrap_or(text);
        let (scheme, unsettled) = scheme(options, host);
        (format!("{scheme}://{text}"), unsettled)
    };
    let mut base = Url::parse(&full).map_err(|e| {
        refuse(format!(
            "{e}; expected a URL such as `https://mirror.example`"
        ))
    })?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(refuse("expected an http or https URL".to_owned()));
    }
    if !base.username().is_empty() || base.password().is_some() {
        // The text itself is not repeated: it holds a password.
        return Err(RegistryError::Setting {
            setting: format!("mirror {} of {registry}", host_of(&base)),
            detail: "credentials do not belong into the URL: use `docker login`".to_owned(),
        });
    }
    let path = base.path().trim_end_matches('/').to_owned();
    let path = if path.split('/').any(|part| part == "v2") {
        format!("{path}/")
    } else {
        format!("{path}/v2/")
    };
    base.set_path(&path);
    base.set_query(None);
    base.set_fragment(None);
    Ok(Endpoint {
        registry: registry.to_owned(),
        login: host_of(&base),
        base,
        mirror: true,
        unsettled,
    })
}

/// Scheme of a host that was given without one, and whether to find out if that is right.
fn scheme(options: &Options, host: &str) -> (&'static str, bool) {
    if is_loopback(bare(host)) {
        ("http", false)
    } else {
        ("https", is_insecure(options, host))
    }
}

/// Whether the settings allow `host` (with or without port) to be insecure.
pub(super) fn is_insecure(options: &Options, host: &str) -> bool {
    options.insecure.contains(host) || options.insecure.contains(bare(host))
}

/// A host without its port.
fn bare(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a host is this machine. Like with Go's clients, no proxy stands before it.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_normalises() {
        let mut options = Options::default();
        options.insecure.insert("plain.example:5000".into());
        options.mirrors.insert(
            "docker.io".into(),
            vec![
                "https://m.example".into(),
                "http://10.0.0.1:5000/".into(),
                "https://harbor.example/v2/proxy".into(),
                "https://m.example/hub".into(),
                "127.0.0.1:5001".into(),
                "plain.example:5000".into(),
                "tls.example:5000".into(),
            ],
        );
        let check = |registry: &str, expect: &[&str]| {
            let got: Vec<String> = endpoints(&options, registry)
                .unwrap()
                .iter()
                .map(|e| e.base.to_string())
                .collect();
            assert_eq!(got, expect, "{registry}");
        };
        check(
            "docker.io",
            &[
                "https://m.example/v2/",
                "http://10.0.0.1:5000/v2/",
                "https://harbor.example/v2/proxy/",
                "https://m.example/hub/v2/",
                "http://127.0.0.1:5001/v2/",
                "https://plain.example:5000/v2/",
                "https://tls.example:5000/v2/",
                "https://registry-1.docker.io/v2/",
            ],
        );
        check("ghcr.io", &["https://ghcr.io/v2/"]);
        check("localhost:5000", &["http://localhost:5000/v2/"]);
        check("[::1]:5000", &["http://[::1]:5000/v2/"]);
        check("plain.example:5000", &["https://plain.example:5000/v2/"]);
        let unsettled = |host: &str| origin(&options, host).map(|e| e.unsettled).ok();
        assert_eq!(unsettled("plain.example:5000"), Some(true));
        assert_eq!(unsettled("plain.example"), Some(false));
        assert_eq!(unsettled("localhost:5000"), Some(false));
    }

    #[test]
    fn roots() {
        let check = |registry: &str, root: &str, expect: Option<&str>| {
            let mut options = Options::default();
            options.roots.insert(registry.into(), root.into());
            let got = origin(&options, registry);
            let got = got.ok().map(|endpoint| endpoint.base.to_string());
            assert_eq!(got.as_deref(), expect, "{root}");
        };
        let (registry, base) = ("r.example:5000", "https://r.example:5000/a/b/v2/");
        check(registry, "https://r.example:5000/a/b/v2", Some(base));
        check(registry, "https://r.example:5000/a/b/v2/", Some(base));
        check(registry, "https://r.example:5000/a/b", None);
        check(registry, "https://other.example/v2", None);
        check(registry, "https://u:p@r.example:5000/v2", None);
        check(registry, "ftp://r.example:5000/v2", None);
    }

    #[test]
    fn refuses_bad_mirrors_without_repeating_passwords() {
        for bad in ["ftp://m.example", "https://", "https://u:geheim@m.example"] {
            let mut options = Options::default();
            options.mirrors.insert("docker.io".into(), vec![bad.into()]);
            let error = endpoints(&options, "docker.io").unwrap_err();
            assert!(matches!(error, RegistryError::Setting { .. }), "{error:?}");
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
    }
}
