//! Known ways out of containers, each with the refusal that it meets.

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};

use chalk_sandbox::TerminalSize;

use crate::support::{Fixture, Ran, run};

/// Runs each script, which must fail and say the words.
async fn refused(tricks: &[(&str, &str)]) {
    let fixture = Fixture::new();
    for (script, words) in tricks {
        let ran = fixture.run(script).await;
        assert!(!ran.exit.status.success(), "{script} succeeded: {ran:?}");
        // A kernel may lack the file.
        let known = ran.stderr.contains(words) || ran.stderr.contains("nonexistent");
        assert!(known, "{script}: {ran:?}");
    }
}

/// Runs a Perl program, for calls that no tool makes.
async fn perl(fixture: &Fixture, program: &str) -> Ran {
    let mut spec = fixture.spec("");
    spec.args = vec!["perl".into(), "-e".into(), program.into()];
    run(&spec).await.expect("runs")
}

#[tokio::test]
async fn files_of_the_kernel_cannot_be_written() {
    refused(&[
        ("echo b > /proc/sysrq-trigger", "Read-only file system"),
        (
            "echo '|/evil' > /proc/sys/kernel/core_pattern",
            "Read-only file system",
        ),
        (
            "echo /evil > /proc/sys/kernel/modprobe",
            "Read-only file system",
        ),
        (
            "echo 0 > /proc/sys/kernel/yama/ptrace_scope || echo 0 > /proc/sys/vm/mmap_min_addr",
            "Read-only file system",
        ),
        (
            "echo 1 > /proc/irq/default_smp_affinity",
            "Read-only file system",
        ),
        (
            "echo /evil > /sys/kernel/uevent_helper || echo 1 > /sys/kernel/mm/ksm/run",
            "Read-only file system",
        ),
        ("echo mem > /sys/power/state || exit 1", "/sys/power/state"),
        ("mkdir /sys/fs/cgroup/evil", "No such file or directory"),
        ("mkdir /proc/evil", "No such file or directory"),
    ])
    .await;
}

#[tokio::test]
async fn nothing_can_be_mounted_or_unmounted() {
    refused(&[
        ("mount -t tmpfs none /tmp", "permission denied"),
        ("mount -t proc none /tmp", "permission denied"),
        ("mount --bind / /tmp", "permission denied"),
        ("mount -o remount,rw /proc/sys", "permission denied"),
        ("umount /proc/sysrq-trigger", "must be superuser"),
        ("umount -l /sys", "must be superuser"),
        ("pivot_root / /tmp", "Operation not permitted"),
    ])
    .await;
}

#[tokio::test]
async fn the_release_agent_of_control_groups_is_out_of_reach() {
    // CVE-2022-0492 and the trick before it: a program of the host is run when a group gets empty.
    let fixture = Fixture::new();
    let script = "found=0; for f in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release); do \
                  found=1; if echo 1 > $f; then echo WROTE $f; fi; done 2>/dev/null; echo tried";
    assert_eq!(fixture.run(script).await.stdout, "tried");
    refused(&[
        ("mount -t cgroup -o memory cgroup /tmp", "permission denied"),
        ("unshare -UrmC true", "Operation not permitted"),
    ])
    .await;
}

#[tokio::test]
async fn device_nodes_open_nothing() {
    refused(&[
        (
            "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
            "Permission denied",
        ),
        (
            "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg",
            "Permission denied",
        ),
        (
            "mknod /dev/shm/loop b 7 0 && head -c 1 /dev/shm/loop",
            "Permission denied",
        ),
        ("head -c 1 /dev/mem", "No such file or directory"),
        ("head -c 1 /dev/kmsg", "No such file or directory"),
    ])
    .await;
    // As part of a layer.
    let fixture = Fixture::new();
    for (name, major, minor) in [("loop", "7", "0"), ("disk", "8", "0")] {
        let path = fixture.path("lower").join(name);
        let made = std::process::Command::new("mknod")
            .arg(&path)
            .args(["b", major, minor])
            .status();
        assert!(made.expect("mknod runs").success());
        let ran = fixture.run(&format!("head -c 1 /{name}")).await;
        assert!(ran.stderr.contains("Permission denied"), "{ran:?}");
    }
}

