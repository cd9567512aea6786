//! `sandbox run`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::{
    Sandbox, SandboxLimits, SandboxNetwork, SandboxReply, SandboxRequest, TerminalSize, exit,
};

use super::attach::Attach;
use super::{mounts, terminal};
use crate::cli::{self, Network, Process};
use crate::commands::subject;
use crate::commands::upload::{self, Sent};
use crate::connect::Server;
use crate::declaration::{self, Upload};
use crate::error::Failure;
use crate::output;
use crate::progress::{StatusLine, bytes};
use crate::quantity;

pub(super) async fn run(server: &Server, args: &cli::Run, json: bool) -> Result<(), Failure> {
    if args.detach && server.has_own_node() {
        return Err(
            Failure::usage("--detach needs a node that goes on after this command").hint(
                "run `chalk serve --node`, or `chalk serve` and `chalk node`, or leave --detach out",
            ),
        );
    }
    let tty = terminal_size(&args.process)?;
    let chosen = subject::image(server, &args.image, &args.dockerfile).await?;
    let mounts = mounts::read(chosen.declared.as_ref(), &args.mounts).await?;
    let request = SandboxRequest {
        image: chosen.id,
        args: args.args.clone(),
        entrypoint: args
            .entrypoint
            .as_deref()
            .map(|words| words.split_whitespace().map(str::to_owned).collect()),
        idle: args.idle,
        name: args.name.clone(),
        tags: quantity::labels("--tag", &args.tags)?,
        env: variables(&args.process)?,
        workdir: args.process.workdir.clone(),
        user: args.process.user.clone(),
        mounts: mounts.mounts,
        limits: limits(args)?,
        network: match args.network {
            Network::Host => SandboxNetwork::Host,
            Network::None => SandboxNetwork::None,
        },
        gpus: args.gpus.clone(),
        devices: args.devices.clone(),
        tty,
        stdin: args.process.interactive,
        read_only: args.read_only,
        hostname: args.hostname.clone(),
        node: args.node.clone(),
        region: args.region.clone(),
        labels: quantity::labels("--label", &args.labels)?,
        // Who has a terminal may leave it and come back.
        stop_on_disconnect: !args.detach && tty.is_none(),
    };
    let sandbox = submit(server, &request, &mounts.uploads).await?;
    for warning in &sandbox.warnings {
        declaration::warn(warning);
    }
    if json {
        output::json(&sandbox)?;
    }
    if args.detach {
        return if json {
            Ok(())
        } else {
            output::line(&sandbox.id)
        };
    }
    let attach = Attach {
        server,
        sandbox: &sandbox.id,
        process: "main",
        after: 0,
        stdin: args.process.interactive,
        tty: args.process.tty,
        ends_with_us: true,
        json,
    };
    attach.run().await
}

fn limits(args: &cli::Run) -> Result<SandboxLimits, Failure> {
    if args.cpu.is_some_and(|cpu| !cpu.is_finite() || cpu <= 0.0) {
        return Err(Failure::usage("--cpu must be more than 0"));
    }
    let size = |flag, text: &Option<String>| {
        let text = text.as_deref();
        text.map(|text| quantity::size(flag, text)).transpose()
    };
    let timeout = args.timeout.as_deref();
    let timeout = timeout.map(|text| quantity::time("--timeout", text));
    Ok(SandboxLimits {
        cpus: args.cpu,
        memory: size("--memory", &args.memory)?,
        pids: args.pids,
        disk: size("--disk", &args.disk)?,
        timeout_seconds: timeout.transpose()?.map(|time| time.as_secs_f64()),
    })
}

/// Asks for the sandbox, uploading what the service lacks.
async fn submit(
    server: &Server,
    request: &SandboxRequest,
    uploads: &BTreeMap<Digest, Upload>,
) -> Result<Sandbox, Failure> {
    let client = server.client();
    let mut tries = 0;
    loop {
        let missing = match client.post("/v1/sandboxes", request).await? {
            SandboxReply::Accepted(sandbox) => return Ok(*sandbox),
            SandboxReply::NeedsBlobs(missing) => missing.digests,
        };
        // The second round finds files that only an uploaded tree names.
        tries += 1;
        if tries > 3 {
            return Err(Failure::new(
                exit::UNREACHABLE,
                "the service asks for files again and again",
            )
            .why("it does not keep what was uploaded"));
        }
        let sizes = missing.iter().filter_map(|digest| uploads.get(digest));
        let total: u64 = sizes.map(|upload| upload.size).sum();
        let sent = Sent::default();
        let sending = upload::upload(client, &missing, uploads, &sent);
        tokio::pin!(sending);
        let mut line = StatusLine::new();
        let mut frames = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                done = &mut sending => {
                    line.clear();
                    done?;
                    break;
                }
                _ = frames.tick() => line.show(&format!(
                    "uploading {} files, {} of {}",
                    missing.len(),
                    bytes(sent.bytes()),
                    bytes(total)
                )),
                _ = tokio::signal::ctrl_c() => {
                    line.clear();
                    return Err(Failure::interrupted());
                }
            }
        }
    }
}

/// The size of the terminal that the process gets, if it gets one.
pub(super) fn terminal_size(process: &Process) -> Result<Option<TerminalSize>, Failure> {
    if !process.tty {
        return Ok(None);
    }
    if process.interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::usage("-t needs a terminal on standard input")
            .hint("use -i alone to pass a pipe or file on"));
    }
    Ok(Some(terminal::size()))
}

/// The variables of the flags; those of `--env` over those of files.
pub(super) fn variables(process: &Process) -> Result<BTreeMap<String, String>, Failure> {
    let mut variables = BTreeMap::new();
    let mut put = |word: &str| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            variables.insert(name.to_owned(), value.to_owned());
            true
        }
        Some(_) => false,
        // As Docker does: a name alone takes its value from the environment, if it has one.
        None => {
            if let Ok(value) = std::env::var(word) {
                variables.insert(word.to_owned(), value);
            }
            !word.is_empty()
        }
    };
    for file in &process.env_files {
        let text = std::fs::read_to_string(file)
            .map_err(|e| Failure::usage(format!("cannot read {}", file.display())).why(e))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !put(line) {
                let place = format!("{}:{}", file.display(), number + 1);
                return Err(Failure::usage(format!(
                    "{place}: `{line}` is not NAME=VALUE"
                )));
            }
        }
    }
    for word in &process.env {
        if !put(word) {
            return Err(Failure::usage(format!("--env: `{word}` is not NAME=VALUE")));
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_flags_win_over_those_of_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "# all\nA=1\n\nB=x = y\nPATH\nNOT_SET_ANYWHERE\n",
        )
        .unwrap();
        let process = |env: &[&str]| Process {
            env: env.iter().map(|e| (*e).to_owned()).collect(),
            env_files: vec![file.path().to_owned()],
            workdir: None,
            user: None,
            interactive: false,
            tty: false,
        };
        let read = variables(&process(&["A=2", "C="])).unwrap();
        let path = std::env::var("PATH").unwrap();
        let expect = [("A", "2"), ("B", "x = y"), ("C", ""), ("PATH", &path)];
        let expect = expect.map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(read, BTreeMap::from(expect));
        assert!(variables(&process(&["=x"])).is_err());
        std::fs::write(file.path(), "A=1\n=2\n").unwrap();
        let error = variables(&process(&[])).unwrap_err().to_string();
        assert!(error.contains(":2: `=2`"), "{error}");
    }
}
