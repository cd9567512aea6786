//! The connection to containerd.

use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::ContainerdSettings;
use super::api::containerd::services as api;
use crate::cache::{CacheError, Result};

/// Largest answer; all images of a namespace come in one.
const ANSWER: usize = 64 << 20;
/// A call that takes longer is watched: whether containerd answers at all is asked so often.
const WATCH: Duration = Duration::from_secs(15);
/// Longest that it may take for that answer.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);
/// Longest that opening the socket may take.
const CONNECT: Duration = Duration::from_secs(10);

type Wire = InterceptedService<Channel, Scope>;

pub(super) type Content = api::content::v1::content_client::ContentClient<Wire>;
pub(super) type Containers = api::containers::v1::containers_client::ContainersClient<Wire>;
pub(super) type Diff = api::diff::v1::diff_client::DiffClient<Wire>;
pub(super) type Events = api::events::v1::events_client::EventsClient<Wire>;
pub(super) type Images = api::images::v1::images_client::ImagesClient<Wire>;
pub(super) type Leases = api::leases::v1::leases_client::LeasesClient<Wire>;
pub(super) type Snapshots = api::snapshots::v1::snapshots_client::SnapshotsClient<Wire>;
type Version = api::version::v1::version_client::VersionClient<Wire>;

/// A containerd, one namespace of it. Clones share the connection, which is opened when it is first
/// used, and again after it broke.
#[derive(Debug, Clone)]
pub(super) struct Containerd {
    settings: ContainerdSettings,
    channel: Channel,
    scope: Scope,
}

/// What every call carries: the namespace, and the lease that what it makes belongs to.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    namespace: String,
    lease: Option<String>,
}

impl Interceptor for Scope {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = |text: &str| {
            MetadataValue::try_from(text).map_err(|_| {
                Status::invalid_argument(format!("`{text}` cannot be a namespace or lease"))
            })
        };
        let metadata = request.metadata_mut();
        metadata.insert("containerd-namespace", value(&self.namespace)?);
        if let Some(lease) = &self.lease {
            metadata.insert("containerd-lease", value(lease)?);
        }
        Ok(request)
    }
}

impl Containerd {
    /// Connects to nothing yet.
    pub(super) fn new(settings: ContainerdSettings) -> Self {
        let path = settings.address.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        // The authority is not looked at: there is one server behind a socket.
        let channel = Endpoint::from_static("http://containerd")
            .connect_timeout(CONNECT)
            .connect_with_connector_lazy(connector);
        let scope = Scope {
            namespace: settings.namespace.clone(),
            lease: None,
        };
        Self {
            settings,
            channel,
            scope,
        }
    }

    /// The same, for calls whose makings belong to a lease.
    pub(super) fn within(&self, lease: &str) -> Self {
        let mut this = self.clone();
        this.scope.lease = Some(lease.to_owned());
        this
    }

    pub(super) fn settings(&self) -> &ContainerdSettings {
        &self.settings
    }

    fn wire(&self) -> Wire {
        Wire::new(self.channel.clone(), self.scope.clone())
    }

    pub(super) fn content(&self) -> Content {
        Content::new(self.wire()).max_decoding_message_size(ANSWER)
    }

    pub(super) fn containers(&self) -> Containers {
        Containers::new(self.wire()).max_decoding_message_size(ANSWER)
    }

    pub(super) fn diff(&self) -> Diff {
        Diff::new(self.wire())
    }

    pub(super) fn events(&self) -> Events {
        Events::new(self.wire()).max_decoding_message_size(ANSWER)
    }

    pub(super) fn images(&self) -> Images {
        Images::new(self.wire()).max_decoding_message_size(ANSWER)
    }

    pub(super) fn leases(&self) -> Leases {
        Leases::new(self.wire()).max_decoding_message_size(ANSWER)
    }

    pub(super) fn snapshots(&self) -> Snapshots {
        Snapshots::new(self.wire()).max_decoding_message_size(ANSWER)
    }

    /// Which version it is; also a sign of life.
    pub(super) async fn version(&self) -> Result<String> {
        let mut client = Version::new(self.wire());
        match tokio::time::timeout(SIGN_OF_LIFE, client.version(())).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().version),
            Ok(Err(status)) => Err(self.failure("say its version", &status)),
            Err(_) => Err(CacheError::ContainerdGone {
                address: self.settings.address.display().to_string(),
                detail: format!("it did not answer within {} s", SIGN_OF_LIFE.as_secs()),
            }),
        }
    }

    /// Waits for a call for as long as containerd shows that it lives. (Keep-alive pings of HTTP/2
    /// would do so, too, but gRPC's servers close connections on which they come more often than
    /// every five minutes.)
    pub(super) async fn call<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T> {
        self.watched(call)
            .await?
            .map_err(|status| self.failure(doing, &status))
    }

    /// As [`call`](Self::call), where what containerd refuses is for the caller to judge.
    pub(super) async fn watched<T>(&self, call: impl Future<Output = T>) -> Result<T> {
        let mut call = std::pin::pin!(call);
        loop {
            if let Ok(done) = tokio::time::timeout(WATCH, &mut call).await {
                return Ok(done);
            }
            tokio::select! {
                done = &mut call => return Ok(done),
                alive = self.version() => { alive?; }
            }
        }
    }

    /// What a refusal means.
    pub(super) fn failure(&self, doing: &str, status: &Status) -> CacheError {
        let detail = match std::error::Error::source(status) {
            Some(source) => innermost(source),
            None => status.message().to_owned(),
        };
        let address = self.settings.address.display().to_string();
        // What containerd itself answers has no other error behind it.
        let broke = std::error::Error::source(status).is_some();
        if broke || matches!(status.code(), Code::Unavailable | Code::Cancelled) {
            return CacheError::ContainerdGone { address, detail };
        }
        CacheError::Containerd {
            address,
            doing: doing.to_owned(),
            transient: !matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::Unimplemented
                    | Code::PermissionDenied
                    | Code::Unauthenticated
            ),
            disk_full: detail.contains("no space left on device"),
            detail,
        }
    }
}

/// The innermost cause: the outer ones only say that there is one.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// `None` where there is no such thing.
pub(super) fn found<T>(answer: Result<T, Status>) -> Result<Option<T>, Status> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}
