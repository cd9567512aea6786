//! Between the messages of the volume service and the types of [`crate::volumes`].

use prost::Message as _;
use tonic::Status;

use super::super::proto::chalk::volume::v2 as pb;
use super::super::times;
use crate::projects::Scope;
use crate::volumes::{
    Change, CommitNode, ContentHash, Contents, DEFAULT_REF, Entry, Listed, Metadata, Node, Piece,
    Remove, Selector, VersionRecord, VolumeKind, VolumeName, VolumeRecord, WriteMode,
};

/// `state` of every volume that is listed.
const ACTIVE: &str = "active";

/// What is wrong with a request, by field.
pub(super) fn invalid(field: &str, why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {why}"))
}

pub(super) fn volume_name(
    scope: &Scope,
    named: Option<pb::VolumeRef>,
) -> Result<VolumeName, Status> {
    let named = named.unwrap_or_default();
    if named.volume_id.is_empty() && named.name.is_empty() {
        return Err(invalid("volume", "expected a name"));
    }
    Ok(VolumeName {
        id: named.volume_id,
        name: named.name,
        project: scope.only().map(|_| scope.project().clone()),
    })
}

pub(super) fn selector(selector: Option<pb::VersionSelector>) -> Selector {
    match selector.and_then(|selector| selector.selector) {
        None => Selector::Default,
        Some(pb::version_selector::Selector::Ref(name)) => Selector::Ref(name),
        Some(pb::version_selector::Selector::VersionId(number)) => Selector::Version(number),
    }
}

pub(super) fn kind(kind: i32) -> Result<VolumeKind, Status> {
    match pb::VolumeKind::try_from(kind) {
        Ok(pb::VolumeKind::Unspecified) => Ok(VolumeKind::Plain),
        Ok(pb::VolumeKind::SourceCode) => Ok(VolumeKind::SourceCode),
        Err(_) => Err(invalid("volume_type", format!("{kind} is not known"))),
    }
}

fn kind_proto(kind: VolumeKind) -> pb::VolumeKind {
    match kind {
        VolumeKind::Plain => pb::VolumeKind::Unspecified,
        VolumeKind::SourceCode => pb::VolumeKind::SourceCode,
    }
}

pub(super) fn volume_info(record: &VolumeRecord) -> pb::VolumeInfo {
    pb::VolumeInfo {
        volume_id: record.id.clone(),
        name: record.name.clone(),
        created_at: Some(times::proto(record.created)),
        access_mode: pb::VolumeAccessMode::ReadWrite.into(),
        r#ref: DEFAULT_REF.to_owned(),
        object_store_uri: String::new(),
    }
}

pub(super) fn listed_volume(record: &VolumeRecord) -> pb::ListedVolume {
    pb::ListedVolume {
        name: record.name.clone(),
        created_at: Some(times::proto(record.created)),
        volume_id: record.id.clone(),
        state: ACTIVE.to_owned(),
        volume_kind: Some(kind_proto(record.kind).into()),
    }
}

pub(super) fn version_info(version: &VersionRecord) -> pb::VersionInfo {
    pb::VersionInfo {
        version_id: version.number,
        sequence_number: version.sequence,
        parent_id: version.parent,
        created_at: Some(times::proto(version.created)),
        r#ref: version.on.clone(),
        primary_pack_id: String::new(),
        commit_id: version.commit.clone(),
    }
}

pub(super) fn file_info(path: &str, what: Listed<'_>) -> pb::FileInfo {
    let mut info = pb::FileInfo {
        path: path.to_owned(),
        kind: pb::FileKind::Directory.into(),
        nlink: 1,
        ..pb::FileInfo::default()
    };
    let Listed::Entry(Entry { node, metadata }) = what else {
        return info;
    };
    match node {
        Node::File(file) => {
            info.kind = pb::FileKind::File.into();
            info.size = file.size;
            info.hash = file.hash.to_string();
        }
        Node::Dir => {}
        Node::Symlink { target } => {
            info.kind = pb::FileKind::Symlink.into();
            info.size = target.len() as u64;
        }
    }
    info.mode = metadata.mode;
    let time = |(seconds, nanos)| prost_types::Timestamp { seconds, nanos };
    info.updated_at = metadata.updated.map(time);
    info.uid = metadata.uid.unwrap_or_default();
    info.gid = metadata.gid.unwrap_or_default();
    info
}

