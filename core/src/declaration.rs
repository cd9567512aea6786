//! Declarations in files: `image.toml`, spec JSON, or a Dockerfile.

use crate::error::{ErrorCode, Fault, SpecError, SpecErrors};
use crate::image::{DockerfileOptions, Place, Resolved};
use crate::source::Source;
use crate::{Image, Spec};

mod read;
mod write;

/// A declaration that was read from a file.
#[derive(Debug, Clone)]
pub struct Declaration {
    file: String,
    content: Content,
}

/// What a declaration file holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// Calls, whose local files are still to be read: from `image.toml` or a Dockerfile.
    Image(Image),
    /// A spec that is complete already: from spec JSON.
    Spec(Box<Spec>),
}

/// The kinds of declaration files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `image.toml`.
    Toml,
    /// Spec JSON.
    Json,
    /// A Dockerfile.
    Dockerfile,
}

impl FileKind {
    /// The kind of a file, by its name where that says it, else by how it begins; a text that is
    /// neither JSON nor TOML is taken for a Dockerfile.
    pub fn of(file_name: &str, text: &str) -> Self {
        let name = file_name
            .rsplit(['/', '\\'])
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let is_dockerfile = ["dockerfile", "containerfile"].iter().any(|word| {
            let rest = name.strip_prefix(word).or_else(|| name.strip_suffix(word));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || rest.ends_with('.'))
        });
        if is_dockerfile {
            return Self::Dockerfile;
        }
        if name.ends_with(".toml") {
            return Self::Toml;
        }
        if name.ends_with(".json") {
            return Self::Json;
        }
        let mut lines = text.lines().map(str::trim);
        match lines.find(|line| !line.is_empty() && !line.starts_with('#')) {
            Some(line) if line.starts_with('{') => Self::Json,
            Some(line) if line.starts_with('[') => Self::Toml,
            _ => Self::Dockerfile,
        }
    }
}

impl Declaration {
    /// Reads a declaration. The file's name is for errors and for telling the kind; paths in the
    /// declaration are relative to the directory that it lies in.
    ///
    /// # Errors
    /// When the text is no sound declaration; the error names file, line, column and field.
    pub fn read(file_name: &str, bytes: &[u8]) -> Result<Self, SpecErrors> {
        let in_file = |error: SpecError| SpecError {
            file: error.file.or_else(|| Some(file_name.to_owned())),
            ..error
        };
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            in_file(SpecError {
                position: Some(crate::input::position(&before, before.len())),
                ..Fault::new(ErrorCode::Syntax, "not UTF-8 text")
                    .hint("save the file as UTF-8")
                    .into_error()
            })
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let content = match FileKind::of(file_name, text) {
            FileKind::Toml => Content::Image(Image::from_toml(text).map_err(in_file)?),
            FileKind::Json => Content::Spec(Box::new(Spec::from_json(text).map_err(in_file)?)),
            FileKind::Dockerfile => {
                let name = file_name.rsplit(['/', '\\']).next().unwrap_or(file_name);
                let mut options = DockerfileOptions::new().context(".");
                options.file = Some(name.to_owned());
                let place = Place {
                    at: None,
                    path: String::new(),
                };
                Content::Image(Image::from_dockerfile_with(text, options).read_at(place))
            }
        };
        Ok(Self {
            file: file_name.to_owned(),
            content,
        })
    }

