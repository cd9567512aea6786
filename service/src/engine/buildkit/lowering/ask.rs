//! What the definition needs to know of a filesystem, asked of the builder.

use std::io::Read as _;

use chalk_core::lower::Install;
use chalk_sandbox::users::{MAX_DATABASE, ResolvedUser, resolve};

use super::{Lowering, PRIVATE};
use crate::engine::EngineError;
use crate::engine::buildkit::llb::{About, FileChange, FileCopy, State};
use crate::engine::buildkit::solve::{Export, Halt};
use crate::engine::buildkit::watch::OpId;
use crate::engine::embedded::install::{NO_PYTHON, Python};

/// Words of container runtimes for a program that is not there.
const NO_PROGRAM: [&str; 3] = [
    "executable file not found",
    "no such file or directory",
    "exit code: 127",
];

impl Lowering<'_, '_> {
    /// Who `user[:group]` is in a filesystem.
    ///
    /// # Errors
    /// When there is no such user or group.
    pub(super) async fn user(
        &mut self,
        id: OpId,
        state: &State,
        user: &str,
    ) -> Result<ResolvedUser, Halt> {
        let (passwd, group) = match is_plain(user) {
            true => (Vec::new(), Vec::new()),
            false => self.databases(state).await?,
        };
        resolve(user, &passwd, &group).map_err(|error| self.fault(id, &error.to_string()))
    }

    /// Owner of what a step's user makes, as a pair.
    pub(super) async fn owner(
        &mut self,
        id: OpId,
        state: &State,
        user: &str,
    ) -> Result<(u32, u32), Halt> {
        let user = self.user(id, state, user).await?;
        Ok((user.uid, user.gid))
    }

    /// `/etc/passwd` and `/etc/group`, empty where they are missing.
    async fn databases(&mut self, state: &State) -> Result<(Vec<u8>, Vec<u8>), Halt> {
        if state.is_none() {
            return Ok((Vec::new(), Vec::new()));
        }
        if let Some(known) = self.users.get(state) {
            return Ok(known.clone());
        }
        // As patterns, which may match nothing.
        let copy = |src: &str| FileChange::Copy {
            from: state.clone(),
            copy: FileCopy {
                src: src.to_owned(),
                dest: "/".to_owned(),
                wildcard: true,
                may_be_missing: true,
                ..FileCopy::default()
            },
        };
        let copies = vec![copy("/etc/passw[d]"), copy("/etc/grou[p]")];
        let files = self
            .graph
            .files(&None, copies, About::new("users and groups"));
        let definition = self.graph.definition(&files);
        let export = Export {
            kind: "tar",
            ..Export::default()
        };
        self.attempt.solve(definition, export, self.watch).await?;
        let sent = self.attempt.answers.take_sent();
        let (mut passwd, mut group) = (Vec::new(), Vec::new());
        let unreadable = |error: std::io::Error| {
            EngineError::Host(format!(
                "a builder sent an archive that cannot be read: {error}"
            ))
        };
        let mut archive = tar::Archive::new(sent.as_slice());
        for entry in archive.entries().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.path_bytes().into_owned();
            let into = match name.as_slice() {
                b"passwd" | b"./passwd" | b"/passwd" => &mut passwd,
                b"group" | b"./group" | b"/group" => &mut group,
                _ => continue,
            };
            let mut entry = entry.take(MAX_DATABASE);
            entry.read_to_end(into).map_err(unreadable)?;
        }
        let found = (passwd, group);
        self.users.insert(state.clone(), found.clone());
        Ok(found)
    }

    /// The first of `python3` and `python` on the `PATH` of an install.
    ///
    /// # Errors
    /// When there is none, or it does not run.
    pub(super) async fn python(
        &mut self,
        id: OpId,
        state: &State,
        install: &Install,
    ) -> Result<Python, Halt> {
        for name in Python::NAMES {
            let args = Python::probe(name).map(str::to_owned).to_vec();
            let mut exec = self.exec(args, &install.env, "/", &install.user, true);
            self.trust(&mut exec).map_err(|why| self.fault(id, &why))?;
            // Its output is the result, which no cache has.
            let shown = format!("look at {name}");
            let about = About {
                anew: true,
                ..About::new(&shown)
            };
            let probe = self.graph.exec(state, exec, about);
            self.watch.capture(&shown);
            let definition = self.graph.definition(&probe);
            let solved = self
                .attempt
                .solve(definition, Export::default(), self.watch)
                .await;
            let output = self.watch.output();
            match solved {
                Err(Halt::Build(EngineError::Host(why)))
                    if NO_PROGRAM.iter().any(|words| why.contains(words)) =>
                {
                    continue;
                }
                Err(Halt::Build(EngineError::Host(why))) if output.is_empty() => {
                    return Err(self.fault(id, &why));
                }
                Ok(_) | Err(Halt::Build(EngineError::Host(_))) => {}
                Err(halt) => return Err(halt),
            }
            return Python::read(name, &output).map_err(|why| self.fault(id, &why));
        }
        Err(self.fault(id, NO_PYTHON))
    }

    /// The path of our own files in a step.
    pub(super) fn private(name: &str) -> String {
        format!("{}/{name}", PRIVATE.0)
    }
}

/// Whether no database is needed to know a user.
fn is_plain(user: &str) -> bool {
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    match user.split_once(':') {
        Some((user, group)) => is_number(user) && is_number(group),
        None => matches!(user, "" | "0" | "root"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_and_lone_numbers_are_looked_up() {
        let check = |user: &str, expect: bool| assert_eq!(is_plain(user), expect, "{user}");
        check("", true);
        check("root", true);
        check("0", true);
        check("1000:1000", true);
        check("1000", false);
        check("app", false);
        check("1000:app", false);
        check("app:0", false);
    }
}
