//! `uv_sync`: installing what the lockfile of a local project lists.

use super::Image;
use super::calls::{Call, StepOptions, local_path};
use crate::error::Fault;
use crate::source::join;
use crate::spec::{check, project};

/// Options of [`Image::uv_sync`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UvSyncOptions {
    pub(crate) extras: Vec<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) step: StepOptions,
}

impl UvSyncOptions {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Installs an extra of the project too.
    #[must_use]
    pub fn extra(mut self, name: impl Into<String>) -> Self {
        self.extras.push(name.into());
        self
    }

    /// Directory of the project in the image; the image's working directory, or `/app`, unless set.
    #[must_use]
    pub fn workdir(mut self, path: impl Into<String>) -> Self {
        self.workdir = Some(path.into());
        self
    }

    /// Options of the step.
    #[must_use]
    pub fn step(mut self, options: StepOptions) -> Self {
        self.step = options;
        self
    }
}

/// A checked `uv_sync`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sync {
    /// Local directory with `pyproject.toml` and `uv.lock`.
    pub(crate) project: String,
    pub(crate) options: UvSyncOptions,
}

impl Sync {
    pub(crate) fn pyproject(&self) -> String {
        join(&self.project, "pyproject.toml")
    }

    pub(crate) fn lock(&self) -> String {
        join(&self.project, "uv.lock")
    }
}

impl Image {
    /// Installs what the lockfile of the project in a local directory lists, by uv (`uv sync
    /// --frozen`), into an environment that all that follows runs in. The project itself is not
    /// installed: add its sources by [`Image::add_local_dir`].
    #[must_use]
    pub fn uv_sync(&self, project: &str) -> Self {
        self.uv_sync_with(project, UvSyncOptions::new())
    }

    /// [`Image::uv_sync`] with extras, the directory in the image, and options of the step.
    #[must_use]
    pub fn uv_sync_with(&self, project: &str, options: UvSyncOptions) -> Self {
        self.push("uv_sync", Call::uv_sync(project, options))
    }
}

impl Call {
    pub(crate) fn uv_sync(path: &str, options: UvSyncOptions) -> Result<Self, Fault> {
        let workdir = options.workdir.as_deref().map(check::image_path);
        Ok(Self::UvSync(Sync {
            project: local_path(path).map_err(|fault| fault.in_field("project"))?,
            options: UvSyncOptions {
                extras: project::extras(options.extras)
                    .map_err(|fault| fault.in_field("extras"))?,
                workdir: workdir
                    .transpose()
                    .map_err(|fault| fault.in_field("workdir"))?,
                step: options.step.checked()?,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::source::MemoryFiles;
    use crate::spec::{StepKind, UvProject};

    #[test]
    fn the_two_files_go_up_by_digest() {
        let files = MemoryFiles::new()
            .file("api/pyproject.toml", "p")
            .executable("api/uv.lock", "l")
            .file("api/main.py", "m");
        let options = UvSyncOptions::new()
            .extra("Web_Ui")
            .extra("cli")
            .extra("web-ui")
            .workdir("/srv/")
            .step(StepOptions::new().env("UV_NO_DEV", "1"));
        let image = Image::scratch().uv_sync_with("api/", options);
        let resolved = image.resolve(&files).unwrap();
        let expect = UvProject {
            pyproject: Digest::of(b"p"),
            lock: Digest::of(b"l"),
            extras: vec!["cli".into(), "web-ui".into()],
            workdir: Some("/srv".into()),
        };
        assert_eq!(resolved.spec.steps[0].kind, StepKind::UvSync(expect));
        assert_eq!(resolved.spec.steps[0].env["UV_NO_DEV"], "1");
        assert_eq!(
            resolved.spec.steps[0].title(),
            "uv_sync --extra=cli --extra=web-ui"
        );
        let uploads: Vec<Digest> = resolved.uploads.iter().map(|u| u.digest).collect();
        assert_eq!(uploads, [Digest::of(b"p"), Digest::of(b"l")]);
    }

    #[test]
    fn what_is_missing_is_told() {
        let check = |project: &str, options: UvSyncOptions, expect: &str| {
            let files = MemoryFiles::new()
                .file("a/pyproject.toml", "")
                .file("b/uv.lock", "");
            let image = Image::scratch().uv_sync_with(project, options);
            let error = image.resolve(&files).unwrap_err().to_string();
            assert_eq!(error, expect, "{project}");
        };
        let none = UvSyncOptions::new;
        check(
            "a",
            none(),
            "call 2: uv_sync.project: a/uv.lock: no such file; make it with `uv lock`",
        );
        check(
            "b",
            none(),
            "call 2: uv_sync.project: b/pyproject.toml: no such file; paths are relative to the \
             declaring file",
        );
        check(
            "a",
            none().workdir("srv"),
            "call 2: uv_sync.workdir: `srv` is not an absolute path; begin with `/`, such as `/srv`",
        );
        check(
            "a",
            none().extra("a").extra("b c"),
            "call 2: uv_sync.extras[1]: `b c` cannot name an extra; write names below \
             [project.optional-dependencies]",
        );
        check(
            "",
            none(),
            "call 2: uv_sync.project: the path is empty; name a local path",
        );
    }
}
