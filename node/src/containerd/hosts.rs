//! containerd's own settings of registries: a `hosts.toml` in a directory for each registry
//! (its docs/hosts.md), so that mirrors such as Spegel or Dragonfly need to be set up once.
//!
//! What is read: servers in their order with the capability `pull`, `server`, `skip_verify`, `ca`, and
//! `override_path` where the path names the API (`/v2`). Entries with client certificates or headers
//! of their own are left out, with a warning; the registry itself is asked last, always.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use chalk_core::Digest;
use chalk_store::registry::{Options, RegistryError};
use chalk_store::temporary;
use reqwest::Url;
use serde::Deserialize;
use toml::{Spanned, Value};

use crate::cache::{Result, failed};

/// Largest file that is read.
const LIMIT: u64 = 1 << 20;

/// The directory of containerd's settings, and where bundles of certificates are kept.
#[derive(Debug)]
pub(crate) struct HostsDir {
    root: PathBuf,
    bundles: PathBuf,
}

/// What is said of one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Upstream {
    mirrors: Vec<String>,
    insecure: Vec<String>,
    /// PEM.
    authorities: Vec<u8>,
}

#[derive(Debug, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    own: Host,
    #[serde(default)]
    host: BTreeMap<String, Spanned<Host>>,
}

#[derive(Debug, Default, Deserialize)]
struct Host {
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    ca: Option<OneOrMore>,
    client: Option<Value>,
    header: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

impl OneOrMore {
    fn paths(&self) -> &[PathBuf] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::More(paths) => paths,
        }
    }
}

impl HostsDir {
    /// Settings in `root`, which need not exist; `node` is the node's directory.
    pub(crate) fn new(root: &Path, node: &Path) -> Self {
        let bundles = node.join("registries");
        // It need not be there; what a node left half written that died is in nobody's way.
        let _ = temporary::sweep(&bundles);
        Self {
            root: root.to_owned(),
            bundles,
        }
    }

    /// What is said of a registry now.
    ///
    /// # Errors
    /// For a file that cannot be read or makes no sense.
    pub(crate) fn upstream(&self, registry: &str) -> Result<Upstream> {
        let Some(dir) = self.dir(registry) else {
            return Ok(Upstream::default());
        };
        let path = dir.join("hosts.toml");
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return certificates(&dir),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let wrong = |detail: String| RegistryError::Setting {
            setting: path.display().to_string(),
            detail,
        };
        let text = String::from_utf8(text).map_err(|_| wrong("is not UTF-8".to_owned()))?;
        let file: File = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let mut hosts: Vec<(&String, &Spanned<Host>)> = file.host.iter().collect();
        // Their order in the file is the order in which they are asked.
        hosts.sort_by_key(|(_, host)| host.span().start);
        let hosts = hosts
            .iter()
            .map(|(name, host)| (name.as_str(), host.get_ref()));
        let server = file.server.as_deref().map(|server| (server, &file.own));
        let mut upstream = Upstream::default();
        for (name, host) in hosts.chain(server) {
            upstream
                .take(registry, name, host, &dir)
                .map_err(|detail| wrong(format!("`{name}` {detail}")))?;
        }
        Ok(upstream)
    }

    /// The directory of a registry, as containerd looks for it.
    fn dir(&self, registry: &str) -> Option<PathBuf> {
        let with_port = registry
            .rsplit_once(':')
            .map(|(host, port)| format!("{host}_{port}_"));
        let names = [
            with_port,
            Some(registry.to_owned()),
            Some("_default".into()),
        ];
        let dirs = names.into_iter().flatten().map(|name| self.root.join(name));
        dirs.into_iter().find(|dir| dir.is_dir())
    }

    /// Adds what is said of a registry to the settings of a client for it.
    ///
    /// # Errors
    /// When the certificates cannot be written down.
    pub(crate) fn add(
        &self,
        registry: &str,
        upstream: &Upstream,
        options: &mut Options,
    ) -> Result<()> {
        if !upstream.mirrors.is_empty() {
            let mirrors = options.mirrors.entry(registry.to_owned()).or_default();
            mirrors.extend(upstream.mirrors.iter().cloned());
        }
        options.insecure.extend(upstream.insecure.iter().cloned());
        if upstream.authorities.is_empty() {
            return Ok(());
        }
        let mut all = match &options.ca_bundle {
            Some(path) => fs::read(path).map_err(failed("read", path))?,
            None => Vec::new(),
        };
        all.push(b'\n');
        all.extend(&upstream.authorities);
        let name = format!("{}.pem", Digest::of(registry.as_bytes()).hex());
        let path = self.bundles.join(name);
        self.write(&path, &all).map_err(failed("write", &path))?;
        options.ca_bundle = Some(path);
        Ok(())
    }

    /// It is made anew by every node that starts, so it need not outlive a crash.
    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        fs::create_dir_all(&self.bundles)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.bundles)?;
        file.write_all(bytes)?;
        file.persist(path).map(drop).map_err(|error| error.error)
    }
}

