//! A session: what a builder may ask of us while it solves. The builder is the gRPC client here; its
//! calls come over the stream of `Control.Session`, in which a whole HTTP/2 connection runs.
//!
//! It may ask for files of the trees that were offered ([`super::files`]), for secrets by name, for the
//! login to the regional registry, and may send one file back.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bollard_buildkit_proto::fsutil::types::Packet;
use bollard_buildkit_proto::moby::buildkit::secrets::v1::secrets_server::{Secrets, SecretsServer};
use bollard_buildkit_proto::moby::buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse};
use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::filesync::v1::auth_server::{Auth, AuthServer};
use bollard_buildkit_proto::moby::filesync::v1::file_send_server::{FileSend, FileSendServer};
use bollard_buildkit_proto::moby::filesync::v1::file_sync_server::{FileSync, FileSyncServer};
use bollard_buildkit_proto::moby::filesync::v1::{
    BytesMessage as FileBytes, CredentialsRequest, CredentialsResponse, FetchTokenRequest,
    FetchTokenResponse, GetTokenAuthorityRequest, GetTokenAuthorityResponse,
    VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use chalk_store::BlobStore;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::files::{self, Offered};
use super::login::Login;
use crate::engine::Secret;

/// Bytes of one message of the session's stream.
const PIECE: usize = 32 << 10;
/// Bytes under way within this process.
const BUFFER: usize = 1 << 20;
/// Most bytes that a builder may send back.
const SENT_LIMIT: usize = 16 << 20;

/// Calls that a builder may make.
const METHODS: &[&str] = &[
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.FileSend/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/grpc.health.v1.Health/Check",
];

/// What a session answers from.
#[derive(Debug)]
pub(super) struct Answers {
    /// Values by name.
    pub(super) secrets: BTreeMap<String, Secret>,
    /// For the regional registry.
    pub(super) login: Option<Login>,
    /// Blobs of offered trees.
    pub(super) blobs: BlobStore,
    /// By name.
    offered: Mutex<BTreeMap<String, Arc<Offered>>>,
    /// What was sent back.
    sent: Mutex<Vec<u8>>,
}

impl Answers {
    /// Offers nothing yet.
    pub(super) fn new(
        secrets: BTreeMap<String, Secret>,
        login: Option<Login>,
        blobs: BlobStore,
    ) -> Self {
        Self {
            secrets,
            login,
            blobs,
            offered: Mutex::default(),
            sent: Mutex::default(),
        }
    }

    /// Offers a tree to builders; gives the name by which they ask for it, which is the same for the
    /// same tree.
    pub(super) fn offer(&self, offered: Offered) -> String {
        let name = format!("chalk-{}", &offered.digest().hex()[..32]);
        let mut all = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(name.clone()).or_insert_with(|| Arc::new(offered));
        name
    }

    /// Takes what was sent back since the last time.
    pub(super) fn take_sent(&self) -> Vec<u8> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut sent)
    }

    fn find(&self, metadata: &MetadataMap) -> Result<Arc<Offered>, Status> {
        let name = metadata.get("dir-name").and_then(|v| v.to_str().ok());
        let name = name.unwrap_or_default();
        let all = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.get(name).cloned();
        found.ok_or_else(|| Status::not_found(format!("no directory is offered as `{name}`")))
    }
}

/// A session on one builder. Ends when dropped.
#[derive(Debug)]
pub(super) struct Session {
    /// What solves name it by.
    pub(super) id: String,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Session {
    /// Begins a session.
    ///
    /// # Errors
    /// When the builder refuses.
    pub(super) async fn begin(channel: Channel, answers: Arc<Answers>) -> Result<Self, Status> {
        let id = hex::encode(rand::random::<[u8; 16]>());
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let server = serve(theirs, answers).await;
        let (from_us, to_us) = tokio::io::split(ours);
        let mut request = Request::new(pieces(from_us));
        describe(&id, request.metadata_mut());
        let mut control = ControlClient::new(channel);
        let answer = control.session(request).await?;
        let bridge = tokio::spawn(receive(answer.into_inner(), to_us));
        Ok(Self {
            id,
            tasks: vec![server, bridge],
        })
    }
}

fn describe(id: &str, metadata: &mut MetadataMap) {
    let mut put = |name: &'static str, text: &str| {
        if let Ok(value) = MetadataValue::try_from(text) {
            metadata.append(name, value);
        }
    };
    put("x-docker-expose-session-uuid", id);
    put("x-docker-expose-session-name", "chalk");
    put("x-docker-expose-session-sharedkey", "");
    for method in METHODS {
        put("x-docker-expose-session-grpc-method", method);
    }
}

