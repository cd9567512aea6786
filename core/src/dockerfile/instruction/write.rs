//! From an instruction to its canonical text.

use super::{Command, CommandLine, CopyWord, Copying, Pairs, Run};
use crate::dockerfile::lines::Heredoc;
use crate::dockerfile::syntax::escape_flag;
use crate::jcs::Json;

impl Command {
    /// The canonical text: one line, save the bodies of heredocs.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::From(from) => {
                let platform = flag("platform", from.platform.as_deref());
                let name = from
                    .name
                    .iter()
                    .fold(String::new(), |_, n| format!(" AS {n}"));
                format!("FROM{platform} {}{name}", from.image)
            }
            Self::Arg(arguments) => {
                let words = arguments.iter().map(|(name, value)| match value {
                    Some(value) => format!(" {name}={value}"),
                    None => format!(" {name}"),
                });
                format!("ARG{}", words.collect::<String>())
            }
            Self::Env(pairs) => format!("ENV{}", pairs.text()),
            Self::Label(pairs) => format!("LABEL{}", pairs.text()),
            Self::Run(run) => run.text(),
            Self::Copy(copying) => copying.text(),
            Self::Cmd(line) => format!("CMD{}", line.text()),
            Self::Entrypoint(line) => format!("ENTRYPOINT{}", line.text()),
            Self::Healthcheck(None) => "HEALTHCHECK NONE".into(),
            Self::Healthcheck(Some(check)) => {
                let flags = check
                    .flags
                    .iter()
                    .map(|(name, value)| flag(name, Some(value)));
                let flags: String = flags.collect();
                let command = match &check.command {
                    CommandLine::Shell(text) => text.clone(),
                    CommandLine::Exec(words) => json(words),
                };
                format!("HEALTHCHECK{flags} CMD {command}")
            }
            Self::Shell(words) => format!("SHELL {}", json(words)),
            Self::Expose(words) => format!("EXPOSE {}", words.join(" ")),
            Self::Volume(words) => format!("VOLUME {}", list(words)),
            Self::User(word) => format!("USER {word}"),
            Self::Workdir(word) => format!("WORKDIR {word}"),
            Self::StopSignal(word) => format!("STOPSIGNAL {word}"),
            Self::Maintainer(name) => format!("MAINTAINER {name}"),
            Self::Onbuild(command) => format!("ONBUILD {}", command.text()),
        }
    }
}

impl Pairs {
    fn text(&self) -> String {
        let sign = if self.old_form { ' ' } else { '=' };
        let pair = |(name, value): &(String, String)| format!(" {name}{sign}{value}");
        self.pairs.iter().map(pair).collect()
    }
}

impl CommandLine {
    fn text(&self) -> String {
        match self {
            Self::Shell(text) if text.is_empty() => String::new(),
            // A command that starts with dashes must not be read as flags.
            Self::Shell(text) if text.starts_with("--") => format!(" -- {text}"),
            Self::Shell(text) => format!(" {text}"),
            Self::Exec(words) => format!(" {}", json(words)),
        }
    }
}

impl Run {
    fn text(&self) -> String {
        let mounts = self
            .mounts
            .iter()
            .map(|mount| flag("mount", Some(&mount.text())));
        let mut text = format!(
            "RUN{}{}{}",
            mounts.collect::<String>(),
            flag("network", self.network.as_deref()),
            self.command.text()
        );
        write_bodies(&mut text, &self.heredocs);
        text
    }
}

impl Copying {
    fn text(&self) -> String {
        let mut text = if self.add { "ADD" } else { "COPY" }.to_owned();
        text.push_str(&flag("from", self.from.as_deref()));
        text.push_str(&flag("chown", self.chown.as_deref()));
        text.push_str(&flag("chmod", self.chmod.as_deref()));
        text.push_str(&flag("checksum", self.checksum.as_deref()));
        if let Some(unpack) = self.unpack {
            text.push_str(&format!(" --unpack={unpack}"));
        }
        for (name, set) in [("link", self.link), ("parents", self.parents)] {
            if set {
                text.push_str(&format!(" --{name}"));
            }
        }
        for pattern in &self.exclude {
            text.push_str(&flag("exclude", Some(pattern)));
        }
        let mut heredocs = Vec::new();
        let mut words = Vec::new();
        for source in &self.sources {
            words.push(match source {
                CopyWord::Path(path) => path.clone(),
                CopyWord::Heredoc(heredoc) => {
                    heredocs.push(heredoc.clone());
                    heredoc.mark()
                }
            });
        }
        words.push(self.dest.clone());
        text.push(' ');
        text.push_str(&list(&words));
        write_bodies(&mut text, &heredocs);
        text
    }
}

impl Heredoc {
    /// The word that announces it.
    fn mark(&self) -> String {
        let dash = if self.strip_tabs { "-" } else { "" };
        let name = match (self.expand, self.name.contains('\'')) {
            (false, false) => format!("'{}'", self.name),
            (false, true) => format!("\"{}\"", self.name),
            (true, _) => escape_flag(&self.name).replace('$', "\\$"),
        };
        format!("<<{dash}{name}")
    }
}

fn write_bodies(text: &mut String, heredocs: &[Heredoc]) {
    for heredoc in heredocs {
        text.push('\n');
        text.push_str(&heredoc.body);
        text.push_str(&heredoc.name);
    }
}

fn flag(name: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!(" --{name}={}", escape_flag(value)),
        None => String::new(),
    }
}

fn json(words: &[String]) -> String {
    Json::texts(words).canonical()
}

/// Words with blanks between them, as JSON where that would be read differently.
fn list(words: &[String]) -> String {
    let plain = |word: &String| {
        !word.is_empty()
            && !word.contains(['\t', '\n', '\u{b}', '\u{c}', '\r', ' '])
            && !word.starts_with(char::is_whitespace)
            && !word.ends_with(char::is_whitespace)
    };
    let first = words.first().map_or("", String::as_str);
    if words.iter().all(plain) && !first.starts_with('[') && !first.starts_with("--") {
        words.join(" ")
    } else {
        json(words)
    }
}
