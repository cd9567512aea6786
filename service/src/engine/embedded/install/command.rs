//! The processes of typed installs, as every engine runs them: arguments, environment, and what is
//! mounted for their time.

use chalk_core::lower::{Install, Installer};
use chalk_core::spec::UvProject;

use super::requirements::{Request, UvCall};
use super::{Python, bytecode, requirements};
use crate::settings;

/// Oldest Python that uv installs into.
const OLDEST_PYTHON: (u32, u32) = (3, 8);
/// Variable that dates files (<https://reproducible-builds.org/specs/source-date-epoch/>).
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// 1980-01-01, the first day that a zip archive can hold.
const EPOCH: i64 = 315_532_800;

/// `apt-get` with its lists and archives in the cache directory. Image makers set `Dir::Cache`
/// and hooks that empty `/var/cache/apt`; options here come after all configuration files.
const APT: &str = r#"set -e
cache=$1
shift
apt() {
    apt-get -q -y \
        -o Dir::State::Lists="$cache/lists" \
        -o Dir::Cache="$cache" \
        -o Dir::Cache::Archives="$cache/archives" \
        -o Dir::Cache::PkgCache=pkgcache.bin \
        -o Dir::Cache::SrcPkgCache=srcpkgcache.bin \
        -o APT::Keep-Downloaded-Packages=true \
        -o Acquire::Languages=none \
        -o Acquire::GzipIndexes=false \
        -o Acquire::Retries=3 \
        -o Dpkg::Use-Pty=0 \
        "$@"
}
mkdir -p "$cache/lists" "$cache/archives"
apt update
apt install --no-install-recommends -- "$@"
"#;

/// Where the builder's own files are in the root, for the time of a step.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Private(pub(in crate::engine) &'static str);

impl Private {
    /// Directory with the program `uv`.
    pub(in crate::engine) fn uv(self) -> String {
        format!("{}/uv", self.0)
    }

    /// Directory that the tool keeps from step to step.
    pub(in crate::engine) fn cache(self) -> String {
        format!("{}/cache", self.0)
    }

    /// Directory for temporary files: installers leave locks and half-built wheels there.
    pub(in crate::engine) fn temp(self) -> String {
        format!("{}/tmp", self.0)
    }

    /// File with the requirements of an install.
    pub(in crate::engine) fn requirements(self) -> String {
        format!("{}/requirements.txt", self.0)
    }
}

/// A process, and what it needs of the paths of [`Private`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Command {
    pub(in crate::engine) args: Vec<String>,
    pub(in crate::engine) env: Vec<(String, String)>,
    pub(in crate::engine) cwd: String,
    /// Tool that the cache directory is of.
    pub(in crate::engine) cache: &'static str,
    /// Whether the cache directory is for one step at a time.
    pub(in crate::engine) exclusive: bool,
    pub(in crate::engine) uv: bool,
    pub(in crate::engine) temp: bool,
    pub(in crate::engine) requirements: Option<Vec<u8>>,
}

impl Command {
    fn new<S: Into<String>>(
        install: &Install,
        cache: &'static str,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut command = Self {
            args: args.into_iter().map(Into::into).collect(),
            env: install.env.clone(),
            cwd: "/".to_owned(),
            cache,
            exclusive: false,
            uv: false,
            temp: false,
            requirements: None,
        };
        command.reproducibly();
        command
    }

    /// Sets a variable, whatever it was.
    fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Has installers leave the same files behind whenever they install the same packages.
    fn reproducibly(&mut self) {
        let fixed = [
            // Python compiles to checked-hash `.pyc` where this is set (PEP 552), which hold no time.
            (SOURCE_DATE_EPOCH, EPOCH.to_string()),
            // Else what installers happen to import is compiled along, by its time.
            ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
            // Before Python 3.11 the order of sets went into bytecode.
            ("PYTHONHASHSEED", "0".to_owned()),
        ];
        for (name, value) in fixed {
            if !self.env.iter().any(|(other, _)| other == name) {
                self.set(name, &value);
            }
        }
    }

    /// Gives it the builder's uv.
    fn with_uv(mut self, private: Private) -> Self {
        self.set("UV_CACHE_DIR", &private.cache());
        // The cache is another mount, to which nothing can be linked.
        self.set("UV_LINK_MODE", "copy");
        self.set("UV_PYTHON_DOWNLOADS", "never");
        self.set("UV_NO_PROGRESS", "1");
        self.set("PYC_INVALIDATION_MODE", "CHECKED_HASH");
        self.uv = true;
        self.with_temp(private)
    }

    fn with_temp(mut self, private: Private) -> Self {
        self.set("TMPDIR", &private.temp());
        self.temp = true;
        self
    }
}

/// The latest time that files of an install have: what the spec says, else [`EPOCH`].
pub(in crate::engine) fn epoch(env: &[(String, String)]) -> i64 {
    let told = env.iter().find(|(name, _)| name == SOURCE_DATE_EPOCH);
    let told = told.and_then(|(_, value)| value.parse().ok());
    told.filter(|epoch| *epoch >= 0).unwrap_or(EPOCH)
}

/// `apt_install`.
pub(in crate::engine) fn apt(install: &Install, packages: &[String], private: Private) -> Command {
    let args = ["/bin/sh", "-c", APT, "apt_install", &private.cache()];
    let mut command = Command::new(install, "apt", args);
    command.args.extend(packages.iter().cloned());
    if !install
        .env
        .iter()
        .any(|(name, _)| name == "DEBIAN_FRONTEND")
    {
        command.set("DEBIAN_FRONTEND", "noninteractive");
    }
    // apt locks its directories and fails when it cannot.
    command.exclusive = true;
    command
}

