//! Devices by the Container Device Interface: files that vendors put on the host, which say what
//! a container needs for a device (`github.com/cncf-tags/container-device-interface`, `SPEC.md`,
//! versions 0.3.0 to 1.1.0).
//!
//! Why not the crate `container-device-interface`: it edits an OCI runtime configuration, of which
//! there is none here, and brings a JSON-schema engine and a file watcher (400 crates).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chalk_core::wire::Problem;
use chalk_sandbox::Mount;
use serde::Deserialize;

use super::problems::{bad_request, not_found};

/// Longest spec file that is read.
const MAX_FILE: u64 = 16 << 20;

/// The kind that `--gpus` means where several are there.
const GPU_KIND: &str = "nvidia.com/gpu";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cdi_version: String,
    /// `vendor/class`.
    kind: String,
    devices: Vec<DeviceSpec>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceSpec {
    /// A number is taken as its digits, which YAML does not tell apart.
    #[serde(deserialize_with = "name")]
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<MountSpec>,
    hooks: Vec<Hook>,
    /// Intel's resource directories; nothing here has any.
    intel_rdt: Option<serde_json::Value>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    kind: Option<String>,
    permissions: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MountSpec {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: String,
}

/// What a sandbox gets for its devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub(super) env: Vec<(String, String)>,
    /// Path on the host and inside.
    pub(super) nodes: Vec<(PathBuf, PathBuf)>,
    pub(super) mounts: Vec<Mount>,
    pub(super) groups: Vec<u32>,
    pub(super) warnings: Vec<String>,
}

/// Finds the devices that are asked for: `gpus` (`all` or a number) and names of the form
/// `vendor/class=name`.
pub(super) fn resolve(
    dirs: &[PathBuf],
    gpus: Option<&str>,
    names: &[String],
) -> Result<Devices, Problem> {
    let mut found = Devices::default();
    if gpus.is_none() && names.is_empty() {
        return Ok(found);
    }
    let registry = Registry::read(dirs);
    let mut wanted = match gpus {
        Some(gpus) => registry.gpus(gpus)?,
        None => Vec::new(),
    };
    wanted.extend(names.iter().cloned());
    let mut edited: Vec<&Path> = Vec::new();
    for name in &wanted {
        let (file, spec, device) = registry.device(name)?;
        // What all devices of a file need comes once.
        if !edited.contains(&file) {
            edited.push(file);
            found.add(name, &spec.container_edits)?;
        }
        found.add(name, &device.container_edits)?;
    }
    Ok(found)
}

impl Devices {
    fn add(&mut self, device: &str, edits: &Edits) -> Result<(), Problem> {
        for variable in &edits.env {
            let (name, value) = variable
                .split_once('=')
                .ok_or_else(|| damaged(device, &format!("`{variable}` is no NAME=VALUE")))?;
            self.env.push((name.to_owned(), value.to_owned()));
        }
        for node in &edits.device_nodes {
            let source = node.host_path.as_ref().unwrap_or(&node.path);
            if !source.is_absolute() || !node.path.is_absolute() {
                let detail = format!("the device node `{}` is no absolute path", source.display());
                return Err(damaged(device, &detail));
            }
            if node.kind.as_deref() == Some("p") {
                let detail = format!("`{}` is a FIFO, which is no device", source.display());
                return Err(damaged(device, &detail));
            }
            if let Some(permissions) = &node.permissions
                && !(permissions.contains('r') && permissions.contains('w'))
            {
                self.warnings.push(format!(
                    "{device}: the permissions `{permissions}` of {} are not enforced beyond \
                     those of the device node itself",
                    node.path.display()
                ));
            }
            let pair = (source.clone(), node.path.clone());
            if !self.nodes.contains(&pair) {
                self.nodes.push(pair);
            }
        }
        for mount in &edits.mounts {
            self.mounts.push(Mount::Bind {
                source: mount.host_path.clone(),
                target: mount.container_path.clone(),
                read_only: mount.options.iter().any(|option| option == "ro"),
            });
        }
        for hook in &edits.hooks {
            self.warnings.push(format!(
                "{device}: the {} hook {} was not run: hooks expect an OCI runtime's container; \
                 what it would do in the image (links, the loader's cache) may be missing",
                hook.hook_name, hook.path
            ));
        }
        if edits.intel_rdt.is_some() {
            self.warnings
                .push(format!("{device}: `intelRdt` has no effect"));
        }
        self.groups.extend(&edits.additional_gids);
        Ok(())
    }
}

/// All spec files of a host.
#[derive(Debug, Default)]
struct Registry {
    /// Files by directory; later directories come before earlier ones.
    files: Vec<Vec<(PathBuf, Spec)>>,
    /// Files that could not be read, and why.
    broken: Vec<String>,
    dirs: Vec<PathBuf>,
}

impl Registry {
    fn read(dirs: &[PathBuf]) -> Registry {
        let mut registry = Registry {
            dirs: dirs.to_vec(),
            ..Registry::default()
        };
        // Directories are given in the order of growing priority.
        for dir in dirs.iter().rev() {
            let mut paths: Vec<PathBuf> = fs::read_dir(dir)
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            paths.sort();
            let mut files = Vec::new();
            for path in paths {
                match read_spec(&path) {
                    None => {}
                    Some(Ok(spec)) => files.push((path, spec)),
                    Some(Err(reason)) => {
                        registry
                            .broken
                            .push(format!("{}: {reason}", path.display()));
                    }
                }
            }
            registry.files.push(files);
        }
        registry
    }