pub(super) fn hash(field: &str, text: &str) -> Result<ContentHash, Status> {
    text.parse().map_err(|error| invalid(field, error))
}

/// Removes and changes of a commit.
pub(super) type Changes = (Vec<Remove>, Vec<Change>);

pub(super) fn deltas(list: pb::PathDeltaList) -> Result<Changes, Status> {
    let removes = list.removes.into_iter().map(|remove| Remove {
        path: remove.path,
        recursive: remove.recursive,
    });
    let changes = list.upserts.into_iter().map(change);
    Ok((removes.collect(), changes.collect::<Result<_, _>>()?))
}

/// The changes that were uploaded as an object: messages with their lengths in front.
pub(super) fn uploaded_deltas(mut bytes: &[u8]) -> Result<Changes, Status> {
    let mut all = Changes::default();
    while !bytes.is_empty() {
        let object = pb::CommitDeltasObject::decode_length_delimited(&mut bytes)
            .map_err(|error| invalid("uploaded_deltas", error))?;
        match object.deltas {
            Some(pb::commit_deltas_object::Deltas::PathDeltas(list)) => {
                let (removes, changes) = deltas(list)?;
                // All removes come before all changes, so that one behind a change would be lost.
                if !removes.is_empty() && !all.1.is_empty() {
                    return Err(invalid("uploaded_deltas", "removes come after upserts"));
                }
                all.0.extend(removes);
                all.1.extend(changes);
            }
            Some(pb::commit_deltas_object::Deltas::InodeDeltas(_)) => return Err(no_inodes()),
            None => return Err(invalid("uploaded_deltas", "a message without changes")),
        }
    }
    Ok(all)
}

pub(super) fn no_inodes() -> Status {
    Status::unimplemented(
        "inode_deltas are not served here: commit path_deltas; docs/chalk-sdk.md lists what is served",
    )
}

fn change(delta: pb::PathFileDelta) -> Result<Change, Status> {
    let pb::PathFileDelta { path, node, mode } = delta;
    let wrong = |why: &str| invalid("upserts", format!("`{path}` {why}"));
    let mode = match pb::PathWriteMode::try_from(mode) {
        Ok(pb::PathWriteMode::Unspecified | pb::PathWriteMode::Upsert) => WriteMode::Upsert,
        Ok(pb::PathWriteMode::Create) => WriteMode::Create,
        Ok(pb::PathWriteMode::Replace) => WriteMode::Replace,
        Err(_) => return Err(wrong("has a write mode that is not known")),
    };
    let node = node.unwrap_or_default();
    let metadata = metadata(node.metadata.unwrap_or_default()).map_err(&wrong)?;
    let node =
        match node.node {
            None => return Err(wrong("is no file, directory or symbolic link")),
            Some(pb::file_node::Node::Directory(_)) => CommitNode::Dir,
            Some(pb::file_node::Node::Symlink(link)) => {
                let target = std::str::from_utf8(&link.target);
                let target = target.map_err(|_| wrong("has a target that is not UTF-8"))?;
                CommitNode::Symlink(target.to_owned())
            }
            Some(pb::file_node::Node::File(file)) => {
                let content = file.content.and_then(|content| content.content);
                let content = content.ok_or_else(|| wrong("has no contents"))?;
                CommitNode::File(contents(content).map_err(|status| {
                    invalid("upserts", format!("`{path}`: {}", status.message()))
                })?)
            }
        };
    Ok(Change {
        path,
        mode,
        node,
        metadata,
    })
}

fn metadata(sent: pb::FileMetadata) -> Result<Metadata, &'static str> {
    let updated = match sent.updated_at {
        Some(time) if !(0..1_000_000_000).contains(&time.nanos) => {
            return Err("has a time whose nanoseconds are no part of a second");
        }
        updated => updated.map(|time| (time.seconds, time.nanos)),
    };
    Ok(Metadata {
        mode: sent.mode,
        updated,
        uid: sent.uid,
        gid: sent.gid,
    })
}

