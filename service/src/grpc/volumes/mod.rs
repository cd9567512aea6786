//! `chalk.volume.v2.VolumeService`: volumes as Chalk's own SDK knows them.

mod convert;

use std::sync::Arc;

use chalk_core::wire::DEFAULT_PROJECT;
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::proto::chalk::volume::v2 as pb;
use super::proto::chalk::volume::v2::volume_service_server::VolumeService;
use super::{auth::reached_by, scope, status, times};
use crate::http::ApiError;
use crate::projects::Scope;
use crate::service::Service;
use crate::volumes::addresses::Permit;
use crate::volumes::{
    Commit, Committed, FileContents, Listed, Node, OBJECT_LIMIT, RefRecord, Selector,
    VersionRecord, Volume, VolumeError, Volumes as All, clean_path,
};

/// Contents up to this size are in the answer itself.
const INLINE: u64 = 64 * 1024;
/// Most items of a page, and what it has unless more or less are asked for.
const PAGE: usize = 1000;
/// Most objects that addresses are asked for at once.
const OBJECTS: usize = 100_000;

/// `chalk.volume.v2.VolumeService`
#[derive(Clone)]
pub(super) struct Volumes {
    service: Arc<Service>,
}

type Answer<T> = Result<Response<T>, Status>;

impl From<VolumeError> for Status {
    fn from(error: VolumeError) -> Self {
        ApiError::from(error).into()
    }
}

/// Items of a page that was asked for.
fn page(limit: i32) -> usize {
    match usize::try_from(limit) {
        Ok(0) | Err(_) => PAGE,
        Ok(limit) => limit.min(PAGE),
    }
}

impl Volumes {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    fn all(&self) -> &All {
        self.service.volumes()
    }

    fn find(&self, scope: &Scope, named: Option<pb::VolumeRef>) -> Result<Arc<Volume>, Status> {
        Ok(self.all().get(&convert::volume_name(scope, named)?)?)
    }

    /// Writes down what a version holds as its project's.
    async fn count(&self, scope: &Scope, volume: &Volume, version: &VersionRecord) {
        let projects = scope.projects();
        if !projects.counts() {
            return;
        }
        match self.all().listing(version).await {
            Ok(listing) => {
                let files = listing.iter().filter_map(|(_, entry)| match &entry.node {
                    Node::File(file) => Some((file.digest, file.size)),
                    _ => None,
                });
                projects.keep_blobs(volume.project(), files);
            }
            Err(error) => tracing::warn!(%error, "a version of a volume is not counted"),
        }
    }

    /// The version that a selector means; none where nothing was committed yet.
    async fn version(
        &self,
        volume: &Arc<Volume>,
        selector: &Selector,
    ) -> Result<Option<VersionRecord>, Status> {
        Ok(self.all().version(volume, selector).await?)
    }

    async fn ref_info(
        &self,
        volume: &Arc<Volume>,
        found: RefRecord,
    ) -> Result<pb::RefInfo, Status> {
        let at = Selector::Version(found.version);
        let version = self.version(volume, &at).await?;
        Ok(pb::RefInfo {
            name: found.name,
            version_id: found.version,
            sequence_number: version.as_ref().map_or(0, |version| version.sequence),
            parent_version_id: version.as_ref().and_then(|version| version.parent),
            commit_id: version.map(|version| version.commit).unwrap_or_default(),
            updated_at: Some(times::proto(found.updated)),
        })
    }

    /// Changes of a commit, wherever they are.
    async fn changes(
        &self,
        volume: &Volume,
        deltas: Option<pb::commit_intent::Deltas>,
    ) -> Result<convert::Changes, Status> {
        match deltas {
            Some(pb::commit_intent::Deltas::PathDeltas(list)) => convert::deltas(list),
            Some(pb::commit_intent::Deltas::InodeDeltas(_)) => Err(convert::no_inodes()),
            Some(pb::commit_intent::Deltas::UploadedDeltas(object)) => {
                let hash = convert::hash("uploaded_deltas.hash", &object.hash)?;
                let bytes = self.all().object(volume.project(), hash, OBJECT_LIMIT);
                let bytes = bytes.await?;
                convert::uploaded_deltas(&bytes)
            }
            None => Err(convert::invalid(
                "intent",
                "expected path_deltas or uploaded_deltas",
            )),
        }
    }

