//! Reading `image.toml`: the calls of [`Image`] as tables. Values are checked by the calls' own
//! code, so a file and a chain accept the same things.

use std::sync::Arc;

use crate::Image;
use crate::error::{ErrorCode, Fault, Segment, SpecError};
use crate::image::calls::{Call, Installer, local_path};
use crate::image::{DockerfileOptions, LocalOptions, Place, StepOptions, Strategy, UvSyncOptions};
use crate::input::{Fields, Node};
use crate::spec::check;
use crate::spec::read::check_count;

/// Keys of `[image]`.
const FACTS: [&str; 12] = [
    "debian_slim",
    "base",
    "dockerfile",
    "platform",
    "workdir",
    "env",
    "runtime_env",
    "user",
    "labels",
    "entrypoint",
    "cmd",
    "name",
];

/// Those that say what the image starts from.
const BASES: [&str; 3] = ["debian_slim", "base", "dockerfile"];

/// Keys of a `[[step]]` that say what it does.
const KINDS: [&str; 10] = [
    "pip_install",
    "pip_install_from_requirements",
    "uv_pip_install",
    "uv_pip_install_from_requirements",
    "uv_sync",
    "apt_install",
    "run_commands",
    "dockerfile_commands",
    "add_local_file",
    "add_local_dir",
];

/// Keys of a `[[step]]` that say how it is done.
const OPTIONS: [&str; 4] = ["env", "secrets", "force", "context"];

/// Calls written as JSON, for languages that pass texts more easily than structures.
impl Image {
    /// Begins an image by one of the first keys of `[image]`: `{"debian_slim": "3.12"}`,
    /// `{"base": "scratch"}`, `{"dockerfile": {"path": "Dockerfile"}}`.
    pub fn begin_json(json: &str) -> Self {
        match read_begin(json) {
            Ok((word, call)) => Self::begin(word, call),
            Err(fault) => Self::begin("image", Err(fault)),
        }
    }

    /// One more call: a key of `[image]`, such as `{"workdir": "/app"}`, or a `[[step]]` with its
    /// options, such as `{"run_commands": ["make"], "env": {"A": "1"}}`.
    #[must_use]
    pub fn call_json(&self, json: &str) -> Self {
        let (word, call) = match read_call(json) {
            Ok((word, call)) => (word, call),
            Err(fault) => ("call", Err(fault)),
        };
        self.push(word, call)
    }
}

impl Image {
    /// Reads an `image.toml`.
    ///
    /// # Errors
    /// When the text is no TOML or no sound declaration; the error names field, line and column.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        let root = Node::from_toml(text)?;
        let reader = Reader {
            root: &root,
            text: text.into(),
        };
        reader.image().map_err(|fault| root.locate(fault, text))
    }
}

