//! Volumes as Chalk's own SDK speaks of them: calls by Connect, contents in objects at signed
//! addresses (`docs/volumes.md`). Of the messages, the fields that the trials use.

use prost::Message;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};

use crate::client::{Client, Fallible};

const SERVICE: &str = "/chalk.volume.v2.VolumeService";
/// Bytes in front of the files of a pack: what stands there is no matter of the service's.
const HEAD: &[u8] = b"torture of volumes";
/// Bytes of a chunk; clients take 8 MiB, which the trials' files do not have.
const CHUNK: usize = 100_000;

/// `COMMIT_RESULT_COMMITTED`.
const COMMITTED: i32 = 2;
/// `FILE_KIND_FILE`.
const FILE: i32 = 1;
/// `UPLOADED_OBJECT_KIND_CHUNK` and `UPLOADED_OBJECT_KIND_PACK`.
const OBJECT_KINDS: [i32; 2] = [1, 2];

/// How the contents of a file get to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In the commit.
    Inline,
    /// In an object that could hold many.
    Packed,
    /// In objects of its own.
    Chunked,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct VolumeRef {
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct CreateVolume {
    #[prost(string, tag = "1")]
    name: String,
}

/// `GetVolumeRequest` and `DeleteVolumeRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
struct OfVolume {
    #[prost(message, optional, tag = "1")]
    volume: Option<VolumeRef>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Eq, Message)]