fn contents(content: pb::content_ref::Content) -> Result<Contents, Status> {
    Ok(match content {
        pb::content_ref::Content::Empty(_) => Contents::Empty,
        pb::content_ref::Content::Inline(inline) => Contents::Inline {
            hash: match &*inline.hash {
                "" => None,
                text => Some(hash("hash", text)?),
            },
            data: inline.data,
        },
        pb::content_ref::Content::Chunked(chunked) => {
            let piece = |chunk: &pb::ChunkRef| {
                Ok(Piece {
                    object: hash("hash of a chunk", &chunk.hash)?,
                    size: chunk.size,
                    offset: chunk.offset,
                })
            };
            Contents::Chunked {
                hash: hash("hash", &chunked.hash)?,
                size: chunked.size,
                chunks: chunked
                    .chunks
                    .iter()
                    .map(piece)
                    .collect::<Result<_, Status>>()?,
            }
        }
        pb::content_ref::Content::Packed(packed) => {
            let pack = packed.pack.unwrap_or_default();
            if pack.size != packed.size {
                return Err(invalid("size", "file and pack disagree"));
            }
            Contents::Packed {
                hash: hash("hash", &packed.hash)?,
                size: packed.size,
                object: hash("pack_id", &pack.pack_id)?,
                offset: pack.offset,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upsert(path: &str) -> pb::PathFileDelta {
        let content = pb::content_ref::Content::Empty(pb::EmptyFileContent {});
        let file = pb::RegularFileNode {
            content: Some(pb::ContentRef {
                content: Some(content),
            }),
        };
        pb::PathFileDelta {
            path: path.to_owned(),
            node: Some(pb::FileNode {
                metadata: None,
                node: Some(pb::file_node::Node::File(file)),
            }),
            mode: pb::PathWriteMode::Upsert.into(),
        }
    }

    fn object(list: pb::PathDeltaList) -> Vec<u8> {
        let deltas = Some(pb::commit_deltas_object::Deltas::PathDeltas(list));
        pb::CommitDeltasObject { deltas }.encode_length_delimited_to_vec()
    }

    #[test]
    fn uploaded_changes_are_read_one_message_behind_the_other() {
        let remove = || pb::PathRemoveDelta {
            path: "/".into(),
            recursive: true,
        };
        let first = object(pb::PathDeltaList {
            upserts: vec![upsert("a"), upsert("b")],
            removes: vec![remove()],
        });
        let second = object(pb::PathDeltaList {
            upserts: vec![upsert("c")],
            removes: Vec::new(),
        });
        let (removes, changes) =
            uploaded_deltas(&[first.clone(), second.clone()].concat()).unwrap();
        assert_eq!(removes.len(), 1);
        let paths: Vec<&str> = changes.iter().map(|change| &*change.path).collect();
        assert_eq!(paths, ["a", "b", "c"]);
        let late = object(pb::PathDeltaList {
            upserts: Vec::new(),
            removes: vec![remove()],
        });
        for bytes in [
            [second.clone(), late].concat(),
            second[..second.len() - 1].to_vec(),
            [second, vec![7]].concat(),
            vec![0],
        ] {
            let refused = uploaded_deltas(&bytes).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{bytes:?}");
        }
    }

    #[test]
    fn changes_that_make_no_sense_name_their_path() {
        let check = |change: fn(&mut pb::PathFileDelta), expect: &str| {
            let mut delta = upsert("a/b");
            change(&mut delta);
            let refused = super::change(delta).unwrap_err();
            assert_eq!(refused.message(), format!("upserts: `a/b`{expect}"));
        };
        check(
            |delta| delta.mode = 9,
            " has a write mode that is not known",
        );
        check(
            |delta| delta.node = None,
            " is no file, directory or symbolic link",
        );
        check(
            |delta| {
                let mut node = delta.node.take().unwrap_or_default();
                let packed = pb::content_ref::Content::Packed(pb::PackedContentRef::default());
                node.node = Some(pb::file_node::Node::File(pb::RegularFileNode {
                    content: Some(pb::ContentRef {
                        content: Some(packed),
                    }),
                }));
                delta.node = Some(node);
            },
            ": hash: `` is not a BLAKE3 hash: expected 64 lower-case hex digits",
        );
    }
}
