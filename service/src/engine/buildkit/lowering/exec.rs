//! Processes: `RUN` and typed `run` steps, with what is mounted for their time.

use bollard_buildkit_proto::pb;
use chalk_core::lower::{MountSource as From, Op, Run, RunMount};

use super::{Lowering, PRIVATE};
use crate::engine::buildkit::files::Offered;
use crate::engine::buildkit::llb::{
    About, Exec, FileChange, FileCopy, Mount, MountSource, Network, Output, State,
};
use crate::engine::buildkit::solve::Halt;
use crate::engine::buildkit::watch::OpId;
use crate::engine::embedded::files::read_tree;
use crate::engine::embedded::storage;
use crate::settings::StepNetwork;

/// Where a heredoc with `#!` stands.
const PIPES: &str = "/dev/pipes";
/// Name of the one file or directory in a filesystem that is mounted.
const ROOM: &str = "/room";

impl Lowering<'_, '_> {
    /// Lowers a `run`.
    pub(super) async fn run(
        &mut self,
        id: OpId,
        op: &Op,
        state: &State,
        run: &Run,
    ) -> Result<Output, Halt> {
        let mut exec = self.exec(run.args.clone(), &run.env, &run.cwd, &run.user, run.network);
        let mut about = self.about(id, 0, op);
        for mount in &run.mounts {
            self.mount(id, mount, &mut exec, &mut about).await?;
        }
        if run.network {
            self.trust(&mut exec).map_err(|why| self.fault(id, &why))?;
        }
        if !run.heredocs.is_empty() {
            let file = |(name, contents): &(String, Vec<u8>)| FileChange::MakeFile {
                path: format!("/{name}"),
                mode: 0o755,
                contents: contents.clone(),
            };
            let files = run.heredocs.iter().map(file).collect();
            let files = self.graph.files(&None, files, About::new("heredocs"));
            exec.mounts.push(read_only(PIPES, Some(files), "/"));
        }
        let secrets = run.secrets.iter();
        self.secrets(id, state, secrets, &run.user, &mut exec)
            .await?;
        self.force(id, &mut exec);
        Ok(self.graph.exec(state, exec, about))
    }

    /// A process with the network of the settings, or none.
    pub(super) fn exec(
        &self,
        args: Vec<String>,
        env: &[(String, String)],
        cwd: &str,
        user: &str,
        network: bool,
    ) -> Exec {
        let network = match (network, self.settings.network) {
            (false, _) => Network::None,
            (true, StepNetwork::Sandbox) => Network::Sandbox,
            (true, StepNetwork::Host) => Network::Host,
        };
        Exec {
            args,
            env: env.to_vec(),
            cwd: cwd.to_owned(),
            user: user.to_owned(),
            network,
            ..Exec::default()
        }
    }

