//! The state of a container image while its operations are laid out: environment, working
//! directory, user, shell and config, and what each instruction does to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::values::{duration, ports, quoted, set_env, signal, split_env};
use super::{Action, copy, run};
use crate::config::ImageConfig;
use crate::dockerfile::{Command, CommandLine, DEFAULT_PATH, Healthcheck, Lexer, Lookup, Pairs};
use crate::path;
use crate::spec::Instruction;

/// Arguments that BuildKit reads itself and gives to no step.
const NOT_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// State of one stage.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) config: ImageConfig,
    /// The config's environment.
    env: Vec<(String, String)>,
    /// What steps see: `env` and build arguments.
    pub(super) step_env: Vec<(String, String)>,
    /// Build arguments with the values they had, for history.
    arguments: Vec<(String, String)>,
    /// Absolute.
    pub(super) workdir: String,
    pub(super) user: String,
    /// Whether this stage set `CMD`, which a later `ENTRYPOINT` then leaves alone.
    pub(super) cmd_set: bool,
    pub(super) author: Option<String>,
}

/// Where the stages that canonical instructions name are in the build.
pub(super) struct Places<'a> {
    /// By index of the Dockerfile's stages.
    pub(super) stages: &'a [usize],
    /// By index of [`Instruction::images`].
    pub(super) images: Vec<usize>,
}

impl Places<'_> {
    /// The build's stage that `--from` names.
    pub(super) fn find(&self, from: &str) -> Result<usize, String> {
        let (list, index) = match from.strip_prefix('@') {
            Some(image) => (self.images.as_slice(), image),
            None => (self.stages, from),
        };
        let place = index
            .parse::<usize>()
            .ok()
            .and_then(|index| list.get(index));
        place.copied().ok_or_else(|| {
            format!("`{from}` names neither an earlier stage nor an image of the instruction")
        })
    }
}

/// Options of the step that an instruction is.
pub(super) struct StepOptions<'a> {
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) secrets: &'a std::collections::BTreeSet<String>,
}

impl Machine {
    /// The state on top of an image with this config; `ONBUILD` does not carry over.
    pub(super) fn on(mut config: ImageConfig) -> Self {
        config.on_build.clear();
        let mut env: Vec<(String, String)> = config.env.iter().map(|e| split_env(e)).collect();
        if !env.iter().any(|(name, _)| name == "PATH") {
            env.push(("PATH".into(), DEFAULT_PATH.into()));
        }
        let workdir = path::absolute("/", &config.working_dir);
        let mut machine = Self {
            user: config.user.clone(),
            step_env: env.clone(),
            env,
            arguments: Vec::new(),
            workdir,
            cmd_set: false,
            author: None,
            config,
        };
        machine.write_env();
        machine
    }

    /// The state on the empty image.
    pub(super) fn on_scratch() -> Self {
        Self::on(ImageConfig {
            working_dir: "/".into(),
            ..ImageConfig::default()
        })
    }

    /// The state at the start of a stage that continues this one.
    pub(super) fn next_stage(&self) -> Self {
        let mut next = self.clone();
        next.cmd_set = false;
        next.config.on_build.clear();
        // As in BuildKit, build arguments carry over, but where ENV set the same name it wins.
        for (name, value) in &self.env {
            set_env(&mut next.step_env, name, value);
        }
        next
    }

    fn write_env(&mut self) {
        self.config.env = self
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
    }

