//! Typed installs: the same processes as those of the embedded engine, one or two vertexes each.

use chalk_core::lower::{Install, Installed, Installer, Op};
use chalk_core::spec::UvProject;

use super::exec::read_only;
use super::{Lowering, PRIVATE};
use crate::engine::buildkit::files::Offered;
use crate::engine::buildkit::llb::{About, FileChange, Mount, MountSource, State};
use crate::engine::buildkit::solve::Halt;
use crate::engine::buildkit::watch::OpId;
use crate::engine::embedded::copy::{Contents, MTIME, Virtual};
use crate::engine::embedded::install::command::{self, Command};
use crate::engine::embedded::install::{project, requirements};
use crate::engine::embedded::storage;
use chalk_core::lower::Sharing;

impl Lowering<'_, '_> {
    /// Lowers an install; gives the number of its vertexes.
    pub(super) async fn install(
        &mut self,
        id: OpId,
        op: &Op,
        state: &mut State,
        install: &Install,
    ) -> Result<usize, Halt> {
        let mut commands = Vec::new();
        let mut files = None;
        match &install.what {
            Installed::Packages(Installer::Apt, packages) => {
                commands.push(command::apt(install, packages, PRIVATE));
            }
            Installed::Packages(installer, packages) => {
                let request = requirements::parse(packages);
                let request = request.map_err(|why| self.fault(id, &why))?;
                let python = self.python(id, state, install).await?;
                let setting = self.build.shared.settings.installer;
                let uv = command::for_uv(setting, *installer, install, &request, &python);
                let uv = match (uv, self.has_uv().await) {
                    (Ok(call), Ok(())) => Ok(call),
                    (Ok(_), Err(why)) if *installer == Installer::Uv => {
                        return Err(self.fault(id, &format!("uv is needed, but {why}")));
                    }
                    (Ok(_), Err(why)) | (Err(why), _) => Err(why),
                };
                let planned = command::python(install, *installer, &request, &python, uv, PRIVATE);
                let planned = planned.map_err(|why| self.fault(id, &why))?;
                if let Some(note) = &planned.note {
                    self.watch.note(id, note);
                }
                commands.push(planned.command);
                if planned.compile {
                    commands.push(command::compile(install, &python.executable, PRIVATE));
                }
            }
            Installed::Project { project, dir } => {
                let python = self.python(id, state, install).await?;
                if let Err(why) = self.has_uv().await {
                    return Err(self.fault(id, &format!("uv is needed, but {why}")));
                }
                files = Some(project::files(project, dir, &install.user));
                let (sync, compile) = command::sync(install, project, dir, &python, PRIVATE);
                commands.push(sync);
                if compile {
                    let python = format!("{}/bin/python", UvProject::environment(dir));
                    commands.push(command::compile(install, &python, PRIVATE));
                }
            }
        }
        let mut part = 0;
        self.watch
            .expect(id, commands.len() + usize::from(files.is_some()));
        if let Some(files) = &files {
            let about = self.about(id, part, op);
            part += usize::from(self.files(id, state, files, about).await?);
        }
        for command in commands {
            self.process(id, op, part, state, install, command).await?;
            part += 1;
        }
        Ok(part)
    }

    async fn process(
        &mut self,
        id: OpId,
        op: &Op,
        part: usize,
        state: &mut State,
        install: &Install,
        command: Command,
    ) -> Result<(), Halt> {
        let owner = self.owner(id, state, &install.user).await?;
        let cwd = &command.cwd;
        let mut exec = self.exec(command.args, &command.env, cwd, &install.user, true);
        self.trust(&mut exec).map_err(|why| self.fault(id, &why))?;
        if command.uv {
            exec.mounts
                .push(read_only(&PRIVATE.uv(), self.uv.clone(), "/"));
        }
        let (from, path) = match owner {
            (0, 0) => (None, String::new()),
            owner => self.room(0o755, owner),
        };
        let base = self.root_key(id.0).hex();
        let sharing = match command.exclusive {
            true => Sharing::Locked,
            false => Sharing::Shared,
        };
        let name = format!("{}-{}-{}", command.cache, &base[..16], owner.0);
        exec.mounts.push(Mount {
            target: PRIVATE.cache(),
            source: MountSource::Cache {
                id: self.cache_id(&name),
                sharing: Self::sharing(sharing),
                from,
                path,
                read_only: false,
            },
        });
        if command.temp {
            let (state, path) = self.room(0o777, (0, 0));
            exec.mounts.push(Mount {
                target: PRIVATE.temp(),
                source: MountSource::Files {
                    state,
                    path,
                    read_only: false,
                },
            });
        }
        if let Some(text) = command.requirements {
            let file = FileChange::MakeFile {
                path: "/requirements.txt".to_owned(),
                mode: 0o644,
                contents: text,
            };
            let about = About::new("requirements");
            let file = self.graph.files(&None, vec![file], about);
            let target = PRIVATE.requirements();
            let mount = read_only(&target, Some(file), "/requirements.txt");
            exec.mounts.push(mount);
        }
        let secrets = install.secrets.iter();
        self.secrets(id, state, secrets, &install.user, &mut exec)
            .await?;
        self.force(id, &mut exec);
        let about = self.about(id, part, op);
        *state = Some(self.graph.exec(state, exec, about));
        Ok(())
    }

    /// Offers the program uv to the builder.
    ///
    /// # Errors
    /// Why there is none; in words.
    async fn has_uv(&mut self) -> Result<(), String> {
        if self.uv.is_some() {
            return Ok(());
        }
        let architecture = &self.build.job.spec.platform.architecture;
        let fetch = self.build.shared.uv.ensure(architecture);
        let dir = tokio::select! {
            found = fetch => found?,
            () = self.build.cancel.cancelled() => return Err("the build was cancelled".to_owned()),
        };
        let mut root = Virtual::empty();
        let program = Virtual::File {
            contents: Contents::Path(dir.join("uv")),
            mode: 0o755,
            mtime: MTIME,
        };
        root.insert("uv", program)?;
        let blobs = self.blobs();
        let offered = tokio::task::spawn_blocking(move || Offered::new(&root, None, &blobs)).await;
        let offered = offered.map_err(|e| storage("offer uv", &e).to_string())??;
        let name = self.answers().offer(offered);
        self.uv = Some(self.graph.local(&name, self.attempt.session()));
        Ok(())
    }
}
