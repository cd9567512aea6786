//! From calls to a spec: local files are read, everything else was checked when it was called.

use std::collections::BTreeMap;

use super::calls::{
    Call, DockerfileOptions, DockerfileText, Installer, Local, StepOptions, Strategy,
};
use super::project::Sync;
use super::{ERROR_LIMIT, Image, Link, Resolved, requirements};
use crate::dockerfile;
use crate::error::{ErrorCode, Fault, Position, SpecError, SpecErrors, Warning};
use crate::requirement::normalise_list;
use crate::sorted::SortedMap;
use crate::source::{FileFacts, Source, SourceError};
use crate::spec::read::{check_count, check_size};
use crate::spec::{Base, Mount, Spec, Step, StepKind, UvProject};
use crate::upload::{Contents, Upload, keep_first};

pub(super) fn resolve(image: &Image, source: &dyn Source) -> Result<Resolved, SpecErrors> {
    let calls = image.calls()?;
    let facts = read_files(&calls, source)?;
    let mut resolving = Resolving {
        source,
        facts,
        spec: Spec::new(Base::Scratch),
        uploads: Vec::new(),
        warnings: Vec::new(),
    };
    // What holds for the whole image first: a Dockerfile may ask for the platform.
    for (_, call) in &calls {
        resolving.fact(call);
    }
    let mut errors = Vec::new();
    for (link, call) in &calls {
        if let Err(error) = resolving.step(link, call) {
            errors.push(error);
            if errors.len() == ERROR_LIMIT {
                break;
            }
        }
    }
    if !errors.is_empty() {
        return Err(SpecErrors(errors));
    }
    let Resolving {
        spec,
        mut uploads,
        mut warnings,
        ..
    } = resolving;
    let limits = check_count(spec.steps.len())
        .map_err(|fault| fault.in_field("steps"))
        .and_then(|()| check_count(spec.mounts.len()).map_err(|fault| fault.in_field("mounts")))
        .and_then(|()| check_size(&spec));
    limits.map_err(Fault::into_error)?;
    warnings.extend(spec.warnings());
    keep_first(&mut uploads);
    Ok(Resolved {
        spec,
        uploads,
        warnings,
    })
}

/// Reads all copied files at once, so that a source may hash them in parallel.
fn read_files(
    calls: &[(&Link, &Call)],
    source: &dyn Source,
) -> Result<SortedMap<FileFacts>, SpecErrors> {
    let mut paths = Vec::new();
    for (_, call) in calls {
        paths.append(&mut copied(call));
    }
    paths.sort_unstable();
    paths.dedup();
    let facts = source.facts(&paths).map_err(|error| {
        let caller = calls
            .iter()
            .find(|(_, call)| copied(call).contains(&error.path));
        match caller {
            Some((link, Call::UvSync(_))) => {
                let mut fault = unreadable(&error);
                if error.path.ends_with("uv.lock") {
                    fault = fault.hint("make it with `uv lock`");
                }
                link.error(fault.in_field("project"))
            }
            Some((link, _)) => link.error(unreadable(&error).in_field("src")),
            None => unreadable(&error).into_error(),
        }
    })?;
    Ok(SortedMap::of(paths.into_iter().zip(facts).collect()))
}

/// The files that a call copies one by one.
fn copied(call: &Call) -> Vec<String> {
    match call {
        Call::AddFile(local) if local.options.strategy == Strategy::Copy => vec![local.src.clone()],
        Call::UvSync(sync) => vec![sync.pyproject(), sync.lock()],
        _ => Vec::new(),
    }
}

fn unreadable(error: &SourceError) -> Fault {
    let fault = Fault::new(ErrorCode::File, error.to_string());
    fault.hint("paths are relative to the declaring file")
}

struct Resolving<'s> {
    source: &'s dyn Source,
    facts: SortedMap<FileFacts>,
    spec: Spec,
    uploads: Vec<Upload>,
    warnings: Vec<Warning>,
}

