//! Secrets of builds: those that the service itself has, by name, and masking of values in what
//! steps print ([`redact`]).
//!
//! A value that a client sends counts before one of the service's own. Values are read anew for each
//! build, so that a file can be replaced at any time.

mod forms;
pub(crate) mod redact;
mod views;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

use chalk_core::Spec;
use chalk_core::spec::{Base, Instruction, StepKind};

use crate::access::Principal;
use crate::engine::Secret;
use crate::settings;

/// Most bytes that the values of the secrets of a build have together: each is looked for in a dozen
/// forms.
pub(crate) const TOTAL: usize = 64 << 10;

/// Why a build does not get its secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// It is not for this client.
    #[error("the secret `{0}` of the service is not for this client")]
    Denied(String),
    /// A file or variable cannot be read.
    #[error("the service cannot read its secret `{name}`")]
    Unreadable {
        /// Which secret.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The values are too long.
    #[error("the values of the build's secrets have {bytes} bytes, and at most {TOTAL} are taken")]
    TooLarge {
        /// Bytes of all values.
        bytes: usize,
    },
}

/// Where the service has a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    Variable(String),
}

/// The values for the secrets that `spec` names: those `given`, and the service's own that `who` may
/// use (those for everybody, when it is not known who asks).
///
/// # Errors
/// When one that is needed is not for this client or cannot be read, or the values are too long.
pub(crate) async fn fill(
    settings: &settings::Secrets,
    who: Option<&Principal>,
    spec: &Spec,
    mut given: BTreeMap<String, Secret>,
) -> Result<BTreeMap<String, Secret>, SecretError> {
    let mut wanted = Vec::new();
    for (name, source) in sources(settings) {
        if given.contains_key(name) {
            continue;
        }
        let Some(need) = need(spec, name) else {
            continue;
        };
        match may_use(settings, who, name) {
            true => wanted.push((name.to_owned(), source)),
            false if need == Need::Required => return Err(SecretError::Denied(name.to_owned())),
            // A mount that may be missing is, and the engine says so where it may not.
            false => {}
        }
    }
    if !wanted.is_empty() {
        let read = move || -> Result<Vec<(String, Secret)>, SecretError> {
            let read = |(name, source): (String, Source)| match read(&source) {
                Ok(value) => Ok((name, value)),
                Err(source) => Err(SecretError::Unreadable { name, source }),
            };
            wanted.into_iter().map(read).collect()
        };
        let read = tokio::task::spawn_blocking(read).await;
        given.extend(read.unwrap_or_else(|_| Ok(Vec::new()))?);
    }
    let bytes = given.values().map(|value| value.expose().len()).sum();
    if bytes > TOTAL {
        return Err(SecretError::TooLarge { bytes });
    }
    Ok(given)
}

fn sources(settings: &settings::Secrets) -> impl Iterator<Item = (&str, Source)> {
    let files = settings.files.iter();
    let files = files.map(|(name, path)| (name.as_str(), Source::File(path.clone())));
    let variables = settings.env.iter();
    let variables = variables
        .filter(|(name, _)| !settings.files.contains_key(*name))
        .map(|(name, variable)| (name.as_str(), Source::Variable(variable.clone())));
    files.chain(variables)
}

fn may_use(settings: &settings::Secrets, who: Option<&Principal>, name: &str) -> bool {
    let Some(clients) = settings.clients.get(name) else {
        return true;
    };
    match who {
        Some(Principal::Admin) => true,
        Some(Principal::Client(grant)) => clients
            .iter()
            .any(|client| *client == grant.name || **client == *grant.id),
        _ => false,
    }
}

/// How much a spec needs a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// A step names it.
    Required,
    /// An instruction may mount it.
    Mounted,
}

fn need(spec: &Spec, name: &str) -> Option<Need> {
    if spec.steps.iter().any(|step| step.secrets.contains(name)) {
        return Some(Need::Required);
    }
    // The text of an instruction says it in several ways; one secret too many does no harm, since
    // the engine mounts only those that are named.
    let mounts = |instruction: &Instruction| {
        instruction.text.contains("secret") && instruction.text.contains(name)
    };
    let of_steps = spec.steps.iter().any(|step| match &step.kind {
        StepKind::Dockerfile(instruction) => mounts(instruction),
        _ => false,
    });
    let of_base = match &spec.base {
        Base::Dockerfile(dockerfile) => {
            let mut stages = dockerfile.stages.iter();
            stages.any(|stage| stage.instructions.iter().any(mounts))
        }
        _ => false,
    };
    (of_steps || of_base).then_some(Need::Mounted)
}

