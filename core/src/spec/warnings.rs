//! What is allowed in a spec and probably not meant.

use super::{Mount, Spec, StepKind, UvProject};
use crate::error::Warning;

impl Spec {
    /// Steps that name a path which is only mounted when a sandbox starts: no build step sees it.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for (i, step) in self.steps.iter().enumerate() {
            if let StepKind::UvSync(project) = &step.kind {
                warnings.extend(self.hidden_environment(i, project));
                continue;
            }
            let text = match &step.kind {
                StepKind::Run { command } => command,
                StepKind::Dockerfile(instruction) => &instruction.text,
                _ => continue,
            };
            let workdir = self.workdir.as_deref();
            let named = |mount: &&Mount| mount.after <= i && names(text, &mount.dest, workdir);
            if let Some(mount) = self.mounts.iter().find(named) {
                warnings.push(Warning {
                    path: format!("steps[{i}]"),
                    message: format!(
                        "names {}, which is mounted when a sandbox starts and not there during \
                         the build",
                        mount.dest
                    ),
                    hint: "add it with the strategy `copy` to use it in a build step".into(),
                });
            }
        }
        warnings
    }

    /// A `uv_sync` whose environment no sandbox, or no program, would find.
    fn hidden_environment(&self, i: usize, project: &UvProject) -> Option<Warning> {
        let environment = UvProject::environment(project.dir(self.workdir.as_deref()));
        let over = |mount: &&Mount| mount.dir && is_below(&environment, &mount.dest);
        let mount = self.mounts.iter().find(over);
        let path = self.env.get("PATH");
        let (by, hint) = if let Some(mount) = mount {
            let hint =
                "give it a `workdir` elsewhere, or add the directory with the strategy `copy`";
            (format!("the mount at {}", mount.dest), hint)
        } else if path.is_some_and(|path| !holds(path, &format!("{environment}/bin"))) {
            let hint = "begin that with the `bin` of the environment";
            ("the PATH of `env`".to_owned(), hint)
        } else {
            return None;
        };
        Some(Warning {
            path: format!("steps[{i}]"),
            message: format!("its environment {environment} is hidden by {by}"),
            hint: hint.into(),
        })
    }
}

/// Whether a path is a directory or lies in it.
fn is_below(path: &str, dir: &str) -> bool {
    let rest = path.strip_prefix(dir.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a command names `path` or something below it, in full or from the working directory.
fn names(text: &str, path: &str, workdir: Option<&str>) -> bool {
    if path == "/" {
        return false;
    }
    let relative = match workdir {
        Some("/") => path.strip_prefix('/'),
        Some(dir) if dir == path => Some("."),
        Some(dir) => path
            .strip_prefix(dir)
            .and_then(|rest| rest.strip_prefix('/')),
        None => None,
    };
    holds(text, path) || relative.is_some_and(|relative| holds(text, relative))
}

/// Whether `path` stands in `text` as whole words of a path.
fn holds(text: &str, path: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    text.match_indices(path).any(|(at, _)| {
        let before = &text[..at];
        let begins = before.strip_suffix("./").unwrap_or(before);
        let mut after = text[at + path.len()..].chars();
        let ends = after.next().is_none_or(|c| match c {
            '/' => true,
            // The end of a sentence or `*.py` is none of the name; `a.pyc` is not `a.py`.
            '.' => after.next().is_none_or(|c| !in_name(c)),
            c => !in_name(c),
        });
        ends && begins.chars().next_back().is_none_or(|c| !in_name(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;
    use crate::image::{LocalOptions, Strategy, UvSyncOptions};
    use crate::source::MemoryFiles;

    #[test]
    fn tells_of_an_environment_that_nothing_finds() {
        let check = |change: &dyn Fn(Image) -> Image, expect: Option<&str>| {
            let files = MemoryFiles::new()
                .file("pyproject.toml", "")
                .file("uv.lock", "")
                .file("src/a", "");
            let image = change(Image::scratch().workdir("/app").uv_sync("."));
            let warnings = image.resolve(&files).unwrap().warnings;
            let told = warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(told, Vec::from_iter(expect));
        };
        let mounted = |dest: &'static str| {
            move |image: Image| image.add_local_dir("src", dest, Strategy::Mount)
        };
        check(&|image| image, None);
        check(&mounted("/app/src"), None);
        check(&mounted("/ap"), None);
        check(
            &|image| image.add_local_dir("src", "/app", LocalOptions::copy()),
            None,
        );
        check(
            &mounted("/app"),
            Some(
                "steps[0]: its environment /app/.venv is hidden by the mount at /app; give it \
                 a `workdir` elsewhere, or add the directory with the strategy `copy`",
            ),
        );
        check(
            &|image| image.env([("PATH", "/usr/bin")]),
            Some(
                "steps[0]: its environment /app/.venv is hidden by the PATH of `env`; begin that with \
                 the `bin` of the environment",
            ),
        );
        check(
            &|image| image.env([("PATH", "/app/.venv/bin:/usr/bin")]),
            None,
        );
        let aside = UvSyncOptions::new().workdir("/opt/p");
        let aside = Image::scratch().uv_sync_with(".", aside);
        check(&|_| mounted("/app")(aside.clone()), None);
    }

    #[test]
    fn sees_paths_as_words() {
        let check = |text: &str, path: &str, workdir: Option<&str>, expect: bool| {
            assert_eq!(
                names(text, path, workdir),
                expect,
                "{text} {path} {workdir:?}"
            );
        };
        check("python /app/app.py", "/app/app.py", None, true);
        check("python '/app/app.py'", "/app/app.py", None, true);
        check("ls /app/src/x", "/app/src", None, true);
        check("FOO=/app/src make", "/app/src", None, true);
        check("ls /app/srcs", "/app/src", None, false);
        check("ls /app/src.bak", "/app/src", None, false);
        check("ls /x/app/src", "/app/src", None, false);
        check("mkdir -p /app", "/app/src", None, false);
        check("python app.py", "/app/app.py", Some("/app"), true);
        check("python ./app.py", "/app/app.py", Some("/app"), true);
        check("python app.py", "/app/app.py", None, false);
        check("python myapp.py", "/app/app.py", Some("/app"), false);
        check("pip install -e .", "/app", Some("/app"), true);
        check("pip install -e ./lib", "/app", Some("/app"), true);
        check("echo done.", "/app", Some("/app"), false);
        check("ls", "/", Some("/"), false);
        check("cat etc/x", "/etc/x", Some("/"), true);
    }
}
