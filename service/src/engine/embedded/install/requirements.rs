//! What a `pip_install` list says: options apart from requirements, and the same in uv's words.
//!
//! A list holds arguments of `pip install` or lines of a requirements file, or both. Requirements
//! always go to the installer in a file of their own, since only there hashes stand beside them
//! and variables are expanded; index addresses go as variables, since they may hold passwords and
//! arguments show in process lists.

use std::collections::BTreeMap;

/// A list taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::engine) struct Request {
    /// Options in order, `--long` or `-s`, each with its value if it takes one.
    pub(in crate::engine) options: Vec<(String, Option<String>)>,
    /// Lines of a requirements file: requirements and `-e`, `-r`, `-c`.
    pub(in crate::engine) lines: Vec<String>,
}

/// Options of pip that take a value. All others are switches.
const WITH_VALUE: &[&str] = &[
    "--abi",
    "--cache-dir",
    "--cert",
    "--client-cert",
    "--config-settings",
    "--exists-action",
    "--extra-index-url",
    "--find-links",
    "--global-option",
    "--group",
    "--implementation",
    "--index-url",
    "--keyring-provider",
    "--log",
    "--no-binary",
    "--only-binary",
    "--platform",
    "--prefix",
    "--progress-bar",
    "--proxy",
    "--python",
    "--python-version",
    "--report",
    "--retries",
    "--root",
    "--root-user-action",
    "--src",
    "--target",
    "--timeout",
    "--trusted-host",
    "--upgrade-strategy",
    "--use-deprecated",
    "--use-feature",
];

/// Short options of `pip install` and their long forms.
const SHORT: &[(&str, &str)] = &[
    ("-i", "--index-url"),
    ("-f", "--find-links"),
    ("-t", "--target"),
    ("-U", "--upgrade"),
    ("-I", "--ignore-installed"),
    ("-C", "--config-settings"),
    ("-q", "--quiet"),
    ("-v", "--verbose"),
];

/// Takes a list apart.
///
/// # Errors
/// When an option lacks its value; in words.
pub(in crate::engine) fn parse(packages: &[String]) -> Result<Request, String> {
    let mut request = Request::default();
    let mut entries = packages.iter();
    while let Some(entry) = entries.next() {
        let entry = entry.trim();
        if entry.is_empty() || entry.starts_with('#') {
            continue;
        }
        if !entry.starts_with('-') {
            request.lines.push(entry.to_owned());
            continue;
        }
        let (word, mut value) = match entry.split_once([' ', '\t', '=']) {
            Some((word, value)) => (word, Some(value.trim())),
            None => (entry, None),
        };
        let line_option = match word {
            "-e" | "--editable" => Some("-e"),
            "-r" | "--requirement" => Some("-r"),
            "-c" | "--constraint" => Some("-c"),
            _ => None,
        };
        let mut long = SHORT
            .iter()
            .find(|(short, _)| *short == word)
            .map_or(word, |(_, long)| long);
        // `-rfile`, `-ihttps://…`: a short option with its value attached.
        let attached = !word.starts_with("--") && word.len() > 2 && word.is_char_boundary(2);
        let mut attached_line = None;
        if attached {
            let (short, rest) = entry.split_at(2);
            match short {
                "-e" | "-r" | "-c" => attached_line = Some((short, rest)),
                _ => {
                    if let Some((_, name)) = SHORT.iter().find(|(s, _)| *s == short)
                        && WITH_VALUE.contains(name)
                    {
                        (long, value) = (name, Some(rest.trim()));
                    }
                }
            }
        }
        if let Some((short, rest)) = attached_line {
            request.lines.push(format!("{short} {}", rest.trim()));
            continue;
        }
        let mut needs_value = |value: Option<&str>| match value {
            Some(value) => Ok(value.to_owned()),
            None => entries
                .next()
                .cloned()
                .ok_or_else(|| format!("option `{word}` lacks its value")),
        };
        if let Some(short) = line_option {
            let value = needs_value(value)?;
            request.lines.push(format!("{short} {value}"));
        } else if WITH_VALUE.contains(&long) {
            let value = unquote(&needs_value(value)?);
            request.options.push((long.to_owned(), Some(value)));
        } else {
            request
                .options
                .push((long.to_owned(), value.map(str::to_owned)));
        }
    }
    Ok(request)
}

fn unquote(text: &str) -> String {
    let inner = ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote));
    inner.unwrap_or(text).to_owned()
}

impl Request {
    /// Contents of the requirements file; `None` when there is nothing to put in.
    pub(in crate::engine) fn file(&self) -> Option<Vec<u8>> {
        if self.lines.is_empty() {
            return None;
        }
        let mut text = self.lines.join("\n");
        text.push('\n');
        Some(text.into_bytes())
    }

