//! Layers of settings: each value with the place it came from.

use std::fmt;
use std::ops::Range;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Settings;
use super::table::{self, Kind, Setting, TABLE};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A TOML file.
    File(String),
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name) | Self::Env(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A setting that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No setting has that path.
    #[error("{place}: there is no setting `{path}`{}", suggest(.path))]
    Unknown {
        /// File and line, variable or flag.
        place: String,
        /// What was written.
        path: String,
    },
    /// A text that is not `path=value`.
    #[error("`{0}` is not `path=value`, such as `build.parallel=4`")]
    NotAPair(String),
    /// The value does not fit.
    #[error("{place}: `{path}` must be {expected}, not `{value}`")]
    Value {
        /// File and line, variable or flag.
        place: String,
        /// The setting.
        path: String,
        /// What was expected.
        expected: String,
        /// What was written.
        value: String,
    },
    /// The file is not TOML.
    #[error("{place}: {reason}")]
    Syntax {
        /// File and line.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

fn suggest(path: &str) -> String {
    let last = |p: &str| p.rsplit('.').next().unwrap_or_default().to_owned();
    let near = TABLE.iter().filter_map(|setting| {
        let whole = distance(path, setting.path);
        let same_word = last(path) == last(setting.path);
        (whole <= 3 || same_word).then_some((whole, setting.path))
    });
    match near.min() {
        Some((_, path)) => format!("; did you mean `{path}`?"),
        None => "; `chalk config show` lists them all".into(),
    }
}

/// Edits (insert, delete, replace) between two short texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// One line of `chalk config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value as text; empty when unset.
    pub value: String,
    /// Where that came from.
    pub origin: Origin,
}

/// Settings in the making. What is set later wins, so sources are added from the weakest (file)
/// to the strongest (flags).
#[derive(Debug, Clone, Default)]
pub struct Draft {
    set: Vec<(&'static Setting, Value, Origin)>,
}

impl Draft {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the values of a TOML file. Top-level keys in `foreign` belong to somebody else and
    /// are passed over.
    ///
    /// # Errors
    /// On the first thing that is wrong, with file, line and column.
    pub fn toml(&mut self, text: &str, file: &str, foreign: &[&str]) -> Result<(), SettingsError> {
        let document = DeTable::parse(text).map_err(|e| SettingsError::Syntax {
            place: place(file, text, e.span()),
            reason: e.message().to_owned(),
        })?;
        for (key, value) in document.get_ref() {
            if !foreign.contains(&key.get_ref().as_ref()) {
                self.toml_value(text, file, key.get_ref(), key.span(), value)?;
            }
        }
        Ok(())
    }

    fn toml_value(
        &mut self,
        text: &str,
        file: &str,
        path: &str,
        span: Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), SettingsError> {
        if let Some(setting) = table::find(path) {
            let place = place(file, text, Some(value.span()));
            let value = json(value.get_ref());
            return self.put(setting, value, &place, Origin::File(file.to_owned()));
        }
        let inside = format!("{path}.");
        match value.get_ref() {
            DeValue::Table(table) if TABLE.iter().any(|s| s.path.starts_with(&inside)) => {
                for (key, value) in table {
                    let path = format!("{path}.{}", key.get_ref());
                    self.toml_value(text, file, &path, key.span(), value)?;
                }
                Ok(())
            }
            _ => Err(SettingsError::Unknown {
                place: place(file, text, Some(span)),
                path: path.to_owned(),
            }),
        }
    }

    /// Takes the environment variables that name settings; `lookup` gives the value of one.
    ///
    /// # Errors
    /// When a value does not fit.
    pub fn env(&mut self, lookup: impl Fn(&str) -> Option<String>) -> Result<(), SettingsError> {
        for setting in TABLE {
            let name = setting.env();
            if let Some(value) = lookup(&name) {
                self.set(setting.path, &value, Origin::Env(name))?;
            }
        }
        Ok(())
    }

    /// Takes one `path=value` text.
    ///
    /// # Errors
    /// When it has no `=`, names no setting, or the value does not fit.
    pub fn set_pair(&mut self, pair: &str, origin: Origin) -> Result<(), SettingsError> {
        let (path, value) = pair
            .split_once('=')
            .ok_or_else(|| SettingsError::NotAPair(pair.to_owned()))?;
        self.set(path.trim(), value, origin)
    }

    /// Takes one value as text. An empty text unsets a setting that may be unset.
    ///
    /// # Errors
    /// When there is no such setting, or the value does not fit.
    pub fn set(&mut self, path: &str, text: &str, origin: Origin) -> Result<(), SettingsError> {
        let setting = table::find(path).ok_or_else(|| SettingsError::Unknown {
            place: origin.to_string(),
            path: path.to_owned(),
        })?;
        let value = read(setting.kind, text).ok_or_else(|| SettingsError::Value {
            place: origin.to_string(),
            path: path.to_owned(),
            expected: setting.kind.expected(),
            value: text.to_owned(),
        })?;
        let place = origin.to_string();
        self.put(setting, value, &place, origin)
    }

    /// Keeps a value after trying whether it fits.
    fn put(
        &mut self,
        setting: &'static Setting,
        value: Value,
        place: &str,
        origin: Origin,
    ) -> Result<(), SettingsError> {
        let shown = table::show(&value);
        let may_be_zero = matches!(
            setting.path,
            "build.keep" | "build.queue_limit" | "warm.keep" | "sandboxes.keep" | "gc.keep"
        );
        let sound = setting.kind != Kind::Count || may_be_zero || value.as_u64() != Some(0);
        let mut document = Value::Object(Map::new());
        insert(&mut document, setting.path, value.clone());
        if !sound || serde_json::from_value::<Settings>(document).is_err() {
            let least = if sound { "" } else { " of at least 1" };
            return Err(SettingsError::Value {
                place: place.to_owned(),
                path: setting.path.to_owned(),
                expected: format!("{}{least}", setting.kind.expected()),
                value: shown,
            });
        }
        self.set.retain(|(other, ..)| other.path != setting.path);
        self.set.push((setting, value, origin));
        Ok(())
    }

    /// The settings: what was set over the defaults.
    pub fn settings(&self) -> Settings {
        let mut document = Value::Object(Map::new());
        for (setting, value, _) in &self.set {
            insert(&mut document, setting.path, value.clone());
        }
        // Each value was tried when it was set, so this cannot fail.
        serde_json::from_value(document).unwrap_or_default()
    }

    /// Every setting with its value and where that came from.
    pub fn rows(&self) -> Vec<Row> {
        let defaults = table::defaults();
        let row = |setting: &'static Setting| match self
            .set
            .iter()
            .find(|(other, ..)| other.path == setting.path)
        {
            Some((_, value, origin)) => Row {
                setting,
                value: table::show(value),
                origin: origin.clone(),
            },
            None => Row {
                setting,
                value: setting.default(&defaults),
                origin: Origin::Default,
            },
        };
        TABLE.iter().map(row).collect()
    }
}

/// Reads text as the kind says; `None` when it does not fit at first sight.
fn read(kind: Kind, text: &str) -> Option<Value> {
    let text = text.trim();
    match kind {
        Kind::Text | Kind::Path | Kind::Cpus | Kind::Size | Kind::Time if text.is_empty() => {
            Some(Value::Null)
        }
        Kind::Text
        | Kind::Path
        | Kind::Cpus
        | Kind::Size
        | Kind::Time
        | Kind::Address
        | Kind::Word(_) => Some(text.into()),
        Kind::Count => text.parse::<u64>().ok().map(Value::from),
        Kind::List | Kind::Origins => {
            let items = text.split(',').map(str::trim).filter(|t| !t.is_empty());
            Some(items.map(Value::from).collect())
        }
        Kind::Map => {
            let mut map = Map::new();
            for pair in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
                let (key, values) = pair.split_once('=')?;
                let values: Value = values.split_whitespace().map(Value::from).collect();
                map.insert(key.trim().to_owned(), values);
            }
            Some(Value::Object(map))
        }
        Kind::Pairs => {
            let mut map = Map::new();
            for pair in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
                let (key, value) = pair.split_once('=')?;
                map.insert(key.trim().to_owned(), value.trim().into());
            }
            Some(Value::Object(map))
        }
        Kind::Switch => text.parse::<bool>().ok().map(Value::from),
    }
}

