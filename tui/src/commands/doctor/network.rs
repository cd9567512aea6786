//! What is reached over the network: the service, the registry, a clock to compare with; and how.

use std::path::Path;
use std::time::{Duration, SystemTime};

use chalk_service::places::{IMAGES, regional_options};
use chalk_service::registry::{BucketAccess, External, Regional as _, RegionalError};
use reqwest::header::DATE;

use super::Check;
use crate::client::Client;
use crate::connect::Server;
use crate::settings::Loaded;

/// Longest that a registry may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Seconds that the clock may be off: unnoticed, and before certificates and tokens fail.
const NOTICEABLE: i64 = 5;
const HARMFUL: i64 = 300;
/// Who is asked for the time when no registry of ours is.
const PUBLIC: &str = "https://registry-1.docker.io/v2/";

/// Service, registry, clock, proxies, certificates.
pub(super) async fn checks(loaded: &Loaded) -> Vec<Check> {
    let (service, url) = service(loaded).await;
    let registry = registry(loaded).await;
    let clock = clock(loaded, url.as_deref()).await;
    let mut checks = vec![service, registry, clock];
    checks.extend(proxies(&loaded.settings.build.effective_proxies()));
    checks.push(certificates(loaded));
    checks
}

/// The service that commands would use, and its address.
async fn service(loaded: &Loaded) -> (Check, Option<String>) {
    let name = "service";
    match Server::running(loaded).await {
        Ok(Some(server)) => {
            let client: &Client = server.client();
            let url = client.url().to_owned();
            let info = client.get::<chalk_core::wire::Info>("/v1/info").await;
            let check = match info {
                Ok(info) => {
                    let found = format!("{url}, version {}, engine {}", info.version, info.engine);
                    Check::ok(name, found)
                }
                Err(failure) => Check::fail(name, failure.to_string(), failure.hint),
            };
            (check, Some(url))
        }
        Ok(None) => (
            Check::ok(name, "none runs: commands start one in their own process"),
            None,
        ),
        Err(failure) => (Check::fail(name, failure.to_string(), failure.hint), None),
    }
}

async fn registry(loaded: &Loaded) -> Check {
    let name = "registry";
    let settings = &loaded.settings.registry;
    let Some(url) = &settings.url else {
        return embedded(settings).await;
    };
    let prefix = settings.prefix.as_deref().unwrap_or_default();
    let options = regional_options(settings).map_err(RegionalError::from);
    let external = match options.and_then(|options| External::new(url, prefix, options)) {
        Ok(external) => external,
        Err(error) => return Check::fail(name, error.to_string(), "correct `registry.url`"),
    };
    // No image has this hash; that the registry says so means that it is there and lets us in.
    let nothing = "0".repeat(64);
    let asked = external.head_manifest(IMAGES, &nothing);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(_)) => Check::ok(name, format!("{url} answers and lets this user in")),
        Ok(Err(error)) => Check::fail(
            name,
            format!("{url}: {}", causes(&error)),
            "see that `registry.url` is right, that it is in `registry.insecure` if it has no TLS, \
             that its authority is in `registry.ca_bundle` if the system does not know it, and that \
             `registry.username` or `registry.credentials` (or `docker login`) has a login for it",
        ),
        Err(_) => Check::fail(
            name,
            format!("{url} does not answer within {} s", PATIENCE.as_secs()),
            "see that the host can be reached; proxies come from HTTPS_PROXY",
        ),
    }
}

/// The embedded registry, which may lie in a bucket.
async fn embedded(settings: &chalk_service::settings::Registry) -> Check {
    let name = "registry";
    let todo = "correct `registry.s3.*`; keys come from the file of `registry.s3.credentials`, from \
                AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the cloud";
    let bucket = match BucketAccess::new(settings) {
        Ok(None) => return Check::ok(name, "embedded in the service"),
        Ok(Some(bucket)) => bucket,
        Err(error) => return Check::fail(name, error.to_string(), todo),
    };
    match tokio::time::timeout(PATIENCE, bucket.check()).await {
        Ok(Ok(())) => Check::ok(name, format!("embedded in the service, in {bucket}")),
        Ok(Err(error)) => Check::fail(name, error.to_string(), todo),
        Err(_) => {
            let found = format!("{bucket} does not answer within {} s", PATIENCE.as_secs());
            Check::fail(name, found, todo)
        }
    }
}

/// This host's clock against one of somebody else.
async fn clock(loaded: &Loaded, service: Option<&str>) -> Check {
    let mut peers = Vec::new();
    if let Some(url) = &loaded.settings.registry.url {
        match url.contains("://") {
            true if url.ends_with("/v2") => peers.push(format!("{url}/")),
            true => peers.push(format!("{}/v2/", url.trim_end_matches('/'))),
            false => peers.extend(["https", "http"].map(|scheme| format!("{scheme}://{url}/v2/"))),
        }
    }
    // One on this host has the same clock.
    if let (Some(url), Some(_)) = (service, &loaded.server) {
        peers.push(format!("{url}/healthz"));
    }
    peers.push(PUBLIC.to_owned());
    for peer in peers {
        if let Some((time, now)) = time_of(&peer).await {
            return compare(&peer, time, now);
        }
    }
    Check::warn(
        "clock",
        "there is nobody to compare it with",
        "see yourself that it is right (`timedatectl`): certificates and tokens depend on it",
    )
}

