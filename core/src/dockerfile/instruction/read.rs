//! From a statement to an instruction.

use super::{Command, CommandLine, CopyWord, Copying, From, Healthcheck, Pairs, Run};
use crate::dockerfile::error::{Fault, Problem};
use crate::dockerfile::expand::from_backticks;
use crate::dockerfile::lines::{self, Heredoc, Statement, heredoc_mark};
use crate::dockerfile::mount::MountFlag;
use crate::dockerfile::syntax::{
    self, Split, blank_separated, json_list, quoted_words, split_once_blank,
};

/// All keywords, for "did you mean".
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads a statement.
pub(crate) fn parse(statement: &Statement, escape: char) -> Result<Command, Fault> {
    let split = syntax::split(&statement.text, escape);
    Parser {
        keyword: split.keyword.to_ascii_uppercase(),
        split,
        escape,
        heredocs: &statement.heredocs,
    }
    .parse(false)
}

/// Reads a canonical text.
pub(crate) fn parse_canonical(text: &str) -> Result<Command, Fault> {
    parse(&Statement::canonical(text)?, '\\')
}

/// Reads a trigger of an image's `OnBuild`: one instruction as it stood after `ONBUILD`.
pub(crate) fn parse_trigger(text: &str) -> Result<Command, Fault> {
    let script =
        lines::read(text, "").map_err(|error| Fault::new(error.problem).hint(error.hint))?;
    let [statement] = script.statements.as_slice() else {
        return Err(Fault::syntax("expected one instruction"));
    };
    let split = syntax::split(&statement.text, script.escape);
    Parser {
        keyword: split.keyword.to_ascii_uppercase(),
        split,
        escape: script.escape,
        heredocs: &statement.heredocs,
    }
    .parse(true)
}

struct Parser<'a> {
    keyword: String,
    split: Split<'a>,
    escape: char,
    heredocs: &'a [Heredoc],
}

