//! The Debian package in a bare Debian that was booted: installed, used as the README says, upgraded,
//! removed, purged.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Options;
use machine::{Bind, Machine};

use crate::host::{self, Package, package as needed};
use crate::run::{self, Failure, Result, at};
use crate::{base, compile, package};

mod machine;

const PACKAGES: [Package; 3] = [
    needed("mmdebstrap", "/usr/bin/mmdebstrap"),
    needed(
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
    ),
    needed("systemd-container", "/usr/bin/systemd-nspawn"),
];

/// What the root is made of; with it lie, not installed, what the package will ask for.
const INCLUDE: &str = "systemd-sysv";
const DOWNLOAD: &str =
    r#"chroot "$1" apt-get -qq -y --no-install-recommends --download-only install ca-certificates"#;

/// What lasts a few seconds need not be synced.
const UNSAFE_IO: &str = r#"echo force-unsafe-io > "$1/etc/dpkg/dpkg.cfg.d/unsafe-io""#;

/// Version of the package that the other one takes the place of.
const OLDER: &str = "0.0.1-1";

/// Certificates and proxies of this machine, which the root does not know by itself.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Where things of this machine are in the root.
const OLD_DEB: &str = "/mnt/old.deb";
const NEW_DEB: &str = "/mnt/new.deb";
const BASE: &str = "/mnt/base";
const EXAMPLES: &str = "/mnt/examples";
const TRUSTED: &str = "/mnt/authorities.crt";

/// A declaration one of whose steps is not root's.
const OTHER_USER: &str = r#"[image]
debian_slim = "3.12"

[[step]]
run_commands = ["setpriv --reuid=nobody --regid=nogroup --clear-groups cat /etc/resolv.conf /etc/debian_version"]
"#;

/// Runs the package through its life, with a small example or, where the filter is `quickstart`, with the
/// README's own.
///
/// # Errors
/// When anything is not as it should be; the root's journal is printed then.
pub(super) fn check(options: &Options) -> Result<String> {
    host::install(&PACKAGES)?;
    let chalk = compile::chalk("dev")?;
    let debs = package::make(&chalk, true, [Some(OLDER), None])?;
    let home = host::target().join("installed");
    let bare = bare(&home)?;
    sweep(&home)?;
    let root = home.join(format!("root-{}", std::process::id()));
    // What the whole-system tests build anyway takes a minute.
    let example = match &options.filter {
        Some(filter) if "quickstart".contains(filter.as_str()) => "quickstart",
        _ => "with-files",
    };
    let outcome = copy(&bare, &root).and_then(|()| life(&root, &debs, example));
    let removed = run::remove(&root).and_then(|()| run::remove(&root.with_extension("log")));
    outcome?;
    removed?;
    Ok(suite())
}

/// Removes what runs left that were killed.
fn sweep(home: &Path) -> Result<()> {
    for entry in fs::read_dir(home).map_err(at(home))? {
        let path = entry.map_err(at(home))?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let process = name
            .strip_prefix("root-")
            .map(|pid| Path::new("/proc").join(pid));
        if process.is_some_and(|process| !process.exists()) {
            run::remove(&path)?;
        }
    }
    Ok(())
}

/// A bare Debian, made on the first call.
fn bare(home: &Path) -> Result<PathBuf> {
    let (root, stamp) = (home.join("bare"), home.join("recipe"));
    let suite = suite();
    let recipe = format!("1\n{suite}\n{INCLUDE}\n{DOWNLOAD}\n{UNSAFE_IO}\n");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) && root.is_dir() {
        return Ok(root);
    }
    fs::create_dir_all(home).map_err(at(home))?;
    run::remove(&stamp)?;
    run::remove(&root)?;
    eprintln!("making a bare Debian with mmdebstrap (kept for next time)");
    let text = root.display().to_string();
    run::capture(&mut host::as_root(
        "mmdebstrap",
        [
            "--quiet",
            "--variant=minbase",
            "--format=directory",
            // So that apt finds what it has downloaded.
            "--skip=cleanup/apt",
            &format!("--include={INCLUDE}"),
            &format!("--customize-hook={DOWNLOAD}"),
            &format!("--customize-hook={UNSAFE_IO}"),
            &suite,
            &text,
        ],
    )?)?;
    fs::write(&stamp, recipe).map_err(at(&stamp))?;
    Ok(root)
}

/// The release of Debian: this machine's own, whose C library the program was built with; a new one where
/// this is no Debian.
fn suite() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find_map(|(key, value)| (key == name).then(|| value.trim_matches('"').to_owned()))
    };
    match (field("ID").as_deref(), field("VERSION_CODENAME")) {
        (Some("debian"), Some(name)) => name,
        _ => "trixie".to_owned(),
    }
}

fn copy(bare: &Path, root: &Path) -> Result<()> {
    let (bare, root) = (bare.display().to_string(), root.display().to_string());
    let words = ["--archive", "--reflink=auto", &bare, &root];
    run::capture(&mut host::as_root("cp", words)?).map(drop)
}