    /// What the file holds.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The spec, local files having been read.
    ///
    /// # Errors
    /// As [`Image::resolve`]; spec JSON names no local files and cannot fail.
    pub fn resolve(&self, source: &dyn Source) -> Result<Resolved, SpecErrors> {
        match &self.content {
            Content::Image(image) => image.resolve(source).map_err(|SpecErrors(mut errors)| {
                for error in &mut errors {
                    error.file.get_or_insert_with(|| self.file.clone());
                }
                SpecErrors(errors)
            }),
            Content::Spec(spec) => Ok(Resolved {
                spec: (**spec).clone(),
                uploads: Vec::new(),
                warnings: spec.warnings(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemoryFiles;

    #[test]
    fn tells_kinds_apart() {
        let check = |name: &str, text: &str, expect: FileKind| {
            assert_eq!(FileKind::of(name, text), expect, "{name} {text}");
        };
        check("a/image.toml", "{", FileKind::Toml);
        check("spec.JSON", "FROM x", FileKind::Json);
        check("Dockerfile", "{", FileKind::Dockerfile);
        check("web.Dockerfile", "{", FileKind::Dockerfile);
        check("Dockerfile.web", "{", FileKind::Dockerfile);
        check("dir/Containerfile", "{", FileKind::Dockerfile);
        check("dockerfiles.toml", "", FileKind::Toml);
        check("-", "\n# x\n { }", FileKind::Json);
        check("-", "# x\n[image]", FileKind::Toml);
        check("-", "# syntax=x\nFROM y", FileKind::Dockerfile);
    }

    #[test]
    fn names_the_place_of_an_error() {
        let check = |name: &str, text: &str, expect: &str| {
            let read = Declaration::read(name, text.as_bytes());
            let error = match read.and_then(|d| d.resolve(&MemoryFiles::new())) {
                Ok(_) => panic!("accepted: {text}"),
                Err(errors) => errors.to_string(),
            };
            assert_eq!(error, expect, "{text}");
        };
        let toml = |text: &str, expect: &str| {
            check(
                "image.toml",
                &format!("[image]\nbase = \"x\"\n{text}"),
                expect,
            );
        };
        check(
            "image.toml",
            "[image",
            "image.toml:1:7: not TOML: unclosed table, expected `]`",
        );
        check("image.toml", "", "image.toml:1:1: `image` is missing");
        check(
            "image.toml",
            "[image]\nworkdir = \"/\"\n",
            "image.toml:1:2: image: what the image starts from is missing; write one of \
             `debian_slim = \"3.12\"`, `base = \"…\"` and `dockerfile = \"Dockerfile\"`",
        );
        toml(
            "debian_slim = \"3.12\"\n",
            "image.toml:3:1: image.debian_slim: cannot stand beside `base`; keep one of them",
        );
        toml(
            "wokdir = \"/\"\n",
            "image.toml:3:1: image.wokdir: no such field: `wokdir`; did you mean `workdir`?",
        );
        toml(
            "env = { \"A=B\" = \"x\" }\n",
            "image.toml:3:9: image.env.A=B: `A=B` cannot name an environment variable; use letters, \
             digits and `_`, not beginning with a digit",
        );
        toml(
            "cmd = []\n",
            "image.toml:3:1: image.cmd: the list is empty; to clear what the base has, use \
             `dockerfile_commands([\"CMD []\"])`",
        );
        toml(
            "[[steps]]\n",
            "image.toml:3:3: steps: no such field: `steps`; did you mean `step`?",
        );
        toml(
            "[[step]]\nrun_commands = \"make\"\n",
            "image.toml:4:1: step[0].run_commands: expected a list of texts, found a text; write \
             [\"make\"]",
        );
        toml(
            "[[step]]\nrun_commands = [\"a\"]\n[[step]]\nrun_commands = [\n \"b\",\n \" \"]\n",
            "image.toml:8:2: step[1].run_commands[1]: the command is empty; remove it",
        );
        toml(
            "[[step]]\npip_install = [\"a b\"]\n",
            "image.toml:4:16: step[0].pip_install[0]: `a b` is not a requirement: expected `[`, a \
             comparison such as `>=1.0`, `;` or the end at character 3; write one `name`, \
             `name>=1.0` or `name[extra]==1.0; marker` per entry",
        );
        toml(
            "[[step]]\npip_install = [\"a\"]\napt_install = [\"b\"]\n",
            "image.toml:5:1: step[0].apt_install: a second kind of step beside `pip_install`; begin \
             another [[step]]",
        );
        toml(
            "[[step]]\nforce = true\n",
            "image.toml:3:1: step[0]: says nothing to do; add one of pip_install, \
             pip_install_from_requirements, uv_pip_install, uv_pip_install_from_requirements, \
             uv_sync, apt_install, run_commands, dockerfile_commands, add_local_file, add_local_dir",
        );
        toml(
            "[[step]]\nadd_local_file = { src = \"a\", dest = \"b/a\", strategy = \"copy\" }\n",
            "image.toml:4:31: step[0].add_local_file.dest: `b/a` is not an absolute path; begin with \
             `/`, such as `/b/a`",
        );
        toml(
            "[[step]]\nadd_local_dir = { src = \"a\", dest = \"/a/../b\" }\n",
            "image.toml:4:30: step[0].add_local_dir.dest: `/a/../b` holds `..`; write the path that \
             you mean",
        );
        toml(
            "[[step]]\nadd_local_file = { src = \"a\", dest = \"/a\", strategy = \"cpoy\" }\n",
            "image.toml:4:44: step[0].add_local_file.strategy: `cpoy` is no strategy; did you mean \
             `copy`?",
        );
        toml(
            "[[step]]\nadd_local_file = { src = \"a\", dest = \"/a\", strategy = \"copy\" }\n",
            "image.toml:4:1: step[0].add_local_file.src: a: no such file; paths are relative to the \
             declaring file",
        );
        check(
            "spec.json",
            "{\"schema\": \"chalk.image/v1\",\n \"base\": \"scratch\",\n \"steps\": [{\"kind\": \"run\", \
             \"comand\": \"x\"}]}",
            "spec.json:3:28: steps[0].comand: no such field: `comand`; did you mean `command`?",
        );
        check(
            "spec.json",
            "{\"schema\": \"chalk.image/v1\", \"base\": \"scratch\", \"user\": null}",
            "spec.json:1:49: user: expected a text, found null; leave the field out",
        );
        check(
            "spec.json",
            "{\"schema\": \"chalk.image/v1\", \"base\": \"scratch\",}",
            "spec.json:1:48: not JSON: key must be a string",
        );
        let error = Declaration::read("image.toml", b"[image]\n\xff")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "image.toml:2:1: not UTF-8 text; save the file as UTF-8"
        );
    }
}
