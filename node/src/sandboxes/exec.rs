//! A further process in a sandbox.

use std::sync::Arc;

use chalk_core::wire::{ExecRequest, Problem, SandboxProcess};
use chalk_sandbox::{ExecSpec, Stdin, User};

use super::config::further_process;
use super::log::Log;
use super::plan::terminal_size;
use super::problems::{bad_request, internal, not_running, of_sandbox};
use super::process::{Process, exit_code};
use super::{MAIN, Shared, below};

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
    let surroundings = entry.main().clone();
    let surroundings =
        surroundings.ok_or_else(|| not_running("the sandbox does not run yet", ""))?;
    let process = further_process(&surroundings, &request)?;
    let mut spec = ExecSpec::new(process.args);
    spec.env = process.env;
    spec.cwd = process.workdir.into();
    spec.user = User::Named(process.user);
    spec.terminal = request.tty.map(terminal_size);
    if request.stdin {
        spec.stdin = Stdin::Stream;
    }
    let mut running = handle
        .exec(&spec)
        .await
        .map_err(|error| of_sandbox(&error))?;

    let log = Log::create(output, shared.settings.log_limit, true)
        .map_err(|error| internal("the output of the process cannot be kept", &error))?;
    let process = Arc::new(Process::new(log));
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
    process.connect(&mut running).await;
    if !request.stdin {
        // A terminal can be typed into even so; only who asked may.
        process.forget_input().await;
    }
    let task = Arc::clone(&process);
    let cancel = entry.cancel.clone();
    tokio::spawn(async move {
        let exit = task.wait(running, &cancel).await;
        task.finish(&exit_code(&exit).map(|code| (code, None)));
    });
    Ok(SandboxProcess {
        sandbox: sandbox.to_owned(),
        process: name,
    })
}