    /// Contents of a file: in the answer, or where to get them.
    async fn content(
        &self,
        file: &FileContents,
        base: &str,
    ) -> Result<pb::get_file_response::Content, Status> {
        use pb::get_file_response::Content;

        let digest = file.digest;
        if file.size <= INLINE {
            let read = move |store: &chalk_store::BlobStore| store.read_small(digest, INLINE);
            let data = self.service.blobs().run(read).await;
            return Ok(Content::Data(data.map_err(VolumeError::from)?.into()));
        }
        let key = self.service.access().key();
        let expires = Permit::expiry(Timestamp::now());
        let expires_at = Some(times::proto(expires));
        let address = |offset: u64, size: u64| {
            let permit = Permit::Download {
                digest,
                offset,
                size,
            };
            permit.address(key, base, expires)
        };
        if file.chunks.is_empty() {
            return Ok(Content::Packed(pb::PackedFileContent {
                pack: Some(pb::SignedPackEntryRef {
                    signed_download_uri: address(0, file.size),
                    offset: 0,
                    size: file.size,
                    pack_id: file.hash.to_string(),
                    expires_at,
                }),
            }));
        }
        let mut offset = 0;
        let chunks = file.chunks.iter().map(|chunk| {
            let signed = pb::SignedChunkRef {
                signed_download_uri: address(offset, chunk.size),
                offset,
                size: chunk.size,
                hash: chunk.hash.to_string(),
                expires_at,
            };
            offset += chunk.size;
            signed
        });
        Ok(Content::Chunked(pb::ChunkedFileContent {
            chunks: chunks.collect(),
        }))
    }
}

fn committed(volume: &Volume, version: &VersionRecord) -> pb::CommitStatus {
    pb::CommitStatus {
        volume: Some(volume_ref(volume)),
        commit_id: version.commit.clone(),
        result: pb::CommitResult::Committed.into(),
        version: Some(convert::version_info(version)),
        latest_version: Some(convert::version_info(version)),
        created_at: Some(times::proto(version.created)),
        intent: None,
    }
}

fn volume_ref(volume: &Volume) -> pb::VolumeRef {
    let record = volume.record();
    pb::VolumeRef {
        volume_id: record.id,
        name: record.name,
    }
}

