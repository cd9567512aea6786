//! Writing `image.toml`.

use std::collections::BTreeMap;

use toml_writer::{ToTomlKey, ToTomlValue};

use crate::Image;
use crate::error::{ErrorCode, Fault, SpecErrors};
use crate::image::calls::{Call, DockerfileText, Installer, Local};
use crate::image::project::Sync;
use crate::image::{DockerfileOptions, Link, StepOptions, Strategy};
use crate::spec::{Base, BaseImage, StepKind};

/// Keys of `[image]` besides the base, in the order in which they are written.
const FACTS: [&str; 9] = [
    "cmd",
    "entrypoint",
    "env",
    "labels",
    "name",
    "platform",
    "runtime_env",
    "user",
    "workdir",
];

impl Image {
    /// The image as an `image.toml` that reads back as the same declaration.
    ///
    /// # Errors
    /// Everything that is wrong with the calls, or what an `image.toml` cannot say: in an image that
    /// was read from a spec, files are known by digest only.
    pub fn to_toml(&self) -> Result<String, SpecErrors> {
        let calls = self.calls()?;
        let mut base = ("base", text("scratch"));
        let mut facts = FACTS.map(|name| (name, None));
        let mut maps = [("env", None), ("labels", None), ("runtime_env", None)];
        let mut steps = String::new();
        for (link, call) in calls {
            let mut set = |name, value| set(&mut facts, name, value);
            let mut merge = |i: usize, pairs: &[(String, String)]| {
                let map: &mut BTreeMap<_, _> = maps[i].1.get_or_insert_default();
                map.extend(pairs.iter().cloned());
            };
            match call {
                Call::Base(Base::Dockerfile(_)) => return Err(known_by_digest(link)),
                Call::Base(declared) => base = base_line(declared),
                Call::Dockerfile(source, options) => {
                    base = ("dockerfile", dockerfile(source, options));
                }
                Call::Workdir(path) => set("workdir", text(path)),
                Call::User(user) => set("user", text(user)),
                Call::Platform(platform) => set("platform", text(&platform.to_string())),
                Call::Name(name) => set("name", text(name)),
                Call::Entrypoint(arguments) => set("entrypoint", texts(arguments)),
                Call::Cmd(arguments) => set("cmd", texts(arguments)),
                Call::Env(pairs) => merge(0, pairs),
                Call::RuntimeEnv(pairs) => merge(2, pairs),
                Call::Labels(pairs) => merge(1, pairs),
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
                Call::UvSync(sync) => {
                    step(&mut steps, "uv_sync", &project(sync), &sync.options.step);
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
        line(&mut out, base.0, &base.1);
        for (name, map) in &maps {
            if let Some(map) = map {
                set(&mut facts, name, text_map(map));
            }
        }
        for (name, value) in &facts {
            if let Some(value) = value {
                line(&mut out, name, value);
            }
        }
        Ok(out + &steps)
    }
}

fn set(facts: &mut [(&str, Option<String>)], name: &str, value: String) {
    if let Some(fact) = facts.iter_mut().find(|(other, _)| *other == name) {
        fact.1 = Some(value);
    }
}

fn known_by_digest(link: &Link) -> SpecErrors {
    let message = "was read from a spec, which knows files by digest only";
    let fault = Fault::new(ErrorCode::Conflict, message);
    let hint = "write it as spec JSON or as a Dockerfile instead";
    link.error(fault.hint(hint)).into()
}

/// `debian_slim` where the base is what that would give.
fn base_line(base: &Base) -> (&'static str, String) {
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
        Some(version) => ("debian_slim", text(version)),
        None => ("base", text(&value)),
    }
}

fn dockerfile(source: &DockerfileText, options: &DockerfileOptions) -> String {
    let mut fields = Vec::new();
    if !options.args.is_empty() {
        fields.push(("args", text_map(&options.args)));
    }
    if let Some(context) = &options.context {
        fields.push(("context", text(context)));
    }
    if let DockerfileText::Path(path) = source {
        if *options == DockerfileOptions::default() {
            return text(path);
        }
        fields.push(("path", text(path)));
    }
    if let Some(target) = &options.target {
        fields.push(("target", text(target)));
    }
    if let DockerfileText::Here(source) = source {
        fields.push(("text", text(source)));
    }
    table(&fields)
}

fn project(sync: &Sync) -> String {
    let mut fields = vec![("project", text(&sync.project))];
    if !sync.options.extras.is_empty() {
        fields.insert(0, ("extras", texts(&sync.options.extras)));
    }
    if let Some(workdir) = &sync.options.workdir {
        fields.push(("workdir", text(workdir)));
    }
    table(&fields)
}

fn local(local: &Local) -> String {
    let mut fields = vec![("dest", text(&local.dest))];
    if !local.options.exclude.is_empty() {
        fields.push(("exclude", texts(&local.options.exclude)));
    }
    if let Some(mode) = local.options.mode {
        fields.push(("mode", text(&format!("{mode:04o}"))));
    }
    fields.push(("src", text(&local.src)));
    if local.options.strategy == Strategy::Copy {
        fields.push(("strategy", text("copy")));
    }
    table(&fields)
}

fn step(out: &mut String, word: &str, value: &str, options: &StepOptions) {
    out.push_str("\n[[step]]\n");
    line(out, word, value);
    if !options.env.is_empty() {
        line(out, "env", &text_map(&options.env));
    }
    if !options.secrets.is_empty() {
        line(out, "secrets", &texts(&options.secrets));
    }
    if options.force {
        line(out, "force", "true");
    }
}

fn line(out: &mut String, name: &str, value: &str) {
    out.extend([name, " = ", value, "\n"]);
}

/// A text in quotes, of the kind that needs the fewest escapes.
pub(super) fn text(text: &str) -> String {
    text.to_toml_value()
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|t| text(t)).collect();
    format!("[{}]", texts.join(", "))
}

fn text_map(map: &BTreeMap<String, String>) -> String {
    let fields: Vec<_> = map.iter().map(|(n, v)| (n.as_str(), text(v))).collect();
    table(&fields)
}

fn table(fields: &[(&str, String)]) -> String {
    let mut out = String::from("{");
    for (i, (name, value)) in fields.iter().enumerate() {
        let sign = if i == 0 { " " } else { ", " };
        out.extend([sign, &name.to_toml_key(), " = ", value]);
    }
    out.push_str(if fields.is_empty() { "}" } else { " }" });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::LocalOptions;
    use crate::source::MemoryFiles;

    const AWKWARD: [&str; 20] = [
        "",
        " ",
        "a.b",
        "a = 1 # no",
        "é😀\u{2028}",
        "it's",
        "\"",
        "\"'",
        "'''",
        "\"\"\"",
        "\"\"\"'''",
        "\\",
        "\\d'",
        "a\nb",
        "\n",
        "\r\n",
        "a\\\n  b",
        "\t\u{1}\u{8}\u{c}\u{1b}\u{7f}",
        "[table]\n\"\"\"\"\n",
        "trailing\"",
    ];

    #[test]
    fn texts_and_tables_are_those_of_the_toml_crate() {
        let twice = |word: &&str| ((*word).to_owned(), word.repeat(2));
        let map: BTreeMap<String, String> = AWKWARD.iter().map(twice).collect();
        let written = text_map(&map);
        assert_eq!(written, toml::Value::try_from(&map).unwrap().to_string());
        assert_eq!(text_map(&BTreeMap::new()), "{}");
        let words: Vec<String> = map.into_values().collect();
        let written = texts(&words);
        assert_eq!(written, toml::Value::try_from(&words).unwrap().to_string());
        assert_eq!(texts(&[]), "[]");
    }

    #[test]
    fn awkward_texts_read_back() {
        let files = MemoryFiles::new().file("a/b", "c");
        for word in AWKWARD.into_iter().filter(|word| !word.is_empty()) {
            let image = Image::debian_slim("3.12")
                .label(&format!("n{word}"), word)
                .env([("A", word)])
                .run_commands_with([format!("echo {word}")], StepOptions::new().env("A", word))
                .add_local_dir("a", "/a", LocalOptions::copy().exclude(word))
                .cmd(["x", word, ""])
                .user("x");
            let written = image.to_toml().unwrap();
            let read = Image::from_toml(&written).unwrap();
            assert_eq!(read.to_toml().unwrap(), written);
            let spec = |image: &Image| image.resolve(&files).map(|resolved| resolved.spec);
            assert_eq!(spec(&read), spec(&image), "{word:?}");
        }
    }
}