fn life(root: &Path, debs: &[PathBuf], example: &str) -> Result<()> {
    let [older, newer] = debs else {
        return Err(wrong("packages made", debs));
    };
    let binds = [
        Bind(older.clone(), OLD_DEB),
        Bind(newer.clone(), NEW_DEB),
        Bind(base::stand_in()?, BASE),
        Bind(host::workspace().join("examples"), EXAMPLES),
        Bind(PathBuf::from(AUTHORITIES), TRUSTED),
    ];
    machine::run(root, &binds, &before_the_boot()?)?;
    let mut machine = Machine::boot(root, &binds)?;
    let outcome = started(&machine)
        .and_then(|()| quick_start(&machine, example))
        .and_then(|image| {
            node(&machine, &image)?;
            upgraded(&machine, &image)?;
            removed(&machine)
        });
    if outcome.is_err() {
        let words = ["journalctl", "--no-pager", "--unit=chalk-*", "--lines=100"];
        eprintln!("{}", machine.run(&words).unwrap_or_default());
    }
    machine.off();
    outcome
}

/// What is done in the root while nothing runs in it, as in a chroot: the package is installed, twice for
/// its scripts, and set up.
fn before_the_boot() -> Result<String> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = port.map_err(at("127.0.0.1"))?.port();
    let mut variables = format!("SSL_CERT_FILE={TRUSTED}\n");
    for name in PROXIES {
        if let Ok(value) = std::env::var(name) {
            variables += &format!("{name}={value}\n");
        }
    }
    let unit = machine::UNIT;
    Ok(format!(
        r#"set -eux
# What root has built keeps its owners.
install -D /dev/null /var/lib/chalk/lock
if apt-get -qq -y --no-install-recommends install {OLD_DEB}; then exit 1; fi
rm -r /var/lib/chalk
apt-get -qq -y --no-install-recommends install {OLD_DEB}
/var/lib/dpkg/info/chalk.postinst configure
test "$(grep -c '^_chalk:[0-9]*:65536$' /etc/subuid)" = 1
test "$(grep -c '^_chalk:[0-9]*:65536$' /etc/subgid)" = 1
test -e /etc/systemd/system/multi-user.target.wants/chalk-service.service
test ! -e /etc/systemd/system/multi-user.target.wants/chalk-node.service
test ! -e /var/lib/chalk
test "$(dpkg-query --show --showformat '${{Version}}' chalk)" = {OLDER}
for page in chalk chalk-serve chalk-compute-image-build; do
    zcat /usr/share/man/man1/$page.1.gz | grep -q '^\.TH'
done
bash -n /usr/share/bash-completion/completions/chalk
grep -q '^#compdef chalk' /usr/share/zsh/vendor-completions/_chalk
grep -q 'complete -c chalk' /usr/share/fish/vendor_completions.d/chalk.fish
# What the settings offer behind `#` is what the program takes.
for name in service node; do
    sed 's/^#\([a-z]\)/\1/' /etc/chalk/$name.toml > /tmp/all.toml
    ! cmp -s /etc/chalk/$name.toml /tmp/all.toml
    chalk config show --config /tmp/all.toml > /dev/null
done
sed -i 's/^\[serve\]$/[serve]\nlisten = "127.0.0.1:{port}"/' /etc/chalk/service.toml
cat > /etc/chalk/service.env <<'END'
{variables}END
cat > /etc/systemd/system/like-a-machine.service <<'END'
{unit}END
systemctl --quiet enable like-a-machine.service
# Its terminals are those of this machine.
systemctl --quiet mask getty.target
"#
    ))
}

/// The service runs as its user, and the units are what systemd expects.
fn started(machine: &Machine) -> Result<()> {
    machine.wait(&["systemctl", "--quiet", "is-active", "chalk-service"])?;
    let units = [
        "/usr/lib/systemd/system/chalk-service.service",
        "/usr/lib/systemd/system/chalk-node.service",
    ];
    let words = ["systemd-analyze", "verify", "--man=no"];
    machine.run(&[&words[..], &units].concat())?;
    let pid = main_process(machine, "chalk-service")?;
    let status = machine.run(&["cat", &format!("/proc/{pid}/status")])?;
    let user = machine.run(&["id", "--user", "_chalk"])?;
    let uid = format!("Uid:\t{}\t", user.trim());
    expect(status.contains(&uid), "the service runs as _chalk", &status)?;
    let node = machine.run(&["systemctl", "show", "--property=ActiveState", "chalk-node"])?;
    expect(node.trim() == "ActiveState=inactive", "no node runs", &node)
}