#[tonic::async_trait]
impl VolumeService for Volumes {
    async fn create_volume(
        &self,
        request: Request<pb::CreateVolumeRequest>,
    ) -> Answer<pb::CreateVolumeResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let kind = convert::kind(asked.volume_type)?;
        let volume = self
            .all()
            .create(scope.project(), &asked.name, kind)
            .await?;
        Ok(Response::new(pb::CreateVolumeResponse {
            volume: Some(convert::volume_info(&volume.record())),
        }))
    }

    async fn get_volume(
        &self,
        request: Request<pb::GetVolumeRequest>,
    ) -> Answer<pb::GetVolumeResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let volume = self.find(&scope, asked.volume)?;
        let version = self
            .version(&volume, &convert::selector(asked.selector))
            .await?;
        Ok(Response::new(pb::GetVolumeResponse {
            volume: Some(convert::volume_info(&volume.record())),
            version: version.as_ref().map(convert::version_info),
        }))
    }

    async fn get_volume_stats(
        &self,
        request: Request<pb::GetVolumeStatsRequest>,
    ) -> Answer<pb::GetVolumeStatsResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let volume = self.find(&scope, asked.volume)?;
        let version = self
            .version(&volume, &convert::selector(asked.selector))
            .await?;
        let stats = version
            .as_ref()
            .map(|version| version.stats)
            .unwrap_or_default();
        Ok(Response::new(pb::GetVolumeStatsResponse {
            stats: Some(pb::VolumeStats {
                logical_bytes: stats.bytes,
                file_count: stats.files,
                directory_count: stats.dirs,
                symlink_count: stats.symlinks,
                ..pb::VolumeStats::default()
            }),
            version: version.as_ref().map(convert::version_info),
        }))
    }

    async fn list_volumes(
        &self,
        request: Request<pb::ListVolumesRequest>,
    ) -> Answer<pb::ListVolumesResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let kind = asked.volume_kind.map(convert::kind).transpose()?;
        let limit = page(asked.limit);
        let only = scope.only().map(|_| scope.project());
        let found = self
            .all()
            .list(only, &asked.name_prefix, kind, &asked.cursor, limit);
        Ok(Response::new(pb::ListVolumesResponse {
            volumes: found.items.iter().map(convert::listed_volume).collect(),
            next_cursor: found.next.unwrap_or_default(),
        }))
    }

    async fn delete_volume(
        &self,
        request: Request<pb::DeleteVolumeRequest>,
    ) -> Answer<pb::DeleteVolumeResponse> {
        let scope = scope(&request)?;
        let named = convert::volume_name(&scope, request.into_inner().volume)?;
        self.all().delete(&named).await?;
        Ok(Response::new(pb::DeleteVolumeResponse {}))
    }

    async fn list_volume_versions(
        &self,
        request: Request<pb::ListVolumeVersionsRequest>,
    ) -> Answer<pb::ListVolumeVersionsResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let volume = self.find(&scope, asked.volume)?;
        let selector = asked.r#ref.map_or(Selector::Default, Selector::Ref);
        let after = match &*asked.cursor {
            "" => 0,
            cursor => cursor
                .parse()
                .map_err(|_| convert::invalid("cursor", "none of ours"))?,
        };
        let versions = self
            .all()
            .versions(&volume, &selector, after, page(asked.limit));
        let found = versions.await?;
        Ok(Response::new(pb::ListVolumeVersionsResponse {
            versions: found.items.iter().map(convert::version_info).collect(),
            next_cursor: found.next.unwrap_or_default(),
        }))
    }

    async fn create_ref(
        &self,
        request: Request<pb::CreateRefRequest>,
    ) -> Answer<pb::CreateRefResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let volume = self.find(&scope, asked.volume)?;
        let made = self
            .all()
            .create_ref(&volume, &asked.name, asked.from_version_id);
        let made = self.ref_info(&volume, made.await?).await?;
        Ok(Response::new(pb::CreateRefResponse { r#ref: Some(made) }))
    }

    async fn list_refs(
        &self,
        request: Request<pb::ListRefsRequest>,
    ) -> Answer<pb::ListRefsResponse> {
        let scope = scope(&request)?;
        let volume = self.find(&scope, request.into_inner().volume)?;
        let mut refs = Vec::new();
        for found in volume.refs() {
            refs.push(self.ref_info(&volume, found).await?);
        }
        Ok(Response::new(pb::ListRefsResponse { refs }))
    }

    async fn delete_ref(
        &self,
        request: Request<pb::DeleteRefRequest>,
    ) -> Answer<pb::DeleteRefResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let volume = self.find(&scope, asked.volume)?;
        self.all().delete_ref(&volume, &asked.name).await?;
        Ok(Response::new(pb::DeleteRefResponse {}))
    }

    async fn commit_version(
        &self,
        request: Request<pb::CommitVersionRequest>,
    ) -> Answer<pb::CommitVersionResponse> {
        let scope = scope(&request)?;
        let intent = request.into_inner().intent;
        let intent = intent.ok_or_else(|| convert::invalid("intent", "expected one"))?;
        let volume = self.find(&scope, intent.volume)?;
        let room = scope.projects().room(volume.project(), 0);
        room.map_err(|problem| status::of(&problem))?;
        let (removes, changes) = self.changes(&volume, intent.deltas).await?;
        let commit = Commit {
            id: intent.commit_id.clone(),
            on: intent.r#ref.unwrap_or_default(),
            base: intent.base_version_id,
            author: intent.author,
            removes,
            changes,
        };
        let status = match self.all().commit(&volume, commit).await? {
            Committed::Version(version) => {
                self.count(&scope, &volume, &version).await;
                committed(&volume, &version)
            }
            Committed::Rebase(newest) => pb::CommitStatus {
                volume: Some(volume_ref(&volume)),
                commit_id: intent.commit_id,
                result: pb::CommitResult::RebaseRequired.into(),
                version: None,
                latest_version: newest.as_ref().map(convert::version_info),
                created_at: Some(times::proto(Timestamp::now())),
                intent: None,
            },
        };
        Ok(Response::new(pb::CommitVersionResponse {
            status: Some(status),
        }))
    }

    async fn get_commit_status(
        &self,
        request: Request<pb::GetCommitStatusRequest>,
    ) -> Answer<pb::GetCommitStatusResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let volume = self.find(&scope, asked.volume)?;
        let version = self.all().commit_of(&volume, &asked.commit_id).await?;
        let version = version.ok_or_else(|| VolumeError::NoCommit {
            volume: volume.record().name,
            commit: asked.commit_id.chars().take(200).collect(),
        })?;
        let diff = if asked.include_diff {
            let diff = self.all().diff(&volume, &version).await?;
            Some(pb::VersionDiff {
                added: diff.added,
                modified: diff.modified,
                removed: diff.removed,
            })
        } else {
            None
        };
        Ok(Response::new(pb::GetCommitStatusResponse {
            status: Some(committed(&volume, &version)),
            diff,
        }))
    }

    async fn request_upload_ur_ls(
        &self,
        request: Request<pb::RequestUploadUrLsRequest>,
    ) -> Answer<pb::RequestUploadUrLsResponse> {
        let base = reached_by(&request, &self.service);
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let volume = self.find(&scope, asked.volume)?;
        if asked.objects.len() > OBJECTS {
            return Err(convert::invalid("objects", format!("more than {OBJECTS}")));
        }
        let mut wanted = Vec::with_capacity(asked.objects.len());
        for object in &asked.objects {
            let hash = convert::hash("objects.hash", &object.hash)?;
            if object.content_size > OBJECT_LIMIT {
                let why = format!("at most {OBJECT_LIMIT} bytes are taken");
                return Err(convert::invalid("objects.content_size", why));
            }
            wanted.push((hash, object.content_size));
        }
        let bytes = wanted.iter().map(|(_, size)| size).sum();
        let room = scope.projects().room(volume.project(), bytes);
        room.map_err(|problem| status::of(&problem))?;
        let project = Some(volume.project().clone());
        let project = project.filter(|project| **project != *DEFAULT_PROJECT);
        let there = self.all().has_objects(volume.project(), wanted.clone());
        let there = there.await?;
        let expires = Permit::expiry(Timestamp::now());
        let key = self.service.access().key();
        let items = asked.objects.into_iter().zip(wanted).zip(there);
        let urls = items.map(|((object, (hash, size)), there)| pb::UploadUrlItem {
            object_key: object.object_key,
            already_exists: there,
            signed_upload_uri: Permit::Upload {
                hash,
                size,
                project: project.clone(),
            }
            .address(key, &base, expires),
            expires_at: Some(times::proto(expires)),
        });
        Ok(Response::new(pb::RequestUploadUrLsResponse {
            urls: urls.collect(),
        }))
    }

    async fn list_files(
        &self,
        request: Request<pb::ListFilesRequest>,
    ) -> Answer<pb::ListFilesResponse> {
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let volume = self.find(&scope, asked.volume)?;
        // Pages are all of the version that the first one was of.
        let (selector, after) = match asked.cursor.split_once('/') {
            None if asked.cursor.is_empty() => (convert::selector(asked.selector), ""),
            cursor => {
                let cursor = cursor.and_then(|(number, after)| Some((number.parse().ok()?, after)));
                let (number, after) =
                    cursor.ok_or_else(|| convert::invalid("cursor", "none of ours"))?;
                (Selector::Version(number), after)
            }
        };
        let Some(version) = self.version(&volume, &selector).await? else {
            return Ok(Response::new(pb::ListFilesResponse::default()));
        };
        let dir = clean_path(&asked.path)?;
        let listing = self.all().listing(&version).await?;
        let limit = page(asked.limit);
        let mut lines = listing.list(&dir, asked.recursive, after, limit + 1);
        let more = lines.len() > limit;
        lines.truncate(limit);
        let last = lines.last().filter(|_| more);
        let next_cursor = last.map(|line| format!("{}/{}", version.number, line.key));
        let files = lines
            .iter()
            .map(|line| convert::file_info(line.path(), line.what));
        Ok(Response::new(pb::ListFilesResponse {
            files: files.collect(),
            next_cursor: next_cursor.unwrap_or_default(),
            version: Some(convert::version_info(&version)),
        }))
    }

    async fn get_file(&self, request: Request<pb::GetFileRequest>) -> Answer<pb::GetFileResponse> {
        let base = reached_by(&request, &self.service);
        let scope = scope(&request)?;
        let asked = request.into_inner();
        let volume = self.find(&scope, asked.volume)?;
        let path = clean_path(&asked.path)?;
        let version = self
            .version(&volume, &convert::selector(asked.selector))
            .await?;
        let no_file = |number: u64| VolumeError::NoFile {
            volume: volume.record().name,
            path: path.clone(),
            version: number,
        };
        let version = version.ok_or_else(|| no_file(0))?;
        let listing = self.all().listing(&version).await?;
        let entry = match listing.get(&path) {
            None if !listing.is_dir(&path) => return Err(no_file(version.number).into()),
            entry => entry,
        };
        let Some((entry, Node::File(file))) = entry.map(|entry| (entry, &entry.node)) else {
            return Err(Status::failed_precondition(format!("`{path}` is no file")));
        };
        let mut answer = pb::GetFileResponse {
            file: Some(convert::file_info(&path, Listed::Entry(entry))),
            version: Some(convert::version_info(&version)),
            content: None,
            not_modified: false,
        };
        if file.hash.to_string() == asked.if_none_match {
            answer.not_modified = true;
        } else {
            answer.content = Some(self.content(file, &base).await?);
        }
        Ok(Response::new(answer))
    }
}