/// Seconds after 1970 by the `Date` of an answer, and by this host.
async fn time_of(url: &str) -> Option<(i64, i64)> {
    let http = reqwest::Client::builder()
        .timeout(PATIENCE)
        // What is compared is no secret, and a wrong clock is one reason to find no certificate valid.
        .danger_accept_invalid_certs(true)
        .build()
        .ok()?;
    let answer = http.get(url).send().await.ok()?;
    let date = answer.headers().get(DATE)?.to_str().ok()?.to_owned();
    let time = jiff::fmt::rfc2822::parse(&date).ok()?.timestamp();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Some((time.as_second(), i64::try_from(now.ok()?.as_secs()).ok()?))
}

fn compare(peer: &str, time: i64, now: i64) -> Check {
    let off = now - time;
    let found = match off {
        0 => format!("as that of {peer}"),
        1.. => format!("{off} s ahead of {peer}"),
        _ => format!("{} s behind {peer}", -off),
    };
    let todo = "set it, and keep it right (`timedatectl set-ntp true`): certificates and tokens depend on it";
    match off.abs() {
        0..=NOTICEABLE => Check::ok("clock", found),
        ..=HARMFUL => Check::warn("clock", found, todo),
        _ => Check::fail("clock", found, todo),
    }
}

/// Proxies of steps; `variables` in upper and lower case.
fn proxies(variables: &[(String, String)]) -> Vec<Check> {
    let name = "proxies";
    let upper = variables
        .iter()
        .filter(|(variable, _)| variable.bytes().all(|b| !b.is_ascii_lowercase()));
    let mut shown = Vec::new();
    for (variable, value) in upper {
        if variable == "NO_PROXY" {
            shown.push(variable.clone());
            continue;
        }
        let address = match value.contains("://") {
            true => value.clone(),
            false => format!("http://{value}"),
        };
        match reqwest::Url::parse(&address) {
            // Without the password that it may hold.
            Ok(url) if url.has_host() => shown.push(format!(
                "{variable} {}:{}",
                url.host_str().unwrap_or_default(),
                url.port_or_known_default().unwrap_or_default()
            )),
            _ => {
                return vec![Check::fail(
                    name,
                    format!("{variable} is no address"),
                    "set `build.proxies.http` and `build.proxies.https` to `http://host:port`",
                )];
            }
        }
    }
    vec![Check::ok(
        name,
        match shown.is_empty() {
            true => "none".to_owned(),
            false => shown.join(", "),
        },
    )]
}

fn certificates(loaded: &Loaded) -> Check {
    let bundle = loaded.settings.build.effective_ca_bundle();
    let Some(path) = bundle else {
        return Check::ok("CA bundle", "none: steps trust what their image trusts");
    };
    bundle_at(&path)
}

fn bundle_at(path: &Path) -> Check {
    let name = "CA bundle";
    let shown = path.display();
    let todo = "set `build.ca_bundle` to a PEM file of certificates, or unset it";
    match std::fs::read_to_string(path) {
        Err(error) => Check::fail(name, format!("{shown}: {error}"), todo),
        Ok(text) => match text.matches("-----BEGIN CERTIFICATE-----").count() {
            0 => Check::fail(name, format!("{shown} holds no certificate"), todo),
            count => Check::ok(name, format!("{shown}, {count} certificates")),
        },
    }
}

/// An error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn clocks() {
        let check = |off: i64, status: Status, words: &str| {
            let found = compare("p", 1000, 1000 + off);
            assert_eq!(found.status, status, "{off}");
            assert!(found.found.contains(words), "{found:?}");
        };
        check(0, Status::Ok, "as that of p");
        check(-5, Status::Ok, "5 s behind");
        check(60, Status::Warn, "60 s ahead");
        check(-4000, Status::Fail, "4000 s behind");
    }

    #[test]
    fn proxies_without_their_passwords() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let found = proxies(&[
            pair("HTTP_PROXY", "http://user:hunter2@p:3128"),
            pair("http_proxy", "http://user:hunter2@p:3128"),
        ]);
        assert_eq!(found[0].found, "HTTP_PROXY p:3128");
        assert_eq!(proxies(&[])[0].found, "none");
        let bad = proxies(&[pair("HTTPS_PROXY", "http://")]);
        assert_eq!(bad[0].status, Status::Fail);
    }

    #[test]
    fn bundles() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("ca.pem");
        assert_eq!(bundle_at(&path).status, Status::Fail);
        std::fs::write(&path, "nothing").unwrap();
        assert_eq!(bundle_at(&path).status, Status::Fail);
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert_eq!(bundle_at(&path).status, Status::Ok);
    }
}
