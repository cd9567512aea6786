//! `RUN`.

use super::machine::{Machine, Places, StepOptions};
use super::{Action, MountSource, Run, RunMount, Sharing};
use crate::dockerfile::{self as syntax, CommandLine, Mount, MountKind, Share, heredoc_mark};
use crate::path;
use crate::spec::Instruction;

/// Where files of heredocs with a `#!` line are, as in BuildKit.
const PIPES: &str = "/dev/pipes";

pub(super) fn lower(
    machine: &Machine,
    instruction: &Instruction,
    run: &syntax::Run,
    places: &Places<'_>,
    options: &StepOptions<'_>,
) -> Result<(Action, String), String> {
    let (args, heredocs) = command(machine, run)?;
    let mut mounts = Vec::new();
    for flag in &run.mounts {
        let mut expand = |word: &str| {
            machine
                .expand(word)
                .map_err(|reason| syntax::Fault::new(syntax::Problem::Variable(reason)))
        };
        let mount = flag
            .read(&mut expand)
            .map_err(|fault| fault.problem().to_string())?;
        mounts.push(lower_mount(machine, instruction, &mount, places)?);
    }
    let history = format!(
        "RUN {}{} # buildkit",
        machine.arguments_text(),
        args.join(" ")
    );
    let run = Run {
        args,
        heredocs,
        env: machine.env_with(options.env),
        cwd: machine.workdir.clone(),
        user: machine.user.clone(),
        mounts,
        secrets: options.secrets.clone(),
        network: run.network.as_deref() != Some("none"),
    };
    Ok((Action::Run(run), history))
}

type Files = Vec<(String, Vec<u8>)>;

/// What runs, and the files that it needs.
///
/// As in BuildKit, a `RUN` that is one heredoc and nothing else is a script: run as a file when it
/// starts with `#!`, else given to the shell. Any other heredoc is left to the shell.
fn command(machine: &Machine, run: &syntax::Run) -> Result<(Vec<String>, Files), String> {
    let text = match &run.command {
        CommandLine::Exec(words) => return Ok((words.clone(), Vec::new())),
        CommandLine::Shell(text) => text,
    };
    let [first, ..] = run.heredocs.as_slice() else {
        return Ok((machine.with_shell(text), Vec::new()));
    };
    let is_script = heredoc_mark(text)
        .map_err(|fault| fault.problem().to_string())?
        .is_some();
    if !is_script {
        let mut whole = text.clone();
        for heredoc in &run.heredocs {
            whole.push('\n');
            whole.push_str(&heredoc.body);
            whole.push_str(&heredoc.name);
        }
        return Ok((machine.with_shell(&whole), Vec::new()));
    }
    let script = first.contents();
    if !script.starts_with("#!") {
        return Ok((machine.with_shell(&script), Vec::new()));
    }
    if first.name.contains('/') || first.name == "." || first.name == ".." {
        return Err(format!(
            "the heredoc delimiter `{}` cannot name a file",
            first.name
        ));
    }
    let args = machine.with_shell(&format!("{PIPES}/{}", first.name));
    Ok((args, vec![(first.name.clone(), script.into_bytes())]))
}

fn lower_mount(
    machine: &Machine,
    instruction: &Instruction,
    mount: &Mount,
    places: &Places<'_>,
) -> Result<RunMount, String> {
    let mut target = path::absolute(&machine.workdir, &mount.target);
    let from = match mount.from.as_deref() {
        None | Some("scratch") => None,
        Some(from) => Some(places.find(from)?),
    };
    // Below the root, so that `..` leads nowhere.
    let source_path = path::absolute("/", &mount.source);
    let source = match mount.kind {
        MountKind::Bind => match from {
            Some(stage) => MountSource::Stage {
                stage,
                path: source_path,
            },
            None if mount.from.is_some() => MountSource::Tmpfs { size: None },
            None => MountSource::Context {
                tree: instruction.context.ok_or("a bind mount has no context")?,
                path: source_path[1..].to_owned(),
            },
        },
        MountKind::Cache => MountSource::Cache {
            id: match mount.id.as_str() {
                "" => path::clean(&mount.target),
                id => id.to_owned(),
            },
            sharing: match mount.sharing {
                None | Some(Share::Shared) => Sharing::Shared,
                Some(Share::Private) => Sharing::Private,
                Some(Share::Locked) => Sharing::Locked,
            },
            mode: mount.mode.unwrap_or(0o755),
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
            from: from.map(|stage| (stage, source_path)),
        },
        MountKind::Tmpfs => MountSource::Tmpfs { size: mount.size },
        MountKind::Secret => {
            let base = |path: &str| {
                path.rsplit('/')
                    .find(|w| !w.is_empty())
                    .unwrap_or_default()
                    .to_owned()
            };
            let id = match (mount.source.as_str(), mount.id.as_str()) {
                ("", "") => base(&mount.target),
                ("", id) => id.to_owned(),
                (source, _) => source.to_owned(),
            };
            if mount.target.is_empty() {
                target = match mount.env {
                    Some(_) => String::new(),
                    None => format!("/run/secrets/{}", base(&id)),
                };
            }
            MountSource::Secret {
                id,
                required: mount.required,
                mode: mount.mode.unwrap_or(0o400),
                uid: mount.uid.unwrap_or(0),
                gid: mount.gid.unwrap_or(0),
                env: mount.env.clone(),
            }
        }
    };
    if target == "/" {
        return Err("a mount cannot take the place of `/`".into());
    }
    Ok(RunMount {
        target,
        source,
        read_only: mount.read_only,
    })
}
