//! Docker's default system-call filter.
//!
//! The allowed names are data, `seccomp/allowed.txt`. What is not allowed fails with `EPERM`,
//! except for `clone3` (whose flags a filter cannot read; programs then fall back to `clone`) and
//! for calls that are newer than the profile: these fail with `ENOSYS`, as on a kernel that lacks
//! them, so that programs use the older call. 32-bit programs have the same list in their own
//! numbering; other processors' calls kill the process. Unlike Docker's, the filter does not know
//! the x32 numbering of x86-64, which hardly any kernel still offers: `ENOSYS`.
//!
//! `seccompiler` writes one comparison per call and knows two actions per filter; a few
//! instructions written here stand in front of its program and do the rest.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::error::{SandboxError, SetupError, Stage};
use crate::spec::Contents;

const ALLOWED: &str = include_str!("seccomp/allowed.txt");

/// `CLONE_NEW*` but `CLONE_NEWTIME`, which `clone` cannot express: a process without
/// `CAP_SYS_ADMIN` may not make namespaces, user namespaces included.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;

/// `personality(2)` arguments that may be set: `PER_LINUX`, `PER_LINUX32`, `UNAME26`, both, and
/// the query.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// One numbering of system calls.
struct Numbering {
    /// `AUDIT_ARCH_*` as the kernel hands it to filters.
    audit: u32,
    number: fn(&str) -> Option<u32>,
}

#[cfg(target_arch = "x86_64")]
const NUMBERINGS: [Numbering; 2] = [
    Numbering {
        audit: 0xC000_003E,
        number: |name| {
            name.parse::<syscalls::x86_64::Sysno>()
                .ok()
                .map(|s| s.id() as u32)
        },
    },
    Numbering {
        audit: 0x4000_0003,
        number: |name| {
            name.parse::<syscalls::x86::Sysno>()
                .ok()
                .map(|s| s.id() as u32)
        },
    },
];

#[cfg(target_arch = "aarch64")]
const NUMBERINGS: [Numbering; 2] = [
    Numbering {
        audit: 0xC000_00B7,
        number: |name| {
            name.parse::<syscalls::aarch64::Sysno>()
                .ok()
                .map(|s| s.id() as u32)
        },
    },
    Numbering {
        audit: 0x4000_0028,
        number: |name| {
            name.parse::<syscalls::arm::Sysno>()
                .ok()
                .map(|s| s.id() as u32)
        },
    },
];

/// The filters of the default profile, ready to load in this order; compiled once per process.
///
/// # Errors
/// [`SandboxError::Setup`] at [`Stage::Seccomp`] when a program cannot be compiled.
pub(crate) fn default_filters() -> Result<&'static [Contents], SandboxError> {
    static FILTERS: OnceLock<Result<Vec<Contents>, String>> = OnceLock::new();
    let compile = || {
        NUMBERINGS
            .iter()
            .map(|numbering| program(numbering).map(|program| Contents(to_bytes(&program))))
            .collect::<Result<Vec<_>, String>>()
    };
    match FILTERS.get_or_init(compile) {
        Ok(filters) => Ok(filters),
        Err(detail) => Err(SandboxError::Setup(SetupError {
            stage: Stage::Seccomp,
            subject: String::new(),
            errno: 0,
            detail: detail.clone(),
        })),
    }
}

fn program(numbering: &Numbering) -> Result<BpfProgram, String> {
    let rules = rules(numbering)?;
    let newest = rules.keys().copied().max().unwrap_or(0);
    let newest = u32::try_from(newest).map_err(|error| error.to_string())?;
    let target = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        target,
    )
    .map_err(|error| error.to_string())?;
    let compiled = BpfProgram::try_from(filter).map_err(|error| error.to_string())?;
    let clone3 = (numbering.number)("clone3").ok_or("no system call clone3")?;
    let mut program = prelude(numbering, clone3, newest);
    program.extend_from_slice(without_arch_check(&compiled)?);
    Ok(program)
}

