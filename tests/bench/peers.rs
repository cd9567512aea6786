//! The engines that ours is measured against: Debian's docker, containerd, runc, skopeo and umoci.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chalk_tests::{Service, run, tool};
use serde_json::{Map, Value, json};

/// Capabilities that Docker gives a container.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Docker's default filter as the containers project ships it.
const PROFILE: &str = "/usr/share/containers/seccomp.json";

/// Versions of programs, for the line below the table.
pub(crate) fn versions(programs: &[&str]) -> Value {
    let mut versions = Map::new();
    for name in programs {
        let (program, word) = match *name {
            "docker" => ("/usr/bin/docker", "--version"),
            "openssl" => ("openssl", "version"),
            other => (other, "--version"),
        };
        let said = run(&mut tool(program, [word])).ok().stdout;
        let digits = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        let line = said.lines().next().unwrap_or_default();
        let version = line.split([' ', ',']).find(digits).unwrap_or(line);
        versions.insert((*name).to_owned(), version.into());
    }
    versions.into()
}

/// Copies an image out of the registry into an OCI layout.
pub(crate) fn skopeo_copy(service: &Service, image: &str, layout: &Path) {
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!("docker://{image}"));
    run(skopeo.arg(format!("oci:{}:it", layout.display()))).ok();
}

/// Unpacks the image of a layout into a bundle.
pub(crate) fn umoci_unpack(layout: &Path, bundle: &Path) {
    let image = format!("{}:it", layout.display());
    run(tool("umoci", ["unpack", "--image", &image]).arg(bundle)).ok();
}

/// An unpacked bundle that runs `args` with Docker's capabilities and filter, on the host's
/// network, by `runc run`.
pub(crate) struct Bundle {
    folder: PathBuf,
    state: PathBuf,
}

impl Bundle {
    /// Makes it of a bundle that umoci unpacked.
    pub(crate) fn new(folder: &Path, state: &Path, args: &[&str]) -> Self {
        let file = folder.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(args);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(CAPABILITIES);
        }
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
        config["linux"]["seccomp"] = seccomp();
        fs::write(&file, config.to_string()).unwrap();
        Self {
            folder: folder.to_owned(),
            state: state.to_owned(),
        }
    }

    /// The command that runs it once.
    pub(crate) fn command(&self) -> Command {
        let mut runc = tool("runc", ["--root"]);
        runc.arg(&self.state).args(["run", "--bundle"]);
        runc.arg(&self.folder).arg("bench");
        runc
    }
}

/// The filter in the form that runtimes take (OCI runtime specification, `config-linux.md`): the
/// rules that hold for this processor and those capabilities.
fn seccomp() -> Value {
    let profile: Value = serde_json::from_slice(&fs::read(PROFILE).unwrap()).unwrap();
    let has = |list: &Value, word: &str| {
        let list = list.as_array();
        list.is_some_and(|list| list.iter().any(|entry| entry == word))
    };
    let capable = |list: &Value| {
        let list = list.as_array().into_iter().flatten();
        let mut words = list.filter_map(Value::as_str);
        words.all(|word| CAPABILITIES.contains(&word))
    };
    let holds = |rule: &&Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let arch = includes["arches"].is_null() || has(&includes["arches"], "amd64");
        let excluded = excludes["caps"].is_array() && capable(&excludes["caps"]);
        arch && capable(&includes["caps"]) && !excluded && !has(&excludes["arches"], "amd64")
    };
    let rules = profile["syscalls"].as_array().unwrap();
    let rules: Vec<Value> = rules
        .iter()
        .filter(holds)
        .map(|rule| {
            let mut kept = json!({"names": rule["names"], "action": rule["action"]});
            if rule["args"].as_array().is_some_and(|args| !args.is_empty()) {
                kept["args"] = rule["args"].clone();
            }
            if !rule["errnoRet"].is_null() {
                kept["errnoRet"] = rule["errnoRet"].clone();
            }
            kept
        })
        .collect();
    json!({
        "defaultAction": profile["defaultAction"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}
