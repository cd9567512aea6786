//! The command's process: from the fork to `execve`.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::report::{At as _, failure, refusal};
use super::streams::Streams;
use super::{files, system};
use crate::error::{SetupError, Stage};
use crate::files::FileWork;
use crate::spec::{Capabilities, Contents, DEFAULT_PATH};
use crate::users::ResolvedUser;
use crate::wire::Report;

/// Docker's default capabilities.
const DOCKER_DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Limits of open files. The soft one is what programs expect that use `select(2)` or close every
/// possible descriptor one by one; others raise it themselves.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// How often, and how far apart, a program is tried that is open for writing.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// How willingly the kernel kills processes of a sandbox when memory runs out: before the service.
const OOM_SCORE_ADJ: &[u8] = b"500";

/// What to execute, of a run or in a running sandbox.
pub(super) struct Program<'a> {
    pub(super) args: &'a [String],
    pub(super) env: &'a [(String, String)],
    pub(super) cwd: &'a Path,
    pub(super) capabilities: Capabilities,
}

/// Everything that the command's process needs, so that little can fail after the fork.
pub(super) struct Command {
    program: String,
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: String,
    user: ResolvedUser,
    capabilities: CapabilitySet,
    filters: Vec<Contents>,
    streams: Streams,
    /// A `/proc` that is no work of the sandbox.
    proc: OwnedFd,
}

/// Prepares the command of `spec` to run as `user`.
pub(super) fn prepare(
    spec: &Program<'_>,
    filters: &[Contents],
    user: ResolvedUser,
    streams: Streams,
    proc: &OwnedFd,
) -> Result<Command, SetupError> {
    let mut env: Vec<(&str, &str)> = spec
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    if !env.iter().any(|(name, _)| *name == "HOME") {
        env.push(("HOME", &user.home));
    }
    let path = env
        .iter()
        .rev()
        .find(|(name, _)| *name == "PATH")
        .map(|(_, value)| *value);
    let program = spec.args.first().cloned().unwrap_or_default();
    let c_strings = |texts: Vec<String>| {
        texts
            .into_iter()
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failure(Stage::ReadSpec, "", &error.into()))
    };
    Ok(Command {
        candidates: c_strings(candidates(&program, path.unwrap_or(DEFAULT_PATH)))?,
        args: c_strings(spec.args.to_vec())?,
        env: c_strings(
            env.iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        )?,
        program,
        cwd: spec.cwd.to_string_lossy().into_owned(),
        capabilities: match spec.capabilities {
            Capabilities::Default => DOCKER_DEFAULT,
            Capabilities::None => CapabilitySet::empty(),
        },
        filters: filters.to_vec(),
        user,
        streams,
        proc: proc.try_clone().at(Stage::Limits, "memory")?,
    })
}

/// The files to try for `program`, in order.
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.split(':')
        .map(|directory| match directory {
            // An empty entry means the working directory.
            "" => format!("./{program}"),
            _ => format!("{directory}/{program}"),
        })
        .collect()
}

impl Command {
    /// Becomes the command; returns only the report of why it cannot. With `parent`, the reading
    /// end of which its parent process holds, it is killed when that process dies.
    pub(super) fn start(&self, parent: Option<&OwnedFd>) -> Report {
        if let Err(error) = self.enter(parent) {
            return Report::Setup(error);
        }
        let errno = self.execute();
        Report::Exec {
            program: self.program.clone(),
            errno,
        }
    }

    /// Becomes a process that does nothing until a signal ends it; returns only the report of why
    /// it cannot.
    pub(super) fn idle(&self) -> Report {
        let entered = self.enter(None).and_then(|()| {
            // What stays open would look like an execution that is still to come.
            system::close_from(3).at(Stage::Streams, "descriptors")
        });
        match entered {
            Err(error) => Report::Setup(error),
            Ok(()) => loop {
                system::pause();
            },
        }
    }

    /// Reads or writes a file in place of a program. The parent, which holds the reading end of
    /// `executed`, sees its end when the file is open; it must not see it before the report of why
    /// that cannot be.
    pub(super) fn work_on_file(
        &self,
        work: &FileWork,
        executed: &mut Option<OwnedFd>,
    ) -> Result<(), Report> {
        self.enter(executed.as_ref()).map_err(Report::Setup)?;
        files::run(work, || drop(executed.take())).map_err(files::Failure::report)
    }

