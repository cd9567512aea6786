//! A further process in a sandbox.

use std::sync::Arc;
use std::time::Duration;

use chalk_core::wire::{ExecRequest, Problem, SandboxProcess};
use chalk_sandbox::{ExecSpec, Stdin, User};

use super::config::further_process;
use super::log::Log;
use super::plan::terminal_size;
use super::problems::{bad_request, node_failed, not_running, of_sandbox};
use super::process::{Process, how_ended};
use super::{Entry, MAIN, Shared, below};

/// How many ended processes of a sandbox are kept, with their output.
const KEPT: usize = 64;

/// Starts it; whether it can be executed is told by the end of its output.
pub(super) async fn start(
    shared: &Arc<Shared>,
    sandbox: &str,
    name: String,
    request: ExecRequest,
) -> Result<SandboxProcess, Problem> {
    let entry = shared.entry(sandbox)?;
    let output = shared.records.output(sandbox, &name);
    if below(&shared.settings.records, &name).is_none() || name == MAIN {
        return Err(bad_request(
            "no name for a process",
            &format!("`{name}`"),
            "",
        ));
    }
    let main = entry.processes().get(MAIN).cloned();
    let main = main.ok_or_else(|| not_running("the sandbox is gone", ""))?;
    let ended = |problem: Problem| Problem {
        title: "the sandbox does not run any more".to_owned(),
        ..problem
    };
    let handle = main.running().await.map_err(ended)?;
    let timeout = request.timeout_seconds.map(|seconds| {
        let time = Duration::try_from_secs_f64(seconds).ok();
        time.filter(|time| !time.is_zero()).ok_or_else(|| {
            let detail = format!("{seconds} stands there");
            bad_request("the time limit is no number of seconds", &detail, "")
        })
    });
    let surroundings = entry.main().clone();
    let surroundings =
        surroundings.ok_or_else(|| not_running("the sandbox does not run yet", ""))?;
    let process = further_process(&surroundings, &request)?;
    let mut spec = ExecSpec::new(process.args);
    spec.env = process.env;
    spec.cwd = process.workdir.into();
    spec.user = User::Named(process.user);
    spec.timeout = timeout.transpose()?;
    spec.terminal = request.tty.map(terminal_size);
    if request.stdin {
        spec.stdin = Stdin::Stream;
    }
    let mut running = handle
        .exec(&spec)
        .await
        .map_err(|error| of_sandbox(&error))?;

    let log = Log::create(output, shared.settings.log_limit, true)
        .map_err(|error| node_failed("the output of the process cannot be kept", &error))?;
    let process = Arc::new(Process::further(log, &request));
    {
        let mut processes = entry.processes();
        if processes.contains_key(&name) {
            return Err(bad_request(
                "the sandbox has such a process already",
                &format!("`{name}`"),
                "",
            ));
        }
        processes.insert(name.clone(), Arc::clone(&process));
    }
    process.connect(&mut running, request.stdin).await;
    let ended = name.clone();
    tokio::spawn(async move {
        let exit = process.wait(running, &entry.cancel).await;
        process.finish(&how_ended(&exit));
        drop(process);
        forget_oldest(&entry, ended);
    });
    Ok(SandboxProcess {
        sandbox: sandbox.to_owned(),
        process: name,
    })
}

/// Takes note of the end of a process, and forgets the one that ended first when too many have.
fn forget_oldest(entry: &Entry, name: String) {
    let oldest = {
        let mut ended = entry.ended();
        ended.push_back(name);
        if ended.len() <= KEPT {
            return;
        }
        ended.pop_front()
    };
    let process = oldest.and_then(|name| entry.processes().remove(&name));
    if let Some(process) = process {
        tokio::task::spawn_blocking(move || process.log().discard());
    }
}
