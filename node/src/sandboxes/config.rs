//! What an image and a request together mean for the main process, as Docker has it.

use std::collections::BTreeMap;

use chalk_core::wire::{ExecRequest, Problem, SandboxRequest};
use chalk_sandbox::DEFAULT_PATH;
use serde::Deserialize;

use super::problems::bad_request;

/// `SIGTERM`, where the image names no stop signal.
const DEFAULT_STOP_SIGNAL: i32 = 15;

/// The parts of an image's configuration that a process follows (OCI image specification,
/// `config.md`, "Properties").
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ImageConfig {
    #[serde(default)]
    config: Option<Execution>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

impl ImageConfig {
    /// Reads the configuration blob of an image.
    ///
    /// # Errors
    /// When it is no JSON of that form.
    pub fn parse(json: &[u8]) -> Result<ImageConfig, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

/// What the main process of a sandbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) workdir: String,
    pub(super) user: String,
    pub(super) stop_signal: i32,
}

impl Process {
    /// Whether it runs no program, but only waits.
    pub(super) fn is_idle(&self) -> bool {
        self.args.is_empty()
    }
}

/// Puts image and request together.
pub(super) fn main_process(
    image: &ImageConfig,
    request: &SandboxRequest,
    hostname: &str,
) -> Result<Process, Problem> {
    let config = image.config.clone().unwrap_or_default();
    if request.idle && !(request.args.is_empty() && request.entrypoint.is_none()) {
        return Err(bad_request(
            "an idle sandbox has no command",
            "`idle` is set, and `args` or `entrypoint` too",
            "leave one of them out",
        ));
    }
    let (mut args, cmd) = match &request.entrypoint {
        // Over the image's entrypoint, its command counts no more.
        Some(entrypoint) => (entrypoint.clone(), Vec::new()),
        None => (
            config.entrypoint.unwrap_or_default(),
            config.cmd.unwrap_or_default(),
        ),
    };
    args.extend(if request.args.is_empty() {
        cmd
    } else {
        request.args.clone()
    });
    if request.idle {
        args.clear();
    } else if args.first().is_none_or(String::is_empty) {
        return Err(bad_request(
            "there is no command to run",
            "the image has neither an entrypoint nor a command",
            "name a command: `chalk compute sandbox run --image IMAGE -- COMMAND`",
        ));
    }
    let mut env = Variables::default();
    env.set("PATH", DEFAULT_PATH);
    env.set("HOSTNAME", hostname);
    if request.tty.is_some() {
        env.set("TERM", "xterm");
    }
    for variable in config.env.unwrap_or_default() {
        // A name without a value is none; Docker takes it out.
        if let Some((name, value)) = variable.split_once('=') {
            env.set(name, value);
        }
    }
    env.set_all(&request.env);
    let workdir = [&request.workdir, &config.working_dir]
        .into_iter()
        .flatten()
        .find(|workdir| !workdir.is_empty());
    let stop_signal = match config.stop_signal.as_deref() {
        // That of the image is for its own program.
        _ if request.idle => DEFAULT_STOP_SIGNAL,
        None | Some("") => DEFAULT_STOP_SIGNAL,
        Some(name) => signal(name)?,
    };
    Ok(Process {
        args,
        env: env.0,
        workdir: absolute(workdir.map_or("/", String::as_str))?,
        user: request.user.clone().or(config.user).unwrap_or_default(),
        stop_signal,
    })
}

/// A further process in the surroundings of the main one.
pub(super) fn further_process(main: &Process, request: &ExecRequest) -> Result<Process, Problem> {
    if request.args.first().is_none_or(String::is_empty) {
        return Err(bad_request("there is no command to run", "", ""));
    }
    let mut env = Variables(main.env.clone());
    if request.tty.is_some() {
        env.set("TERM", "xterm");
    }
    env.set_all(&request.env);
    Ok(Process {
        args: request.args.clone(),
        env: env.0,
        workdir: match &request.workdir {
            Some(workdir) => absolute(workdir)?,
            None => main.workdir.clone(),
        },
        user: request.user.clone().unwrap_or_else(|| main.user.clone()),
        stop_signal: main.stop_signal,
    })
}

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    fn set_all(&mut self, variables: &BTreeMap<String, String>) {
        for (name, value) in variables {
            self.set(name, value);
        }
    }
}

fn absolute(workdir: &str) -> Result<String, Problem> {
    if workdir.starts_with('/') {
        return Ok(workdir.to_owned());
    }
    Err(bad_request(
        "the working directory is no absolute path",
        &format!("`{workdir}` stands there"),
        "begin it with /",
    ))
}

