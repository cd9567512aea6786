//! The parts of a node that keeps images and runs sandboxes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use chalk_core::wire::Problem;
use chalk_store::registry::{CredentialSource, Options};
use tokio::net::TcpListener;

use crate::cache::{Cache, CacheSettings, NodeImages};
use crate::files::Files;
use crate::metrics::{self, NodeMetrics};
use crate::mirror::{self, Bounds};
use crate::mounts::Mounts;
use crate::node::{NodeError, Parts, Surroundings};
use crate::sandboxes::{SandboxSettings, Sandboxes};
use crate::settings::NodeSettings;

/// Share of the cache's size that mounted files may take.
const FILES_SHARE: u64 = 10;

/// Opens cache, files and sandboxes in the directory of the node, and serves other nodes.
pub(crate) async fn parts(around: Surroundings) -> Result<Parts, NodeError> {
    let Surroundings {
        settings,
        access,
        line,
    } = around;
    let mut cache = CacheSettings::new(settings.dir.join("cache"));
    cache.size_limit = settings.cache_size;
    cache.form = settings.cache_form;
    cache.parallel = settings.parallel;
    cache.memory = settings.memory;
    cache.mirror_bytes = match settings.mirror_listen {
        Some(_) => settings.mirror_size,
        None => 0,
    };
    let connected = line.clone();
    let files_dir = settings.dir.join("files");
    let budget = settings.cache_size / FILES_SHARE;
    let (cache, files) = blocking(move || {
        let cache = Cache::open(cache).map_err(|e| NodeError::Parts(Box::new(e)))?;
        let files = Files::open(&files_dir, budget, Arc::new(line));
        let files = files.map_err(|source| NodeError::Io {
            action: "use",
            path: files_dir,
            source,
        })?;
        cache.attach_files(Arc::new(files.clone()));
        Ok((cache, files))
    })
    .await?;
    tracing::info!(form = ?cache.form(), "cache is open");

    let mounts =
        Mounts::start(&settings.dir.join("mounts")).map_err(|e| NodeError::Parts(Box::new(e)))?;
    cache.attach_mounts(Arc::new(mounts.clone()));
    let images = NodeImages::new(cache.clone(), access.clone(), options(&settings));
    let images = Arc::new(images);
    let sandboxes = SandboxSettings {
        records: settings.dir.join("sandboxes"),
        disks: settings.dir.join("disks"),
        disk: settings.sandbox_disk,
        log_limit: settings.log_limit,
        cdi_dirs: settings.cdi_dirs.clone(),
    };
    let sandboxes = Sandboxes::start(sandboxes, mounts, images.clone(), files)
        .await
        .map_err(|problem| NodeError::Parts(Box::new(Unusable(problem))))?;

    let mut keep: Vec<Ends> = Vec::new();
    if let Some(address) = settings.metrics_listen {
        let failed = |source| NodeError::Metrics { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        tracing::info!(%bound, "metrics are served");
        let metrics = NodeMetrics::new(cache.clone(), sandboxes.clone(), connected);
        let server = metrics::serve(listener, metrics);
        keep.push(Ends(tokio::spawn(server)));
    }
    let mut mirror = None;
    if let Some(address) = settings.mirror_listen {
        let failed = |source| NodeError::Mirror { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let url = advertised(&settings, bound);
        tracing::info!(%bound, url, "blobs are served to other nodes");
        mirror = Some(url);
        let server = mirror::serve(listener, cache, access, Bounds::default());
        keep.push(Ends(tokio::spawn(server)));
    }
    Ok(Parts {
        images,
        sandboxes: Arc::new(sandboxes),
        mirror,
        keep: Box::new(keep),
    })
}

/// A server that ends with this value.
struct Ends(tokio::task::JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sandboxes cannot be run here.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .0.title, .0.detail)]
struct Unusable(Problem);

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| NodeError::Parts(Box::new(e)))?
}

/// How the node's settings say that registries are read. The service's own registry is spoken to as
/// the service is.
pub(crate) fn options(settings: &NodeSettings) -> Options {
    let mut insecure: BTreeSet<String> = settings.insecure.iter().cloned().collect();
    if let Some(service) = settings.server.strip_prefix("http://") {
        let authority = service.split('/').next().unwrap_or_default();
        insecure.insert(authority.to_owned());
    }
    Options {
        mirrors: settings.registry_mirrors.clone(),
        ca_bundle: settings.ca_bundle.clone(),
        insecure,
        credentials: match &settings.credentials {
            Some(file) => CredentialSource::DockerConfig(file.clone()),
            None => CredentialSource::Docker,
        },
        parallel: settings.parallel,
        ..Options::default()
    }
}

/// The base URL under which other nodes reach the address.
fn advertised(settings: &NodeSettings, bound: SocketAddr) -> String {
    let port = bound.port();
    match settings.mirror_advertise.as_deref() {
        Some(url) if url.contains("://") => url.trim_end_matches('/').to_owned(),
        Some(host) if has_port(host) => format!("http://{host}"),
        Some(host) => format!("http://{host}:{port}"),
        None if bound.ip().is_unspecified() => {
            let ip = towards(&settings.server, bound).unwrap_or(bound.ip());
            format!("http://{}", SocketAddr::new(ip, port))
        }
        None => format!("http://{bound}"),
    }
}

/// Whether `host` ends with a port; the colons of a bare IPv6 address are none.
fn has_port(host: &str) -> bool {
    let end = host.rsplit_once(']').map_or(host, |(_, end)| end);
    end.rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// The address of this host on the way to the service, by which its neighbours reach it, too.
fn towards(server: &str, bound: SocketAddr) -> Option<IpAddr> {
    let url = reqwest::Url::parse(server).ok()?;
    let service = url.socket_addrs(|| None).ok()?;
    let service = service.iter().find(|a| a.is_ipv4() || bound.is_ipv6())?;
    let any: SocketAddr = match service {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // No packet is sent: the system only chooses the way.
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(service).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Join;

    #[test]
    fn plain_http_to_the_service_is_plain_http_to_its_registry() {
        let check = |server: &str, expect: &[&str]| {
            let mut settings = NodeSettings::new(server, Join::Never, "n", "/tmp".into());
            settings.insecure = vec!["r:1".to_owned()];
            let insecure = options(&settings).insecure;
            assert_eq!(insecure.iter().collect::<Vec<_>>(), expect, "{server}");
        };
        check("http://10.0.0.1:7474", &["10.0.0.1:7474", "r:1"]);
        check("http://chalk.example/", &["chalk.example", "r:1"]);
        check("https://10.0.0.1:7474", &["r:1"]);
    }

    #[test]
    fn addresses_for_other_nodes() {
        let check = |advertise: Option<&str>, bound: &str, expect: &str| {
            let url = "http://127.0.0.1:7474";
            let mut settings = NodeSettings::new(url, Join::Never, "n", "/tmp".into());
            settings.mirror_advertise = advertise.map(str::to_owned);
            assert_eq!(advertised(&settings, bound.parse().unwrap()), expect);
        };
        check(None, "10.0.0.1:5000", "http://10.0.0.1:5000");
        check(None, "0.0.0.0:5000", "http://127.0.0.1:5000");
        check(Some("n1.example"), "0.0.0.0:5000", "http://n1.example:5000");
        check(
            Some("n1.example:80"),
            "0.0.0.0:5000",
            "http://n1.example:80",
        );
        check(Some("[::1]"), "[::]:5000", "http://[::1]:5000");
        check(Some("https://n1/x/"), "0.0.0.0:5000", "https://n1/x");
    }
}