    /// The file with a device, and the device.
    fn device(&self, name: &str) -> Result<(&Path, &Spec, &DeviceSpec), Problem> {
        let Some((kind, device)) = name.split_once('=') else {
            return Err(bad_request(
                "no name of a device",
                &format!("`{name}` stands there, `vendor/class=name` is expected"),
                "such as nvidia.com/gpu=0",
            ));
        };
        for files in &self.files {
            let mut matching = files.iter().filter_map(|(path, spec)| {
                let found = spec.devices.iter().find(|found| found.name == device)?;
                (spec.kind == kind).then_some((path.as_path(), spec, found))
            });
            match (matching.next(), matching.next()) {
                (None, _) => {}
                (Some(found), None) => return Ok(found),
                (Some((first, ..)), Some((second, ..))) => {
                    return Err(damaged(
                        name,
                        &format!("both {} and {} name it", first.display(), second.display()),
                    ));
                }
            }
        }
        Err(self.missing(&format!("there is no device `{name}` on this node")))
    }

    /// Names of the GPUs that `all` or a number means.
    fn gpus(&self, wanted: &str) -> Result<Vec<String>, Problem> {
        let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (_, spec) in self.files.iter().flatten() {
            if spec.kind.ends_with("/gpu") {
                let names = kinds.entry(&spec.kind).or_default();
                names.extend(spec.devices.iter().map(|device| device.name.as_str()));
            }
        }
        let (kind, names) = match (kinds.get_key_value(GPU_KIND), kinds.len()) {
            (Some(found), _) => found,
            (None, 1) => match kinds.iter().next() {
                Some(found) => found,
                None => return Err(self.missing("there are no GPUs on this node")),
            },
            (None, 0) => return Err(self.missing("there are no GPUs on this node")),
            (None, _) => {
                let kinds: Vec<&str> = kinds.into_keys().collect();
                return Err(bad_request(
                    "which GPUs are meant cannot be told",
                    &format!("this node has {}", kinds.join(", ")),
                    "name them: --device vendor/gpu=0",
                ));
            }
        };
        let qualified = |name: &str| format!("{kind}={name}");
        // `all` is a device of its own in the files of NVIDIA, besides the single ones.
        let mut single: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| *name != "all")
            .collect();
        // Numbers first, in their order; names by UUID may mean the same devices again.
        single.sort_by_key(|name| (name.parse::<u32>().unwrap_or(u32::MAX), *name));
        single.dedup();
        if single.iter().any(|name| name.parse::<u32>().is_ok()) {
            single.retain(|name| name.parse::<u32>().is_ok());
        }
        if wanted == "all" {
            return Ok(if names.contains(&"all") {
                vec![qualified("all")]
            } else {
                single.into_iter().map(qualified).collect()
            });
        }
        let count: usize = match wanted.parse() {
            Ok(count @ 1..) => count,
            _ => {
                return Err(bad_request(
                    "no number of GPUs",
                    &format!("`{wanted}` stands there, `all` or a number from 1 on is expected"),
                    "",
                ));
            }
        };
        if count > single.len() {
            return Err(self.missing(&format!(
                "{count} GPUs are asked for, this node has {}",
                single.len()
            )));
        }
        Ok(single.into_iter().take(count).map(qualified).collect())
    }

    fn missing(&self, detail: &str) -> Problem {
        let dirs: Vec<String> = self
            .dirs
            .iter()
            .map(|dir| dir.display().to_string())
            .collect();
        let mut problem = not_found("the device is not there", detail);
        problem.hint = format!("CDI specs are read from {}", dirs.join(" and "));
        if !self.broken.is_empty() {
            problem.hint = format!("{}; not usable: {}", problem.hint, self.broken.join("; "));
        }
        problem
    }
}

/// Reads a spec file; `None` for files that are none by their names.
fn read_spec(path: &Path) -> Option<Result<Spec, String>> {
    let json = match path.extension()?.to_str()? {
        "json" => true,
        "yaml" | "yml" => false,
        _ => return None,
    };
    let read = || -> Result<Spec, String> {
        let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
        if size > MAX_FILE {
            return Err(format!("{size} bytes, at most {MAX_FILE} are read"));
        }
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let spec: Spec = if json {
            serde_json::from_str(&text).map_err(|error| error.to_string())?
        } else {
            serde_saphyr::from_str(&text).map_err(|error| error.to_string())?
        };
        check(&spec)?;
        Ok(spec)
    };
    Some(read())
}

fn check(spec: &Spec) -> Result<(), String> {
    let mut version = spec.cdi_version.split('.').map(str::parse::<u32>);
    match (version.next(), version.next()) {
        (Some(Ok(0)), Some(Ok(3..=8))) | (Some(Ok(1)), Some(Ok(0..=1))) => {}
        _ => {
            return Err(format!(
                "cdiVersion `{}` is not known here (0.3.0 to 1.1.0 are)",
                spec.cdi_version
            ));
        }
    }
    match spec.kind.split_once('/') {
        Some((vendor, class)) if !vendor.is_empty() && !class.is_empty() => Ok(()),
        _ => Err(format!("kind `{}` is not `vendor/class`", spec.kind)),
    }
}

fn name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Name {
        Text(String),
        Number(u64),
    }
    Ok(match Name::deserialize(deserializer)? {
        Name::Text(text) => text,
        Name::Number(number) => number.to_string(),
    })
}

fn damaged(device: &str, detail: &str) -> Problem {
    bad_request(
        &format!("the CDI spec of `{device}` cannot be followed"),
        detail,
        "ask whoever runs the node to mend it",
    )
}

#[cfg(test)]
mod tests;
