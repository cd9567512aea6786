//! Unpacked layers in containerd's snapshotter.
//!
//! The layers of an image up to one are a snapshot by the name of their chain id (image-spec,
//! config.md, "Layer ChainID"), on top of that of the layers below.

use std::collections::{BTreeMap, BTreeSet};

use chalk_core::Digest;
use tonic::Code;

use super::api::containerd::services::diff::v1 as diff;
use super::api::containerd::services::snapshots::v1 as api;
use super::api::containerd::types::Descriptor;
use super::client::{Containerd, found};
use super::leases::Lease;
use crate::cache::{CacheError, Result};

/// First word of the keys under which layers are unpacked.
pub(super) const EXTRACT: &str = "chalk-extract-";

/// Chain ids of an image's layers, the lowest first.
pub(super) fn chain_ids(diff_ids: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::new();
    for diff_id in diff_ids {
        let chain = match chains.last() {
            None => diff_id,
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chains.push(chain);
    }
    chains
}

/// A layer to unpack.
pub(super) struct Unpack {
    /// The blob.
    pub(super) layer: Descriptor,
    /// What it must be, uncompressed.
    pub(super) diff_id: Digest,
    /// Chain id of the layers below.
    pub(super) parent: Option<Digest>,
    /// Chain id with this one.
    pub(super) chain: Digest,
}

/// What came of unpacking a layer.
#[derive(Debug)]
pub(super) enum Unpacked {
    /// The snapshot is there.
    There,
    /// containerd cannot unpack it, and says why.
    Refused(String),
    /// It is another layer, with this diff_id.
    Other(String),
}

impl Containerd {
    fn snapshotter(&self) -> String {
        self.settings().snapshotter.clone()
    }

    /// Kind of the snapshots of our snapshotter in leases.
    fn resource(&self) -> String {
        format!("snapshots/{}", self.settings().snapshotter)
    }

    /// Whether layers are unpacked.
    pub(super) async fn has_snapshot(&self, chain: &Digest) -> Result<bool> {
        let request = api::StatSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: chain.to_string(),
        };
        let answer = found(self.watched(self.snapshots().stat(request)).await?);
        let answer = answer.map_err(|status| self.failure("look for a snapshot", &status))?;
        Ok(answer.is_some())
    }

    /// Whether layers are unpacked; they stay so as long as the lease does.
    pub(super) async fn keep_snapshot(&self, chain: &Digest, lease: &Lease) -> Result<bool> {
        if !self.has_snapshot(chain).await? {
            return Ok(false);
        }
        lease.add(&self.resource(), &chain.to_string()).await?;
        // It may have been collected before the lease had it.
        self.has_snapshot(chain).await
    }

    /// Names of all snapshots that are whole.
    pub(super) async fn whole_snapshots(&self) -> Result<BTreeSet<String>> {
        const DOING: &str = "list snapshots";
        let request = api::ListSnapshotsRequest {
            snapshotter: self.snapshotter(),
            filters: vec!["kind==committed".to_owned()],
        };
        let answer = self.call(DOING, self.snapshots().list(request)).await?;
        let mut parts = answer.into_inner();
        let mut all = BTreeSet::new();
        while let Some(part) = self.call(DOING, parts.message()).await? {
            let whole = part.info.into_iter();
            let whole = whole.filter(|info| info.kind() == api::Kind::Committed);
            all.extend(whole.map(|info| info.name));
        }
        Ok(all)
    }

    /// Bytes that a snapshot takes beside those below it.
    pub(super) async fn snapshot_size(&self, chain: &str) -> Result<u64> {
        let request = api::UsageRequest {
            snapshotter: self.snapshotter(),
            key: chain.to_owned(),
        };
        let answer = found(self.watched(self.snapshots().usage(request)).await?);
        let answer = answer.map_err(|status| self.failure("measure a snapshot", &status))?;
        Ok(answer.map_or(0, |answer| answer.into_inner().size.unsigned_abs()))
    }

    /// Unpacks a layer on top of those below it.
    pub(super) async fn unpack(&self, unpack: &Unpack) -> Result<Unpacked> {
        let key = format!("{EXTRACT}{:016x} {}", rand::random::<u64>(), unpack.chain);
        let prepare = api::PrepareSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: key.clone(),
            parent: unpack
                .parent
                .map(|parent| parent.to_string())
                .unwrap_or_default(),
            labels: BTreeMap::new(),
        };
        let mut snapshots = self.snapshots();
        let prepared = self.call("prepare a snapshot", snapshots.prepare(prepare));
        let mounts = prepared.await?.into_inner().mounts;
        let done = self.apply(unpack, mounts, &key).await;
        if !matches!(done, Ok(Unpacked::There)) {
            let remove = api::RemoveSnapshotRequest {
                snapshotter: self.snapshotter(),
                key,
            };
            // What stays is collected with the lease.
            let _ = self.snapshots().remove(remove).await;
        }
        done
    }

    async fn apply(
        &self,
        unpack: &Unpack,
        mounts: Vec<super::api::containerd::types::Mount>,
        key: &str,
    ) -> Result<Unpacked> {
        let apply = diff::ApplyRequest {
            diff: Some(unpack.layer.clone()),
            mounts,
        };
        let applied = match self.watched(self.diff().apply(apply)).await? {
            Ok(answer) => answer.into_inner().applied.unwrap_or_default(),
            Err(status) => {
                let error = self.failure("unpack a layer", &status);
                return match &error {
                    // Anything else may be the fault of the blob.
                    CacheError::Containerd {
                        disk_full: false,
                        detail,
                        ..
                    } => Ok(Unpacked::Refused(detail.clone())),
                    _ => Err(error),
                };
            }
        };
        if applied.digest != unpack.diff_id.to_string() {
            return Ok(Unpacked::Other(applied.digest));
        }
        let commit = api::CommitSnapshotRequest {
            snapshotter: self.snapshotter(),
            name: unpack.chain.to_string(),
            key: key.to_owned(),
            labels: BTreeMap::new(),
        };
        match self.watched(self.snapshots().commit(commit)).await? {
            Ok(_) => Ok(Unpacked::There),
            Err(status) if status.code() == Code::AlreadyExists => {
                let remove = api::RemoveSnapshotRequest {
                    snapshotter: self.snapshotter(),
                    key: key.to_owned(),
                };
                let _ = self.snapshots().remove(remove).await;
                Ok(Unpacked::There)
            }
            Err(status) => Err(self.failure("keep a snapshot", &status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        let chains = chain_ids([a, b, c]);
        let second = Digest::of(format!("{a} {b}").as_bytes());
        let third = Digest::of(format!("{second} {c}").as_bytes());
        assert_eq!(chains, [a, second, third]);
        assert!(chain_ids([]).is_empty());
    }
}