#[tokio::test]
async fn the_service_cannot_be_traced_or_signalled() {
    let fixture = Fixture::new();
    let pid = std::process::id();
    // Attach, read memory, open, kill: 3 is ESRCH, no such process.
    let program = format!(
        "my $b = 'x' x 8; my $l = pack('PQ', $b, 8); my $m = pack('QQ', 4096, 8); for my $call ([101, 16, {pid}, 0, 0], [101, 0x4206, {pid}, 0, 0], [310, {pid}, $l, 1, $m, 1, 0], \
         [434, {pid}, 0], [62, {pid}, 9]) {{ $! = 0; my ($n, @a) = @$call; \
         my $r = @a == 2 ? syscall($n, $a[0], $a[1]) : @a == 4 ? syscall($n, @a[0..3]) : syscall($n, @a[0..5]); \
         print $r < 0 ? $!+0 : 'REACHED', ' '; }}"
    );
    // A process of that number may be in the sandbox, too, but only the first few are.
    assert!(pid > 100, "not a host where this can be told");
    let ran = perl(&fixture, &program).await;
    assert_eq!(ran.stdout, "3 3 3 3 3", "{ran:?}");
}

#[tokio::test]
async fn a_set_user_id_program_of_a_layer_gains_no_more_than_root_inside() {
    let fixture = Fixture::new();
    let path = fixture.path("lower/su");
    std::fs::copy("/bin/cat", &path).expect("copied");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o4755)).expect("mode");
    let mut spec = fixture.spec("/su /proc/self/status | grep -E '^(Uid|CapEff|CapBnd|Seccomp):'");
    spec.user = chalk_sandbox::User::Named("app".into());
    let ran = run(&spec).await.expect("runs");
    // Docker's fourteen, and no more; the filter holds.
    assert_eq!(
        ran.stdout,
        "Uid:\t1000\t0\t0\t0\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nSeccomp:\t2",
        "{ran:?}"
    );
}

#[tokio::test]
async fn the_program_of_the_service_cannot_be_overwritten() {
    // CVE-2019-5736: the command is a script that runs whatever program starts it, while another
    // process waits to open that for writing.
    let own = std::env::current_exe().expect("own path");
    let before = std::fs::read(&own).expect("own file");
    let fixture = Fixture::new();
    let script = fixture.path("lower/evil");
    std::fs::write(&script, "#!/proc/self/exe\n").expect("script");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("mode");
    let mut spec = fixture.spec("");
    spec.args = vec!["/evil".into()];
    let _ = run(&spec).await;
    let watch = "n=0; while [ $n -lt 300 ]; do n=$((n+1)); for p in /proc/[0-9]*; do \
                 [ $p = /proc/$$ ] && continue; \
                 case $(readlink $p/exe) in *runs-*|*chalk*) (echo overwritten > $p/exe) 2>/dev/null \
                 && echo WROTE $p;; esac; done; done; \
                 (exec 9> /proc/1/exe) 2>/dev/null && echo WROTE; echo tried";
    assert_eq!(fixture.run(watch).await.stdout, "tried");
    assert_eq!(std::fs::read(&own).expect("own file"), before);
}

#[tokio::test]
async fn open_files_of_the_host_are_not_passed_on() {
    let fixture = Fixture::new();
    let secret = fixture.path("secret");
    std::fs::write(&secret, "of the host").expect("written");
    let file = std::fs::File::open(&secret).expect("opened");
    // As a program opens it that knows nothing of other programs.
    // SAFETY: the descriptor is open; flags are a plain number.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
    assert_eq!(set, 0);
    // Of the shell's: standard ones alone; the last is the directory that `ls` reads.
    let ran = fixture.run("exec ls /proc/self/fd").await;
    assert_eq!(ran.stdout, "0\n1\n2\n3", "{ran:?}");
    let search = "for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null; done | grep -c secret";
    assert_eq!(fixture.run(search).await.stdout, "0");
    drop(file);
}