    /// Sets variables that steps and the image see.
    pub(super) fn set_env<'a>(
        &mut self,
        pairs: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) {
        for (name, value) in pairs {
            set_env(&mut self.env, name, value);
            set_env(&mut self.step_env, name, value);
        }
        self.write_env();
    }

    /// Puts the programs of a Python environment before all others.
    pub(super) fn enter_environment(&mut self, dir: String) {
        let known = self.env.iter().find(|(name, _)| name == "PATH");
        let path = match known {
            Some((_, path)) if !path.is_empty() => format!("{dir}/bin:{path}"),
            _ => format!("{dir}/bin"),
        };
        let pairs = [("PATH".to_owned(), path), ("VIRTUAL_ENV".to_owned(), dir)];
        self.set_env(pairs.iter().map(|(name, value)| (name, value)));
    }

    /// Sets the working directory, which may be relative to the one before.
    pub(super) fn set_workdir(&mut self, dir: &str) {
        self.workdir = path::absolute(&self.workdir, dir);
        self.config.working_dir.clone_from(&self.workdir);
    }

    pub(super) fn set_user(&mut self, user: &str) {
        user.clone_into(&mut self.user);
        user.clone_into(&mut self.config.user);
    }

    /// The environment of a step with variables of its own.
    pub(super) fn env_with(&self, own: &BTreeMap<String, String>) -> Vec<(String, String)> {
        let mut env = self.step_env.clone();
        for (name, value) in own {
            set_env(&mut env, name, value);
        }
        env
    }

    /// A command with the shell in front.
    pub(super) fn with_shell(&self, command: &str) -> Vec<String> {
        let mut args = match &self.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => vec!["/bin/sh".into(), "-c".into()],
        };
        args.push(command.to_owned());
        args
    }

    fn lookup(&self, name: &str) -> Lookup {
        match self.step_env.iter().find(|(known, _)| known == name) {
            Some((_, value)) => Lookup::Value(value.clone()),
            None => Lookup::Unset,
        }
    }

    /// Expands the variables of a word.
    pub(super) fn expand(&self, word: &str) -> Result<String, String> {
        let lookup = |name: &str| self.lookup(name);
        let expanded = Lexer::new(&lookup).expand(word);
        Ok(expanded
            .map_err(|reason| format!("cannot expand `{word}`: {reason}"))?
            .text)
    }

    /// Expands a word that may become several.
    fn expand_words(&self, word: &str) -> Result<Vec<String>, String> {
        let lookup = |name: &str| self.lookup(name);
        let expanded = Lexer::new(&lookup).expand(word);
        Ok(expanded
            .map_err(|reason| format!("cannot expand `{word}`: {reason}"))?
            .words)
    }

    /// Expands the variables of a heredoc's body, in which quotes mean nothing.
    pub(super) fn expand_body(&self, body: &str) -> Result<String, String> {
        let lookup = |name: &str| self.lookup(name);
        let lexer = Lexer {
            skip_quotes: true,
            ..Lexer::new(&lookup)
        };
        Ok(lexer
            .expand(body)
            .map_err(|reason| format!("cannot expand the heredoc: {reason}"))?
            .text)
    }

    /// Build arguments as history prints them before a command: `|1 A=b `.
    pub(super) fn arguments_text(&self) -> String {
        if self.arguments.is_empty() {
            return String::new();
        }
        let value = |(name, then): &(String, String)| {
            let now = self.step_env.iter().find(|(known, _)| known == name);
            format!("{name}={} ", now.map_or(then, |(_, now)| now))
        };
        let values: String = self.arguments.iter().map(value).collect();
        format!("|{} {values}", self.arguments.len())
    }

    /// Carries an instruction out: changes the state, and says what the engine has to do and what
    /// history says.
    pub(super) fn instruction(
        &mut self,
        instruction: &Instruction,
        command: &Command,
        places: &Places<'_>,
        options: &StepOptions<'_>,
    ) -> Result<(Action, String), String> {
        let history = match command {
            Command::Run(run) => return run::lower(self, instruction, run, places, options),
            Command::Copy(copying) => return copy::lower(self, instruction, copying, places),
            Command::Workdir(dir) => {
                let dir = self.expand(dir)?;
                self.set_workdir(&dir);
                let history = format!("WORKDIR {}", self.workdir);
                if self.workdir == "/" {
                    return Ok((Action::Config, history));
                }
                let make = Action::MakeDir {
                    path: self.workdir.clone(),
                    user: self.user.clone(),
                };
                return Ok((make, history));
            }
            Command::From(_) => return Err("FROM cannot stand within a stage".into()),
            Command::Arg(arguments) => self.arguments(arguments)?,
            Command::Env(pairs) => {
                let pairs = self.expand_pairs(pairs)?;
                self.set_env(pairs.iter().map(|(name, value)| (name, value)));
                format!("ENV{}", join_pairs(&pairs))
            }
            Command::Label(pairs) => {
                let pairs = self.expand_pairs(pairs)?;
                let text = format!("LABEL{}", join_pairs(&pairs));
                self.config.labels.extend(pairs);
                text
            }
            Command::Cmd(line) => {
                let args = self.command_line(line);
                let history = format!("CMD {}", quoted(&args));
                self.config.cmd = Some(args).filter(|args| !args.is_empty());
                // Means something on Windows only; Docker writes it for every CMD.
                self.config
                    .other
                    .insert("ArgsEscaped".into(), Value::Bool(true));
                self.cmd_set = true;
                history
            }
            Command::Entrypoint(line) => {
                let args = self.command_line(line);
                let history = format!("ENTRYPOINT {}", quoted(&args));
                self.config.entrypoint = Some(args).filter(|args| !args.is_empty());
                if !self.cmd_set {
                    self.config.cmd = None;
                }
                history
            }
            Command::Healthcheck(check) => self.healthcheck(check.as_ref()),
            Command::Shell(words) => {
                self.config.shell = Some(words.clone());
                format!("SHELL [{}]", words.join(" "))
            }
            Command::Expose(words) => self.expose(words)?,
            Command::Volume(words) => {
                let mut volumes = Vec::new();
                for word in words {
                    let volume = self.expand(word)?;
                    if volume.is_empty() {
                        return Err(format!("VOLUME `{word}` expands to nothing"));
                    }
                    self.config.volumes.insert(volume.clone(), json!({}));
                    volumes.push(volume);
                }
                format!("VOLUME [{}]", volumes.join(" "))
            }
            Command::User(word) => {
                let user = self.expand(word)?;
                self.set_user(&user);
                format!("USER {user}")
            }
            Command::StopSignal(word) => {
                let name = self.expand(word)?;
                signal(&name)?;
                self.config.stop_signal.clone_from(&name);
                format!("STOPSIGNAL {name}")
            }
            Command::Maintainer(name) => {
                self.author = Some(name.clone());
                format!("MAINTAINER {name}")
            }
            Command::Onbuild(inner) => {
                let text = inner.text();
                let history = format!("ONBUILD {text}");
                self.config.on_build.push(text);
                history
            }
        };
        Ok((Action::Config, history))
    }

    fn arguments(&mut self, arguments: &[(String, Option<String>)]) -> Result<String, String> {
        let mut history = "ARG".to_owned();
        for (name, value) in arguments {
            let value = match value {
                Some(value) => Some(self.expand(value)?),
                None => None,
            };
            history.push(' ');
            history.push_str(name);
            if let Some(value) = &value {
                history.push('=');
                history.push_str(value);
                if !NOT_IN_ENVIRONMENT.contains(&name.as_str()) {
                    set_env(&mut self.step_env, name, value);
                }
            }
            set_env(&mut self.arguments, name, &value.unwrap_or_default());
        }
        Ok(history)
    }

    fn expand_pairs(&self, pairs: &Pairs) -> Result<Vec<(String, String)>, String> {
        let pair = |(name, value): &(String, String)| {
            let name = self.expand(name)?;
            if name.is_empty() {
                return Err("a name expands to nothing".to_owned());
            }
            Ok((name, self.expand(value)?))
        };
        pairs.pairs.iter().map(pair).collect()
    }

    fn command_line(&self, line: &CommandLine) -> Vec<String> {
        match line {
            CommandLine::Shell(text) => self.with_shell(text),
            CommandLine::Exec(words) => words.clone(),
        }
    }

    fn expose(&mut self, words: &[String]) -> Result<String, String> {
        let mut exposed = Vec::new();
        for word in words {
            for word in self.expand_words(word)? {
                exposed.extend(ports(&word)?);
            }
        }
        exposed.sort();
        for port in &exposed {
            self.config.exposed_ports.insert(port.clone(), json!({}));
        }
        Ok(format!("EXPOSE [{}]", exposed.join(" ")))
    }

    /// Docker's `Healthcheck` object: durations in nanoseconds, zeros left out.
    fn healthcheck(&mut self, check: Option<&Healthcheck>) -> String {
        let Some(check) = check else {
            self.config.healthcheck = Some(json!({"Test": ["NONE"]}));
            return "HEALTHCHECK NONE".into();
        };
        let test = match &check.command {
            CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
            CommandLine::Exec(words) => std::iter::once("CMD".to_owned())
                .chain(words.iter().cloned())
                .collect(),
        };
        let history = format!(
            "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            test.join(" "),
            duration(check.interval),
            duration(check.timeout),
            duration(check.start_period),
            duration(check.start_interval),
            check.retries
        );
        let mut object = serde_json::Map::from_iter([("Test".to_owned(), Value::from(test))]);
        for (name, value) in [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
            ("Retries", check.retries),
        ] {
            if value != 0 {
                object.insert(name.to_owned(), Value::from(value));
            }
        }
        self.config.healthcheck = Some(Value::Object(object));
        history
    }
}

fn join_pairs(pairs: &[(String, String)]) -> String {
    pairs
        .iter()
        .map(|(name, value)| format!(" {name}={value}"))
        .collect()
}
