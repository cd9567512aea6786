//! From image, request and place to what the sandbox crate runs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use chalk_core::wire::{MountSource, Problem, SandboxNetwork, SandboxRequest, TerminalSize};
use chalk_sandbox::cgroup::Limits;
use chalk_sandbox::{Device, Mount, Network, Root, RunSpec, Stdin, User};

use super::config::{self, Process};
use super::problems::{bad_request, node_failed, of_mount};
use super::slots::Home;
use super::{Leased, Shared, cdi, host_files};
use crate::files::Held;
use crate::mounts::Mounted;

/// Everything that a start needs.
pub(super) struct Plan {
    pub(super) spec: RunSpec,
    pub(super) process: Process,
    /// What must stay while the sandbox runs.
    pub(super) held: (Vec<Mounted>, Vec<Held>),
    pub(super) limits: Limits,
    pub(super) warnings: Vec<String>,
}

/// Makes the plan: mounts the layers, fetches mounted files, finds devices.
pub(super) async fn make(
    shared: &Shared,
    id: &str,
    request: &SandboxRequest,
    lease: &Leased,
    home: &Home,
) -> Result<Plan, Problem> {
    let hostname: String = match &request.hostname {
        Some(name) => name.clone(),
        None => id.chars().take(64).collect(),
    };
    let mut process = config::main_process(&lease.config, request, &hostname)?;
    let mut warnings = Vec::new();
    let devices = cdi::resolve(
        &shared.settings.cdi_dirs,
        request.gpus.as_deref(),
        &request.devices,
    )?;
    warnings.extend(devices.warnings);
    for (name, value) in devices.env {
        process.env.retain(|(known, _)| *known != name);
        process.env.push((name, value));
    }

    let disk = home
        .disk()
        .ok_or_else(|| bad_request("the sandbox has no writable layer", "", ""))?;
    if let Some(reason) = &disk.in_memory {
        warnings.push(format!(
            "the writable layer is in memory, which counts against the memory limit: {reason}"
        ));
    }
    let mut layers = Vec::with_capacity(lease.layers.len());
    for layer in &lease.layers {
        let mounted = shared.mounts.mount(layer).await;
        layers.push(mounted.map_err(|error| of_mount(&error))?);
    }
    let mut lower: Vec<PathBuf> = layers.iter().map(|layer| layer.path().to_owned()).collect();
    if lower.is_empty() {
        // An image without layers still has a root.
        lower.push(disk.empty_dir());
    }
    let (upper, work) = disk.upper_and_work();
    let root = Root::Overlay {
        lower,
        upper,
        work,
        volatile: true,
    };

    let network = match request.network {
        SandboxNetwork::Host => Network::Host,
        SandboxNetwork::None => Network::None,
    };
    let mut spec = RunSpec::new(root, process.args.clone());
    spec.idle = process.is_idle();
    spec.mounts = host_files::mounts(&hostname, network);
    spec.mounts.extend(devices.mounts);
    let (mounts, files) = mounted_files(shared, request, home).await?;
    spec.mounts.extend(mounts);
    spec.read_only_root = request.read_only;
    spec.env.clone_from(&process.env);
    spec.cwd = PathBuf::from(&process.workdir);
    spec.user = User::Named(process.user.clone());
    spec.groups = devices.groups;
    spec.hostname = hostname;
    spec.network = network;
    spec.timeout = request
        .limits
        .timeout_seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    spec.terminal = request.tty.map(terminal_size);
    if request.stdin {
        spec.stdin = Stdin::Stream;
    }
    spec.cgroups = home.cgroups();
    spec.devices = devices
        .nodes
        .into_iter()
        .map(|(source, target)| Device { source, target })
        .collect();
    // Further commands join later, and share them with the first.
    spec.own_abstract_sockets = false;
    // The writable layer is thrown away as a whole.
    spec.tidy = false;
    spec.validate()
        .map_err(|error| super::problems::of_sandbox(&error))?;
    Ok(Plan {
        spec,
        process,
        held: (layers, files),
        limits: Limits {
            cpus: request.limits.cpus,
            memory: request.limits.memory,
            // Pid 1 of the sandbox is ours.
            pids: request.limits.pids.map(|pids| u64::from(pids) + 1),
        },
        warnings,
    })
}

/// Size of a terminal for the sandbox crate.
pub(super) fn terminal_size(size: TerminalSize) -> chalk_sandbox::TerminalSize {
    chalk_sandbox::TerminalSize {
        rows: size.rows,
        cols: size.cols,
    }
}

/// Fetches the mounted files, and mounts them as asked.
async fn mounted_files(
    shared: &Shared,
    request: &SandboxRequest,
    home: &Home,
) -> Result<(Vec<Mount>, Vec<Held>), Problem> {
    let (mut mounts, mut held) = (Vec::new(), Vec::new());
    for (number, mount) in request.mounts.iter().enumerate() {
        let files = match &mount.source {
            MountSource::File { digest, executable } => {
                shared.files.file(*digest, *executable).await?
            }
            MountSource::Dir { digest } => shared.files.tree(*digest).await?,
        };
        let source = files.path().to_owned();
        held.push(files);
        let target = PathBuf::from(&mount.dest);
        if !mount.writable {
            mounts.push(Mount::Bind {
                source,
                target,
                read_only: true,
            });
            continue;
        }
        let disk = home
            .disk()
            .ok_or_else(|| bad_request("the sandbox has no writable layer", "", ""))?
            .clone();
        let is_dir = matches!(mount.source, MountSource::Dir { .. });
        // The disk is seen in the namespace of the mount thread only.
        let made = shared.mounts.within(move || {
            if is_dir {
                let (upper, work) = disk.mount_dirs(number)?;
                return Ok(Mount::Overlay {
                    lower: source,
                    upper,
                    work,
                    target,
                });
            }
            let copy = disk.file_dir(number)?.join("file");
            let mode = std::fs::metadata(&source)?.permissions().mode();
            std::fs::copy(&source, &copy)?;
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(mode))?;
            Ok(Mount::Bind {
                source: copy,
                target,
                read_only: false,
            })
        });
        let made: std::io::Result<Mount> = made.await.map_err(|error| of_mount(&error))?;
        let title = format!("`{}` cannot be mounted writable", mount.dest);
        mounts.push(made.map_err(|error| node_failed(&title, &error))?);
    }
    Ok((mounts, held))
}