/// What the README begins with, on an example; gives the hash of the image.
fn quick_start(machine: &Machine, example: &str) -> Result<String> {
    let chalk = |words: &[&str]| machine.json(&[&["chalk", "compute", "image"], words].concat());
    chalk(&["import", BASE, "--as", base::REFERENCE, "--json"])?;
    let file = format!("{EXAMPLES}/{example}/image.toml");
    let hash = chalk(&["hash", &file, "--json"])?;
    let built = chalk(&["build", &file, "--name", "team/app:v1", "--json"])?;
    expect(built["status"] == "built", "it is built", &built)?;
    expect(
        built["image_hash"] == hash["image_hash"],
        "it has the hash that was told",
        &built,
    )?;
    let again = chalk(&["build", &file, "--json"])?;
    expect(again["status"] == "reused", "it is skipped", &again)?;
    // The service makes its files for itself alone; users in a step see what the image lets them.
    machine.run(&[
        "sh",
        "-c",
        &format!("cat > /tmp/image.toml <<'END'\n{OTHER_USER}END\n"),
    ])?;
    let other = chalk(&["build", "/tmp/image.toml", "--json"])?;
    expect(
        other["status"] == "built",
        "another user sees the files",
        &other,
    )?;
    let text = built["image_hash"].as_str().unwrap_or_default();
    Ok(text.trim_start_matches("sha256:").to_owned())
}

/// The node joins the service of its host, and runs a sandbox.
fn node(machine: &Machine, image: &str) -> Result<()> {
    machine.run(&["systemctl", "--quiet", "enable", "--now", "chalk-node"])?;
    let ready = r#"chalk compute node ls --json | grep -q '"state": *"ready"'"#;
    machine.wait(&["sh", "-c", ready])?;
    sandbox(machine, image)
}

fn sandbox(machine: &Machine, image: &str) -> Result<()> {
    let words = ["chalk", "compute", "sandbox", "run", "--image", image, "--"];
    let program = ["python3", "-c", "import requests, os; print(os.getcwd())"];
    let said = machine.run(&[&words[..], &program].concat())?;
    expect(said == "/app\n", "a sandbox runs on the image", &said)
}

/// A newer package takes the place of the old one: the service is another process, the node the same, and
/// state and settings are kept.
fn upgraded(machine: &Machine, image: &str) -> Result<()> {
    let processes = || -> Result<(String, String)> {
        let service = main_process(machine, "chalk-service")?;
        Ok((service, main_process(machine, "chalk-node")?))
    };
    let before = processes()?;
    let said = apt(machine, &["install", NEW_DEB])?;
    let told = said.contains("chalk-node goes on as version");
    expect(told, "it is said that the node is the old one", &said)?;
    machine.wait(&["systemctl", "--quiet", "is-active", "chalk-service"])?;
    let after = processes()?;
    expect(before.0 != after.0, "the service is another", &after)?;
    expect(before.1 == after.1, "the node is the same", &after)?;
    let words = ["grep", "--count", "^listen = ", "/etc/chalk/service.toml"];
    machine.run(&words)?;
    let show = ["chalk", "compute", "image", "show", "team/app:v1", "--json"];
    let shown = machine.json(&show)?;
    expect(shown.to_string().contains(image), "it is there", &shown)?;
    // The program of the node's process is gone from the disk.
    sandbox(machine, image)
}

/// Removed, it leaves state and settings, and purged nothing.
fn removed(machine: &Machine) -> Result<()> {
    apt(machine, &["remove", "chalk"])?;
    machine.run(&["sh", "-c", r#"test -z "$(pidof chalk)""#])?;
    machine.run(&[
        "test",
        "-e",
        "/var/lib/chalk/version",
        "-a",
        "-e",
        "/etc/chalk/service.toml",
    ])?;
    apt(machine, &["purge", "chalk"])?;
    let left = "ls -d /var/lib/chalk* /etc/chalk /usr/bin/chalk /usr/share/doc/chalk \
                /etc/systemd/system/*/chalk-* /etc/systemd/system/chalk-* 2> /dev/null || true";
    let left = machine.run(&["sh", "-c", left])?;
    expect(left.is_empty(), "nothing is left", &left)?;
    let failed = machine.run(&["systemctl", "list-units", "--failed", "--no-legend"])?;
    expect(failed.is_empty(), "no unit failed", &failed)
}

fn apt(machine: &Machine, words: &[&str]) -> Result<String> {
    let apt = ["apt-get", "-qq", "-y", "--no-install-recommends"];
    machine.run(&[&apt, words].concat())
}

fn main_process(machine: &Machine, unit: &str) -> Result<String> {
    let words = ["systemctl", "show", "--property=MainPID", "--value", unit];
    let pid = machine.run(&words)?.trim().to_owned();
    expect(pid != "0", "it has a process", unit)?;
    Ok(pid)
}

fn expect<T: std::fmt::Debug + ?Sized>(holds: bool, what: &str, found: &T) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(wrong(what, found)),
    }
}

fn wrong<T: std::fmt::Debug + ?Sized>(what: &str, found: &T) -> Failure {
    Failure::Other(format!("expected that {what}, found {found:#?}"))
}

/// Reads what a command printed.
fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| wrong(&format!("it is JSON ({error})"), text))
}
