//! What a hostile command cannot do.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use chalk_sandbox::{Network, SandboxError, Seccomp, Status};

use crate::support::{Fixture, run};

#[tokio::test]
async fn the_kernel_and_the_host_are_out_of_reach() {
    let fixture = Fixture::new();
    for script in [
        "mount -t tmpfs none /tmp",
        "mount --bind /etc /tmp",
        "mount -o remount,rw /proc/sys",
        "umount /proc/keys",
        "unshare -m true",
        "unshare -U true",
        "unshare -n true",
        "nsenter -t 1 -m true",
        "hostname changed",
        "echo 1 > /proc/sys/kernel/panic",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /sys/kernel/mm/ksm/run",
        "dmesg",
        "ls /proc/1/root",
        "readlink /proc/1/fd/3",
        "cat /proc/1/environ",
        "head -c 1 /proc/1/exe",
        "sh -c ': >> /proc/1/exe'",
        "head -c 1 /proc/1/mem",
        "date -s 2001-01-01",
        "mknod /tmp/memory c 1 1 && head -c 1 /tmp/memory",
        "mknod /dev/memory c 1 1 && head -c 1 /dev/memory",
        "mknod /dev/shm/disk b 8 0 && head -c 1 /dev/shm/disk",
        "modprobe loop",
        "swapon /etc/passwd",
    ] {
        let ran = fixture.run(script).await;
        assert!(!ran.exit.status.success(), "{script} succeeded: {ran:?}");
    }
}

#[tokio::test]
async fn what_docker_allows_is_allowed() {
    let fixture = Fixture::new();
    for script in [
        "chroot / /bin/true",
        "chown 1234:1234 /etc/group",
        "mknod /tmp/fifo p",
        "mknod /tmp/null c 1 3",
        "setpriv --reuid 1000 --regid 1000 --clear-groups true",
        "echo x > /dev/shm/x && echo x > /dev/null && head -c 9 /dev/urandom",
        "nice true && setsid true && timeout 9 true",
    ] {
        let ran = fixture.run(script).await;
        assert!(ran.exit.status.success(), "{script}: {ran:?}");
    }
}

#[tokio::test]
async fn other_processes_and_secrets_of_the_kernel_are_not_seen() {
    let fixture = Fixture::new();
    let ran = fixture
        .run(
            "cd /proc; echo $(ls -d [0-9]* | sort -n | head -2); cat keys timer_list kcore | wc -c; \
             ls /proc/acpi /sys/firmware | grep -v : | wc -w; \
             grep -c /tmp/ /proc/self/mountinfo",
        )
        .await;
    assert_eq!(ran.stdout, "1 2\n0\n0\n0", "{}", ran.stderr);
}