/// `pip_install` or `uv_pip_install`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct PythonInstall {
    pub(in crate::engine) command: Command,
    /// Why it is not uv's, for the log.
    pub(in crate::engine) note: Option<String>,
    /// Whether what is installed is compiled by [`compile`] afterwards.
    pub(in crate::engine) compile: bool,
}

/// Puts a list of packages for `python` in the words of uv, or, where that cannot do it for the reason
/// in `uv`, of pip.
///
/// # Errors
/// When neither can; in words.
pub(in crate::engine) fn python(
    install: &Install,
    installer: Installer,
    request: &Request,
    python: &Python,
    uv: Result<UvCall, String>,
    private: Private,
) -> Result<PythonInstall, String> {
    let (mut command, note, compile) = match uv {
        Ok(uv) => {
            let program = format!("{}/uv", private.uv());
            let mut command = Command::new(install, "uv", [program.as_str(), "pip", "install"]);
            command.args.push(format!("--python={}", python.executable));
            let ours = uv.compile && bytecode::is_ours(python, &uv.args);
            if uv.compile && !ours {
                command.args.push("--compile-bytecode".to_owned());
            }
            if installer == Installer::Pip {
                // pip looks at all indexes and takes the best version there is.
                let strategy = "--index-strategy=unsafe-best-match";
                command.args.push(strategy.to_owned());
            }
            command.args.extend(uv.args);
            for (name, value) in uv.env {
                command.set(&name, &value);
            }
            if installer == Installer::Pip {
                command.set("UV_NO_CONFIG", "1");
            }
            (command.with_uv(private), None, ours)
        }
        Err(why) => {
            if !python.pip {
                return Err(format!(
                    "uv is not used ({why}), and {} has no pip; install it, or take another base",
                    python.executable
                ));
            }
            let args = [python.executable.as_str(), "-m", "pip", "install"];
            let mut command = Command::new(install, "pip", args);
            command.args.extend(request.pip_args());
            // The user's own "no cache" is there to keep the cache out of the layer; ours never is.
            command.env.retain(|(name, _)| name != "PIP_NO_CACHE_DIR");
            command.set("PIP_CACHE_DIR", &private.cache());
            command.set("PIP_ROOT_USER_ACTION", "ignore");
            command.set("PIP_DISABLE_PIP_VERSION_CHECK", "1");
            command.set("PIP_PROGRESS_BAR", "off");
            let note = format!("uv is not used: {why}");
            (command.with_temp(private), Some(note), false)
        }
    };
    command.requirements = request.file();
    if command.requirements.is_some() {
        command
            .args
            .extend(["-r".to_owned(), private.requirements()]);
    }
    Ok(PythonInstall {
        command,
        note,
        compile,
    })
}

/// What uv is to be told for a list of packages, or why pip has to do it.
///
/// # Errors
/// In words that end a sentence beginning with "uv is not used: ".
pub(in crate::engine) fn for_uv(
    setting: settings::Installer,
    installer: Installer,
    install: &Install,
    request: &Request,
    python: &Python,
) -> Result<UvCall, String> {
    if installer == Installer::Uv {
        return Ok(UvCall {
            args: request.uv_args(),
            env: Vec::new(),
            compile: true,
        });
    }
    if setting == settings::Installer::Pip {
        return Err("the setting `build.installer` is `pip`".to_owned());
    }
    let (major, minor) = python.version;
    if python.version < OLDEST_PYTHON {
        return Err(format!("it does not know Python {major}.{minor}"));
    }
    if !matches!(
        python.implementation.as_str(),
        "cpython" | "pypy" | "graalpy"
    ) {
        return Err(format!(
            "it does not know the Python called {}",
            python.implementation
        ));
    }
    if !python.writable {
        return Err("the step's user may not write to Python's packages, and only pip then installs into the home directory".to_owned());
    }
    requirements::for_uv(request, &install.env, &python.config)
}

/// `uv_sync` in the directory of the project; and whether what is installed is compiled by
/// [`compile`] afterwards.
pub(in crate::engine) fn sync(
    install: &Install,
    project: &UvProject,
    dir: &str,
    python: &Python,
    private: Private,
) -> (Command, bool) {
    // The lockfile counts as it is: what it does not list is not looked for. The project itself and
    // the members of its workspace have no sources here.
    let program = format!("{}/uv", private.uv());
    let args = [
        program.as_str(),
        "sync",
        "--frozen",
        "--no-install-workspace",
    ];
    let mut command = Command::new(install, "uv", args);
    let ours = bytecode::is_ours(python, &[]);
    if !ours {
        command.args.push("--compile-bytecode".to_owned());
    }
    command.args.push(format!("--python={}", python.executable));
    let extras = project
        .extras
        .iter()
        .map(|extra| format!("--extra={extra}"));
    command.args.extend(extras);
    dir.clone_into(&mut command.cwd);
    let environment = UvProject::environment(dir);
    command.set("UV_PROJECT_ENVIRONMENT", &environment);
    // That of an earlier step, of which uv would say that it is not used.
    command.env.retain(|(name, _)| name != "VIRTUAL_ENV");
    (command.with_uv(private), ours)
}

/// Compiles what is installed for `python`, a path in the root; files that are no Python are left
/// out.
pub(in crate::engine) fn compile(install: &Install, python: &str, private: Private) -> Command {
    let cache = private.cache();
    let args = [python, "-s", "-B", "-c", bytecode::COMPILE, &cache];
    let mut command = Command::new(install, "bytecode", args);
    // Modules that a project brings along would be loaded instead of Python's own.
    command.env.retain(|(name, _)| name != "PYTHONPATH");
    command
}
