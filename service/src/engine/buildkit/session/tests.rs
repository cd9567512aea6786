//! A session with a builder that is made up: it takes the connection out of `Control.Session` and asks.

use std::sync::Mutex as StdMutex;

use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::moby::buildkit::secrets::v1::secrets_client::SecretsClient;
use bollard_buildkit_proto::moby::buildkit::v1::control_server::{Control, ControlServer};
use bollard_buildkit_proto::moby::buildkit::v1::{
    BuildHistoryEvent, BuildHistoryRequest, DiskUsageRequest, DiskUsageResponse, InfoRequest,
    InfoResponse, ListWorkersRequest, ListWorkersResponse, PruneRequest, SolveRequest,
    SolveResponse, StatusRequest, StatusResponse, UpdateBuildHistoryRequest,
    UpdateBuildHistoryResponse, UsageRecord,
};
use bollard_buildkit_proto::moby::filesync::v1::auth_client::AuthClient;
use bollard_buildkit_proto::moby::filesync::v1::file_send_client::FileSendClient;
use bollard_buildkit_proto::moby::filesync::v1::file_sync_client::FileSyncClient;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tonic::transport::{Endpoint, Server};

use super::*;
use crate::engine::embedded::copy::{Contents, Virtual};

/// Hands out the connection that a session is.
struct MadeUp(StdMutex<Option<oneshot::Sender<(MetadataMap, DuplexStream)>>>);

type Nothing<T> = Result<Response<T>, Status>;

fn nothing<T>() -> Nothing<T> {
    Err(Status::unimplemented("made up"))
}

#[tonic::async_trait]
impl Control for MadeUp {
    type PruneStream = BoxStream<'static, Result<UsageRecord, Status>>;
    type StatusStream = BoxStream<'static, Result<StatusResponse, Status>>;
    type SessionStream = BoxStream<'static, Result<BytesMessage, Status>>;
    type ListenBuildHistoryStream = BoxStream<'static, Result<BuildHistoryEvent, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Nothing<Self::SessionStream> {
        let metadata = request.metadata().clone();
        let (inner, outer) = tokio::io::duplex(BUFFER);
        let (from, to) = tokio::io::split(inner);
        tokio::spawn(receive(request.into_inner(), to));
        if let Some(sender) = self.0.lock().unwrap().take() {
            sender.send((metadata, outer)).unwrap();
        }
        Ok(Response::new(pieces(from).map(Ok).boxed()))
    }

    async fn disk_usage(&self, _: Request<DiskUsageRequest>) -> Nothing<DiskUsageResponse> {
        nothing()
    }

    async fn prune(&self, _: Request<PruneRequest>) -> Nothing<Self::PruneStream> {
        nothing()
    }

    async fn solve(&self, _: Request<SolveRequest>) -> Nothing<SolveResponse> {
        nothing()
    }

    async fn status(&self, _: Request<StatusRequest>) -> Nothing<Self::StatusStream> {
        nothing()
    }

    async fn list_workers(&self, _: Request<ListWorkersRequest>) -> Nothing<ListWorkersResponse> {
        nothing()
    }

    async fn info(&self, _: Request<InfoRequest>) -> Nothing<InfoResponse> {
        nothing()
    }

    async fn listen_build_history(
        &self,
        _: Request<BuildHistoryRequest>,
    ) -> Nothing<Self::ListenBuildHistoryStream> {
        nothing()
    }

    async fn update_build_history(
        &self,
        _: Request<UpdateBuildHistoryRequest>,
    ) -> Nothing<UpdateBuildHistoryResponse> {
        nothing()
    }
}