impl Resolving<'_> {
    /// Takes over a call that says something about the whole image.
    fn fact(&mut self, call: &Call) {
        let spec = &mut self.spec;
        match call {
            Call::Base(base) => spec.base = base.clone(),
            Call::Workdir(path) => spec.workdir = Some(path.clone()),
            Call::Env(pairs) => spec.env.extend(pairs.iter().cloned()),
            Call::RuntimeEnv(pairs) => spec.runtime_env.extend(pairs.iter().cloned()),
            Call::User(user) => spec.user = Some(user.clone()),
            Call::Labels(pairs) => spec.labels.extend(pairs.iter().cloned()),
            Call::Entrypoint(arguments) => spec.entrypoint = Some(arguments.clone()),
            Call::Cmd(arguments) => spec.cmd = Some(arguments.clone()),
            Call::Platform(platform) => spec.platform = platform.clone(),
            Call::Name(name) => spec.name = Some(name.clone()),
            Call::Dockerfile(..)
            | Call::Install(..)
            | Call::Requirements(..)
            | Call::UvSync(_)
            | Call::Run(..)
            | Call::Instructions(..)
            | Call::AddFile(_)
            | Call::AddDir(_)
            | Call::Step(_) => {}
        }
    }

    /// Takes over a call that makes steps or reads files.
    fn step(&mut self, link: &Link, call: &Call) -> Result<(), SpecError> {
        match call {
            Call::Install(installer, packages, options) => {
                self.push(install(*installer, packages.clone()), options);
            }
            Call::Requirements(installer, path, options) => {
                let packages =
                    requirements::read(self.source, path).map_err(|error| SpecError {
                        path: link.error(Fault::new(error.code, "")).path,
                        ..error
                    })?;
                if packages.is_empty() {
                    self.warnings.push(Warning {
                        path: link.error(Fault::new(ErrorCode::Empty, "")).path,
                        message: format!("{path} lists nothing"),
                        hint: "the step is left out".into(),
                    });
                    return Ok(());
                }
                let packages = normalise_list(packages).map_err(|fault| link.error(fault))?;
                self.push(install(*installer, packages), options);
            }
            Call::Run(commands, options) => {
                for command in commands {
                    let command = command.clone();
                    self.push(StepKind::Run { command }, options);
                }
            }
            Call::Step(step) => self.spec.steps.push((**step).clone()),
            Call::UvSync(sync) => self.uv_sync(link, sync)?,
            Call::AddFile(local) => self.add_file(link, local)?,
            Call::AddDir(local) => self.add_dir(link, local)?,
            Call::Dockerfile(text, options) => self.dockerfile(link, text, options)?,
            Call::Instructions(texts, context, options) => {
                for (i, text) in texts.iter().enumerate() {
                    self.instructions(text, context.as_deref(), options)
                        .map_err(|fault| link.error(fault.at_index(i)))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, kind: StepKind, options: &StepOptions) {
        self.spec.steps.push(Step {
            kind,
            env: options.env.clone(),
            secrets: options.secrets.clone(),
            force: options.force,
        });
    }

    fn dockerfile(
        &mut self,
        link: &Link,
        text: &DockerfileText,
        options: &DockerfileOptions,
    ) -> Result<(), SpecError> {
        let (text, path) = match text {
            DockerfileText::Here(text) => (text.clone(), None),
            DockerfileText::Path(path) => {
                let text = read_text(self.source, path).map_err(|fault| link.error(fault))?;
                (text, Some(path.as_str()))
            }
        };
        // The context is where the Dockerfile lies, unless another one is given.
        let beside = path.map(|path| path.rsplit_once('/').map_or(".", |(dir, _)| dir));
        let context = options.context.as_deref().or(beside);
        let parsed = dockerfile::parse(
            &text,
            &dockerfile::Options {
                build_args: &options.args,
                target: options.target.as_deref(),
                platform: &self.spec.platform,
                context: context.map(|context| (self.source, context)),
                file: options.file.as_deref().or(path),
            },
        )
        .map_err(|error| {
            let fault = Fault::new(code_of(&error.problem), error.problem.to_string());
            SpecError {
                // A declaration that is itself a Dockerfile knows its name better.
                file: options.file.is_none().then_some(error.file),
                position: Some(Position {
                    line: error.line,
                    column: error.column,
                }),
                ..link.error(fault.hint(error.hint))
            }
        })?;
        for warning in parsed.warnings {
            self.warnings.push(Warning {
                path: match warning.line {
                    0 => "base.dockerfile".to_owned(),
                    line => format!("base.dockerfile, line {line}"),
                },
                message: warning.message,
                hint: String::new(),
            });
        }
        self.uploads.extend(parsed.uploads);
        self.spec.base = Base::Dockerfile(parsed.dockerfile);
        Ok(())
    }

    fn instructions(
        &mut self,
        text: &str,
        context: Option<&str>,
        options: &StepOptions,
    ) -> Result<(), Fault> {
        let parsed = dockerfile::instructions(
            text,
            &dockerfile::Options {
                build_args: &BTreeMap::new(),
                target: None,
                platform: &self.spec.platform,
                context: context.map(|context| (self.source, context)),
                file: None,
            },
        )
        .map_err(|error| {
            let place = match text.trim().lines().count() {
                1 => format!("character {}", error.column),
                _ => format!("line {}, character {}", error.line, error.column),
            };
            let message = format!("{} (at {place})", error.problem);
            Fault::new(code_of(&error.problem), message).hint(error.hint)
        })?;
        for warning in parsed.warnings {
            self.warnings.push(Warning {
                path: format!("steps[{}]", self.spec.steps.len()),
                message: warning.message,
                hint: String::new(),
            });
        }
        self.uploads.extend(parsed.uploads);
        for instruction in parsed.instructions {
            self.push(StepKind::Dockerfile(instruction), options);
        }
        Ok(())
    }

    fn mount(&mut self, local: &Local, dir: bool) {
        self.spec.mounts.push(Mount {
            src: local.src.clone(),
            dest: local.dest.clone(),
            dir,
            exclude: local.options.exclude.clone(),
            after: self.spec.steps.len(),
        });
    }

    /// A file that is copied: it goes up.
    fn file(&mut self, link: &Link, path: &str) -> Result<FileFacts, SpecError> {
        let Some(facts) = self.facts.get(path).copied() else {
            let fault = Fault::new(ErrorCode::File, format_args!("{path}: was not read"));
            return Err(link.error(fault));
        };
        self.uploads.push(Upload {
            digest: facts.digest,
            size: facts.size,
            contents: Contents::File(path.to_owned()),
        });
        Ok(facts)
    }

    fn uv_sync(&mut self, link: &Link, sync: &Sync) -> Result<(), SpecError> {
        let project = UvProject {
            pyproject: self.file(link, &sync.pyproject())?.digest,
            lock: self.file(link, &sync.lock())?.digest,
            extras: sync.options.extras.clone(),
            workdir: sync.options.workdir.clone(),
        };
        self.push(StepKind::UvSync(project), &sync.options.step);
        Ok(())
    }

    fn add_file(&mut self, link: &Link, local: &Local) -> Result<(), SpecError> {
        if local.options.strategy == Strategy::Mount {
            self.mount(local, false);
            return Ok(());
        }
        let facts = self.file(link, &local.src)?;
        let own_mode = if facts.executable { 0o755 } else { 0o644 };
        let kind = StepKind::AddFile {
            dest: local.dest.clone(),
            digest: facts.digest,
            mode: local.options.mode.unwrap_or(own_mode),
        };
        self.push(kind, &StepOptions::new());
        Ok(())
    }

    fn add_dir(&mut self, link: &Link, local: &Local) -> Result<(), SpecError> {
        if local.options.strategy == Strategy::Mount {
            self.mount(local, true);
            return Ok(());
        }
        let fail = |error: SourceError| link.error(unreadable(&error).in_field("src"));
        let listed =
            crate::ignore::select(self.source, &local.src, &local.options.exclude).map_err(fail)?;
        let (digest, uploads) =
            crate::tree::Tree::read(self.source, &local.src, &listed).map_err(fail)?;
        self.uploads.extend(uploads);
        let kind = StepKind::AddDir {
            dest: local.dest.clone(),
            digest,
        };
        self.push(kind, &StepOptions::new());
        Ok(())
    }
}

/// Reads a text file that a call names.
fn read_text(source: &dyn Source, path: &str) -> Result<String, Fault> {
    let bytes = source.read(path).map_err(|error| unreadable(&error))?;
    let bytes = bytes.ok_or_else(|| {
        unreadable(&SourceError {
            path: path.to_owned(),
            reason: "no such file".into(),
        })
    })?;
    String::from_utf8(bytes).map_err(|_| {
        let fault = Fault::new(ErrorCode::File, format_args!("{path}: not UTF-8 text"));
        fault.hint("save the file as UTF-8")
    })
}

fn code_of(problem: &dockerfile::Problem) -> ErrorCode {
    use dockerfile::Problem;
    match problem {
        Problem::Context(_) | Problem::Source(_) => ErrorCode::File,
        Problem::Reference(_) => ErrorCode::Reference,
        Problem::Limit(_) => ErrorCode::Limit,
        _ => ErrorCode::Dockerfile,
    }
}

fn install(installer: Installer, packages: Vec<String>) -> StepKind {
    match installer {
        Installer::Pip => StepKind::PipInstall { packages },
        Installer::Uv => StepKind::UvPipInstall { packages },
        Installer::Apt => StepKind::AptInstall { packages },
    }
}