impl Parser<'_> {
    fn parse(&self, on_build: bool) -> Result<Command, Fault> {
        let arguments = self.split.arguments;
        if !matches!(
            self.keyword.as_str(),
            "FROM" | "RUN" | "COPY" | "ADD" | "HEALTHCHECK"
        ) && KEYWORDS.contains(&self.keyword.as_str())
        {
            Flags::new(&self.split.flags, &[])?;
        }
        let command = match self.keyword.as_str() {
            "FROM" if !on_build => self.from()?,
            "ARG" => Command::Arg(self.arguments()?),
            "ENV" => Command::Env(self.pairs()?),
            "LABEL" => Command::Label(self.pairs()?),
            "RUN" => self.run()?,
            "COPY" | "ADD" => self.copying()?,
            "CMD" => Command::Cmd(self.command_line(arguments)?),
            "ENTRYPOINT" => Command::Entrypoint(self.command_line(arguments)?),
            "HEALTHCHECK" => self.healthcheck()?,
            "SHELL" => match json_list(arguments).map_err(|f| self.here(f))? {
                Some(words) if !words.is_empty() => Command::Shell(words),
                _ => {
                    return Err(self.here(Fault::syntax(
                        "SHELL expects a JSON list such as `[\"/bin/bash\", \"-c\"]`",
                    )));
                }
            },
            "EXPOSE" => {
                self.required("at least one port")?;
                Command::Expose(self.words(blank_separated(arguments)))
            }
            "VOLUME" => {
                let words = match json_list(arguments).map_err(|f| self.here(f))? {
                    Some(words) => words,
                    None => blank_separated(arguments),
                };
                if words.is_empty() || words.iter().any(|word| word.trim().is_empty()) {
                    return Err(self.here(Fault::syntax("VOLUME expects at least one path")));
                }
                let trimmed = words.iter().map(|word| word.trim().to_owned()).collect();
                Command::Volume(self.words(trimmed))
            }
            "USER" => Command::User(self.one("a user: `name`, `uid`, `name:group`")?),
            "WORKDIR" => Command::Workdir(self.one("a path")?),
            "STOPSIGNAL" => Command::StopSignal(self.one("a signal such as `SIGTERM`")?),
            "MAINTAINER" if !on_build => {
                self.required("a name")?;
                Command::Maintainer(arguments.to_owned())
            }
            "ONBUILD" if !on_build => self.on_build()?,
            "ONBUILD" | "FROM" | "MAINTAINER" => {
                return Err(Fault::syntax(format_args!(
                    "ONBUILD cannot be followed by {}",
                    self.keyword
                )));
            }
            _ => {
                let word = self.split.keyword;
                return Err(
                    Fault::new(Problem::UnknownInstruction(word.to_owned())).near(word, &KEYWORDS)
                );
            }
        };
        Ok(command)
    }

    /// A fault at the arguments.
    fn here(&self, fault: Fault) -> Fault {
        fault.at(self.split.offset)
    }

    fn required(&self, what: &str) -> Result<(), Fault> {
        if self.split.arguments.is_empty() {
            return Err(self.here(Fault::syntax(format_args!(
                "{} expects {what}",
                self.keyword
            ))));
        }
        Ok(())
    }

    fn one(&self, what: &str) -> Result<String, Fault> {
        self.required(what)?;
        Ok(self.word(self.split.arguments.to_owned()))
    }

    /// A word that variables are expanded in.
    fn word(&self, word: String) -> String {
        if self.escape == '`' {
            from_backticks(&word)
        } else {
            word
        }
    }

    fn words(&self, words: Vec<String>) -> Vec<String> {
        words.into_iter().map(|word| self.word(word)).collect()
    }

    fn from(&self) -> Result<Command, Fault> {
        let mut flags = Flags::new(&self.split.flags, &["platform"])?;
        let words = blank_separated(self.split.arguments);
        let (image, name) = match words.as_slice() {
            [image] => (image, None),
            [image, word, name] if word.eq_ignore_ascii_case("as") => (image, Some(name)),
            [] => {
                return Err(self.here(
                    Fault::syntax("FROM expects an image").hint("such as `FROM python:3.12-slim`"),
                ));
            }
            _ => {
                return Err(self.here(Fault::syntax(
                    "FROM expects `image` or `image AS name`, nothing else",
                )));
            }
        };
        let name = name.map(|name| name.to_ascii_lowercase());
        if let Some(name) = &name {
            let sound = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
            if !sound {
                return Err(self.here(Fault::syntax(format_args!(
                    "`{name}` cannot name a stage: expected a letter, then letters, digits, `-`, `_` and `.`"
                ))));
            }
        }
        Ok(Command::From(From {
            platform: flags.take("platform").map(|value| self.word(value)),
            image: self.word(image.clone()),
            name,
        }))
    }

    fn arguments(&self) -> Result<Vec<(String, Option<String>)>, Fault> {
        self.required("a name, or `name=default`")?;
        let words = quoted_words(self.split.arguments, self.escape);
        let argument = |word: String| {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(self.word(value.to_owned()))),
                None => (word.as_str(), None),
            };
            let sound = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
            if name.is_empty() || !name.chars().all(sound) {
                return Err(self.here(Fault::syntax(format_args!(
                    "`{name}` cannot name an argument: expected letters, digits and `_`"
                ))));
            }
            Ok((name.to_owned(), value))
        };
        words.into_iter().map(argument).collect()
    }

    fn pairs(&self) -> Result<Pairs, Fault> {
        self.required("`name=value`")?;
        let words = quoted_words(self.split.arguments, self.escape);
        if words.first().is_some_and(|word| !word.contains('=')) {
            let Some((name, value)) = split_once_blank(self.split.arguments) else {
                return Err(self.here(Fault::syntax(format_args!(
                    "{} expects `name=value`; `{}` has no value",
                    self.keyword, self.split.arguments
                ))));
            };
            let value = self.word(value.to_owned());
            return Ok(Pairs {
                // Without blanks both forms say the same. A name may hold one beyond ASCII, at which
                // only the other form ends a word.
                old_form: value.is_empty()
                    || [name, &value]
                        .iter()
                        .any(|text| text.contains(char::is_whitespace)),
                pairs: vec![(name.to_owned(), value)],
            });
        }
        let pair = |word: String| match word.split_once('=') {
            Some(("", _)) => Err(self.here(Fault::syntax(format_args!(
                "{} expects a name before `=`",
                self.keyword
            )))),
            Some((name, value)) => Ok((self.word(name.to_owned()), self.word(value.to_owned()))),
            None => Err(self.here(
                Fault::syntax(format_args!("expected `name=value`, found `{word}`"))
                    .hint("quote a value that has blanks"),
            )),
        };
        Ok(Pairs {
            pairs: words.into_iter().map(pair).collect::<Result<_, _>>()?,
            old_form: false,
        })
    }

    fn command_line(&self, text: &str) -> Result<CommandLine, Fault> {
        Ok(match json_list(text).map_err(|f| self.here(f))? {
            Some(words) => CommandLine::Exec(words),
            None => CommandLine::Shell(text.to_owned()),
        })
    }

    fn run(&self) -> Result<Command, Fault> {
        let mut flags = Flags::new(
            &self.split.flags,
            &["mount", "network", "security", "device"],
        )?;
        if let Some((_, at)) = flags.find("device") {
            return Err(Fault::unsupported("RUN --device is not supported").at(at));
        }
        match flags.find("security") {
            None | Some(("sandbox", _)) => {}
            Some(("insecure", at)) => {
                return Err(Fault::unsupported(
                    "RUN --security=insecure is not supported: steps never run privileged",
                )
                .at(at));
            }
            Some((other, at)) => {
                return Err(Fault::flag(format_args!(
                    "--security is `sandbox` or `insecure`, not `{other}`"
                ))
                .at(at));
            }
        }
        let network = match flags.find("network") {
            None | Some(("default", _)) => None,
            Some((mode @ ("none" | "host"), _)) => Some(mode.to_owned()),
            Some((other, at)) => {
                let fault = Fault::flag(format_args!(
                    "--network is `default`, `none` or `host`, not `{other}`"
                ));
                return Err(fault.near(other, &["default", "none", "host"]).at(at));
            }
        };
        let mut mounts = Vec::new();
        for (value, at) in flags.take_all("mount") {
            let value = self.word(value);
            mounts.push(MountFlag::parse(&value).map_err(|fault| fault.at(at))?);
        }
        let command = self.command_line(self.split.arguments)?;
        let empty = match &command {
            CommandLine::Shell(text) => text.is_empty(),
            CommandLine::Exec(words) => words.is_empty(),
        };
        if empty {
            return Err(self.here(Fault::syntax("RUN expects a command")));
        }
        Ok(Command::Run(Run {
            mounts,
            network,
            command,
            heredocs: self.heredocs.to_vec(),
        }))
    }

    fn copying(&self) -> Result<Command, Fault> {
        let add = self.keyword == "ADD";
        let known: &[&str] = if add {
            &[
                "chown",
                "chmod",
                "link",
                "keep-git-dir",
                "checksum",
                "unpack",
                "exclude",
            ]
        } else {
            &["chown", "from", "chmod", "link", "exclude", "parents"]
        };
        let mut flags = Flags::new(&self.split.flags, known)?;
        let list = json_list(self.split.arguments).map_err(|f| self.here(f))?;
        let mut words = list.unwrap_or_else(|| blank_separated(self.split.arguments));
        let dest = words.pop().unwrap_or_default();
        if words.is_empty() {
            return Err(self.here(Fault::syntax(format_args!(
                "{} expects at least one source and a destination",
                self.keyword
            ))));
        }
        if heredoc_mark(&dest)?.is_some() {
            return Err(self.here(Fault::syntax("a heredoc cannot be the destination")));
        }
        let mut bodies = self.heredocs.iter();
        let mut sources = Vec::new();
        for word in words {
            if heredoc_mark(&word)?.is_none() || self.heredocs.is_empty() {
                sources.push(CopyWord::Path(self.word(word)));
                continue;
            }
            match bodies.next() {
                Some(heredoc) => sources.push(CopyWord::Heredoc(heredoc.clone())),
                None => return Err(self.here(Fault::syntax("a heredoc has no body"))),
            }
        }
        if bodies.next().is_some() {
            return Err(self.here(Fault::syntax(
                "a heredoc is no source here: expected its delimiter right after `<<`",
            )));
        }
        let unpack = flags.switch("unpack")?;
        flags.switch("keep-git-dir")?;
        let copying = Copying {
            add,
            from: flags.take("from").filter(|from| !from.is_empty()),
            chown: flags.take("chown").map(|value| self.word(value)),
            chmod: flags.take("chmod").map(|value| self.word(value)),
            checksum: flags.take("checksum").map(|value| self.word(value)),
            link: flags.switch("link")?.unwrap_or(false),
            parents: flags.switch("parents")?.unwrap_or(false),
            unpack,
            exclude: flags
                .take_all("exclude")
                .into_iter()
                .map(|(v, _)| v)
                .collect(),
            sources,
            dest: self.word(dest),
        };
        Ok(Command::Copy(copying))
    }

    fn healthcheck(&self) -> Result<Command, Fault> {
        const FLAGS: [&str; 5] = [
            "interval",
            "timeout",
            "start-period",
            "start-interval",
            "retries",
        ];
        let flags = Flags::new(&self.split.flags, &FLAGS)?;
        let arguments = self.split.arguments;
        let end = arguments
            .find(char::is_whitespace)
            .unwrap_or(arguments.len());
        let (word, rest) = (&arguments[..end], arguments[end..].trim());
        if word.eq_ignore_ascii_case("NONE") {
            if !rest.is_empty() {
                return Err(self.here(Fault::syntax("HEALTHCHECK NONE takes no arguments")));
            }
            return Ok(Command::Healthcheck(None));
        }
        if !word.eq_ignore_ascii_case("CMD") {
            return Err(self.here(Fault::syntax("HEALTHCHECK expects `CMD` or `NONE`")));
        }
        let command = self.command_line(rest)?;
        if matches!(&command, CommandLine::Shell(text) if text.is_empty())
            || matches!(&command, CommandLine::Exec(words) if words.is_empty())
        {
            return Err(self.here(Fault::syntax("HEALTHCHECK CMD expects a command")));
        }
        let mut check = Healthcheck {
            flags: Vec::new(),
            interval: 0,
            timeout: 0,
            start_period: 0,
            start_interval: 0,
            retries: 0,
            command,
        };
        for name in FLAGS {
            let Some((value, at)) = flags.find(name).map(|(v, at)| (v.to_owned(), at)) else {
                continue;
            };
            let number = if name == "retries" {
                value.parse::<i32>().ok().filter(|n| *n >= 0).map(i64::from)
            } else {
                duration(&value).filter(|ns| *ns == 0 || *ns >= 1_000_000)
            };
            let Some(number) = number else {
                let expected = if name == "retries" {
                    "a number from 0"
                } else {
                    "a duration of at least 1ms, such as `30s` or `1m30s`"
                };
                return Err(Fault::flag(format_args!(
                    "--{name} expects {expected}, not `{value}`"
                ))
                .at(at));
            };
            match name {
                "interval" => check.interval = number,
                "timeout" => check.timeout = number,
                "start-period" => check.start_period = number,
                "start-interval" => check.start_interval = number,
                _ => check.retries = number,
            }
            if number != 0 {
                check.flags.push((name, value));
            }
        }
        Ok(Command::Healthcheck(Some(check)))
    }

    fn on_build(&self) -> Result<Command, Fault> {
        self.required("an instruction")?;
        let split = syntax::split(self.split.arguments, self.escape);
        let inner = Parser {
            keyword: split.keyword.to_ascii_uppercase(),
            split,
            escape: self.escape,
            heredocs: self.heredocs,
        };
        let command = inner.parse(true).map_err(|fault| {
            let offset = fault.offset() + self.split.offset;
            fault.at(offset)
        })?;
        Ok(Command::Onbuild(Box::new(command)))
    }
}