impl Upstream {
    fn take(&mut self, registry: &str, name: &str, host: &Host, dir: &Path) -> Result<(), String> {
        let left_out = |why: &str| {
            tracing::warn!(
                registry,
                server = name,
                why,
                "server of hosts.toml is left out"
            );
        };
        if !host.capabilities.is_empty() && !host.capabilities.iter().any(|c| c == "pull") {
            return Ok(());
        }
        if host.client.is_some() {
            left_out("client certificates are not supported");
            return Ok(());
        }
        if host.header.is_some() {
            left_out("headers are not supported");
            return Ok(());
        }
        let full = match name.contains("://") {
            true => name.to_owned(),
            false => format!("https://{name}"),
        };
        let url: Url = full.parse().map_err(|e| format!("is no URL: {e}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("is no URL of http or https".to_owned());
        }
        let path = url.path().trim_matches('/');
        if host.override_path && !path.split('/').any(|part| part == "v2") {
            left_out("its path overrides `/v2`, which is not supported");
            return Ok(());
        }
        let address = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        if host.skip_verify || (address == registry && url.scheme() == "http") {
            self.insecure.push(address.clone());
        }
        for ca in host.ca.iter().flat_map(OneOrMore::paths) {
            let ca = dir.join(ca);
            let pem = read(&ca).map_err(|e| format!("names {}: {e}", ca.display()))?;
            self.authorities.extend(pem);
            self.authorities.push(b'\n');
        }
        let is_itself =
            address == registry || (registry == "docker.io" && address == "registry-1.docker.io");
        if !is_itself {
            self.mirrors.push(full.trim_end_matches('/').to_owned());
        }
        Ok(())
    }
}

/// A directory without `hosts.toml` may hold certificates, as Docker's do.
fn certificates(dir: &Path) -> Result<Upstream> {
    let mut upstream = Upstream::default();
    let entries = fs::read_dir(dir).map_err(failed("read", dir))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.extension().is_some_and(|extension| extension == "crt") {
            let pem = read(&path).map_err(failed("read", &path))?;
            upstream.authorities.extend(pem);
            upstream.authorities.push(b'\n');
        }
    }
    Ok(upstream)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > LIMIT {
        return Err(std::io::Error::other("the file is too large"));
    }
    fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: &str = "registry.example:5000";

    fn dir(name: &str, text: &str) -> (tempfile::TempDir, HostsDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("certs.d").join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts.toml"), text).unwrap();
        fs::write(dir.join("ca.pem"), "CA").unwrap();
        let hosts = HostsDir::new(&temp.path().join("certs.d"), temp.path());
        (temp, hosts)
    }

    #[test]
    fn servers_come_in_the_order_of_the_file() {
        let check = |text: &str, mirrors: &[&str], insecure: &[&str], ca: &str| {
            let (_temp, hosts) = dir(REGISTRY, text);
            let found = hosts.upstream(REGISTRY).unwrap();
            assert_eq!(found.mirrors, mirrors, "{text}");
            assert_eq!(found.insecure, insecure, "{text}");
            assert_eq!(String::from_utf8(found.authorities).unwrap(), ca, "{text}");
        };
        check("", &[], &[], "");
        check(
            "server = \"https://registry.example:5000\"\nca = \"ca.pem\"\n\
             [host.\"http://z:1\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
             [host.\"https://a:2\"]\nskip_verify = true\n[host.b]\nca = [\"ca.pem\"]",
            &["http://z:1", "https://a:2", "https://b"],
            &["a:2"],
            "CA\nCA\n",
        );
        check(
            "server = \"http://registry.example:5000\"",
            &[],
            &[REGISTRY],
            "",
        );
        check("server = \"http://other:1/\"", &["http://other:1"], &[], "");
        // What cannot be followed is left out.
        check(
            "[host.\"http://push:1\"]\ncapabilities = [\"push\"]\n\
             [host.\"http://cert:1\"]\nclient = \"x.pem\"\n\
             [host.\"http://head:1\"]\n[host.\"http://head:1\".header]\nx = \"y\"\n\
             [host.\"http://path:1/a\"]\noverride_path = true\n\
             [host.\"http://fine:1/v2/a\"]\noverride_path = true",
            &["http://fine:1/v2/a"],
            &[],
            "",
        );
    }

    #[test]
    fn directories_are_found_as_containerd_finds_them() {
        let check = |name: &str, registry: &str, found: bool| {
            let (_temp, hosts) = dir(name, "[host.\"http://m:1\"]");
            let mirrors = hosts.upstream(registry).unwrap().mirrors;
            assert_eq!(mirrors.len(), usize::from(found), "{name} {registry}");
        };
        check("h_1_", "h:1", true);
        check("h:1", "h:1", true);
        check("h", "h", true);
        check("_default", "h:1", true);
        check("h", "h:1", false);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        let check = |text: &str, words: &str| {
            let (_temp, hosts) = dir(REGISTRY, text);
            let error = hosts.upstream(REGISTRY).unwrap_err().to_string();
            assert!(
                error.contains("hosts.toml") && error.contains(words),
                "{error}"
            );
        };
        check("server = 1", "server");
        check("[host.\"ftp://x\"]", "ftp://x");
        check("[host.\"http://x\"]\nca = \"none.pem\"", "none.pem");
    }

    #[test]
    fn settings_of_the_node_come_first() {
        let (temp, hosts) = dir(REGISTRY, "[host.\"http://m:1\"]\nca = \"ca.pem\"");
        let bundle = temp.path().join("own.pem");
        fs::write(&bundle, "OWN").unwrap();
        let mut options = Options {
            ca_bundle: Some(bundle),
            mirrors: BTreeMap::from([(REGISTRY.to_owned(), vec!["http://own:1".to_owned()])]),
            ..Options::default()
        };
        let upstream = hosts.upstream(REGISTRY).unwrap();
        hosts.add(REGISTRY, &upstream, &mut options).unwrap();
        assert_eq!(options.mirrors[REGISTRY], ["http://own:1", "http://m:1"]);
        let written = fs::read_to_string(options.ca_bundle.unwrap()).unwrap();
        assert_eq!(written, "OWN\nCA\n");
    }
}
