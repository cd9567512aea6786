//! `sandbox`: commands on images.

mod attach;
mod copy;
mod keys;
mod mounts;
mod run;
mod terminal;

use chalk_core::wire::{
    ExecRequest, OutputEvent, Sandbox, SandboxEnd, SandboxProcess, SandboxState, StopRequest,
};
use serde_json::json;

use crate::cli;
use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::harmless;
use crate::quantity;
use crate::settings::Loaded;
use attach::{Attach, Printer};

pub(crate) async fn sandbox(
    verb: cli::Sandbox,
    loaded: &Loaded,
    json: bool,
) -> Result<(), Failure> {
    let server = match &verb {
        cli::Sandbox::Run(_) => Server::connect_with_node(loaded).await?,
        _ => Server::connect(loaded).await?,
    };
    let result = with_server(verb, &server, json).await;
    server.close().await;
    result
}

async fn with_server(verb: cli::Sandbox, server: &Server, json: bool) -> Result<(), Failure> {
    match verb {
        cli::Sandbox::Run(args) => run::run(server, &args, json).await,
        cli::Sandbox::Ls { all, node, image } => {
            ls(server, all, node.as_deref(), image.as_deref(), json).await
        }
        cli::Sandbox::Show { sandbox } => show(&find(server, &sandbox).await?, json),
        cli::Sandbox::Exec(args) => exec(server, &args, json).await,
        cli::Sandbox::Cp { from, to } => copy::copy(server, &from, &to, json).await,
        cli::Sandbox::Logs {
            sandbox,
            follow,
            since_seq,
            process,
        } => logs(server, &sandbox, &process, follow, since_seq, json).await,
        cli::Sandbox::Attach {
            sandbox,
            since_seq,
            no_stdin,
        } => {
            let sandbox = find(server, &sandbox).await?;
            let attach = Attach {
                server,
                sandbox: &sandbox.id,
                process: "main",
                after: since_seq,
                stdin: !no_stdin,
                tty: sandbox.tty,
                ends_with_us: false,
                json,
            };
            attach.run().await
        }
        cli::Sandbox::Stop { sandboxes, grace } => {
            stop(server, &sandboxes, grace.as_deref(), json).await
        }
        cli::Sandbox::Rm { sandboxes, force } => rm(server, &sandboxes, force, json).await,
    }
}

async fn find(server: &Server, id: &str) -> Result<Sandbox, Failure> {
    let path = format!("/v1/sandboxes/{}", segment(id));
    server.client().get(&path).await
}

async fn ls(
    server: &Server,
    all: bool,
    node: Option<&str>,
    image: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let mut path = format!("/v1/sandboxes?all={all}");
    for (key, value) in [("node", node), ("image", image)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", segment(value)));
        }
    }
    let sandboxes: Vec<Sandbox> = server.client().get(&path).await?;
    if json {
        return output::json(&sandboxes);
    }
    let rows: Vec<Vec<String>> = sandboxes
        .iter()
        .map(|sandbox| {
            vec![
                sandbox.id.clone(),
                state(sandbox),
                sandbox.node.clone(),
                sandbox
                    .image_hash
                    .map_or_else(|| harmless(&sandbox.image), output::short),
                quantity::ago(&sandbox.created),
                harmless(&sandbox.args.join(" ")),
            ]
        })
        .collect();
    output::table(
        &["SANDBOX", "STATE", "NODE", "IMAGE", "AGE", "COMMAND"],
        &rows,
    )
}

fn state(sandbox: &Sandbox) -> String {
    match (sandbox.state, sandbox.exit_code) {
        (SandboxState::Starting, _) => "starting".to_owned(),
        (SandboxState::Running, _) => "running".to_owned(),
        (SandboxState::Failed, _) => "failed".to_owned(),
        (SandboxState::Lost, _) => "lost".to_owned(),
        (SandboxState::Exited, code) => {
            let code = code.map_or("?".to_owned(), |code| code.to_string());
            match sandbox.ended_by {
                Some(end) => format!("exited {code}, {}", end_word(end)),
                None => format!("exited {code}"),
            }
        }
    }
}