/// What we write, as messages.
fn pieces(
    from: tokio::io::ReadHalf<DuplexStream>,
) -> impl Stream<Item = BytesMessage> + Send + 'static {
    stream::unfold(from, |mut from| async move {
        let mut data = vec![0; PIECE];
        match from.read(&mut data).await {
            Ok(read) if read > 0 => {
                data.truncate(read);
                Some((BytesMessage { data }, from))
            }
            _ => None,
        }
    })
}

async fn receive(
    mut messages: Streaming<BytesMessage>,
    mut to: tokio::io::WriteHalf<DuplexStream>,
) {
    while let Ok(Some(message)) = messages.message().await {
        if to.write_all(&message.data).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

async fn serve(stream: DuplexStream, answers: Arc<Answers>) -> JoinHandle<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let handler = Handler(answers);
    let server = tonic::transport::Server::builder()
        .add_service(health)
        .add_service(FileSyncServer::new(handler.clone()))
        .add_service(FileSendServer::new(handler.clone()))
        .add_service(SecretsServer::new(handler.clone()))
        .add_service(AuthServer::new(handler));
    tokio::spawn(async move {
        let incoming = stream::once(async move { Ok::<_, io::Error>(stream) });
        // The end of the server would close the connection.
        let incoming = incoming.chain(stream::pending());
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::warn!(%error, "a session with a builder ended");
        }
    })
}

#[derive(Debug, Clone)]
struct Handler(Arc<Answers>);

#[tonic::async_trait]
impl FileSync for Handler {
    type DiffCopyStream = BoxStream<'static, Result<Packet, Status>>;
    type TarStreamStream = BoxStream<'static, Result<Packet, Status>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let offered = self.0.find(request.metadata())?;
        let (sender, receiver) = mpsc::channel(16);
        let blobs = self.0.blobs.clone();
        tokio::spawn(files::send(offered, blobs, request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn tar_stream(
        &self,
        _: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("files are sent by DiffCopy"))
    }
}

#[tonic::async_trait]
impl FileSend for Handler {
    type DiffCopyStream = BoxStream<'static, Result<FileBytes, Status>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<FileBytes>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let mut pieces = request.into_inner();
        let mut all = Vec::new();
        while let Some(piece) = pieces.message().await? {
            if all.len() + piece.data.len() > SENT_LIMIT {
                return Err(Status::resource_exhausted(format!(
                    "more than {SENT_LIMIT} bytes were sent"
                )));
            }
            all.extend_from_slice(&piece.data);
        }
        *self.0.sent.lock().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(Response::new(stream::empty().boxed()))
    }
}

#[tonic::async_trait]
impl Secrets for Handler {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        let name = request.into_inner().id;
        let found = self.0.secrets.get(&name);
        let found = found.ok_or_else(|| Status::not_found(format!("no secret `{name}`")))?;
        Ok(Response::new(GetSecretResponse {
            data: found.expose().to_vec(),
        }))
    }
}

#[tonic::async_trait]
impl Auth for Handler {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        // The registry's own answer tells what is missing where there is no login for it.
        let login = self.0.login.as_ref().filter(|login| login.host == host);
        Ok(Response::new(match login {
            Some(login) => CredentialsResponse {
                username: login.user.clone(),
                secret: login.password(),
            },
            None => CredentialsResponse::default(),
        }))
    }

    async fn fetch_token(
        &self,
        _: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unimplemented("the builder fetches tokens"))
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("the builder fetches tokens"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("the builder fetches tokens"))
    }
}

#[cfg(test)]
mod tests;
