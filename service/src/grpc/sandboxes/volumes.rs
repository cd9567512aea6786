//! Volumes over the image of a sandbox: the files of one version each, which never changes.

use chalk_core::Digest;
use chalk_core::tree::Tree;
use chalk_core::wire::{MountSource, SandboxMount};
use tonic::Status;

use super::super::proto::chalk::container::v1::VolumeMount;
use crate::projects::Scope;
use crate::service::Service;
use crate::volumes::{Selector, VolumeError};

/// The one kind of volumes.
const KIND: &str = "versioned_chalkfs";
/// What the names of volumes begin with that the SDK makes for the local files of one sandbox.
const OWN: &str = "sandbox-files-";

/// The mounts that volumes come to.
pub(super) async fn mounts(
    service: &Service,
    scope: &Scope,
    volumes: &[VolumeMount],
) -> Result<Vec<SandboxMount>, Status> {
    let mut mounts = Vec::with_capacity(volumes.len());
    for volume in volumes {
        check(volume)?;
        mounts.push(SandboxMount {
            dest: volume.mount_path.clone(),
            source: MountSource::Dir {
                digest: pinned(service, scope, volume).await?,
            },
            writable: is_scratch(volume),
        });
    }
    Ok(mounts)
}

/// Whether what is written over it may go with the sandbox: a version cannot change, and files that
/// are there for one sandbox go with it. Into a volume that is named without a version one would
/// write to keep it, which we do not: better it fails where it is tried.
fn is_scratch(volume: &VolumeMount) -> bool {
    volume.version_id.is_some() || volume.name.starts_with(OWN)
}

fn check(volume: &VolumeMount) -> Result<(), Status> {
    if !matches!(&*volume.r#type, "" | KIND) {
        return Err(Status::unimplemented(format!(
            "spec.volumes.type `{}` is not served here: there are only volumes of the type `{KIND}`",
            volume.r#type
        )));
    }
    if volume
        .size_limit
        .as_ref()
        .is_some_and(|limit| !limit.is_empty())
    {
        return Err(Status::unimplemented(
            "spec.volumes.size_limit is not served here: volumes are not written by sandboxes",
        ));
    }
    Ok(())
}

/// The tree of the version that is meant.
async fn pinned(service: &Service, scope: &Scope, volume: &VolumeMount) -> Result<Digest, Status> {
    match service
        .volumes()
        .mount(scope.project(), &volume.name, &selector(volume))
        .await
    {
        // A volume that nobody has written to is an empty directory.
        Err(VolumeError::Empty { .. }) => {
            let nothing = Tree::new(Vec::new()).map_err(|e| Status::internal(e.to_string()))?;
            let blobs = service.blobs().clone();
            let put = tokio::task::spawn_blocking(move || blobs.put(nothing.json().as_bytes()));
            match put.await {
                Ok(Ok(put)) => Ok(put.digest),
                Ok(Err(error)) => Err(Status::internal(error.to_string())),
                Err(error) => Err(Status::internal(error.to_string())),
            }
        }
        found => Ok(found?),
    }
}

fn selector(volume: &VolumeMount) -> Selector {
    match (volume.version_id, &volume.ref_name) {
        (Some(version), _) => Selector::Version(version),
        (None, Some(name)) if !name.is_empty() => Selector::Ref(name.clone()),
        _ => Selector::Default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_kinds() {
        let volume = |change: fn(&mut VolumeMount)| {
            let mut volume = VolumeMount {
                name: "data".to_owned(),
                mount_path: "/data".to_owned(),
                r#type: KIND.to_owned(),
                ..VolumeMount::default()
            };
            change(&mut volume);
            volume
        };
        let check_one = |change: fn(&mut VolumeMount), expect: Selector, scratch: bool| {
            let volume = volume(change);
            check(&volume).unwrap();
            assert_eq!((selector(&volume), is_scratch(&volume)), (expect, scratch));
        };
        check_one(|_| (), Selector::Default, false);
        check_one(
            |v| v.ref_name = Some("main".into()),
            Selector::Ref("main".into()),
            false,
        );
        check_one(|v| v.version_id = Some(3), Selector::Version(3), true);
        check_one(
            |v| v.name = "sandbox-files-1".into(),
            Selector::Default,
            true,
        );
        for (wrong, words) in [
            (
                volume(|v| v.r#type = "emptydir".into()),
                "spec.volumes.type",
            ),
            (
                volume(|v| v.size_limit = Some("1Gi".into())),
                "spec.volumes.size_limit",
            ),
        ] {
            let refused = check(&wrong).unwrap_err();
            assert!(refused.message().contains(words), "{refused}");
        }
    }
}