#[tokio::test]
async fn keys_of_the_host_are_not_seen() {
    let fixture = Fixture::new();
    // add_key, request_key, keyctl: 1 is EPERM.
    let program =
        "for my $n (248, 249, 250) { $! = 0; syscall($n, 0, 0, 0, 0, 0); print $!+0, ' ' }";
    assert_eq!(perl(&fixture, program).await.stdout, "1 1 1");
    assert_eq!(fixture.run("cat /proc/keys | wc -c").await.stdout, "0");
}

/// Whether the kernel can close abstract sockets to a process (Landlock ABI 6).
fn kernel_scopes_sockets() -> bool {
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag, the call takes no structure.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0,
            VERSION,
        )
    };
    abi >= 6
}

#[tokio::test]
async fn sockets_of_the_host_without_a_file_are_out_of_reach() {
    // CVE-2020-15257: whoever shares the host's network reached containerd's socket.
    let fixture = Fixture::new();
    let vsock = "socket(my $s, 40, 1, 0) or print $!+0";
    assert_eq!(perl(&fixture, vsock).await.stdout, "1");
    if !kernel_scopes_sockets() {
        eprintln!("NOT TESTED: this kernel cannot close abstract sockets");
        return;
    }
    let name = format!("chalk-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let listener = UnixListener::bind_addr(&address).expect("bound");
    listener.set_nonblocking(true).expect("set");
    let connect = format!(
        "use Socket; socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; \
         print connect($s, pack_sockaddr_un(\"\\0{name}\")) ? 'REACHED' : $!+0"
    );
    assert_eq!(perl(&fixture, &connect).await.stdout, "1");
    assert!(listener.accept().is_err(), "somebody came");
    // Its own work.
    let own = "use Socket; my $a = pack_sockaddr_un(\"\\0own-$$\"); socket(my $l, AF_UNIX, SOCK_STREAM, 0); \
               bind($l, $a) or die; listen($l, 1) or die; socket(my $s, AF_UNIX, SOCK_STREAM, 0); \
               print connect($s, $a) ? 'own' : $!";
    assert_eq!(perl(&fixture, own).await.stdout, "own");
}

#[tokio::test]
async fn nothing_is_typed_into_the_terminal_of_the_service() {
    // TIOCSTI, and TIOCLINUX, which does so on consoles.
    let fixture = Fixture::new();
    refused(&[("exec 9< /dev/tty", "No such device or address")]).await;
    let program = "for my $call (0x5412, 0x541c) { $! = 0; my $c = 'x'; \
                   print ioctl(STDIN, $call, $c) ? 'TYPED' : $!+0, ' ' }";
    // 25 is ENOTTY.
    assert_eq!(perl(&fixture, program).await.stdout, "25 25");
    // A terminal is the sandbox's own: the host's is another device.
    let mut spec = fixture.spec("tty; stat -c %t:%T $(tty)");
    spec.terminal = Some(TerminalSize { rows: 24, cols: 80 });
    let ran = run(&spec).await.expect("runs");
    assert!(ran.stdout.contains("/dev/pts/0"), "{ran:?}");
}

#[tokio::test]
async fn links_of_the_image_lead_nowhere_while_mounts_are_made() {
    // Mount points behind links, also such that change while the run begins.
    let fixture = Fixture::new();
    let outside = tempfile::tempdir().expect("outside");
    let mut file = std::fs::File::create(outside.path().join("passwd")).expect("made");
    file.write_all(b"of the host").expect("written");
    symlink(outside.path(), fixture.path("lower/mnt")).expect("link");
    let mut spec = fixture.spec("cat /mnt/passwd");
    spec.mounts.push(chalk_sandbox::Mount::File {
        contents: chalk_sandbox::Contents(b"evil".to_vec()),
        target: "/mnt/passwd".into(),
        uid: 0,
        gid: 0,
        mode: 0o644,
    });
    let _ = run(&spec).await;
    let mut kept = String::new();
    std::fs::File::open(outside.path().join("passwd"))
        .and_then(|mut file| file.read_to_string(&mut kept))
        .expect("read");
    assert_eq!(kept, "of the host");
    assert_eq!(
        std::fs::read_dir(outside.path()).expect("listed").count(),
        1
    );
}