/// Number of a signal by its name, with or without `SIG`, or number.
pub(super) fn signal(name: &str) -> Result<i32, Problem> {
    /// Names of the signals from 1 on, by `signal(7)` for Linux.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_name = NAMES.iter().position(|known| *known == short);
    let number = by_name
        .and_then(|index| i32::try_from(index + 1).ok())
        .or_else(|| upper.parse().ok());
    match number {
        Some(number @ 1..=31) => Ok(number),
        _ => Err(bad_request(
            "there is no such signal",
            &format!("`{name}` is neither a name such as TERM nor a number from 1 to 31"),
            "",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = r#"{"architecture":"amd64","config":{"Entrypoint":["/entry"],
        "Cmd":["a","b"],"Env":["PATH=/bin","X=image","Y=image","EMPTY"],"User":"app",
        "WorkingDir":"/srv","StopSignal":"SIGQUIT"}}"#;

    fn process(image: &str, change: impl FnOnce(&mut SandboxRequest)) -> Result<Process, Problem> {
        let mut request = SandboxRequest::default();
        change(&mut request);
        let image = ImageConfig::parse(image.as_bytes()).expect("a configuration");
        main_process(&image, &request, "host")
    }

    #[test]
    fn commands_are_put_together_as_docker_does() {
        let check = |image: &str, args: &[&str], entrypoint: Option<&[&str]>, expect: &[&str]| {
            let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
            let found = process(image, |request| {
                request.args = owned(args);
                request.entrypoint = entrypoint.map(owned);
            });
            match found {
                Ok(process) => assert_eq!(process.args, expect),
                Err(problem) => assert!(expect.is_empty(), "{problem:?}"),
            }
        };
        check(IMAGE, &[], None, &["/entry", "a", "b"]);
        check(IMAGE, &["c"], None, &["/entry", "c"]);
        check(IMAGE, &[], Some(&["sh"]), &["sh"]);
        check(IMAGE, &["c"], Some(&["sh"]), &["sh", "c"]);
        check(IMAGE, &["c"], Some(&[]), &["c"]);
        check(IMAGE, &[], Some(&[]), &[]);
        check(r#"{"config":{"Cmd":["x"]}}"#, &[], None, &["x"]);
        check(r#"{"config":{"Cmd":null}}"#, &[], None, &[]);
        check("{}", &["y"], None, &["y"]);
        check("{}", &[], None, &[]);
    }

    #[test]
    fn an_idle_sandbox_runs_nothing_of_the_image() {
        let found = process(IMAGE, |request| request.idle = true).expect("fine");
        assert!(found.is_idle());
        assert_eq!(
            (found.user.as_str(), found.workdir.as_str()),
            ("app", "/srv")
        );
        // The signal of the image is for the image's program.
        assert_eq!(found.stop_signal, 15);
        process(IMAGE, |request| {
            request.idle = true;
            request.args = vec!["c".into()];
        })
        .expect_err("a command, too");
    }

    #[test]
    fn surroundings_come_from_image_and_request() {
        let found = process(IMAGE, |request| {
            request.env.insert("X".into(), "request".into());
            request.env.insert("NEW".into(), "a=b".into());
            request.tty = Some(chalk_core::wire::TerminalSize { rows: 1, cols: 1 });
        })
        .expect("fine");
        let env: Vec<String> = found.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            env,
            [
                "PATH=/bin",
                "HOSTNAME=host",
                "TERM=xterm",
                "X=request",
                "Y=image",
                "NEW=a=b"
            ]
        );
        assert_eq!(
            (
                found.user.as_str(),
                found.workdir.as_str(),
                found.stop_signal
            ),
            ("app", "/srv", 3)
        );
        let found = process("{}", |request| request.args = vec!["x".into()]).expect("fine");
        assert_eq!(
            (
                found.user.as_str(),
                found.workdir.as_str(),
                found.stop_signal
            ),
            ("", "/", 15)
        );
        let problem = process(IMAGE, |request| request.workdir = Some("here".into()));
        assert!(problem.expect_err("relative").detail.contains("`here`"));
    }

    #[test]
    fn further_processes_inherit_from_the_main_one() {
        let main = process(IMAGE, |_| ()).expect("fine");
        let mut request = ExecRequest {
            args: vec!["ls".into()],
            ..ExecRequest::default()
        };
        let found = further_process(&main, &request).expect("fine");
        assert_eq!(found.args, ["ls"]);
        assert_eq!((&found.env, &found.workdir), (&main.env, &main.workdir));
        request.user = Some("0".into());
        request.env.insert("Y".into(), "exec".into());
        let found = further_process(&main, &request).expect("fine");
        assert!(found.env.contains(&("Y".into(), "exec".into())));
        assert_eq!(found.user, "0");
        request.args.clear();
        further_process(&main, &request).expect_err("no command");
    }

    #[test]
    fn signals_have_names_and_numbers() {
        let check = |name: &str, expect: Option<i32>| {
            assert_eq!(signal(name).ok(), expect, "{name}");
        };
        check("TERM", Some(15));
        check("sigkill", Some(9));
        check("SIGSYS", Some(31));
        check("2", Some(2));
        check("SIG2", None);
        check("0", None);
        check("64", None);
        check("-9", None);
        check("NOPE", None);
        check("", None);
    }
}
