//! What is wrong with a request for a sandbox, and which of its files are missing.

use std::collections::BTreeSet;

use chalk_core::Digest;
use chalk_core::wire::{MountSource, Problem, SandboxRequest, problem};
use chalk_store::BlobStore;

use crate::resolve::{self, ResolveError};

/// Most mounts of a sandbox.
const MOUNTS: usize = 256;

pub(super) fn refused(detail: String) -> Problem {
    Problem {
        kind: problem::SANDBOX_REFUSED.to_owned(),
        title: "the sandbox cannot be started so".to_owned(),
        status: 400,
        detail,
        hint: String::new(),
    }
}

/// Checks what can be checked without the image and the node.
///
/// # Errors
/// Names the first field that is wrong.
pub(super) fn check(request: &SandboxRequest) -> Result<(), Problem> {
    let limits = &request.limits;
    for (name, value) in [
        ("cpus", limits.cpus),
        ("timeout_seconds", limits.timeout_seconds),
    ] {
        if value.is_some_and(|value| !value.is_finite() || value <= 0.0) {
            return Err(refused(format!("limits.{name}: expected more than 0")));
        }
    }
    for (name, zero) in [
        ("memory", limits.memory == Some(0)),
        ("pids", limits.pids == Some(0)),
        ("disk", limits.disk == Some(0)),
    ] {
        if zero {
            return Err(refused(format!("limits.{name}: expected more than 0")));
        }
    }
    let variable = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    if let Some((name, _)) = request
        .env
        .iter()
        .find(|(name, value)| !variable(name) || value.contains('\0'))
    {
        return Err(refused(format!("env: `{name}` is no variable")));
    }
    let texts = request
        .args
        .iter()
        .chain(request.entrypoint.iter().flatten());
    if texts.clone().any(|text| text.contains('\0')) {
        return Err(refused("args: a NUL in the command".to_owned()));
    }
    if request.mounts.len() > MOUNTS {
        return Err(refused(format!("mounts: more than {MOUNTS}")));
    }
    let mut seen = BTreeSet::new();
    for mount in &request.mounts {
        let dest = &mount.dest;
        let sound = dest.starts_with('/')
            && !dest.trim_matches('/').is_empty()
            && !dest.contains('\0')
            && !dest.split('/').any(|word| word == "..");
        if !sound {
            return Err(refused(format!(
                "mounts: `{dest}` is no absolute path below / without `..`"
            )));
        }
        if !seen.insert(dest.trim_end_matches('/')) {
            return Err(refused(format!("mounts: `{dest}` stands twice")));
        }
    }
    if let Some(gpus) = &request.gpus
        && gpus != "all"
        && gpus.parse::<u32>().is_err()
    {
        return Err(refused(format!(
            "gpus: `{gpus}` is neither `all` nor a number"
        )));
    }
    Ok(())
}

/// Blobs of the mounts that the store lacks.
///
/// # Errors
/// When the store fails, or a directory is no tree.
pub(crate) async fn missing(
    blobs: &BlobStore,
    request: &SandboxRequest,
) -> Result<Vec<Digest>, ResolveError> {
    let (mut files, mut trees) = (BTreeSet::new(), BTreeSet::new());
    for mount in &request.mounts {
        match &mount.source {
            MountSource::File { digest, .. } => files.insert(*digest),
            MountSource::Dir { digest } => trees.insert(*digest),
        };
    }
    resolve::lacking(blobs, files, trees).await
}

#[cfg(test)]
mod tests {
    use chalk_core::wire::SandboxMount;

    use super::*;

    #[test]
    fn requests() {
        let check = |change: fn(&mut SandboxRequest), expect: Option<&str>| {
            let mut request = SandboxRequest::default();
            change(&mut request);
            let got = check(&request).err().map(|problem| problem.detail);
            assert_eq!(got.as_deref(), expect);
        };
        fn mount(request: &mut SandboxRequest, dest: &str) {
            request.mounts.push(SandboxMount {
                dest: dest.to_owned(),
                source: MountSource::Dir {
                    digest: Digest::of(b""),
                },
                writable: false,
            });
        }
        check(|_| {}, None);
        check(|r| r.limits.cpus = Some(0.5), None);
        check(
            |r| r.limits.cpus = Some(f64::NAN),
            Some("limits.cpus: expected more than 0"),
        );
        check(
            |r| r.limits.pids = Some(0),
            Some("limits.pids: expected more than 0"),
        );
        check(|r| mount(r, "/a/b"), None);
        let wrong = "mounts: `/a/../b` is no absolute path below / without `..`";
        check(|r| mount(r, "/a/../b"), Some(wrong));
        let wrong = "mounts: `//` is no absolute path below / without `..`";
        check(|r| mount(r, "//"), Some(wrong));
        check(
            |r| {
                mount(r, "/a");
                mount(r, "/a/");
            },
            Some("mounts: `/a/` stands twice"),
        );
        check(|r| r.gpus = Some("2".into()), None);
        check(
            |r| r.gpus = Some("some".into()),
            Some("gpus: `some` is neither `all` nor a number"),
        );
        check(
            |r| {
                r.env.insert("A=B".into(), "1".into());
            },
            Some("env: `A=B` is no variable"),
        );
    }
}