    /// Adds the proxies and the CA bundle of the settings.
    pub(super) fn trust(&mut self, exec: &mut Exec) -> Result<(), String> {
        let around = &self.build.shared.surroundings;
        let proxies = around.proxies_for(&exec.env);
        let proxy = |name: &str| {
            let found = proxies.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        if !proxies.is_empty() {
            exec.proxies = Some(pb::ProxyEnv {
                http_proxy: proxy("http_proxy"),
                https_proxy: proxy("https_proxy"),
                no_proxy: proxy("no_proxy"),
                ..pb::ProxyEnv::default()
            });
        }
        let files = around.trust(&mut exec.env, PRIVATE.0)?;
        if files.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        let file = |(name, contents): &(&str, Vec<u8>)| FileChange::MakeFile {
            path: format!("/{name}"),
            mode: 0o644,
            contents: contents.clone(),
        };
        let made = files.iter().map(file).collect();
        let made = self.graph.files(&None, made, About::new("certificates"));
        for name in names {
            let target = Self::private(name);
            let path = format!("/{name}");
            exec.mounts
                .push(read_only(&target, Some(made.clone()), &path));
        }
        Ok(())
    }

    /// Adds secrets as files that the step's user can read.
    pub(super) async fn secrets(
        &mut self,
        id: OpId,
        state: &State,
        names: impl Iterator<Item = &String>,
        user: &str,
        exec: &mut Exec,
    ) -> Result<(), Halt> {
        let mut names = names.peekable();
        if names.peek().is_none() {
            return Ok(());
        }
        let (uid, gid) = self.owner(id, state, user).await?;
        for name in names {
            exec.mounts.push(Mount {
                target: format!("/run/secrets/{name}"),
                source: MountSource::Secret {
                    id: name.clone(),
                    uid,
                    gid,
                    mode: 0o400,
                    optional: false,
                },
            });
        }
        Ok(())
    }

    /// Makes a process one that no builder has the result of, if it is to run in any case: solves of
    /// this build share it all the same.
    pub(super) fn force(&mut self, id: OpId, exec: &mut Exec) {
        if !self.is_forced(id) {
            return;
        }
        let file = FileChange::MakeFile {
            path: ROOM.to_owned(),
            mode: 0o444,
            contents: self.build.job.id.clone().into_bytes(),
        };
        let about = About::new("this build alone");
        let made = self.graph.files(&None, vec![file], about);
        let target = Self::private("build");
        exec.mounts.push(read_only(&target, Some(made), ROOM));
    }

    /// A directory of one entry that a user owns.
    pub(super) fn room(&mut self, mode: u32, owner: (u32, u32)) -> (State, String) {
        let made = FileChange::MakeDir {
            path: ROOM.to_owned(),
            mode,
            owner,
        };
        let about = About::new("an empty directory");
        let made = self.graph.files(&None, vec![made], about);
        (Some(made), ROOM.to_owned())
    }

    /// A directory that holds what one of a stage does, but has a mode and an owner of its own.
    fn begun_with(
        &mut self,
        from: State,
        path: &str,
        mode: u32,
        owner: (u32, u32),
    ) -> (State, String) {
        if is_plain(mode, owner) {
            return (from, path.to_owned());
        }
        let dir = FileChange::MakeDir {
            path: ROOM.to_owned(),
            mode,
            owner,
        };
        let copy = FileChange::Copy {
            from,
            copy: FileCopy {
                src: path.to_owned(),
                dest: ROOM.to_owned(),
                ..FileCopy::default()
            },
        };
        let about = About::new("what a cache begins with");
        let made = self.graph.files(&None, vec![dir, copy], about);
        (Some(made), ROOM.to_owned())
    }

    async fn mount(
        &mut self,
        id: OpId,
        mount: &RunMount,
        exec: &mut Exec,
        about: &mut About,
    ) -> Result<(), Halt> {
        let source = match &mount.source {
            From::Cache {
                id: name,
                sharing,
                mode,
                uid,
                gid,
                from,
            } => {
                let owner = (*uid, *gid);
                let (from, path) = match from {
                    None if is_plain(*mode, owner) => (None, String::new()),
                    None => self.room(*mode, owner),
                    Some((stage, path)) => {
                        let from = self.state_of(*stage)?;
                        self.begun_with(from, path, *mode, owner)
                    }
                };
                MountSource::Cache {
                    id: self.cache_id(name),
                    sharing: Self::sharing(*sharing),
                    from,
                    path,
                    read_only: mount.read_only,
                }
            }
            From::Stage { stage, path } => MountSource::Files {
                state: self.state_of(*stage)?,
                path: path.clone(),
                read_only: mount.read_only,
            },
            From::Context { tree, path } => {
                let (blobs, tree) = (self.blobs(), *tree);
                let work = move || Offered::new(&read_tree(tree, &blobs)?, None, &blobs);
                let offered = tokio::task::spawn_blocking(work).await;
                let offered = offered.map_err(|e| storage("read a directory's listing", &e))?;
                let offered = offered.map_err(|why| self.fault(id, &why))?;
                let name = self.answers().offer(offered);
                let local = self.graph.local(&name, self.attempt.session());
                MountSource::Files {
                    state: Some(local),
                    path: format!("/{path}"),
                    read_only: mount.read_only,
                }
            }
            From::Tmpfs { size } => {
                if size.is_some() {
                    about.needs.push("exec.mount.tmpfs.size");
                }
                MountSource::Tmpfs { size: *size }
            }
            From::Secret {
                id: name,
                required,
                mode,
                uid,
                gid,
                env,
            } => {
                if !*required && !self.build.job.secrets.contains_key(name) {
                    return Ok(());
                }
                if let Some(variable) = env {
                    exec.env.retain(|(known, _)| known != variable);
                    let secret = (variable.clone(), name.clone(), !*required);
                    exec.secret_env.push(secret);
                    about.needs.push("exec.secretenv");
                }
                if mount.target.is_empty() {
                    return Ok(());
                }
                MountSource::Secret {
                    id: name.clone(),
                    uid: *uid,
                    gid: *gid,
                    mode: *mode,
                    optional: !*required,
                }
            }
        };
        exec.mounts.push(Mount {
            target: mount.target.clone(),
            source,
        });
        Ok(())
    }
}

/// Whether a directory is as builders make it by themselves.
fn is_plain(mode: u32, owner: (u32, u32)) -> bool {
    mode == 0o755 && owner == (0, 0)
}

/// A path of a filesystem, to be read.
pub(super) fn read_only(target: &str, state: State, path: &str) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::Files {
            state,
            path: path.to_owned(),
            read_only: true,
        },
    }
}