/// A call by its name, and what is wrong with what it was given.
type Named = (&'static str, Result<Call, Fault>);

fn read_begin(json: &str) -> Result<Named, Fault> {
    let root = from_json(json)?;
    let (name, call) = read_one(&root, &BASES, base_call)?;
    Ok((base_word(name), call))
}

fn read_call(json: &str) -> Result<Named, Fault> {
    let root = from_json(json)?;
    let facts = &FACTS[BASES.len()..];
    let fields = root.fields(&[facts, &KINDS[..], &OPTIONS[..]].concat())?;
    let Some(kind) = KINDS.into_iter().find(|kind| fields.has(kind)) else {
        return read_one(&root, facts, fact_call);
    };
    let call = step_call(&root).map(|(_, call)| call);
    Ok((kind, call.map_err(|fault| fault.below(kind))))
}

fn from_json(json: &str) -> Result<Node, Fault> {
    Node::from_json(json).map_err(|error| Fault::new(error.code, error.message))
}

/// Reads a map that has one of the known fields and no other.
fn read_one(
    root: &Node,
    known: &[&'static str],
    read: fn(&str, &Node) -> Result<Call, Fault>,
) -> Result<Named, Fault> {
    let fields = root.fields(known)?;
    let mut names = known.iter().copied().filter(|name| fields.has(name));
    let (Some(name), None) = (names.next(), names.next()) else {
        let fault = Fault::new(ErrorCode::WrongType, "expected a map with one field");
        return Err(fault.hint(format_args!("write one of {}", known.join(", "))));
    };
    let call = fields.need(name, |node| read(name, node));
    Ok((name, call.map_err(|fault| fault.below(name))))
}

struct Reader<'t> {
    root: &'t Node,
    text: Arc<str>,
}

impl Reader<'_> {
    fn image(&self) -> Result<Image, Fault> {
        let fields = self.root.fields(&["image", "step"]).map_err(misplaced)?;
        let image = fields.need("image", |node| self.facts(node))?;
        let with_steps = fields.read("step", |node| {
            let mut image = image.clone();
            check_count(node.list()?.len())?;
            for (i, node) in node.list()?.iter().enumerate() {
                image = self
                    .step(&image, i, node)
                    .map_err(|fault| fault.at_index(i))?;
            }
            Ok(image)
        })?;
        Ok(with_steps.unwrap_or(image))
    }

    /// Where a field stands, for errors that come to light when local files are read. The path is
    /// given as that of a fault.
    fn place(&self, path: impl FnOnce(Fault) -> Fault) -> Place {
        let fault = path(Fault::new(ErrorCode::File, ""));
        let at = self.root.offset_of(fault.path());
        Place {
            at: at.map(|at| (self.text.clone(), at)),
            path: fault.into_error().path,
        }
    }

    /// The `[image]` table.
    fn facts(&self, node: &Node) -> Result<Image, Fault> {
        let fields = node.fields(&FACTS)?;
        let mut bases = fields.names().filter(|name| BASES.contains(name));
        let Some(base) = bases.next() else {
            let message = "what the image starts from is missing";
            let hint = "write one of `debian_slim = \"3.12\"`, `base = \"…\"` and \
                        `dockerfile = \"Dockerfile\"`";
            return Err(Fault::new(ErrorCode::Missing, message).hint(hint));
        };
        if let Some(second) = bases.next() {
            let message = format!("cannot stand beside `{base}`");
            let fault = Fault::new(ErrorCode::Conflict, message);
            return Err(fault.hint("keep one of them").in_field(second));
        }
        let call = fields.need(base, |node| base_call(base, node))?;
        let place = |name: &str| self.place(|fault| fault.in_field(name).in_field("image"));
        let mut image = Image::begin(base_word(base), Ok(call)).read_at(place(base));
        for name in FACTS.into_iter().filter(|name| !BASES.contains(name)) {
            if let Some(call) = fields.read(name, |node| fact_call(name, node))? {
                image = image.push(name, Ok(call)).read_at(place(name));
            }
        }
        Ok(image)
    }

    /// A `[[step]]` table.
    fn step(&self, image: &Image, index: usize, node: &Node) -> Result<Image, Fault> {
        let (kind, call) = step_call(node)?;
        let place = self.place(|fault| fault.in_field(kind).at_index(index).in_field("step"));
        Ok(image.push(kind, Ok(call)).read_at(place))
    }
}

/// What an image starts from.
fn base_call(name: &str, node: &Node) -> Result<Call, Fault> {
    match name {
        "debian_slim" => debian_slim(node),
        "base" => Call::base(node.text()?),
        _ => dockerfile(node),
    }
}

/// The method that a base is declared by.
fn base_word(name: &str) -> &'static str {
    match name {
        "debian_slim" => "debian_slim",
        "base" => "base",
        _ => "from_dockerfile",
    }
}

/// A fact of the whole image.
fn fact_call(name: &str, node: &Node) -> Result<Call, Fault> {
    match name {
        "platform" => Call::platform(node.text()?),
        "workdir" => Call::workdir(node.text()?),
        "env" => Call::env(node.text_map()?),
        "runtime_env" => Call::runtime_env(node.text_map()?),
        "user" => Call::user(node.text()?),
        "labels" => Call::labels(node.text_map()?),
        "entrypoint" => Call::entrypoint(node.texts()?),
        "cmd" => Call::cmd(node.texts()?),
        _ => Call::name(node.text()?),
    }
}