fn end_word(end: SandboxEnd) -> &'static str {
    match end {
        SandboxEnd::Stopped => "stopped",
        SandboxEnd::TimedOut => "timed out",
        SandboxEnd::OutOfMemory => "out of memory",
        SandboxEnd::Disconnected => "client gone",
    }
}

fn show(sandbox: &Sandbox, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(sandbox);
    }
    let or_none = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
    let lines = [
        ("sandbox", sandbox.id.clone()),
        (
            "name",
            sandbox.name.as_deref().map_or("-".to_owned(), harmless),
        ),
        ("state", state(sandbox)),
        ("node", format!("{} ({})", sandbox.node, sandbox.region)),
        ("image", harmless(&sandbox.image)),
        ("command", harmless(&format!("{:?}", sandbox.args))),
        ("warm", if sandbox.warm { "yes" } else { "no" }.to_owned()),
        ("created", sandbox.created.clone()),
        ("started", or_none(&sandbox.started)),
        ("finished", or_none(&sandbox.finished)),
    ];
    for (word, value) in lines {
        output::line(&format!("{word:<9} {value}"))?;
    }
    if let Some(problem) = &sandbox.error {
        let why = format!("error     {}: {}", problem.title, problem.detail);
        output::line(&harmless(&why))?;
    }
    let mut warnings = sandbox.warnings.iter();
    warnings.try_for_each(|warning| output::line(&format!("warning   {}", harmless(warning))))
}

async fn exec(server: &Server, args: &cli::Exec, json: bool) -> Result<(), Failure> {
    let process = &args.process;
    let sandbox = find(server, &args.sandbox).await?;
    let timeout = args.timeout.as_deref();
    let timeout = timeout.map(|text| quantity::time("--timeout", text));
    let request = ExecRequest {
        args: args.args.clone(),
        env: run::variables(process)?,
        workdir: process.workdir.clone(),
        user: process.user.clone(),
        tty: run::terminal_size(process)?,
        stdin: process.interactive,
        timeout_seconds: timeout.transpose()?.map(|time| time.as_secs_f64()),
    };
    let path = format!("/v1/sandboxes/{}/exec", segment(&sandbox.id));
    let started: SandboxProcess = server.client().post(&path, &request).await?;
    let attach = Attach {
        server,
        sandbox: &started.sandbox,
        process: &started.process,
        after: 0,
        stdin: process.interactive,
        tty: process.tty,
        ends_with_us: true,
        json,
    };
    attach.run().await
}

async fn logs(
    server: &Server,
    id: &str,
    process: &str,
    follow: bool,
    after: u64,
    json: bool,
) -> Result<(), Failure> {
    let sandbox = find(server, id).await?;
    let path = format!(
        "/v1/sandboxes/{}/processes/{}/output?follow={follow}",
        segment(&sandbox.id),
        segment(process)
    );
    let mut events = server.client().events::<OutputEvent>(path, after);
    let mut printer = Printer::new(json);
    loop {
        let event = if follow {
            events.next().await?
        } else {
            match events.next_of_now().await? {
                Some(event) => event,
                None => return Ok(()),
            }
        };
        // How the process ended is no failure of reading what it said.
        if !printer.print(&event).await? || printer.ended() {
            return Ok(());
        }
    }
}

async fn stop(
    server: &Server,
    ids: &[String],
    grace: Option<&str>,
    json: bool,
) -> Result<(), Failure> {
    let grace = grace.map(|grace| quantity::time("--grace", grace));
    let request = StopRequest {
        grace_seconds: grace.transpose()?.map(|grace| grace.as_secs_f64()),
    };
    for id in ids {
        let path = format!("/v1/sandboxes/{}/stop", segment(id));
        let sandbox: Sandbox = server.client().post(&path, &request).await?;
        if json {
            output::json(&sandbox)?;
        } else {
            output::line(&format!("{} {}", sandbox.id, state(&sandbox)))?;
        }
    }
    Ok(())
}

async fn rm(server: &Server, ids: &[String], force: bool, json: bool) -> Result<(), Failure> {
    for id in ids {
        let path = format!("/v1/sandboxes/{}?force={force}", segment(id));
        server.client().delete(&path).await?;
        if json {
            output::json(&json!({ "removed": id }))?;
        } else {
            output::line(&format!("removed {id}"))?;
        }
    }
    Ok(())
}