/// Decides on other numberings, `clone3` and calls that are newer than the profile.
fn prelude(numbering: &Numbering, clone3: u32, newest: u32) -> BpfProgram {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_EQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const JUMP_GT: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const OFFSET_NUMBER: u32 = 0;
    const OFFSET_ARCH: u32 = 4;
    let op = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    let [first, second] = NUMBERINGS;
    let other = if first.audit == numbering.audit {
        second.audit
    } else {
        first.audit
    };
    vec![
        op(LOAD, OFFSET_ARCH, 0, 0),
        op(JUMP_EQ, numbering.audit, 3, 0),
        // The other numbering is the other filter's.
        op(JUMP_EQ, other, 0, 1),
        op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
        op(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        op(LOAD, OFFSET_NUMBER, 0, 0),
        op(JUMP_EQ, clone3, 1, 0),
        op(JUMP_GT, newest, 0, 1),
        op(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0, 0),
    ]
}

/// `seccompiler` starts with a check of the processor that knows only 64-bit numberings; the
/// prelude has done it already.
fn without_arch_check(program: &[sock_filter]) -> Result<&[sock_filter], String> {
    match program {
        [load, jump, end, rest @ ..]
            if load.code == 0x20
                && load.k == 4
                && jump.code == 0x15
                && (jump.jt, jump.jf) == (1, 0)
                && end.k == libc::SECCOMP_RET_KILL_PROCESS =>
        {
            Ok(rest)
        }
        _ => Err("the filter compiler's output has an unknown form".to_owned()),
    }
}

fn rules(numbering: &Numbering) -> Result<BTreeMap<i64, Vec<SeccompRule>>, String> {
    let mut rules = BTreeMap::new();
    let names = ALLOWED
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    for name in names {
        // The list is over all processors: none has every call.
        if let Some(number) = (numbering.number)(name) {
            rules.insert(i64::from(number), Vec::new());
        }
    }
    let one = |op, value| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, op, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(|error| error.to_string())
    };
    let personalities = PERSONALITIES
        .iter()
        .map(|value| one(SeccompCmpOp::Eq, *value))
        .collect::<Result<_, _>>()?;
    // AF_ALG (38) and AF_VSOCK (40) reach parts of the kernel and of the hypervisor that no
    // container needs.
    let families = vec![
        one(SeccompCmpOp::Lt, 38)?,
        one(SeccompCmpOp::Eq, 39)?,
        one(SeccompCmpOp::Gt, 40)?,
    ];
    let no_namespaces = vec![one(SeccompCmpOp::MaskedEq(CLONE_NAMESPACES), 0)?];
    for (name, conditions) in [
        ("socket", families),
        ("personality", personalities),
        ("clone", no_namespaces),
    ] {
        let number = (numbering.number)(name).ok_or_else(|| format!("no system call {name}"))?;
        rules.insert(i64::from(number), conditions);
    }
    Ok(rules)
}

fn to_bytes(program: &[sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for op in program {
        bytes.extend_from_slice(&op.code.to_ne_bytes());
        bytes.extend_from_slice(&[op.jt, op.jf]);
        bytes.extend_from_slice(&op.k.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longest filter that the kernel takes (`BPF_MAXINSNS`).
    const MAX_INSTRUCTIONS: usize = 4096;

    fn names() -> impl Iterator<Item = &'static str> {
        ALLOWED.lines().filter(|line| !line.starts_with('#'))
    }

    #[test]
    fn the_list_is_sorted() {
        let names: Vec<&str> = names().collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_list_names_system_calls() {
        let unknown: Vec<&str> = names()
            .filter(|name| {
                NUMBERINGS
                    .iter()
                    .all(|numbering| (numbering.number)(name).is_none())
            })
            .collect();
        // Those of other processors; recv and send are on i386 but parts of socketcall.
        let of_others = [
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "recv",
            "riscv_hwprobe",
            "send",
            "set_tls",
            "sync_file_range2",
        ];
        assert_eq!(unknown, of_others);
    }

    #[test]
    fn what_opens_the_kernel_is_not_in_the_list() {
        for name in [
            "add_key",
            "bpf",
            "clone3",
            "fsopen",
            "init_module",
            "io_uring_setup",
            "kexec_load",
            "keyctl",
            "mount",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "pivot_root",
            "reboot",
            "setns",
            "swapon",
            "umount2",
            "unshare",
            "userfaultfd",
        ] {
            assert!(names().all(|allowed| allowed != name), "{name}");
        }
        for name in ["chroot", "execve", "ptrace", "read", "setuid"] {
            assert!(names().any(|allowed| allowed == name), "{name}");
        }
    }

    #[test]
    fn filters_fit_into_the_kernel() {
        let filters = default_filters().expect("compiles");
        assert_eq!(filters.len(), NUMBERINGS.len());
        for filter in filters {
            let instructions = filter.0.len() / 8;
            assert!(
                (1000..MAX_INSTRUCTIONS).contains(&instructions),
                "{instructions}"
            );
        }
    }
}