/// A `[[step]]` table: what it does, and the call.
fn step_call(node: &Node) -> Result<(&'static str, Call), Fault> {
    let fields = node.fields(&[&KINDS[..], &OPTIONS[..]].concat())?;
    let mut kinds = KINDS.into_iter().filter(|kind| fields.has(kind));
    let Some(kind) = kinds.next() else {
        let fault = Fault::new(ErrorCode::Missing, "says nothing to do");
        return Err(fault.hint(format_args!("add one of {}", KINDS.join(", "))));
    };
    if let Some(second) = kinds.next() {
        let message = format!("a second kind of step beside `{kind}`");
        let fault = Fault::new(ErrorCode::Conflict, message);
        return Err(fault.hint("begin another [[step]]").in_field(second));
    }
    let is_copy = matches!(kind, "add_local_file" | "add_local_dir");
    let unused = fields.names().find(|name| match *name {
        "context" => kind != "dockerfile_commands",
        name => is_copy && OPTIONS.contains(&name),
    });
    if let Some(name) = unused {
        let message = format!("`{kind}` has no use for `{name}`");
        return Err(Fault::new(ErrorCode::Conflict, message)
            .hint("remove it")
            .in_field(name));
    }
    let options = options(&fields)?;
    let call = fields.need(kind, |node| match kind {
        "pip_install" => Call::install(Installer::Pip, texts(node)?, options),
        "uv_pip_install" => Call::install(Installer::Uv, texts(node)?, options),
        "apt_install" => Call::install(Installer::Apt, texts(node)?, options),
        "pip_install_from_requirements" => {
            Call::requirements(Installer::Pip, node.text()?, options)
        }
        "uv_pip_install_from_requirements" => {
            Call::requirements(Installer::Uv, node.text()?, options)
        }
        "uv_sync" => uv_sync(node, options),
        "run_commands" => Call::run(texts(node)?, options),
        "dockerfile_commands" => Call::instructions(texts(node)?, None, options),
        "add_local_file" => local(node, false),
        _ => local(node, true),
    })?;
    let call = match (call, context(&fields)?) {
        (Call::Instructions(texts, _, options), context) => {
            Call::Instructions(texts, context, options)
        }
        (call, _) => call,
    };
    Ok((kind, call))
}

/// Says in which table a key belongs that stands outside of any.
fn misplaced(fault: Fault) -> Fault {
    let is_unknown = fault.code() == ErrorCode::UnknownField;
    let belongs = |names: &[&str]| {
        let named = |segment: &Segment| match segment {
            Segment::Field(name) => names.contains(&name.as_str()),
            Segment::Index(_) => false,
        };
        is_unknown && fault.path().next().is_some_and(named)
    };
    if belongs(&FACTS) {
        fault.hint("it belongs below [image]")
    } else if belongs(&KINDS) {
        fault.hint("it belongs below a [[step]]")
    } else {
        fault
    }
}

/// `debian_slim = "3.12"`, or `true` for the default version.
fn debian_slim(node: &Node) -> Result<Call, Fault> {
    match node.boolean() {
        Ok(true) => Call::debian_slim(None),
        Ok(false) => {
            let fault = Fault::new(ErrorCode::Value, "expected a version or true");
            Err(fault.hint("remove the line, or write `debian_slim = \"3.12\"`"))
        }
        Err(_) => Call::debian_slim(Some(node.text().map_err(|fault| {
            fault.hint("write the version in quotes: `debian_slim = \"3.12\"`")
        })?)),
    }
}

/// `dockerfile = "path"`, or a table with options.
fn dockerfile(node: &Node) -> Result<Call, Fault> {
    if let Some(path) = node.as_text() {
        return Call::dockerfile_path(path, DockerfileOptions::new());
    }
    let fields = node.fields(&["path", "text", "context", "args", "target"])?;
    let text = fields.read("text", Node::text)?;
    let path = fields.read("path", Node::text)?;
    let options = DockerfileOptions {
        context: context(&fields)?,
        args: env(&fields, "args")?,
        target: fields.read("target", |node| node.text().map(str::to_owned))?,
        file: None,
    };
    match (path, text) {
        (Some(path), None) => Call::dockerfile_path(path, options),
        (None, Some(text)) => Call::dockerfile_text(text, options),
        (Some(_), Some(_)) => {
            let fault = Fault::new(ErrorCode::Conflict, "cannot stand beside `path`");
            Err(fault.hint("keep one of them").in_field("text"))
        }
        (None, None) => {
            let fault = Fault::new(ErrorCode::Missing, "`path` is missing");
            Err(fault.hint("write `path = \"Dockerfile\"`"))
        }
    }
}

fn context(fields: &Fields<'_>) -> Result<Option<String>, Fault> {
    fields.read("context", |node| local_path(node.text()?))
}

fn env(
    fields: &Fields<'_>,
    name: &str,
) -> Result<std::collections::BTreeMap<String, String>, Fault> {
    let map = fields.read(name, |node| {
        let pairs = node.text_map()?;
        pairs
            .iter()
            .try_for_each(|(name, value)| check::env(name, value))?;
        Ok(pairs.into_iter().collect())
    })?;
    Ok(map.unwrap_or_default())
}

fn options(fields: &Fields<'_>) -> Result<StepOptions, Fault> {
    Ok(StepOptions {
        env: env(fields, "env")?,
        secrets: fields
            .read("secrets", crate::spec::read::secrets)?
            .unwrap_or_default(),
        force: fields.read("force", Node::boolean)?.unwrap_or_default(),
    })
}

