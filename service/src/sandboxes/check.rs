//! What is wrong with a request for a sandbox, and which of its files are missing.

use std::collections::BTreeSet;

use chalk_core::Digest;
use chalk_core::wire::{MountSource, Problem, SandboxRequest, problem};
use chalk_store::BlobStore;

use crate::projects::Scope;
use crate::resolve::{self, ResolveError};

/// Most bytes of all tags: they are part of every listing.
const TAGS: usize = 16 << 10;
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

/// Whether that is a label as of RFC 1035, section 2.3.1, in lower case.
fn is_label(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    name.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(|byte| word(*byte))
        && bytes.iter().all(|byte| word(*byte) || *byte == b'-')
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
    if request.idle && !(request.args.is_empty() && request.entrypoint.is_none()) {
        return Err(refused(
            "idle: an idle sandbox takes neither `args` nor `entrypoint`".to_owned(),
        ));
    }
    if let Some(name) = &request.name
        && !is_label(name)
    {
        return Err(refused(format!(
            "name: `{name}` is no DNS label: 1 to 63 lower-case letters, digits and hyphens, from a letter to a letter or digit"
        )));
    }
    let tagged = request.tags.iter();
    if tagged
        .map(|(key, value)| key.len() + value.len())
        .sum::<usize>()
        > TAGS
    {
        return Err(refused(format!("tags: more than {TAGS} bytes together")));
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

/// Blobs of the mounts that the store lacks, or has for others only.
///
/// # Errors
/// When the store fails, or a directory is no tree.
pub(crate) async fn missing(
    blobs: &BlobStore,
    scope: &Scope,
    request: &SandboxRequest,
) -> Result<Vec<Digest>, ResolveError> {
    let (mut files, mut trees) = (Vec::new(), BTreeSet::new());
    for mount in &request.mounts {
        match &mount.source {
            MountSource::File { digest, .. } => files.push(*digest),
            MountSource::Dir { digest } => {
                trees.insert(*digest);
            }
        }
    }
    resolve::lacking(blobs, scope, files, trees).await
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
        check(|r| r.name = Some("a-1".into()), None);
        for name in ["", "A", "1a", "a-", "-a", "a_b", "a.b"] {
            let mut request = SandboxRequest {
                name: Some(name.to_owned()),
                ..SandboxRequest::default()
            };
            let refused = super::check(&request).err().unwrap().detail;
            assert!(refused.starts_with("name: "), "{refused}");
            request.name = Some("a".repeat(64));
            super::check(&request).unwrap_err();
        }
        check(|r| r.idle = true, None);
        check(
            |r| {
                r.idle = true;
                r.args = vec!["a".into()];
            },
            Some("idle: an idle sandbox takes neither `args` nor `entrypoint`"),
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
