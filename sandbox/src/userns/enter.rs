//! The way into a user namespace.
//!
//! A child makes it, and tries in it what a build needs. Only when that works does this process
//! follow, since there is no way back.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags};

use super::ids::{self, Kind};
use super::{Barrier, Mapped};
use crate::init::system::{self, Forked};

/// Where distributions keep the programs that map ids, for a `PATH` that lacks them.
const PROGRAM_DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

const MAKE: &str = "to make a user namespace";
const MOUNT: &str = "to mount in a user namespace";
const JOIN: &str = "to enter the user namespace";

/// Goes in. On an error everything is as it was.
pub(super) fn enter() -> Result<Mapped, Barrier> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let user = ids::login(uid);
    let uid_mapper = Mapper::find(Kind::Users)?;
    let gid_mapper = Mapper::find(Kind::Groups)?;
    let uids = ids::demand(Kind::Users, &user, uid)?;
    let gids = ids::demand(Kind::Groups, &user, uid)?;

    let mut pioneer = Pioneer::start().map_err(refused(MAKE))?;
    pioneer.answer(MAKE)?;
    let pid = pioneer.pid;
    uid_mapper.map(pid, &uids.map(uid))?;
    gid_mapper.map(pid, &gids.map(gid))?;
    pioneer.answer(MOUNT)?;
    let namespace = pioneer.namespace().map_err(refused(JOIN))?;
    let user_namespace = Some(LinkNameSpaceType::User);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), user_namespace)
        .map_err(|errno| refused(JOIN)(errno.into()))?;
    // Made anew rather than joined, which would lose the working directory.
    // SAFETY: this process has a single thread and shares no descriptor table.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .map_err(|errno| refused(MOUNT)(errno.into()))?;
    Ok(Mapped {
        user,
        uid,
        uids: uids.count() + 1,
        gids: gids.count() + 1,
    })
}

fn refused(what: &'static str) -> impl Fn(io::Error) -> Barrier {
    move |error| Barrier::of_refusal(what, error.raw_os_error().unwrap_or(libc::EIO))
}

/// The child that goes ahead; gone when this value is.
struct Pioneer {
    pid: Pid,
    /// Where it says how each thing went, after it was asked; it ends with this.
    talk: UnixStream,
}

impl Pioneer {
    fn start() -> io::Result<Pioneer> {
        let (talk, theirs) = UnixStream::pair()?;
        match system::fork()? {
            Forked::Child => {
                drop(talk);
                let code = i32::from(explore(theirs).is_err());
                system::exit(code)
            }
            Forked::Parent(pid) => Ok(Pioneer { pid, talk }),
        }
    }

    /// Has the child do the next thing, which is `what`.
    fn answer(&mut self, what: &'static str) -> Result<(), Barrier> {
        let mut errno = [0; 4];
        let heard = self
            .talk
            .write_all(b"\n")
            .and_then(|()| self.talk.read_exact(&mut errno));
        heard.map_err(refused(what))?;
        match i32::from_ne_bytes(errno) {
            0 => Ok(()),
            errno => Err(Barrier::of_refusal(what, errno)),
        }
    }

    fn namespace(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/{}/ns/user", self.pid.as_raw_pid());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
    }
}

impl Drop for Pioneer {
    fn drop(&mut self) {
        let _ = self.talk.shutdown(std::net::Shutdown::Both);
        let _ = rustix::io::retry_on_intr(|| {
            rustix::process::waitpid(Some(self.pid), WaitOptions::empty())
        });
    }
}

/// What the child does: one thing for each byte, answered by the error number. It stays, and with
/// it the namespace, until the parent lets go.
fn explore(mut talk: UnixStream) -> io::Result<()> {
    let make = || {
        // SAFETY: this process has a single thread and shares no descriptor table.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }
    };
    let mount = || {
        // SAFETY: as above.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        // AppArmor lets namespaces be made, but takes every right in them.
        let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", downstream)
    };
    let things: [&dyn Fn() -> rustix::io::Result<()>; 2] = [&make, &mount];
    let mut byte = [0];
    for thing in things {
        talk.read_exact(&mut byte)?;
        let errno = thing().err().map_or(0, rustix::io::Errno::raw_os_error);
        talk.write_all(&errno.to_ne_bytes())?;
    }
    talk.read_exact(&mut byte)
}

/// Where the program is that maps ids of a kind.
///
/// # Errors
/// [`Barrier::NoProgram`].
pub fn program(kind: Kind) -> Result<PathBuf, Barrier> {
    let name = kind.program();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = PROGRAM_DIRECTORIES.map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(name))
        .find(|place| place.is_file())
        .ok_or(Barrier::NoProgram { program: name })
}

/// Gives up what a service manager gave for mapping ids, when there is nothing to map.
pub(super) fn drop_capabilities() {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // Nobody is refused to have less; and the ambient ones go with those that are permitted.
    let _ = rustix::thread::set_capabilities(None, none);
}

/// Who writes the map of a child's namespace.
enum Mapper {
    /// This process: it has the capability, by `AmbientCapabilities=` of its unit.
    Own(Kind),
    /// The set-user-id program.
    Program(Kind, PathBuf),
}

impl Mapper {
    fn find(kind: Kind) -> Result<Self, Barrier> {
        let needed = match kind {
            Kind::Users => CapabilitySet::SETUID,
            Kind::Groups => CapabilitySet::SETGID,
        };
        let sets = rustix::thread::capabilities(None);
        match sets.is_ok_and(|sets| sets.effective.contains(needed)) {
            true => Ok(Self::Own(kind)),
            false => Ok(Self::Program(kind, program(kind)?)),
        }
    }

    /// Maps the ids of the child; `map` is as [`ids::Ids::map`] gives it.
    fn map(&self, pid: Pid, map: &[String]) -> Result<(), Barrier> {
        match self {
            Self::Own(kind) => write(*kind, pid, map),
            Self::Program(kind, program) => run(*kind, program, pid, map),
        }
    }
}

fn write(kind: Kind, pid: Pid, map: &[String]) -> Result<(), Barrier> {
    let (file, what) = match kind {
        Kind::Users => ("uid_map", "to map user ids"),
        Kind::Groups => ("gid_map", "to map group ids"),
    };
    let lines: Vec<String> = map.chunks(3).map(|line| line.join(" ")).collect();
    // The kernel takes a map in one write.
    let path = format!("/proc/{}/{file}", pid.as_raw_pid());
    std::fs::write(path, lines.join("\n")).map_err(refused(what))
}

/// Has a program map the ids of the child.
fn run(kind: Kind, program: &PathBuf, pid: Pid, map: &[String]) -> Result<(), Barrier> {
    let failed = |said: String| Barrier::Map {
        program: kind.program(),
        said,
        no_new_privileges: rustix::thread::no_new_privs().unwrap_or(false),
    };
    let ran = Command::new(program)
        .arg(pid.as_raw_pid().to_string())
        .args(map)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    let name = format!("{}: ", kind.program());
    let said = said.strip_prefix(&name).unwrap_or(&said);
    Err(failed(match said {
        "" => ran.status.to_string(),
        said => said.to_owned(),
    }))
}
