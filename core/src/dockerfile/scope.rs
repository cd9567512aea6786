//! What is known of variables while a Dockerfile is read, without the configs of its bases.

use std::collections::BTreeMap;

use super::error::{Fault, Problem};
use super::expand::{Expanded, Lexer, Lookup};
use crate::Platform;
use crate::sorted::SortedMap;

/// `PATH` of a container whose image sets none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments that carry the proxies of the builder. They never count, and need no `ARG`.
const PROXIES: [&str; 5] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
];

/// Whether `name` is one of the predefined proxy arguments.
pub(crate) fn is_proxy(name: &str) -> bool {
    PROXIES.contains(&name.to_ascii_lowercase().as_str())
}

/// Variables of a stage.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    /// `None`: set, to a value that is not known.
    variables: SortedMap<Option<String>>,
    /// Those that `ENV` set.
    env: SortedMap<Option<String>>,
    /// Whether every other variable is unset; else the base may set it.
    closed: bool,
}

impl Scope {
    /// On the empty base, where everything is known.
    pub(crate) fn scratch() -> Self {
        let mut scope = Self {
            closed: true,
            ..Self::default()
        };
        scope.set("PATH", Some(DEFAULT_PATH.to_owned()));
        scope
    }

    /// On an image whose config is not at hand.
    pub(crate) fn unknown() -> Self {
        Self::default()
    }

    pub(crate) fn set(&mut self, name: &str, value: Option<String>) {
        *self.variables.entry(name) = value;
    }

    /// What `ENV` sets.
    pub(crate) fn set_env(&mut self, name: &str, value: Option<String>) {
        self.set(name, value.clone());
        *self.env.entry(name) = value;
    }

    /// What a stage sees that continues this one: arguments carry over, but where `ENV` set the
    /// same name it wins.
    pub(crate) fn next_stage(&self) -> Self {
        let mut next = self.clone();
        for (name, value) in self.env.iter() {
            next.set(name, value.clone());
        }
        next
    }

    fn lookup(&self, name: &str) -> Lookup {
        match self.variables.get(name) {
            Some(Some(value)) => Lookup::Value(value.clone()),
            None if self.closed => Lookup::Unset,
            Some(None) | None => Lookup::Unknown,
        }
    }

    /// Expands a word; [`Expanded::unknown`] says whether the result can be used.
    pub(crate) fn expand(&self, word: &str) -> Result<Expanded, Fault> {
        let lookup = |name: &str| self.lookup(name);
        Lexer::new(&lookup).expand(word).map_err(|reason| {
            Fault::new(Problem::Variable(format!(
                "cannot expand `{word}`: {reason}"
            )))
        })
    }

    /// The value of a word, if it is known.
    pub(crate) fn value(&self, word: &str) -> Result<Option<String>, Fault> {
        let expanded = self.expand(word)?;
        Ok((!expanded.unknown).then_some(expanded.text))
    }
}

/// Arguments that stand before the first `FROM`, with the platforms that every Dockerfile may ask
/// for.
pub(crate) fn global_arguments(
    platform: &Platform,
    build: &BTreeMap<String, String>,
    target: &str,
) -> Scope {
    // The platform that builds is fixed: where a hash is computed must not count.
    let machine = Platform::default();
    let mut scope = Scope {
        closed: true,
        ..Scope::default()
    };
    let mut put = |name: &str, value: &str| {
        let value = build.get(name).map_or(value, String::as_str);
        scope.set(name, Some(value.to_owned()));
    };
    for (prefix, platform) in [("BUILD", &machine), ("TARGET", platform)] {
        put(&format!("{prefix}PLATFORM"), &platform.to_string());
        put(&format!("{prefix}OS"), &platform.os);
        put(&format!("{prefix}OSVERSION"), "");
        put(&format!("{prefix}ARCH"), &platform.architecture);
        let variant = platform.variant.as_deref().unwrap_or_default();
        put(&format!("{prefix}VARIANT"), variant);
    }
    put("TARGETSTAGE", target);
    scope
}

/// Whether a build argument of this name needs no `ARG`.
pub(crate) fn is_predefined(name: &str) -> bool {
    is_proxy(name) || {
        let platform = global_arguments(&Platform::default(), &BTreeMap::new(), "");
        platform.variables.get(name).is_some()
    }
}

impl Scope {
    /// The value of a global argument.
    pub(crate) fn global(&self, name: &str) -> Option<&str> {
        self.variables.get(name)?.as_deref()
    }
}