#[tokio::test]
async fn pid_1_cannot_be_killed_or_stopped_from_inside() {
    let fixture = Fixture::new();
    let script = "for s in HUP INT TERM KILL STOP CHLD USR1; do kill -$s 1; done; sleep 0.1; \
                  trap '' TERM; kill -TERM -1; echo alive";
    assert_eq!(fixture.run(script).await.stdout, "alive");
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn the_filter_answers_as_dockers() {
    let fixture = Fixture::new();
    let (allowed, eperm, enosys) = (0, libc::EPERM, libc::ENOSYS);
    let calls: &[(&str, &str, i32)] = &[
        ("getpid", "39", allowed),
        ("clone3", "435, 0, 0", enosys),
        ("a call of the future", "1000", enosys),
        ("getpid of x32", "0x40000000 + 39", enosys),
        ("keyctl", "250, 0, 0, 0", eperm),
        ("add_key", "248, 0, 0, 0, 0, 0", eperm),
        ("bpf", "321, 0, 0, 0", eperm),
        ("io_uring_setup", "425, 1, 0", eperm),
        ("userfaultfd", "323, 0", eperm),
        ("perf_event_open", "298, 0, 0, 0, 0, 0", eperm),
        ("fsopen", "430, 0, 0", eperm),
        ("open_tree", "428, -100, 0, 0", eperm),
        ("unshare of the user namespace", "272, 0x10000000", eperm),
        (
            "clone into a user namespace",
            "56, 0x10000000, 0, 0, 0, 0",
            eperm,
        ),
        (
            "clone into a mount namespace",
            "56, 0x00020000, 0, 0, 0, 0",
            eperm,
        ),
        ("personality query", "135, 0xffffffff", allowed),
        ("personality without randomisation", "135, 0x0040000", eperm),
        ("socket of AF_UNIX", "41, 1, 1, 0", allowed),
        ("socket of AF_ALG", "41, 38, 5, 0", eperm),
        ("socket of AF_VSOCK", "41, 40, 1, 0", eperm),
        ("ptrace", "101, 0, 0, 0, 0", allowed),
        ("kexec_load", "246, 0, 0, 0, 0", eperm),
        ("open_by_handle_at", "304, -1, 0, 0", eperm),
        ("lookup_dcookie", "212, 0, 0, 0", eperm),
    ];
    let mut script = String::new();
    for (_, arguments, _) in calls {
        script += &format!("$! = 0; $r = syscall({arguments}); print $r < 0 ? $!+0 : 0, \"\\n\";");
    }
    let mut spec = fixture.spec("");
    spec.args = vec!["perl".into(), "-e".into(), script];
    let ran = run(&spec).await.expect("runs");
    let found: Vec<i32> = ran
        .stdout
        .lines()
        .map(|line| line.parse().expect("number"))
        .collect();
    assert_eq!(found.len(), calls.len(), "{ran:?}");
    for ((name, _, expect), found) in calls.iter().zip(found) {
        assert_eq!(found, *expect, "{name}");
    }
}

/// A program of 32 bits that makes one system call and exits with its error number.
fn program_of_32_bits(call: u32) -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    let mut code = vec![0x31, 0xdb, 0x31, 0xc9, 0x31, 0xd2]; // xor ebx, ecx, edx
    code.push(0xb8); // mov eax, call
    code.extend(call.to_le_bytes());
    code.extend([0xcd, 0x80, 0xf7, 0xd8, 0x89, 0xc3]); // int 0x80; neg eax; mov ebx, eax
    code.extend([0xb8, 1, 0, 0, 0, 0xcd, 0x80]); // exit(ebx)
    let size = 84 + code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 3] {
        file.extend(half.to_le_bytes()); // executable, i386
    }
    for word in [1, BASE + 84, 52, 0, 0] {
        file.extend(word.to_le_bytes()); // version, entry, program headers, sections, flags
    }
    for half in [52_u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [1, 0, BASE, BASE, size, size, 5, 0x1000] {
        file.extend(word.to_le_bytes()); // one segment: load, readable and executable
    }
    file.extend(code);
    file
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn programs_of_32_bits_have_the_same_filter() {
    let fixture = Fixture::new();
    let (getuid, clone3, keyctl, future) = (199, 435, 288, 1000);
    for (call, expect) in [
        (getuid, 0),
        (clone3, libc::ENOSYS),
        (keyctl, libc::EPERM),
        (future, libc::ENOSYS),
    ] {
        let path = fixture.path("lower").join(format!("call{call}"));
        std::fs::write(&path, program_of_32_bits(call)).expect("file");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("mode");
        let mut spec = fixture.spec("");
        spec.args = vec![format!("/call{call}")];
        match run(&spec).await {
            Ok(ran) => assert_eq!(ran.exit.status, Status::Code(expect), "{call}"),
            Err(SandboxError::Exec { source, .. })
                if source.raw_os_error() == Some(libc::ENOEXEC) =>
            {
                eprintln!("NOT TESTED: this kernel runs no programs of 32 bits");
                return;
            }
            Err(error) => panic!("{call}: {error}"),
        }
    }
}

#[tokio::test]
async fn without_a_filter_the_capabilities_still_hold() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("grep ^Seccomp: /proc/self/status; mount -t tmpfs none /tmp");
    spec.seccomp = Seccomp::Unconfined;
    let ran = run(&spec).await.expect("runs");
    assert_eq!(ran.stdout, "Seccomp:\t0");
    assert!(!ran.exit.status.success());
}

#[tokio::test]
async fn without_a_network_there_is_only_lo_and_it_is_up() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("ls /sys/class/net; cat /sys/class/net/lo/flags");
    spec.network = Network::None;
    assert_eq!(run(&spec).await.expect("runs").stdout, "lo\n0x9");
    let host = std::fs::read_dir("/sys/class/net")
        .expect("readable")
        .count();
    let ran = fixture.run("ls /sys/class/net | wc -l").await;
    assert_eq!(ran.stdout, host.to_string());
}

#[tokio::test]
async fn a_fork_bomb_ends_at_the_time_limit() {
    let fixture = Fixture::new();
    let mut spec = fixture.spec("sh -c 'f() { f | f & }; f' & exec sleep 1000");
    spec.timeout = Some(Duration::from_secs(2));
    spec.max_processes = 600;
    let ran = run(&spec).await.expect("runs");
    assert_eq!(ran.exit.status, Status::TimedOut);
}

#[tokio::test]
async fn the_command_may_be_a_link_to_the_program_that_started_it() {
    // Executes the helper's own file from inside; nothing of the host can be written through it.
    let fixture = Fixture::new();
    let before = std::fs::read("/proc/self/exe").expect("own file").len();
    let mut spec = fixture.spec("");
    spec.args = vec!["/proc/self/exe".into(), "--list".into()];
    let _ = run(&spec).await;
    let script = "exec 9< /proc/self/exe; ls -l /proc/1/exe; : > /proc/self/exe";
    let _ = fixture.run(script).await;
    assert_eq!(
        std::fs::read("/proc/self/exe").expect("own file").len(),
        before
    );
}
