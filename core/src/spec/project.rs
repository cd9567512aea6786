//! A Python project whose locked dependencies a `uv_sync` step installs.

use crate::Digest;
use crate::error::{ErrorCode, Fault};
use crate::input::Fields;
use crate::jcs::Json;
use crate::requirement::extra_name;

use super::read::{digest, image_path};

/// Where a project lies in an image that has no working directory.
const DEFAULT_DIR: &str = "/app";

/// Fields of a `uv_sync` step besides its options.
pub(super) const FIELDS: [&str; 4] = ["pyproject", "lock", "extras", "workdir"];

/// What a `uv_sync` step installs: the packages that the lockfile of a project lists, not the
/// project itself, whose sources are no part of the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UvProject {
    /// Digest of `pyproject.toml`.
    pub pyproject: Digest,
    /// Digest of `uv.lock`.
    pub lock: Digest,
    /// Extras of the project to install too: normal names, sorted, each once.
    pub extras: Vec<String>,
    /// Directory of the project in the image, if it is not the image's.
    pub workdir: Option<String>,
}

impl UvProject {
    /// The directory that gets the two files and, as `.venv`, the environment: the step's own, else
    /// the image's working directory, else `/app`.
    pub fn dir<'a>(&'a self, image_workdir: Option<&'a str>) -> &'a str {
        let own = self.workdir.as_deref();
        own.or(image_workdir).unwrap_or(DEFAULT_DIR)
    }

    /// The environment below a directory that [`UvProject::dir`] gave.
    pub fn environment(dir: &str) -> String {
        format!("{}/.venv", dir.trim_end_matches('/'))
    }

    /// `command` with an option for each extra, which no shell reads otherwise.
    pub(crate) fn with_extras(&self, command: &str) -> String {
        let mut line = command.to_owned();
        for extra in &self.extras {
            line.push_str(" --extra=");
            line.push_str(extra);
        }
        line
    }

    pub(super) fn document(&self) -> Vec<(&'static str, Json<'_>)> {
        let mut fields = vec![
            ("pyproject", Json::digest(&self.pyproject)),
            ("lock", Json::digest(&self.lock)),
        ];
        if !self.extras.is_empty() {
            fields.push(("extras", Json::texts(&self.extras)));
        }
        if let Some(workdir) = &self.workdir {
            fields.push(("workdir", Json::text(workdir)));
        }
        fields
    }

    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, Fault> {
        Ok(Self {
            pyproject: fields.need("pyproject", digest)?,
            lock: fields.need("lock", digest)?,
            extras: fields
                .read("extras", |node| extras(node.texts()?))?
                .unwrap_or_default(),
            workdir: fields.read("workdir", image_path)?,
        })
    }
}

/// Extras by their normal names (PEP 685), sorted, each once.
pub(crate) fn extras(mut names: Vec<String>) -> Result<Vec<String>, Fault> {
    for (i, name) in names.iter_mut().enumerate() {
        let Some(normal) = extra_name(name) else {
            let message = format!("`{name}` cannot name an extra");
            let hint = "write names below [project.optional-dependencies]";
            return Err(Fault::new(ErrorCode::Name, message).hint(hint).at_index(i));
        };
        *name = normal;
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_are_names() {
        let check = |given: &[&str], expect: Result<&[&str], ErrorCode>| {
            let names = given.iter().map(|name| (*name).to_owned()).collect();
            let got = extras(names).map_err(|fault| fault.code());
            let expect = expect.map(|names| names.iter().map(|n| (*n).to_owned()).collect());
            assert_eq!(got, expect, "{given:?}");
        };
        check(&[], Ok(&[]));
        check(&["b", "A_b", "a.-B"], Ok(&["a-b", "b"]));
        for wrong in ["", "-a", "a-", "a b", "a,b", "é", "--all-extras"] {
            check(&["a", wrong], Err(ErrorCode::Name));
        }
    }

    #[test]
    fn a_project_has_a_place() {
        let project = |workdir: Option<&str>| UvProject {
            pyproject: Digest::of(b""),
            lock: Digest::of(b""),
            extras: Vec::new(),
            workdir: workdir.map(str::to_owned),
        };
        assert_eq!(project(Some("/a")).dir(Some("/b")), "/a");
        assert_eq!(project(None).dir(Some("/b")), "/b");
        assert_eq!(project(None).dir(None), "/app");
        assert_eq!(UvProject::environment("/a"), "/a/.venv");
        assert_eq!(UvProject::environment("/"), "/.venv");
    }
}