fn read(source: &Source) -> io::Result<Secret> {
    match source {
        Source::File(path) => {
            let mut value = Vec::new();
            let limit = TOTAL as u64 + 1;
            let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut value));
            match read {
                Ok(_) => Ok(Secret::new(value)),
                Err(error) => {
                    let what = format!("{}: {error}", path.display());
                    Err(io::Error::new(error.kind(), what))
                }
            }
        }
        Source::Variable(variable) => match std::env::var_os(variable) {
            Some(value) => Ok(Secret::new(value.into_encoded_bytes())),
            None => {
                let what = format!("the variable {variable} is not set");
                Err(io::Error::new(io::ErrorKind::NotFound, what))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chalk_core::wire::{DEFAULT_PROJECT, Role};

    use super::*;
    use crate::access::Grant;

    fn spec(steps: &str) -> Spec {
        let text = format!(
            r#"{{"schema":"chalk.image/v1","base":{{"ref":"docker.io/library/busybox:latest"}},"platform":"linux/amd64","steps":[{steps}]}}"#
        );
        Spec::from_json(&text).unwrap()
    }

    fn client(name: &str) -> Principal {
        Principal::Client(Arc::new(Grant {
            id: "chc_1".into(),
            name: name.to_owned(),
            roles: vec![Role::Build],
            project: DEFAULT_PROJECT.into(),
        }))
    }

    #[tokio::test]
    async fn secrets_of_the_service_are_for_those_who_may_use_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "of a file\n").unwrap();
        let mut settings = settings::Secrets::default();
        settings.files.insert("key".into(), path.clone());
        settings.files.insert("gone".into(), dir.path().join("no"));
        settings.env.insert("path".into(), "PATH".into());
        settings.env.insert("never".into(), "CHALK_NO_SUCH".into());
        settings.clients.insert("key".into(), vec!["ci".into()]);
        let check = async |who: Option<Principal>, steps: &str, given: &[&str], expect: &str| {
            let given = given
                .iter()
                .map(|n| ((*n).to_owned(), Secret::new("given")));
            let filled = fill(&settings, who.as_ref(), &spec(steps), given.collect()).await;
            let got = match filled {
                Ok(values) => {
                    let text =
                        |value: &Secret| String::from_utf8_lossy(value.expose()).into_owned();
                    let pairs = values
                        .iter()
                        .map(|(name, v)| format!("{name}={}", text(v).trim()));
                    pairs.collect::<Vec<_>>().join(",")
                }
                Err(error) => error.to_string(),
            };
            assert_eq!(got, expect, "{steps}");
        };
        let key = r#"{"kind":"run","command":"x","secrets":["key"]}"#;
        let mount = r#"{"kind":"dockerfile","text":"RUN --mount=type=secret,id=key x"}"#;
        let denied = "the secret `key` of the service is not for this client";
        check(Some(client("ci")), key, &[], "key=of a file").await;
        check(Some(client("cx")), key, &[], denied).await;
        check(Some(Principal::Admin), key, &[], "key=of a file").await;
        check(None, key, &[], denied).await;
        check(Some(client("cx")), key, &["key"], "key=given").await;
        check(Some(client("ci")), mount, &[], "key=of a file").await;
        check(Some(client("cx")), mount, &[], "").await;
        let none = r#"{"kind":"run","command":"key"}"#;
        check(Some(Principal::Admin), none, &[], "").await;
        let path = format!("path={}", std::env::var("PATH").unwrap());
        check(
            None,
            r#"{"kind":"run","command":"x","secrets":["path"]}"#,
            &[],
            &path,
        )
        .await;
        for name in ["gone", "never"] {
            let step = format!(r#"{{"kind":"run","command":"x","secrets":["{name}"]}}"#);
            let expect = format!("the service cannot read its secret `{name}`");
            check(None, &step, &[], &expect).await;
        }
    }

    #[tokio::test]
    async fn values_are_bounded() {
        let given = [("a".to_owned(), Secret::new(vec![b'x'; TOTAL + 1]))];
        let filled = fill(&settings::Secrets::default(), None, &spec(""), given.into()).await;
        assert!(matches!(filled, Err(SecretError::TooLarge { .. })));
    }
}