    fn enter(&self, parent: Option<&OwnedFd>) -> Result<(), SetupError> {
        rustix::process::setsid().at(Stage::Identity, "a session")?;
        self.streams.connect()?;
        self.limit()?;
        rustix::process::chdir(&self.cwd).at(Stage::WorkingDirectory, &self.cwd)?;
        let cwd = rustix::process::getcwd(Vec::new()).at(Stage::WorkingDirectory, &self.cwd)?;
        if cwd.as_bytes().first() != Some(&b'/') {
            return Err(refusal(
                Stage::WorkingDirectory,
                &self.cwd,
                "it leads out of the root",
            ));
        }
        system::reset_signals();
        for capability in 0..64 {
            let keep = self.capabilities.bits() & (1 << capability) != 0;
            if !keep
                && !system::drop_from_bounding_set(capability)
                    .at(Stage::Credentials, "the bounding set")?
            {
                break;
            }
        }
        rustix::thread::clear_ambient_capability_set().at(Stage::Credentials, "capabilities")?;
        // The filter needs CAP_SYS_ADMIN, and lets through what follows.
        for filter in &self.filters {
            system::load_filter(&filter.0).at(Stage::Seccomp, "")?;
        }
        self.become_user()?;
        if let Some(parent) = parent {
            // The change of the user takes this setting away.
            system::die_with_parent(parent).at(Stage::Credentials, "the parent")?;
        }
        system::close_from_on_exec(3).at(Stage::Streams, "descriptors")
    }

    fn limit(&self) -> Result<(), SetupError> {
        let set = |resource, name: &str, current: u64, maximum: u64| {
            // Root may raise a limit, but a helper in a container of its own may not.
            let allowed = rustix::process::getrlimit(resource)
                .maximum
                .unwrap_or(u64::MAX);
            let maximum = maximum.min(allowed);
            let limit = Rlimit {
                current: Some(current.min(maximum)),
                maximum: Some(maximum),
            };
            rustix::process::setrlimit(resource, limit).at(Stage::Limits, name)
        };
        set(Resource::Nofile, "open files", OPEN_FILES.0, OPEN_FILES.1)?;
        // A core dump would end up in the layer.
        set(Resource::Core, "core dumps", 0, 0)?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.proc, "self/oom_score_adj", flags, Mode::empty())
            .at(Stage::Limits, "memory")?;
        rustix::io::write(&file, OOM_SCORE_ADJ).at(Stage::Limits, "memory")?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        Ok(())
    }

    fn become_user(&self) -> Result<(), SetupError> {
        let gid = Gid::from_raw(self.user.gid);
        let uid = Uid::from_raw(self.user.uid);
        let groups: Vec<Gid> = self
            .user
            .groups
            .iter()
            .copied()
            .map(Gid::from_raw)
            .collect();
        rustix::thread::set_thread_groups(&groups).at(Stage::Credentials, "groups")?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).at(Stage::Credentials, "the group")?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).at(Stage::Credentials, "the user")?;
        // Root has its set again after `execve` by the rules of the kernel; others gain only what
        // a program's own file capabilities or set-user-id bit give.
        let own = if self.user.uid == 0 {
            self.capabilities
        } else {
            CapabilitySet::empty()
        };
        let sets = CapabilitySets {
            effective: own,
            permitted: own,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets).at(Stage::Credentials, "capabilities")
    }

    /// Tries the candidates as a shell does: a file that may not be executed is remembered, one
    /// that is not there is passed over.
    fn execute(&self) -> i32 {
        let args = pointers(&self.args);
        let env = pointers(&self.env);
        let mut reason = libc::ENOENT;
        for candidate in &self.candidates {
            match execute_when_free(candidate, &args, &env) {
                libc::ENOENT | libc::ENOTDIR if self.candidates.len() > 1 => {}
                libc::EACCES => reason = libc::EACCES,
                errno => return errno,
            }
        }
        reason
    }
}

/// The service writes files of the root, and a process that it starts at the same moment holds
/// their descriptors until its own `execve`; so "text file busy" passes by itself.
fn execute_when_free(
    path: &CStr,
    args: &[*const libc::c_char],
    env: &[*const libc::c_char],
) -> i32 {
    for _ in 0..BUSY_TRIES {
        let errno = system::execve(path, args, env);
        if errno != libc::ETXTBSY {
            return errno;
        }
        std::thread::sleep(BUSY_PAUSE);
    }
    libc::ETXTBSY
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| CStr::as_ptr(string))
        .chain([ptr::null()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_searched_like_in_a_shell() {
        let check = |program: &str, path: &str, expect: &[&str]| {
            assert_eq!(candidates(program, path), expect);
        };
        check("sh", "/bin:/usr/bin", &["/bin/sh", "/usr/bin/sh"]);
        check("sh", "", &["./sh"]);
        check("sh", "/bin:", &["/bin/sh", "./sh"]);
        check("./sh", "/bin", &["./sh"]);
        check("/bin/sh", "/usr/bin", &["/bin/sh"]);
    }

    #[test]
    fn the_default_capabilities_are_dockers_fourteen() {
        // The value that `docker run alpine grep CapBnd /proc/self/status` prints.
        assert_eq!(DOCKER_DEFAULT.bits(), 0xa804_25fb);
    }
}
