//! Writing `image.toml`.

use std::collections::BTreeMap;

use toml::Value;

use crate::Image;
use crate::error::{ErrorCode, Fault, SpecErrors};
use crate::image::calls::{Call, DockerfileText, Installer, Local};
use crate::image::{DockerfileOptions, Link, StepOptions, Strategy};
use crate::spec::{Base, BaseImage, StepKind};

impl Image {
    /// The image as an `image.toml` that reads back as the same declaration.
    ///
    /// # Errors
    /// Everything that is wrong with the calls, or what an `image.toml` cannot say: in an image that
    /// was read from a spec, files are known by digest only.
    pub fn to_toml(&self) -> Result<String, SpecErrors> {
        let calls = self.calls()?;
        let mut facts: BTreeMap<&str, Value> = BTreeMap::new();
        let mut base = (String::new(), Value::Boolean(true));
        let mut steps = String::new();
        let merge = |facts: &mut BTreeMap<&str, Value>, name, pairs: &[(String, String)]| {
            let map = facts
                .entry(name)
                .or_insert_with(|| Value::Table(toml::Table::new()));
            if let Value::Table(map) = map {
                map.extend(pairs.iter().map(|(n, v)| (n.clone(), text(v))));
            }
        };
        for (link, call) in calls {
            let mut set = |name, value| drop(facts.insert(name, value));
            match call {
                Call::Base(Base::Dockerfile(_)) => return Err(known_by_digest(link)),
                Call::Base(declared) => base = base_line(declared),
                Call::Dockerfile(source, options) => {
                    base = ("dockerfile".into(), dockerfile(source, options));
                }
                Call::Workdir(path) => set("workdir", text(path)),
                Call::User(user) => set("user", text(user)),
                Call::Platform(platform) => set("platform", text(&platform.to_string())),
                Call::Name(name) => set("name", text(name)),
                Call::Entrypoint(arguments) => set("entrypoint", texts(arguments)),
                Call::Cmd(arguments) => set("cmd", texts(arguments)),
                Call::Env(pairs) => merge(&mut facts, "env", pairs),
                Call::RuntimeEnv(pairs) => merge(&mut facts, "runtime_env", pairs),
                Call::Labels(pairs) => merge(&mut facts, "labels", pairs),
                Call::Install(installer, packages, options) => {
                    let word = match installer {
                        Installer::Pip => "pip_install",
                        Installer::Uv => "uv_pip_install",
                        Installer::Apt => "apt_install",
                    };
                    step(&mut steps, word, &texts(packages), options);
                }
                Call::Requirements(installer, path, options) => {
                    let word = match installer {
                        Installer::Uv => "uv_pip_install_from_requirements",
                        Installer::Pip | Installer::Apt => "pip_install_from_requirements",
                    };
                    step(&mut steps, word, &text(path), options);
                }
                Call::Run(commands, options) => {
                    step(&mut steps, "run_commands", &texts(commands), options);
                }
                Call::Instructions(instructions, context, options) => {
                    step(
                        &mut steps,
                        "dockerfile_commands",
                        &texts(instructions),
                        options,
                    );
                    if let Some(context) = context {
                        line(&mut steps, "context", &text(context));
                    }
                }
                Call::AddFile(file) => {
                    step(
                        &mut steps,
                        "add_local_file",
                        &local(file),
                        &StepOptions::new(),
                    );
                }
                Call::AddDir(dir) => {
                    step(
                        &mut steps,
                        "add_local_dir",
                        &local(dir),
                        &StepOptions::new(),
                    );
                }
                Call::Step(known) => {
                    let StepKind::Dockerfile(instruction) = &known.kind else {
                        return Err(known_by_digest(link));
                    };
                    if instruction.context.is_some() || !instruction.images.is_empty() {
                        return Err(known_by_digest(link));
                    }
                    let options = StepOptions {
                        env: known.env.clone(),
                        secrets: known.secrets.clone(),
                        force: known.force,
                    };
                    let word = "dockerfile_commands";
                    step(&mut steps, word, &texts([&instruction.text]), &options);
                }
            }
        }
        let mut out = String::from("[image]\n");
        line(&mut out, &base.0, &base.1);
        for (name, value) in &facts {
            line(&mut out, name, value);
        }
        Ok(out + &steps)
    }
}

fn known_by_digest(link: &Link) -> SpecErrors {
    let message = "was read from a spec, which knows files by digest only";
    let fault = Fault::new(ErrorCode::Conflict, message);
    let hint = "write it as spec JSON or as a Dockerfile instead";
    link.error(fault.hint(hint)).into()
}

/// `debian_slim` where the base is what that would give.
fn base_line(base: &Base) -> (String, Value) {
    let value = match base {
        Base::Image(BaseImage {
            reference,
            digest: Some(digest),
            ..
        }) => reference.with_digest(*digest).to_string(),
        Base::Image(image) => image.reference.to_string(),
        // A Dockerfile is a call of its own.
        Base::Scratch | Base::Dockerfile(_) => "scratch".to_owned(),
    };
    let version = value
        .strip_prefix("docker.io/library/python:")
        .and_then(|rest| rest.strip_suffix("-slim-bookworm"))
        .filter(|version| crate::spec::check::python_version(version).is_ok());
    match version {
        Some(version) => ("debian_slim".into(), text(version)),
        None => ("base".into(), text(&value)),
    }
}

fn dockerfile(source: &DockerfileText, options: &DockerfileOptions) -> Value {
    if let DockerfileText::Path(path) = source
        && *options == DockerfileOptions::default()
    {
        return text(path);
    }
    let mut table = toml::Table::new();
    match source {
        DockerfileText::Path(path) => table.insert("path".into(), text(path)),
        DockerfileText::Here(source) => table.insert("text".into(), text(source)),
    };
    if let Some(context) = &options.context {
        table.insert("context".into(), text(context));
    }
    if !options.args.is_empty() {
        table.insert("args".into(), text_map(&options.args));
    }
    if let Some(target) = &options.target {
        table.insert("target".into(), text(target));
    }
    Value::Table(table)
}

fn local(local: &Local) -> Value {
    let mut table = toml::Table::new();
    table.insert("src".into(), text(&local.src));
    table.insert("dest".into(), text(&local.dest));
    if local.options.strategy == Strategy::Copy {
        table.insert("strategy".into(), text("copy"));
    }
    if let Some(mode) = local.options.mode {
        table.insert("mode".into(), text(&format!("{mode:04o}")));
    }
    if !local.options.exclude.is_empty() {
        table.insert("exclude".into(), texts(&local.options.exclude));
    }
    Value::Table(table)
}

fn step(out: &mut String, word: &str, value: &Value, options: &StepOptions) {
    out.push_str("\n[[step]]\n");
    line(out, word, value);
    if !options.env.is_empty() {
        line(out, "env", &text_map(&options.env));
    }
    if !options.secrets.is_empty() {
        line(out, "secrets", &texts(&options.secrets));
    }
    if options.force {
        line(out, "force", &Value::Boolean(true));
    }
}

fn line(out: &mut String, name: &str, value: &Value) {
    out.push_str(&format!("{name} = {value}\n"));
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> Value {
    Value::Array(texts.into_iter().map(|t| text(t)).collect())
}

fn text_map(map: &BTreeMap<String, String>) -> Value {
    Value::Table(
        map.iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
    )
}
