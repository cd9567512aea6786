//! Runs processes of a step in the sandbox.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use chalk_core::lower::{Install, MountSource, Run, RunMount};
use chalk_core::wire::Stream;
use chalk_sandbox::{Contents, Mount, Network, Root, RunSpec, SandboxError, Status, User};
use tokio_util::sync::CancellationToken;

use super::caches::{CacheDir, Caches};
use super::chain::Chain;
use super::install::install;
use super::output::StepLog;
use super::scratch::Scratch;
use super::stage::StageDone;
use super::{Shared, storage};
use crate::engine::{EngineError, Job, Secret};
use crate::secrets::redact::Redaction;
use crate::settings;

/// Most bytes of output that [`Runner::capture`] takes.
const MAX_CAPTURE: usize = 1 << 20;

/// Why a step did not end well.
#[derive(Debug)]
pub(super) enum StepError {
    /// It failed by itself.
    Failed {
        /// Why.
        message: String,
        /// Exit code of its process, when there was one.
        exit_code: Option<i32>,
    },
    /// The build was cancelled.
    Cancelled,
    /// The fault is not the step's.
    Engine(EngineError),
}

impl StepError {
    /// A failure without a process.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
            exit_code: None,
        }
    }
}

impl From<EngineError> for StepError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Cancelled => Self::Cancelled,
            other => Self::Engine(other),
        }
    }
}

/// One process of a step.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: String,
    pub(super) user: String,
    pub(super) mounts: Vec<Mount>,
    pub(super) network: bool,
    secrets: BTreeSet<String>,
}

impl Call {
    /// A process of an install step, in `/`.
    pub(super) fn new<S: Into<String>>(
        install: &Install,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            env: install.env.clone(),
            cwd: "/".to_owned(),
            user: install.user.clone(),
            mounts: Vec::new(),
            network: true,
            secrets: install.secrets.clone(),
        }
    }

    /// Sets a variable, whatever it was.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }
}

/// Runs the processes of one step in one root.
pub(super) struct Runner<'a> {
    pub(super) shared: &'a Shared,
    /// Cache directories that outlive the step.
    pub(super) caches: &'a Caches,
    pub(super) job: &'a Job,
    pub(super) cancel: &'a CancellationToken,
    /// The state below the step.
    pub(super) chain: &'a Chain,
    /// Stages that the step reads, by index.
    pub(super) sources: &'a [(usize, Arc<StageDone>)],
    /// Where the step's changes go.
    pub(super) upper: PathBuf,
    pub(super) scratch: &'a Scratch,
    /// What no output may show.
    pub(super) redaction: &'a Redaction,
    pub(super) log: StepLog<'a>,
    pub(super) deadline: Instant,
}

