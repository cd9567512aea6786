//! Debian's `docker-registry`, under the same torture.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::check::{Check, Violation, Wrong};
use crate::client::Client;
use crate::clients::Shared;
use crate::disk::{self, Disk};
use crate::plan::{Act, Kind, Plan};
use crate::process::Process;
use crate::proxy;
use crate::setting::Setting;
use crate::trial;
use crate::trial::{Outcome, Side};
use crate::work::Work;

/// The program.
pub(crate) const PROGRAM: &str = "/usr/bin/docker-registry";
/// Longest that a start may take.
const START: Duration = Duration::from_secs(30);

/// Starts it with its data in `data`.
///
/// # Errors
/// When it does not start.
fn start(data: &Path, folder: &Path) -> Result<Process, String> {
    let mut last = String::new();
    // Somebody may take the port between the look and the start.
    for _ in 0..5 {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = port.map_err(|error| error.to_string())?;
        let config = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
            data.display()
        );
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(&config);
        let log = folder.join("registry.log");
        let mut process = Process::start(&mut command, &log, format!("http://{address}"));
        let until = Instant::now() + START;
        while Instant::now() < until {
            if process.ended().is_some() {
                break;
            }
            if TcpStream::connect(address).is_ok() {
                return Ok(process);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        process.kill();
        last = fs::read_to_string(&log).unwrap_or_default();
    }
    Err(format!("docker-registry does not start: {last}"))
}

/// Runs the registry part of a trial against it.
pub(crate) async fn trial(setting: &Setting, plan: &Plan) -> Outcome {
    let began = Instant::now();
    let folder = setting.folder.join(format!("peer-{}", plan.number));
    let mut disk = Disk::copy(&folder, &setting.empty);
    let shared: Arc<Shared> = Arc::default();
    let violations = match registry_part(&mut disk, plan, &shared).await {
        Ok(violations) => violations,
        Err(what) => vec![Violation {
            wrong: Wrong::Service,
            what,
        }],
    };
    Outcome {
        side: Side::Peer,
        acknowledged: shared.facts.count(),
        violations,
        passed: BTreeSet::new(),
        died_at: None,
        seconds: began.elapsed().as_secs_f64(),
        log: String::new(),
    }
}

/// What of a trial any registry can do, and the same fault; for a failpoint, which it has not, some
/// moment.
async fn registry_part(
    disk: &mut Disk,
    plan: &Plan,
    shared: &Arc<Shared>,
) -> Result<Vec<Violation>, String> {
    let data = disk.path().join("registry");
    let mut registry = start(&data, disk.folder())?;
    let mut network = None;
    let mut url = registry.url.clone();
    if plan.kind() == Kind::Network {
        let address = url.trim_start_matches("http://").parse();
        let address = address.map_err(|_| format!("{url} is no address"))?;
        let (torn, task) = proxy::start(plan.network, address).await;
        network = Some(task);
        url = torn;
    }
    let mut work = Work::start(&Client::new(&url, None), shared, plan, Act::is_of_registry);
    let limit = match plan.kind() {
        Kind::Network | Kind::Rot => None,
        _ => Some(Duration::from_millis(plan.fault.after)),
    };
    // What it refuses is another suite's matter.
    let (_, mut died) = work.until(&mut registry, limit).await;
    if plan.kind() == Kind::Full {
        disk.fill(plan.fault.room);
        let (_, early) = work.until(&mut registry, Some(trial::PATIENCE)).await;
        died |= early;
        disk.empty();
    }
    if !died {
        registry.kill();
    }
    if let Some(network) = network {
        network.abort();
    }
    work.drain().await;
    let mut rotten = BTreeSet::new();
    match plan.kind() {
        Kind::Power => disk.lose_power_when_free()?,
        Kind::Rot => rotten = disk::rot_some(&blobs(&data), &plan.fault.rotten),
        _ => {}
    }
    let registry = start(&data, disk.folder())?;
    let client = Client::new(&registry.url, None);
    let mut check = Check::new(&client, shared, &rotten);
    // It leaves the tags of a manifest that is deleted, with or without a fault.
    check.tags_stay = true;
    check.registry().await;
    let violations = std::mem::take(&mut check.violations);
    registry.kill();
    Ok(violations)
}

/// Files of its blobs, with their digests.
fn blobs(data: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let folder = data.join("docker/registry/v2/blobs/sha256");
    for shard in fs::read_dir(folder).into_iter().flatten().flatten() {
        for blob in fs::read_dir(shard.path()).into_iter().flatten().flatten() {
            let digest = format!("sha256:{}", blob.file_name().to_string_lossy());
            found.push((digest, blob.path().join("data")));
        }
    }
    found.sort();
    found
}