/// A list of texts; one text alone is refused with the list that was meant.
fn texts(node: &Node) -> Result<Vec<String>, Fault> {
    node.texts().map_err(|fault| match node.as_text() {
        Some(text) => fault.hint(format_args!("write [{}]", super::write::text(text))),
        None => fault,
    })
}

/// `uv_sync = "directory of the project"`, or a table with options.
fn uv_sync(node: &Node, step: StepOptions) -> Result<Call, Fault> {
    if let Some(project) = node.as_text() {
        return Call::uv_sync(project, UvSyncOptions::new().step(step));
    }
    let fields = node.fields(&["project", "extras", "workdir"])?;
    let options = UvSyncOptions {
        extras: fields.read("extras", texts)?.unwrap_or_default(),
        workdir: fields.read("workdir", |node| node.text().map(str::to_owned))?,
        step,
    };
    Call::uv_sync(fields.need("project", Node::text)?, options)
}

fn local(node: &Node, dir: bool) -> Result<Call, Fault> {
    let fields = node.fields(&["src", "dest", "strategy", "mode", "exclude"])?;
    let options = LocalOptions {
        strategy: fields
            .read("strategy", |node| Strategy::of(node.text()?))?
            .unwrap_or_default(),
        mode: fields.read("mode", |node| check::mode(node.text()?))?,
        exclude: fields.read("exclude", Node::texts)?.unwrap_or_default(),
    };
    let src = fields.need("src", Node::text)?;
    let dest = fields.need("dest", Node::text)?;
    if dir {
        Call::add_dir(src, dest, options)
    } else {
        Call::add_file(src, dest, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::LocalOptions;
    use crate::source::MemoryFiles;

    #[test]
    fn calls_in_json_are_the_calls_of_a_chain() {
        let json = Image::begin_json(r#"{"debian_slim": "3.12"}"#)
            .call_json(r#"{"pip_install": ["requests"], "env": {"A": "1"}, "secrets": ["s"]}"#)
            .call_json(r#"{"env": {"B": "2"}}"#)
            .call_json(r#"{"labels": {"c": "d"}}"#)
            .call_json(r#"{"add_local_file": {"src": "a", "dest": "/a", "strategy": "copy"}}"#)
            .call_json(r#"{"dockerfile_commands": ["EXPOSE 80"], "context": "."}"#);
        let options = StepOptions::new().env("A", "1").secret("s");
        let chain = Image::debian_slim("3.12")
            .pip_install_with(["requests"], options)
            .env([("B", "2")])
            .label("c", "d")
            .add_local_file("a", "/a", LocalOptions::copy())
            .dockerfile_commands("EXPOSE 80");
        let files = MemoryFiles::new().file("a", "a");
        let resolve = |image: &Image| image.resolve(&files).unwrap();
        assert_eq!(resolve(&json), resolve(&chain));
        let begun = Image::begin_json(r#"{"dockerfile": {"text": "FROM x"}}"#);
        let expect = Image::from_dockerfile("FROM x", None);
        assert_eq!(resolve(&begun), resolve(&expect));
    }

    #[test]
    fn a_fault_in_json_names_the_call() {
        let check = |json: &str, expect: &str| {
            let image = Image::scratch().call_json(json);
            let error = image.fault().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(expect), "{json}");
        };
        check(
            r#"{"workdir": "a"}"#,
            "call 2: workdir: `a` is not an absolute path; begin with `/`, such as `/a`",
        );
        check(
            r#"{"run_commands": ["a", ""]}"#,
            "call 2: run_commands[1]: the command is empty; remove it",
        );
        check(
            r#"{"run_commands": ["a"], "env": {"A=B": ""}}"#,
            "call 2: run_commands.env.A=B: `A=B` cannot name an environment variable; use letters, \
             digits and `_`, not beginning with a digit",
        );
        check(
            r#"{"add_local_dir": {"src": "a", "dest": "b"}}"#,
            "call 2: add_local_dir.dest: `b` is not an absolute path; begin with `/`, such as `/b`",
        );
        check(
            r#"{"run_commands": ["a"], "workdir": "/"}"#,
            "call 2: run_commands.workdir: no such field: `workdir`; known here: pip_install, \
             pip_install_from_requirements, uv_pip_install, uv_pip_install_from_requirements, \
             uv_sync, apt_install, run_commands, dockerfile_commands, add_local_file, \
             add_local_dir, env, secrets, force, context",
        );
        check(
            r#"{"user": "a", "name": "b"}"#,
            "call 2: call: expected a map with one field; write one of platform, workdir, env, \
             runtime_env, user, labels, entrypoint, cmd, name",
        );
    }
}