    /// The options as arguments for pip.
    pub(in crate::engine) fn pip_args(&self) -> Vec<String> {
        let mut args = Vec::new();
        for (name, value) in &self.options {
            match value {
                Some(value) if name.starts_with("--") => args.push(format!("{name}={value}")),
                Some(value) => args.extend([name.clone(), value.clone()]),
                None => args.push(name.clone()),
            }
        }
        args
    }

    /// The options as arguments for uv, for a list that was written for uv.
    pub(in crate::engine) fn uv_args(&self) -> Vec<String> {
        self.pip_args()
    }
}

/// What uv is to be called with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::engine) struct UvCall {
    /// Arguments after `uv pip install`.
    pub(in crate::engine) args: Vec<String>,
    /// Variables over those of the step.
    pub(in crate::engine) env: Vec<(String, String)>,
    /// Whether bytecode is compiled.
    pub(in crate::engine) compile: bool,
}

/// Says in uv's words what pip would do with `request`, the `PIP_*` variables of `env` and the
/// settings of pip's configuration files (long option names without dashes in front).
///
/// # Errors
/// Why uv cannot do it; in words that end a sentence beginning with "uv is not used: ".
pub(in crate::engine) fn for_uv(
    request: &Request,
    env: &[(String, String)],
    config: &BTreeMap<String, String>,
) -> Result<UvCall, String> {
    let mut settings: BTreeMap<String, String> = config.clone();
    for (name, value) in env {
        if let Some(name) = name.strip_prefix("PIP_")
            && !value.is_empty()
        {
            settings.insert(name.to_ascii_lowercase().replace('_', "-"), value.clone());
        }
    }
    let mut words = Words::default();
    for (name, value) in &settings {
        let origin = format!("pip's setting `{name}`");
        words.take(name, value.split_whitespace(), value, &origin)?;
    }
    // What arguments say replaces what settings say; repeated arguments add up.
    let expand = |value: &str| expand_variables(value, env);
    let mut from_options = Words::default();
    for (name, value) in &request.options {
        let plain = name.trim_start_matches('-');
        let value = value.as_deref().map(expand);
        let value = value.as_deref().unwrap_or("true");
        from_options.take(plain, [value].into_iter(), value, &format!("`{name}`"))?;
    }
    words.override_by(from_options);
    words.finish(request)
}

/// `${NAME}` as pip expands it in requirements files: names of capitals, digits and underscores;
/// unknown ones stay.
fn expand_variables(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let tail = &rest[start..];
        let end = tail.find('}').map(|end| (&tail[2..end], end + 1));
        let found = end.and_then(|(name, end)| {
            let sound = name
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            let value = env.iter().find(|(n, _)| sound && n == name);
            value.map(|(_, value)| (value, end))
        });
        match found {
            Some((value, end)) => {
                out.push_str(value);
                rest = &tail[end..];
            }
            None => {
                out.push_str("${");
                rest = &tail[2..];
            }
        }
    }
    out + rest
}

/// Options collected in uv's words.
#[derive(Debug, Default)]
struct Words {
    /// Variable to its value; a value with blanks is a list.
    env: BTreeMap<&'static str, String>,
    args: Vec<String>,
    /// `--no-binary` and the like: options of which arguments replace settings as a whole.
    constraints: Vec<String>,
    upgrade: bool,
    no_compile: bool,
    no_index: bool,
}

fn truth(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "1" | "true" | "yes" | "on" | "y" | "t"
    )
}

