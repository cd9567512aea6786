//! What is allowed in a spec and probably not meant.

use super::{Mount, Spec, StepKind};
use crate::error::Warning;

impl Spec {
    /// Steps that name a path which is only mounted when a sandbox starts: no build step sees it.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for (i, step) in self.steps.iter().enumerate() {
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