async fn over(stream: DuplexStream) -> Channel {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::other("used"));
        async move { stream.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://made-up");
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// What a builder sees of a session that offers these answers.
async fn begin(answers: Arc<Answers>) -> (Session, MetadataMap, Channel) {
    let (sender, receiver) = oneshot::channel();
    let builder = MadeUp(StdMutex::new(Some(sender)));
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let server = Server::builder().add_service(ControlServer::new(builder));
    let incoming = stream::once(async { Ok::<_, io::Error>(theirs) }).chain(stream::pending());
    tokio::spawn(server.serve_with_incoming(incoming));
    let session = Session::begin(over(ours).await, answers);
    let (session, asked) = tokio::join!(session, async {
        let (metadata, stream) = receiver.await.unwrap();
        (metadata, over(stream).await)
    });
    (session.unwrap(), asked.0, asked.1)
}

fn packet(kind: PacketType, id: u32) -> Packet {
    Packet {
        r#type: kind as i32,
        id,
        ..Packet::default()
    }
}

/// Fetches a whole directory: paths, and contents of files.
async fn fetch(channel: Channel, name: &str) -> Result<Vec<(String, Vec<u8>)>, Status> {
    let (sender, receiver) = mpsc::channel(64);
    let mut request = Request::new(ReceiverStream::new(receiver));
    let name = MetadataValue::try_from(name).unwrap();
    request.metadata_mut().insert("dir-name", name);
    let answer = FileSyncClient::new(channel).diff_copy(request).await?;
    let mut packets = answer.into_inner();
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    let mut open = 0;
    while let Some(got) = packets.message().await? {
        match (got.r#type(), got.stat) {
            (PacketType::PacketStat, Some(stat)) => {
                let id = u32::try_from(found.len()).unwrap();
                found.push((stat.path, Vec::new()));
                // Neither a directory nor a link.
                if stat.mode & (1 << 31 | 1 << 27) == 0 {
                    open += 1;
                    let ask = packet(PacketType::PacketReq, id);
                    sender.send(ask).await.unwrap();
                }
            }
            (PacketType::PacketData, _) if got.data.is_empty() => {
                open -= 1;
                if open == 0 {
                    sender.send(packet(PacketType::PacketFin, 0)).await.unwrap();
                }
            }
            (PacketType::PacketData, _) => found[got.id as usize].1.extend(got.data),
            (PacketType::PacketFin, _) => break,
            _ => {}
        }
    }
    Ok(found)
}

#[tokio::test]
async fn a_builder_gets_what_is_offered_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobStore::open(dir.path()).unwrap();
    let long = vec![7; 100_000];
    let blob = blobs.put(&long).unwrap();
    let login = Login {
        host: "registry:5000".to_owned(),
        user: "chalk".to_owned(),
        secret: Secret::new("token"),
    };
    let secrets = BTreeMap::from([("key".to_owned(), Secret::new("value"))]);
    let answers = Arc::new(Answers::new(secrets, Some(login), blobs.clone()));
    let mut root = Virtual::empty();
    let file = |contents| Virtual::File {
        contents,
        mode: 0o644,
        mtime: 1,
    };
    root.insert("a/long", file(Contents::Blob(blob.digest)))
        .unwrap();
    root.insert("b", file(Contents::Bytes(b"short".to_vec())))
        .unwrap();
    root.insert("c", Virtual::Symlink(b"b".to_vec())).unwrap();
    let name = answers.offer(Offered::new(&root, None, &blobs).unwrap());
    let (session, metadata, channel) = begin(Arc::clone(&answers)).await;

    let id = metadata.get("x-docker-expose-session-uuid").unwrap();
    assert_eq!(id.to_str().unwrap(), session.id);
    let methods = metadata.get_all("x-docker-expose-session-grpc-method");
    assert_eq!(methods.iter().count(), METHODS.len());

    let found = fetch(channel.clone(), &name).await.unwrap();
    let expect = [
        ("a", &[][..]),
        ("a/long", &long),
        ("b", b"short"),
        ("c", b""),
    ];
    let expect: Vec<(String, Vec<u8>)> = expect
        .iter()
        .map(|(path, contents)| ((*path).to_owned(), contents.to_vec()))
        .collect();
    assert_eq!(found, expect);
    let absent = fetch(channel.clone(), "/etc").await.unwrap_err();
    assert_eq!(absent.code(), tonic::Code::NotFound);

    let mut secrets = SecretsClient::new(channel.clone());
    let mut ask = async |id: &str| {
        let request = GetSecretRequest {
            id: id.to_owned(),
            ..GetSecretRequest::default()
        };
        let answer = secrets.get_secret(request).await;
        answer.map(|answer| answer.into_inner().data)
    };
    assert_eq!(ask("key").await.unwrap(), b"value");
    assert_eq!(
        ask("other").await.unwrap_err().code(),
        tonic::Code::NotFound
    );

    let mut auth = AuthClient::new(channel.clone());
    let mut ask = async |host: &str| {
        let host = host.to_owned();
        let answer = auth.credentials(CredentialsRequest { host }).await;
        let answer = answer.unwrap().into_inner();
        (answer.username, answer.secret)
    };
    let pair = |user: &str, secret: &str| (user.to_owned(), secret.to_owned());
    assert_eq!(ask("registry:5000").await, pair("chalk", "token"));
    assert_eq!(ask("docker.io").await, pair("", ""));

    let sent = ["one ", "two"].map(|text| FileBytes { data: text.into() });
    let mut send = FileSendClient::new(channel);
    send.diff_copy(stream::iter(sent)).await.unwrap();
    assert_eq!(answers.take_sent(), b"one two");
    assert_eq!(answers.take_sent(), b"");
}