impl Runner<'_> {
    /// Carries out a `run` step.
    ///
    /// # Errors
    /// When the process cannot be started or ends with another code than 0.
    pub(super) async fn run_step(&mut self, run: &Run) -> Result<(), StepError> {
        let mut call = Call {
            args: run.args.clone(),
            env: run.env.clone(),
            cwd: run.cwd.clone(),
            user: run.user.clone(),
            mounts: Vec::new(),
            network: run.network,
            secrets: run.secrets.clone(),
        };
        // Held until the process has ended.
        let mut caches = Vec::new();
        for mount in &run.mounts {
            self.mount(mount, &mut call, &mut caches).await?;
        }
        for (name, contents) in &run.heredocs {
            call.mounts.push(Mount::File {
                contents: Contents(contents.clone()),
                target: format!("/dev/pipes/{name}").into(),
                uid: 0,
                gid: 0,
                mode: 0o755,
            });
        }
        self.run(call).await
    }

    /// Carries out an install step.
    ///
    /// # Errors
    /// When the installer is missing or fails.
    pub(super) async fn install_step(&mut self, what: &Install) -> Result<(), StepError> {
        install(self, what).await
    }

    /// Runs a process; its output goes to the log.
    ///
    /// # Errors
    /// When it cannot be started or ends with another code than 0.
    pub(super) async fn run(&mut self, call: Call) -> Result<(), StepError> {
        for name in &call.secrets {
            self.warn_of_short(name);
        }
        let mut spec = self.spec(call)?;
        let group = self.shared.groups.make()?;
        spec.cgroups = group.directories();
        let log = &mut self.log;
        let mut sink = |stream: chalk_sandbox::Stream, bytes: &[u8]| {
            let stream = match stream {
                chalk_sandbox::Stream::Stdout => Stream::Stdout,
                chalk_sandbox::Stream::Stderr => Stream::Stderr,
            };
            log.write(stream, bytes);
        };
        let exit = chalk_sandbox::run(&spec, &mut sink, self.cancel).await;
        let cause = self.shared.groups.cause(&group.end().await);
        let exit = exit.map_err(|e| sandbox_failure(&e))?;
        let code = exit.status.shell_code();
        let because = cause.as_ref().map(|cause| format!("; {cause}"));
        let because = because.unwrap_or_default();
        let message = match exit.status {
            Status::Code(0) => {
                // A part of it may have died unnoticed.
                if let Some(cause) = cause {
                    self.log.note(&format!("the step went on although {cause}"));
                }
                return Ok(());
            }
            Status::Cancelled => return Err(StepError::Cancelled),
            Status::Code(code) => format!("exit code {code}{because}"),
            Status::Signal(9) if cause.is_none() => {
                "killed (signal 9); did the machine run out of memory?".to_owned()
            }
            Status::Signal(signal) => format!("ended by signal {signal}{because}"),
            Status::TimedOut => format!(
                "stopped at the time limit of {} s (setting `build.step_timeout`)",
                self.shared.settings.step_timeout.as_secs()
            ),
        };
        Err(StepError::Failed {
            message,
            exit_code: Some(code),
        })
    }

    /// Runs a process and gives what it prints (both streams, if it fails); `None` when there is
    /// no such program.
    ///
    /// # Errors
    /// When the sandbox fails, or the build is cancelled.
    pub(super) async fn capture(&mut self, call: Call) -> Result<Option<Vec<u8>>, StepError> {
        let mut spec = self.spec(call)?;
        let group = self.shared.groups.make()?;
        spec.cgroups = group.directories();
        let (mut out, mut all) = (Vec::new(), Vec::new());
        let mut sink = |stream: chalk_sandbox::Stream, bytes: &[u8]| {
            let take = |buffer: &mut Vec<u8>| {
                let room = MAX_CAPTURE.saturating_sub(buffer.len());
                buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
            };
            take(&mut all);
            if stream == chalk_sandbox::Stream::Stdout {
                take(&mut out);
            }
        };
        let exit = chalk_sandbox::run(&spec, &mut sink, self.cancel).await;
        group.end().await;
        match exit {
            Ok(exit) if exit.status == Status::Cancelled => Err(StepError::Cancelled),
            Ok(exit) if exit.status.success() => Ok(Some(out)),
            Ok(_) => Ok(Some(all)),
            Err(error) if error.exit_code() == Some(127) => Ok(None),
            Err(error) => Err(sandbox_failure(&error)),
        }
    }

    fn spec(&self, mut call: Call) -> Result<RunSpec, StepError> {
        if call.network {
            let added = self.shared.surroundings.apply(&mut call.env);
            call.mounts.extend(added.map_err(StepError::failed)?);
        }
        if !call.secrets.is_empty() {
            let owner = self.chain.user(&call.user).map_err(StepError::failed)?;
            for name in &call.secrets {
                let contents = self.secret(name)?.expose().to_vec();
                call.mounts.push(Mount::File {
                    contents: Contents(contents),
                    target: format!("/run/secrets/{name}").into(),
                    uid: owner.uid,
                    gid: owner.gid,
                    mode: 0o400,
                });
            }
        }
        let root = Root::Overlay {
            lower: self.chain.lower_dirs(&self.shared.empty),
            upper: self.upper.clone(),
            // Used once: a volatile overlay refuses a work directory that it knows.
            work: self.scratch.dir("work")?,
            volatile: true,
        };
        let mut spec = RunSpec::new(root, call.args);
        spec.env = call.env;
        spec.cwd = call.cwd.into();
        spec.user = User::Named(call.user);
        spec.hostname = "chalk".to_owned();
        spec.mounts = call.mounts;
        spec.network = if call.network {
            Network::Host
        } else {
            Network::None
        };
        spec.timeout = Some(self.deadline.saturating_duration_since(Instant::now()));
        Ok(spec)
    }

    /// Says so where a secret is not masked.
    fn warn_of_short(&mut self, name: &str) {
        if let Some(warning) = self.redaction.warning(name) {
            self.log.note(&warning);
        }
    }

    fn secret(&self, name: &str) -> Result<&Secret, StepError> {
        let missing = || {
            StepError::failed(format!(
                "the step needs the secret `{name}`, which was not given: build with `--secret {name}`"
            ))
        };
        self.job.secrets.get(name).ok_or_else(missing)
    }

    async fn mount(
        &mut self,
        mount: &RunMount,
        call: &mut Call,
        caches: &mut Vec<CacheDir>,
    ) -> Result<(), StepError> {
        let target = PathBuf::from(&mount.target);
        let bind = |source: PathBuf| Mount::Bind {
            source,
            target: target.clone(),
            read_only: mount.read_only,
        };
        match &mount.source {
            MountSource::Cache {
                id,
                sharing,
                mode,
                uid,
                gid,
                from,
            } => {
                let all = self.caches;
                let cache = self.wait_for(all.mount(id, *sharing)).await??;
                if cache.fresh() {
                    let filled = cache.path().to_owned();
                    if let Some((stage, path)) = from {
                        self.stage(*stage)?
                            .export(path, &filled, &self.shared.blobs)
                            .await?;
                    }
                    cache.finish(*mode, *uid, *gid)?;
                }
                call.mounts.push(bind(cache.path().to_owned()));
                caches.push(cache);
            }
            MountSource::Stage { stage, path } => {
                let view = self.scratch.dir("bind")?;
                let source = self
                    .stage(*stage)?
                    .export(path, &view, &self.shared.blobs)
                    .await?;
                call.mounts.push(bind(source));
            }
            MountSource::Context { tree, path } => {
                let view = self.scratch.dir("bind")?;
                let source = self.shared.export_tree(*tree, path, &view).await?;
                call.mounts.push(bind(source));
            }
            MountSource::Tmpfs { size } => call.mounts.push(Mount::Tmpfs {
                target,
                size: *size,
                mode: 0o1777,
            }),
            MountSource::Secret {
                id,
                required,
                mode,
                uid,
                gid,
                env,
            } => {
                if !*required && !self.job.secrets.contains_key(id) {
                    return Ok(());
                }
                self.warn_of_short(id);
                let value = self.secret(id)?.expose().to_vec();
                if let Some(name) = env {
                    let text = String::from_utf8(value.clone()).map_err(|_| {
                        StepError::failed(format!(
                            "the secret `{id}` is not UTF-8 and cannot be the variable `{name}`"
                        ))
                    })?;
                    call.set(name, &text);
                }
                if !mount.target.is_empty() {
                    call.mounts.push(Mount::File {
                        contents: Contents(value),
                        target,
                        uid: *uid,
                        gid: *gid,
                        mode: *mode,
                    });
                }
            }
        }
        Ok(())
    }

    /// The layers of a stage that the step reads.
    ///
    /// # Errors
    /// When it reads no such stage.
    pub(super) fn stage(&self, index: usize) -> Result<&Chain, StepError> {
        let found = self.sources.iter().find(|(stage, _)| *stage == index);
        let missing = || EngineError::Spec(format!("stage {index} is read before it is built"));
        Ok(&found.ok_or_else(missing)?.1.chain)
    }

    /// Which installer the settings ask for.
    pub(super) fn installer(&self) -> settings::Installer {
        self.shared.settings.installer
    }

    /// Directory with the builder's uv.
    ///
    /// # Errors
    /// Why there is none; in words.
    pub(super) async fn uv(&self) -> Result<PathBuf, String> {
        let fetch = self.shared.uv.ensure(&self.job.spec.platform.architecture);
        tokio::select! {
            found = fetch => found,
            () = self.cancel.cancelled() => Err("the build was cancelled".to_owned()),
        }
    }

    /// A directory for temporary files of everybody, outside of the layer.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn temp_dir(&self) -> Result<PathBuf, StepError> {
        let path = self.scratch.dir("tmp")?;
        let mode = rustix::fs::Mode::from_raw_mode(0o1777);
        let made = rustix::fs::chmod(&path, mode);
        made.map_err(|e| storage("make a temporary directory", &e))?;
        Ok(path)
    }

    /// A cache directory of `tool` for the base and the user, which several steps may use at once.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) async fn shared_cache(&self, tool: &str, user: &str) -> Result<PathBuf, StepError> {
        let owner = self.chain.user(user).map_err(StepError::failed)?;
        Ok(self
            .caches
            .tool(tool, &self.chain.base_key(), owner.uid, owner.gid)?)
    }

    /// The same for a tool that needs it for itself; waits until it is free.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) async fn exclusive_cache(
        &mut self,
        tool: &str,
        user: &str,
    ) -> Result<CacheDir, StepError> {
        let path = self.shared_cache(tool, user).await?;
        let caches = self.caches;
        self.wait_for(caches.lock(path)).await
    }

    /// Waits for what others hold. The time does not count against the step's limit.
    async fn wait_for<T>(&mut self, free: impl Future<Output = T>) -> Result<T, StepError> {
        let began = Instant::now();
        let got = tokio::select! {
            got = free => got,
            () = self.cancel.cancelled() => return Err(StepError::Cancelled),
        };
        self.deadline += began.elapsed();
        Ok(got)
    }
}

fn sandbox_failure(error: &SandboxError) -> StepError {
    match error {
        SandboxError::Exec { .. }
        | SandboxError::User { .. }
        | SandboxError::InvalidSpec { .. } => StepError::Failed {
            exit_code: error.exit_code(),
            message: error.to_string(),
        },
        SandboxError::HelperDied { .. } => StepError::failed(error.to_string()),
        _ => StepError::Engine(EngineError::Host(error.to_string())),
    }
}