/// The flags of one instruction, all of them known.
struct Flags {
    given: Vec<(String, Option<String>, usize)>,
}

impl Flags {
    fn new(flags: &[(String, usize)], known: &[&str]) -> Result<Self, Fault> {
        let mut given: Vec<(String, Option<String>, usize)> = Vec::new();
        for (flag, at) in flags {
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag.as_str(), None),
            };
            let name = name.trim_start_matches("--");
            if !known.contains(&name) {
                return Err(Fault::flag(format_args!("unknown flag `--{name}`"))
                    .near(name, known)
                    .at(*at));
            }
            let repeated = matches!(name, "mount" | "exclude" | "device");
            if !repeated && given.iter().any(|(other, ..)| other == name) {
                return Err(Fault::flag(format_args!("the flag `--{name}` stands twice")).at(*at));
            }
            let switch = matches!(name, "link" | "parents" | "unpack" | "keep-git-dir");
            if value.is_none() && !switch {
                return Err(Fault::flag(format_args!(
                    "the flag `--{name}` expects `=` and a value"
                ))
                .at(*at));
            }
            given.push((name.to_owned(), value, *at));
        }
        Ok(Self { given })
    }

    fn find(&self, name: &str) -> Option<(&str, usize)> {
        let (_, value, at) = self.given.iter().find(|(given, ..)| given == name)?;
        Some((value.as_deref().unwrap_or_default(), *at))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.find(name).map(|(value, _)| value.to_owned())
    }

    fn take_all(&mut self, name: &str) -> Vec<(String, usize)> {
        let all = self.given.iter().filter(|(given, ..)| given == name);
        all.map(|(_, value, at)| (value.clone().unwrap_or_default(), *at))
            .collect()
    }

    fn switch(&self, name: &str) -> Result<Option<bool>, Fault> {
        let Some((_, value, at)) = self.given.iter().find(|(given, ..)| given == name) else {
            return Ok(None);
        };
        match value.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(Fault::flag(format_args!(
                "--{name} is `true` or `false`, not `{other}`"
            ))
            .at(*at)),
        }
    }
}

/// A duration of Go's `time.ParseDuration` in nanoseconds: `1h30m`, `1.5s`, `0`.
fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (whole, fraction) = rest[..end].split_once('.').unwrap_or((&rest[..end], ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        rest = &rest[end..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit: i128 = match &rest[..unit_end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[unit_end..];
        if !whole.is_empty() {
            total = total.checked_add(i128::from(whole.parse::<i64>().ok()?).checked_mul(unit)?)?;
        }
        if !fraction.is_empty() {
            let digits = &fraction[..fraction.len().min(18)];
            let scale = 10_i128.pow(u32::try_from(digits.len()).ok()?);
            total = total.checked_add(digits.parse::<i128>().ok()? * unit / scale)?;
        }
    }
    i64::try_from(if negative { -total } else { total }).ok()
}