fn insert(document: &mut Value, path: &str, value: Value) {
    let mut place = document;
    for key in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[key];
    }
    *place = value;
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.into(),
            Err(_) => number.as_str().into(),
        },
        DeValue::Float(number) => number.as_str().into(),
        DeValue::Boolean(truth) => (*truth).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let pair = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                (key.clone().into_owned(), json(value.get_ref()))
            };
            Value::Object(table.iter().map(pair).collect())
        }
    }
}

/// `file:line:column`, counted from 1.
fn place(file: &str, text: &str, span: Option<Range<usize>>) -> String {
    let Some(before) = span.and_then(|span| text.get(..span.start)) else {
        return file.to_owned();
    };
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    format!("{file}:{line}:{column}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytesize::ByteSize;

    use super::*;
    use crate::settings::Installer;

    #[test]
    fn later_sources_win_and_are_named() {
        let mut draft = Draft::new();
        let file = "[build]\nparallel = 3\nstep_timeout = \"90s\"\nlog_limit = 1000\n\
                    [build.proxies]\nhttp = \"http://p:1\"\n\
                    [registry.mirrors]\n\"docker.io\" = [\"http://a\", \"http://b\"]\n\
                    [client]\nanything = 1\n";
        draft.toml(file, "chalk.toml", &["client"]).unwrap();
        draft
            .env(|name| (name == "CHALK_BUILD_PARALLEL").then(|| "4".to_owned()))
            .unwrap();
        draft
            .set_pair("build.installer=pip", Origin::Flag("--set".into()))
            .unwrap();
        let settings = draft.settings();
        assert_eq!(settings.build.parallel, 4);
        assert_eq!(settings.build.step_timeout, Duration::from_secs(90));
        assert_eq!(settings.build.log_limit, ByteSize(1000));
        assert_eq!(settings.build.installer, Installer::Pip);
        assert_eq!(settings.build.proxies.http.as_deref(), Some("http://p:1"));
        assert_eq!(
            settings.registry.mirrors["docker.io"],
            ["http://a", "http://b"]
        );
        let rows = draft.rows();
        let row = |path: &str| rows.iter().find(|r| r.setting.path == path).unwrap();
        assert_eq!(
            row("build.parallel").origin.to_string(),
            "CHALK_BUILD_PARALLEL"
        );
        assert_eq!(row("build.step_timeout").origin.to_string(), "chalk.toml");
        assert_eq!(row("build.queue_limit").origin, Origin::Default);
        assert_eq!(row("registry.mirrors").value, "docker.io=http://a http://b");
        assert_eq!(rows.len(), TABLE.len());
    }

    #[test]
    fn texts() {
        let check = |pair: &str, expect: Result<Value, &str>| {
            let mut draft = Draft::new();
            let got = draft.set_pair(pair, Origin::Flag("--set".into()));
            let path = pair.split('=').next().unwrap_or_default();
            let got = match got {
                Ok(()) => Ok(draft.set.last().map(|(_, value, _)| value.clone()).unwrap()),
                Err(error) => Err(error.to_string()),
            };
            assert_eq!(got, expect.map_err(str::to_owned), "{path}");
        };
        check("limits.blob=2 GiB", Ok("2 GiB".into()));
        check("limits.blob=123456789", Ok("123456789".into()));
        check("serve.hosts=a, b,", Ok(vec!["a", "b"].into()));
        check(
            "registry.mirrors=docker.io=http://m:1 http://n,ghcr.io=http://o",
            Ok(
                serde_json::json!({"docker.io": ["http://m:1", "http://n"], "ghcr.io": ["http://o"]}),
            ),
        );
        check(
            "node.labels=gpu=a100, zone = 1",
            Ok(serde_json::json!({"gpu": "a100", "zone": "1"})),
        );
        check("serve.node=true", Ok(true.into()));
        check(
            "serve.node=maybe",
            Err("--set: `serve.node` must be true or false, not `maybe`"),
        );
        check("build.ca_bundle=", Ok(Value::Null));
        check("build.cpus=1.5", Ok("1.5".into()));
        check("build.memory=2GiB", Ok("2GiB".into()));
        check(
            "build.cpus=none",
            Err(
                "--set: `build.cpus` must be a number of cores such as `1.5`, at least 0.01, not `none`",
            ),
        );
        check("build.keep=0", Ok(0.into()));
        check(
            "build.parallel=0",
            Err("--set: `build.parallel` must be a whole number of at least 1, not `0`"),
        );
        check(
            "build.parallel=many",
            Err("--set: `build.parallel` must be a whole number, not `many`"),
        );
        check(
            "serve.cors_origins=https://a.example,*",
            Ok(vec!["https://a.example", "*"].into()),
        );
        check(
            "serve.cors_origins=a.example",
            Err(
                "--set: `serve.cors_origins` must be origins such as `https://page.example`, separated by commas, or `*`, not `a.example`",
            ),
        );
        check(
            "build.installer=conda",
            Err("--set: `build.installer` must be one of uv, pip, not `conda`"),
        );
        check(
            "build.step_timeout=soon",
            Err(
                "--set: `build.step_timeout` must be a length of time such as `90s` or `1h 30m`, not `soon`",
            ),
        );
        check(
            "build.paralel=2",
            Err("--set: there is no setting `build.paralel`; did you mean `build.parallel`?"),
        );
        check(
            "mirrors=x",
            Err("--set: there is no setting `mirrors`; did you mean `registry.mirrors`?"),
        );
        check(
            "build",
            Err("`build` is not `path=value`, such as `build.parallel=4`"),
        );
    }

    #[test]
    fn a_file_is_refused_with_its_line() {
        let check = |text: &str, expect: &str| {
            let error = Draft::new().toml(text, "f.toml", &[]).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        check(
            "[build]\nparalel = 1\n",
            "f.toml:2:1: there is no setting `build.paralel`; did you mean `build.parallel`?",
        );
        check(
            "[build]\n\nparallel = \"x\"\n",
            "f.toml:3:12: `build.parallel` must be a whole number, not `x`",
        );
        check(
            "build = 3\n",
            "f.toml:1:1: there is no setting `build`; `chalk config show` lists them all",
        );
        let syntax = Draft::new()
            .toml("[build]\nparallel = = 1\n", "f.toml", &[])
            .unwrap_err();
        assert!(syntax.to_string().starts_with("f.toml:2:12: "), "{syntax}");
    }
}