impl Words {
    fn list<'a>(&mut self, name: &'static str, values: impl Iterator<Item = &'a str>) {
        for value in values {
            let list = self.env.entry(name).or_default();
            if !list.is_empty() {
                list.push(' ');
            }
            list.push_str(value);
        }
    }

    fn switch(&mut self, value: &str, flag: &str) {
        if truth(value) {
            self.args.push(flag.to_owned());
        }
    }

    fn take<'a>(
        &mut self,
        name: &str,
        values: impl Iterator<Item = &'a str>,
        value: &str,
        origin: &str,
    ) -> Result<(), String> {
        match name {
            "index-url" | "pypi-url" => {
                self.env.insert("UV_DEFAULT_INDEX", value.to_owned());
            }
            "extra-index-url" => self.list("UV_INDEX", values),
            "find-links" => self.list("UV_FIND_LINKS", values),
            "trusted-host" => self.list("UV_INSECURE_HOST", values),
            "timeout" | "default-timeout" => {
                let seconds = value.split('.').next().unwrap_or_default();
                self.env.insert("UV_HTTP_TIMEOUT", seconds.to_owned());
            }
            "retries" => {
                self.env.insert("UV_HTTP_RETRIES", value.to_owned());
            }
            "cert" => {
                self.env.insert("SSL_CERT_FILE", value.to_owned());
            }
            "client-cert" => {
                self.env.insert("SSL_CLIENT_CERT", value.to_owned());
            }
            "proxy" => {
                self.env.insert("ALL_PROXY", value.to_owned());
            }
            "constraint" => {
                self.constraints
                    .extend(values.map(|file| format!("--constraints={file}")));
            }
            "no-binary" | "only-binary" => {
                let flag = format!("--{name}");
                for package in value.split([',', ' ']).filter(|p| !p.is_empty()) {
                    self.args.push(format!("{flag}={package}"));
                }
            }
            "no-index" => self.no_index = truth(value),
            "pre" => self.switch(value, "--prerelease=allow"),
            "no-deps" | "no-dependencies" => self.switch(value, "--no-deps"),
            "force-reinstall" => self.switch(value, "--reinstall"),
            "require-hashes" => self.switch(value, "--require-hashes"),
            "no-build-isolation" => self.switch(value, "--no-build-isolation"),
            "break-system-packages" => self.switch(value, "--break-system-packages"),
            "target" | "prefix" => self.args.push(format!("--{name}={value}")),
            "config-settings" => self.args.push(format!("--config-setting={value}")),
            "upgrade" => self.upgrade = truth(value),
            "no-compile" => self.no_compile = truth(value),
            "compile" => self.no_compile = !truth(value),
            "upgrade-strategy" if value == "only-if-needed" => {}
            // How pip talks, keeps its cache and checks itself; uv's cache is the builder's.
            "quiet"
            | "verbose"
            | "progress-bar"
            | "no-color"
            | "no-input"
            | "log"
            | "cache-dir"
            | "no-cache-dir"
            | "disable-pip-version-check"
            | "no-python-version-warning"
            | "root-user-action"
            | "no-warn-script-location"
            | "no-warn-conflicts"
            | "use-pep517"
            | "isolated"
            | "exists-action" => {}
            // Switches that are off ask for nothing.
            "user"
            | "prefer-binary"
            | "ignore-installed"
            | "dry-run"
            | "debug"
            | "no-clean"
            | "ignore-requires-python"
            | "check-build-dependencies"
            | "require-virtualenv"
                if !truth(value) => {}
            _ => return Err(format!("it has nothing like {origin}")),
        }
        Ok(())
    }

    fn override_by(&mut self, other: Self) {
        self.env.extend(other.env);
        let named = |args: &[String], arg: &String| {
            let key = |a: &str| a.split('=').next().unwrap_or_default().to_owned();
            args.iter().any(|a| key(a) == key(arg))
        };
        self.args.retain(|arg| !named(&other.args, arg));
        self.args.extend(other.args);
        self.constraints.extend(other.constraints);
        self.upgrade |= other.upgrade;
        self.no_compile |= other.no_compile;
        self.no_index |= other.no_index;
    }

    fn finish(mut self, request: &Request) -> Result<UvCall, String> {
        if self.no_index {
            self.args.push("--no-index".to_owned());
        }
        self.args.append(&mut self.constraints);
        if self.upgrade {
            // pip upgrades what is named and leaves the rest unless it must; uv's `--upgrade`
            // upgrades everything.
            for line in &request.lines {
                let end = line
                    .find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)))
                    .unwrap_or(line.len());
                let rest = line[end..].trim_start();
                if end == 0 || line.starts_with('-') || rest.starts_with(['/', ':', '+']) {
                    return Err(format!("it cannot upgrade `{line}` alone, as pip does"));
                }
                self.args
                    .push(format!("--upgrade-package={}", &line[..end]));
            }
        }
        Ok(UvCall {
            args: self.args,
            env: self
                .env
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            compile: !self.no_compile,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(packages: &[&str]) -> Request {
        let packages: Vec<String> = packages.iter().map(ToString::to_string).collect();
        parse(&packages).unwrap()
    }

    #[test]
    fn takes_lists_apart() {
        let check = |packages: &[&str], options: &[(&str, Option<&str>)], lines: &[&str]| {
            let request = request(packages);
            let got: Vec<(&str, Option<&str>)> = request
                .options
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_deref()))
                .collect();
            assert_eq!(
                (got.as_slice(), &request.lines[..]),
                (
                    options,
                    &lines.iter().map(ToString::to_string).collect::<Vec<_>>()[..]
                )
            );
        };
        check(
            &["requests", "pandas>=2.0"],
            &[],
            &["requests", "pandas>=2.0"],
        );
        check(&["--pre", "a"], &[("--pre", None)], &["a"]);
        check(&["-U", "a"], &[("--upgrade", None)], &["a"]);
        for spelled in [
            &["--index-url", "https://x"][..],
            &["--index-url https://x"],
            &["--index-url=https://x"],
            &["-i", "https://x"],
            &["-i https://x"],
            &["-ihttps://x"],
            &["--index-url 'https://x'"],
        ] {
            check(spelled, &[("--index-url", Some("https://x"))], &[]);
        }
        for spelled in [
            &["-e", "./a"][..],
            &["-e ./a"],
            &["--editable=./a"],
            &["-e./a"],
        ] {
            check(spelled, &[], &["-e ./a"]);
        }
        check(&["a==1 --hash=sha256:00"], &[], &["a==1 --hash=sha256:00"]);
        check(&["# comment", ""], &[], &[]);
        assert!(
            parse(&["--index-url".to_owned()])
                .unwrap_err()
                .contains("--index-url")
        );
    }

    /// Arguments and variables, or a word of the reason.
    type Expected<'a> = Result<(&'a [&'a str], &'a [(&'a str, &'a str)]), &'a str>;

    #[test]
    fn speaks_uv() {
        let check = |packages: &[&str],
                     env: &[(&str, &str)],
                     config: &[(&str, &str)],
                     expect: Expected<'_>| {
            let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
                let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
                pairs.iter().map(own).collect()
            };
            let config = own(config).into_iter().collect();
            let got = for_uv(&request(packages), &own(env), &config);
            match (got, expect) {
                (Ok(call), Ok((args, env))) => {
                    assert_eq!(
                        (call.args, call.env),
                        (args.iter().map(ToString::to_string).collect(), own(env))
                    );
                }
                (Err(got), Err(expect)) => assert!(got.contains(expect), "{got}"),
                (got, expect) => panic!("{packages:?}: {got:?}, not {expect:?}"),
            }
        };
        check(&["a"], &[], &[], Ok((&[], &[])));
        check(
            &["a"],
            &[
                ("PIP_INDEX_URL", "https://i"),
                ("PIP_EXTRA_INDEX_URL", "https://j https://k"),
            ],
            &[("index-url", "https://conf"), ("find-links", "/w")],
            Ok((
                &[],
                &[
                    ("UV_DEFAULT_INDEX", "https://i"),
                    ("UV_FIND_LINKS", "/w"),
                    ("UV_INDEX", "https://j https://k"),
                ],
            )),
        );
        check(
            &[
                "--index-url",
                "https://${TOKEN}@i",
                "--extra-index-url=https://1",
                "--extra-index-url=https://2",
                "a",
            ],
            &[("PIP_INDEX_URL", "https://env"), ("TOKEN", "t")],
            &[],
            Ok((
                &[],
                &[
                    ("UV_DEFAULT_INDEX", "https://t@i"),
                    ("UV_INDEX", "https://1 https://2"),
                ],
            )),
        );
        check(
            &["--pre", "--no-deps", "--no-binary", "a,b", "a"],
            &[
                ("PIP_NO_CACHE_DIR", "1"),
                ("PIP_BREAK_SYSTEM_PACKAGES", "1"),
            ],
            &[],
            Ok((
                &[
                    "--break-system-packages",
                    "--prerelease=allow",
                    "--no-deps",
                    "--no-binary=a",
                    "--no-binary=b",
                ],
                &[],
            )),
        );
        check(
            &["-U", "a>=1", "b[x]"],
            &[],
            &[],
            Ok((&["--upgrade-package=a", "--upgrade-package=b"], &[])),
        );
        check(&["-U", "git+https://x"], &[], &[], Err("git+https://x"));
        check(&["--user", "a"], &[], &[], Err("`--user`"));
        check(
            &["a"],
            &[("PIP_USER", "yes")],
            &[],
            Err("pip's setting `user`"),
        );
        check(&["a"], &[("PIP_USER", "0")], &[], Ok((&[], &[])));
        check(&["--report", "x", "a"], &[], &[], Err("`--report`"));
        check(
            &["--global-option=x", "a"],
            &[],
            &[],
            Err("`--global-option`"),
        );
        assert!(
            !for_uv(&request(&["--no-compile", "a"]), &[], &BTreeMap::new())
                .unwrap()
                .compile
        );
    }

    #[test]
    fn pip_gets_its_options_back() {
        let check = |packages: &[&str], expect: &[&str]| {
            assert_eq!(request(packages).pip_args(), expect);
        };
        check(
            &["-i", "https://x", "--pre", "a"],
            &["--index-url=https://x", "--pre"],
        );
        check(&["-vv"], &["-vv"]);
    }
}
