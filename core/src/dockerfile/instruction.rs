//! Instructions as data: read from a statement ([`parse`]), written as canonical text
//! ([`Command::text`]).

mod read;
mod write;

pub(crate) use read::{parse, parse_canonical, parse_trigger};

use super::lines::Heredoc;
use super::mount::MountFlag;

/// One instruction. Words that variables are expanded in are kept as written, with the backslash as
/// escape character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    From(From),
    Arg(Vec<(String, Option<String>)>),
    Env(Pairs),
    Label(Pairs),
    Run(Run),
    Copy(Copying),
    Cmd(CommandLine),
    Entrypoint(CommandLine),
    Healthcheck(Option<Healthcheck>),
    Shell(Vec<String>),
    Expose(Vec<String>),
    Volume(Vec<String>),
    User(String),
    Workdir(String),
    StopSignal(String),
    Maintainer(String),
    Onbuild(Box<Command>),
}

/// `FROM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct From {
    pub(crate) platform: Option<String>,
    pub(crate) image: String,
    /// Lower-case.
    pub(crate) name: Option<String>,
}

/// `name=value …`, or the old `name value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pairs {
    pub(crate) pairs: Vec<(String, String)>,
    /// Written `name value`, the value running to the end of the line.
    pub(crate) old_form: bool,
}

/// A command in shell or exec form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandLine {
    Shell(String),
    Exec(Vec<String>),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) mounts: Vec<MountFlag>,
    pub(crate) network: Option<String>,
    pub(crate) command: CommandLine,
    pub(crate) heredocs: Vec<Heredoc>,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Copying {
    pub(crate) add: bool,
    pub(crate) from: Option<String>,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<String>,
    pub(crate) checksum: Option<String>,
    pub(crate) link: bool,
    pub(crate) parents: bool,
    pub(crate) unpack: Option<bool>,
    pub(crate) exclude: Vec<String>,
    pub(crate) sources: Vec<CopyWord>,
    pub(crate) dest: String,
}

/// A source of `COPY` or `ADD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CopyWord {
    Path(String),
    Heredoc(Heredoc),
}

/// `HEALTHCHECK` with a command; durations in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Healthcheck {
    /// Flags as written, in a fixed order.
    flags: Vec<(&'static str, String)>,
    pub(crate) interval: i64,
    pub(crate) timeout: i64,
    pub(crate) start_period: i64,
    pub(crate) start_interval: i64,
    pub(crate) retries: i64,
    pub(crate) command: CommandLine,
}

impl Copying {
    /// The sources that are paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().filter_map(|source| match source {
            CopyWord::Path(path) => Some(path.as_str()),
            CopyWord::Heredoc(_) => None,
        })
    }
}