struct Object {
    #[prost(string, tag = "1")]
    object_key: String,
    #[prost(string, tag = "2")]
    hash: String,
    #[prost(uint64, tag = "3")]
    content_size: u64,
    #[prost(int32, tag = "4")]
    kind: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct UploadUrls {
    #[prost(message, optional, tag = "1")]
    volume: Option<VolumeRef>,
    #[prost(message, repeated, tag = "2")]
    objects: Vec<Object>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct UploadUrl {
    #[prost(bool, tag = "2")]
    already_exists: bool,
    #[prost(string, tag = "3")]
    signed_upload_uri: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct UploadUrlsReply {
    #[prost(message, repeated, tag = "1")]
    urls: Vec<UploadUrl>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Inline {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    #[prost(string, tag = "2")]
    hash: String,
    #[prost(uint64, tag = "3")]
    size: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Chunk {
    #[prost(string, tag = "1")]
    object_key: String,
    #[prost(string, tag = "2")]
    hash: String,
    #[prost(uint64, tag = "3")]
    size: u64,
    #[prost(uint64, tag = "4")]
    offset: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Chunked {
    #[prost(string, tag = "1")]
    hash: String,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(message, repeated, tag = "3")]
    chunks: Vec<Chunk>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct PackEntry {
    #[prost(string, tag = "1")]
    object_key: String,
    #[prost(string, tag = "2")]
    pack_id: String,
    #[prost(uint64, tag = "3")]
    offset: u64,
    #[prost(uint64, tag = "4")]
    size: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Packed {
    #[prost(string, tag = "1")]
    hash: String,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(message, optional, tag = "3")]
    pack: Option<PackEntry>,
}

/// `ContentRef`: one of them.
#[derive(Clone, PartialEq, Eq, Message)]
struct Content {
    #[prost(message, optional, tag = "1")]
    empty: Option<Empty>,
    #[prost(message, optional, tag = "2")]
    inline: Option<Inline>,
    #[prost(message, optional, tag = "3")]
    chunked: Option<Chunked>,
    #[prost(message, optional, tag = "4")]
    packed: Option<Packed>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Regular {
    #[prost(message, optional, tag = "1")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct FileNode {
    #[prost(message, optional, tag = "2")]
    file: Option<Regular>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Upsert {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(message, optional, tag = "2")]
    node: Option<FileNode>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Remove {
    #[prost(string, tag = "1")]
    path: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Deltas {
    #[prost(message, repeated, tag = "1")]
    upserts: Vec<Upsert>,
    #[prost(message, repeated, tag = "2")]
    removes: Vec<Remove>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Intent {
    #[prost(message, optional, tag = "1")]
    volume: Option<VolumeRef>,
    #[prost(string, tag = "2")]
    commit_id: String,
    #[prost(message, optional, tag = "8")]
    path_deltas: Option<Deltas>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct CommitVersion {
    #[prost(message, optional, tag = "1")]
    intent: Option<Intent>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct CommitStatus {
    #[prost(int32, tag = "3")]
    result: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct CommitReply {
    #[prost(message, optional, tag = "1")]
    status: Option<CommitStatus>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ListFiles {
    #[prost(message, optional, tag = "1")]
    volume: Option<VolumeRef>,
    #[prost(bool, tag = "3")]
    recursive: bool,
    #[prost(int32, tag = "4")]
    limit: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct FileInfo {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(int32, tag = "5")]
    kind: i32,
    #[prost(string, tag = "6")]
    hash: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ListFilesReply {
    #[prost(message, repeated, tag = "1")]
    files: Vec<FileInfo>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct GetFile {
    #[prost(message, optional, tag = "1")]
    volume: Option<VolumeRef>,
    #[prost(string, tag = "2")]
    path: String,
}

/// `SignedPackEntryRef` and `SignedChunkRef`, which look the same as far as we read.
#[derive(Clone, PartialEq, Eq, Message)]
struct Signed {
    #[prost(string, tag = "1")]
    signed_download_uri: String,
    /// Called `pack_id` in a pack.
    #[prost(string, tag = "4")]
    hash: String,
}

/// `PackedFileContent` and `ChunkedFileContent`, which look the same as far as we read.
#[derive(Clone, PartialEq, Eq, Message)]
struct Parts {
    #[prost(message, repeated, tag = "1")]
    parts: Vec<Signed>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct GetFileReply {
    #[prost(bytes = "vec", optional, tag = "3")]
    data: Option<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    packed: Option<Parts>,
    #[prost(message, optional, tag = "5")]
    chunked: Option<Parts>,
}

/// BLAKE3, as contents of volumes are named.
pub(crate) fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn volume(name: &str) -> Option<VolumeRef> {
    let name = name.to_owned();
    Some(VolumeRef { name })
}

/// Files of a volume, by path, with their hashes.
pub(crate) type Listing = Vec<(String, String)>;

impl Client {
    /// A call; none when what it is about is not there.
    async fn unary<T: Message + Default>(
        &self,
        member: &str,
        message: &impl Message,
    ) -> Fallible<Option<T>> {
        let headers = [(CONTENT_TYPE, "application/proto".to_owned())];
        let path = format!("{SERVICE}/{member}");
        let body = message.encode_to_vec();
        let answer = self.send(Method::POST, &path, &headers, body).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => T::decode(&*answer.ok()?.body)
                .map(Some)
                .map_err(|error| error.to_string()),
        }
    }

    /// Makes a volume.
    pub(crate) async fn create_volume(&self, name: &str) -> Fallible<()> {
        let asked = CreateVolume {
            name: name.to_owned(),
        };
        self.unary::<Empty>("CreateVolume", &asked).await.map(drop)
    }

    /// Whether a volume is there.
    pub(crate) async fn has_volume(&self, name: &str) -> Fallible<bool> {
        let asked = OfVolume {
            volume: volume(name),
        };
        let found = self.unary::<Empty>("GetVolume", &asked).await?;
        Ok(found.is_some())
    }

    /// Deletes a volume.
    pub(crate) async fn delete_volume(&self, name: &str) -> Fallible<()> {
        let asked = OfVolume {
            volume: volume(name),
        };
        self.unary::<Empty>("DeleteVolume", &asked).await.map(drop)
    }

    /// Uploads objects, those that the service has not yet.
    async fn upload(&self, name: &str, kind: i32, objects: &[&[u8]]) -> Fallible<()> {
        let described = objects.iter().map(|bytes| Object {
            object_key: hash(bytes),
            hash: hash(bytes),
            content_size: bytes.len() as u64,
            kind,
        });
        let asked = UploadUrls {
            volume: volume(name),
            objects: described.collect(),
        };
        let reply = self.unary("RequestUploadURLs", &asked).await?;
        let reply: UploadUrlsReply = reply.ok_or("the volume is gone")?;
        for (bytes, url) in objects.iter().zip(reply.urls) {
            if !url.already_exists {
                let body = bytes.to_vec();
                let put = self.send(Method::PUT, &url.signed_upload_uri, &[], body);
                put.await?.ok()?;
            }
        }
        Ok(())
    }

    /// Puts a file into a volume; `commit` is the identifier of the commit, never used before.
    pub(crate) async fn commit_file(
        &self,
        name: &str,
        path: &str,
        bytes: &[u8],
        way: Way,
        commit: String,
    ) -> Fallible<()> {
        let (whole, size) = (hash(bytes), bytes.len() as u64);
        let mut content = Content::default();
        match way {
            _ if bytes.is_empty() => content.empty = Some(Empty {}),
            Way::Inline => {
                content.inline = Some(Inline {
                    data: bytes.to_vec(),
                    hash: whole,
                    size,
                });
            }
            Way::Packed => {
                let pack = [HEAD, bytes].concat();
                self.upload(name, OBJECT_KINDS[1], &[&pack]).await?;
                content.packed = Some(Packed {
                    hash: whole,
                    size,
                    pack: Some(PackEntry {
                        object_key: hash(&pack),
                        pack_id: hash(&pack),
                        offset: HEAD.len() as u64,
                        size,
                    }),
                });
            }
            Way::Chunked => {
                let chunks: Vec<&[u8]> = bytes.chunks(CHUNK).collect();
                self.upload(name, OBJECT_KINDS[0], &chunks).await?;
                let chunk = |(at, bytes): (usize, &&[u8])| Chunk {
                    object_key: hash(bytes),
                    hash: hash(bytes),
                    size: bytes.len() as u64,
                    offset: (at * CHUNK) as u64,
                };
                content.chunked = Some(Chunked {
                    hash: whole,
                    size,
                    chunks: chunks.iter().enumerate().map(chunk).collect(),
                });
            }
        }
        let file = Regular {
            content: Some(content),
        };
        let node = FileNode { file: Some(file) };
        let upsert = Upsert {
            path: path.to_owned(),
            node: Some(node),
        };
        self.commit(name, vec![upsert], Vec::new(), commit).await
    }

    /// Takes a file out of a volume.
    pub(crate) async fn remove_file(&self, name: &str, path: &str, commit: String) -> Fallible<()> {
        let removes = vec![Remove {
            path: path.to_owned(),
        }];
        self.commit(name, Vec::new(), removes, commit).await
    }

    async fn commit(
        &self,
        name: &str,
        upserts: Vec<Upsert>,
        removes: Vec<Remove>,
        commit_id: String,
    ) -> Fallible<()> {
        let intent = Intent {
            volume: volume(name),
            commit_id,
            path_deltas: Some(Deltas { upserts, removes }),
        };
        let asked = CommitVersion {
            intent: Some(intent),
        };
        let reply: Option<CommitReply> = self.unary("CommitVersion", &asked).await?;
        let result = reply.ok_or("the volume is gone")?.status;
        match result.map(|status| status.result) {
            Some(COMMITTED) => Ok(()),
            other => Err(format!("the commit was answered by {other:?}")),
        }
    }

    /// Files of a volume; none when there is no such volume.
    pub(crate) async fn volume_files(&self, name: &str) -> Fallible<Option<Listing>> {
        let asked = ListFiles {
            volume: volume(name),
            recursive: true,
            limit: 1000,
        };
        let reply: Option<ListFilesReply> = self.unary("ListFiles", &asked).await?;
        let files = |reply: ListFilesReply| {
            let files = reply.files.into_iter().filter(|file| file.kind == FILE);
            files.map(|file| (file.path, file.hash)).collect()
        };
        Ok(reply.map(files))
    }

    /// Contents of a file of a volume.
    pub(crate) async fn volume_file(&self, name: &str, path: &str) -> Fallible<Option<Vec<u8>>> {
        let asked = GetFile {
            volume: volume(name),
            path: path.to_owned(),
        };
        let Some(reply) = self.unary::<GetFileReply>("GetFile", &asked).await? else {
            return Ok(None);
        };
        let mut bytes = reply.data.unwrap_or_default();
        let parts = [reply.packed, reply.chunked].into_iter().flatten();
        for part in parts.flat_map(|parts| parts.parts) {
            let got = self.send(Method::GET, &part.signed_download_uri, &[], Vec::new());
            let got = got.await?.ok()?.body;
            // What comes in parts is for the client to check.
            if hash(&got) != part.hash {
                return Err(format!("{path} has other bytes than {}", part.hash));
            }
            bytes.extend(got);
        }
        Ok(Some(bytes))
    }
}
