//! Reading spec JSON: every value is checked and brought into normal form, so that whatever is
//! read has the hash that its author's SDK printed.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use super::check::{self, DOCUMENT_LIMIT, STEP_LIMIT};
use super::{
    Base, BaseImage, Dockerfile, Instruction, Mount, SCHEMA, Spec, Stage, StageBase, Step,
    StepKind, UvProject, project,
};
use crate::Digest;
use crate::dockerfile::{ReadFrom, check_canonical, reads};
use crate::error::{ErrorCode, Fault, SpecError, each};
use crate::input::{Fields, Node};
use crate::requirement::normalise_list;

impl Spec {
    /// Reads spec JSON.
    ///
    /// # Errors
    /// When the text is no JSON or no sound spec; the error names field, line and column.
    pub fn from_json(text: &str) -> Result<Self, SpecError> {
        let root = Node::from_json(text)?;
        spec(&root).map_err(|fault| root.locate(fault, text))
    }

    /// The spec as it would be read from its own JSON: checked and in normal form. For specs that
    /// were put together from parts.
    ///
    /// # Errors
    /// When a value is not allowed; the error names the field.
    pub fn checked(&self) -> Result<Self, SpecError> {
        spec(&Node::from(self.to_json())).map_err(Fault::into_error)
    }
}

impl Serialize for Spec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Spec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        spec(&node).map_err(|fault| D::Error::custom(fault.into_error()))
    }
}

const FIELDS: [&str; 13] = [
    "schema",
    "platform",
    "base",
    "name",
    "env",
    "workdir",
    "user",
    "steps",
    "runtime_env",
    "labels",
    "entrypoint",
    "cmd",
    "mounts",
];

fn spec(node: &Node) -> Result<Spec, Fault> {
    let fields = node.fields(&FIELDS)?;
    fields.need("schema", |node| match node.text()? {
        SCHEMA => Ok(()),
        other => {
            let fault = Fault::new(
                ErrorCode::Value,
                format_args!("`{other}` is not known here"),
            );
            Err(fault.hint(format_args!("this version reads `{SCHEMA}`")))
        }
    })?;
    let base = fields.need("base", base)?;
    let steps = fields.read("steps", |node| limited(node, step))?;
    let spec = Spec {
        platform: fields
            .read("platform", |n| check::platform(n.text()?))?
            .unwrap_or_default(),
        base,
        steps: steps.unwrap_or_default(),
        env: env(&fields, "env")?,
        runtime_env: env(&fields, "runtime_env")?,
        workdir: fields.read("workdir", image_path)?,
        user: checked_text(&fields, "user", check::user)?,
        labels: text_map(&fields, "labels", check::label)?,
        entrypoint: fields.read("entrypoint", |n| arguments(n, "ENTRYPOINT"))?,
        cmd: fields.read("cmd", |n| arguments(n, "CMD"))?,
        name: checked_text(&fields, "name", check::image_name)?,
        mounts: fields
            .read("mounts", |node| limited(node, mount))?
            .unwrap_or_default(),
    };
    check_size(&spec)?;
    Ok(spec)
}

/// Refuses a spec over [`DOCUMENT_LIMIT`].
pub(crate) fn check_size(spec: &Spec) -> Result<(), Fault> {
    if most_bytes(spec) <= DOCUMENT_LIMIT {
        return Ok(());
    }
    let size = spec.to_json().canonical().len();
    if size > DOCUMENT_LIMIT {
        let message = format!("the spec takes {size} bytes of {DOCUMENT_LIMIT} allowed");
        let hint = "put long texts into files and copy them in with `add_local_file`";
        return Err(Fault::new(ErrorCode::Limit, message).hint(hint));
    }
    Ok(())
}

/// At least as many bytes as the document takes, and far cheaper to know: an escaped character takes
/// six, and names and marks around a value fewer than those that are counted for it.
fn most_bytes(spec: &Spec) -> usize {
    const AROUND: usize = 64;
    let text = |text: &str| 6 * text.len() + AROUND;
    let texts = |list: &[String]| list.iter().map(|item| text(item)).sum::<usize>();
    let map =
        |map: &BTreeMap<String, String>| map.iter().map(|(n, v)| text(n) + text(v)).sum::<usize>();
    let instruction = |instruction: &Instruction| {
        // A digest, and of each image two with a reference and a platform.
        text(&instruction.text) + 2 * AROUND + 16 * AROUND * instruction.images.len()
    };
    let step = |step: &Step| {
        let kind = match &step.kind {
            StepKind::PipInstall { packages }
            | StepKind::UvPipInstall { packages }
            | StepKind::AptInstall { packages } => texts(packages),
            StepKind::UvSync(project) => {
                texts(&project.extras) + project.workdir.as_deref().map_or(0, text) + 6 * AROUND
            }
            StepKind::Run { command } => text(command),
            StepKind::AddFile { dest, .. } | StepKind::AddDir { dest, .. } => {
                text(dest) + 4 * AROUND
            }
            StepKind::Dockerfile(known) => instruction(known),
        };
        let secrets = step.secrets.iter().map(|name| text(name)).sum::<usize>();
        kind + map(&step.env) + secrets + 2 * AROUND
    };
    let stages = match &spec.base {
        Base::Scratch | Base::Image(_) => 0,
        Base::Dockerfile(dockerfile) => dockerfile
            .stages
            .iter()
            .map(|stage| {
                let all = stage.instructions.iter().map(instruction);
                all.sum::<usize>() + 16 * AROUND
            })
            .sum(),
    };
    let mounts = spec
        .mounts
        .iter()
        .map(|mount| text(&mount.src) + text(&mount.dest) + texts(&mount.exclude) + 2 * AROUND);
    let maps = [&spec.env, &spec.runtime_env, &spec.labels];
    let lists = [&spec.entrypoint, &spec.cmd];
    let words = [&spec.workdir, &spec.user, &spec.name];
    32 * AROUND
        + stages
        + spec.steps.iter().map(step).sum::<usize>()
        + mounts.sum::<usize>()
        + maps.into_iter().map(map).sum::<usize>()
        + lists
            .into_iter()
            .flatten()
            .map(|list| texts(list))
            .sum::<usize>()
        + words
            .into_iter()
            .flatten()
            .map(|word| text(word))
            .sum::<usize>()
}

fn limited<T>(node: &Node, read: impl FnMut(&Node) -> Result<T, Fault>) -> Result<Vec<T>, Fault> {
    let items = node.list()?;
    check_count(items.len())?;
    each(items, read)
}

/// Refuses more than [`STEP_LIMIT`] steps or mounts.
pub(crate) fn check_count(count: usize) -> Result<(), Fault> {
    if count > STEP_LIMIT {
        let message = format!("{count} entries; at most {STEP_LIMIT} are allowed");
        return Err(Fault::new(ErrorCode::Limit, message));
    }
    Ok(())
}

fn base(node: &Node) -> Result<Base, Fault> {
    if node.as_text() == Some("scratch") {
        return Ok(Base::Scratch);
    }
    let fields = base_fields(node, &["ref", "digest", "dockerfile"])?;
    if let Some(dockerfile) = fields.read("dockerfile", dockerfile)? {
        if let Some(other) = fields.names().find(|name| *name != "dockerfile") {
            let fault = Fault::new(ErrorCode::Conflict, "cannot stand beside `dockerfile`");
            return Err(fault.in_field(other));
        }
        return Ok(Base::Dockerfile(dockerfile));
    }
    base_image(&fields).map(Base::Image)
}

/// The fields of a base, which is a map unless it is `"scratch"`.
fn base_fields<'n>(node: &'n Node, known: &[&str]) -> Result<Fields<'n>, Fault> {
    if node.as_text().is_some() {
        let fault = Fault::new(ErrorCode::WrongType, "expected \"scratch\" or a map");
        return Err(fault.hint("write {\"ref\": \"python:3.12-slim-bookworm\"}"));
    }
    node.fields(known)
}

fn base_image(fields: &Fields<'_>) -> Result<BaseImage, Fault> {
    let mut image = fields.need("ref", |node| check::base_image(node.text()?))?;
    if let Some(digest) = fields.read("digest", |node| check::digest(node.text()?))? {
        if image.digest.is_some_and(|other| other != digest) {
            let fault = Fault::new(ErrorCode::Conflict, "differs from the digest in `ref`");
            return Err(fault.hint("remove one of them").in_field("digest"));
        }
        image.digest = Some(digest);
    }
    image.platform = fields.read("platform", |node| check::platform(node.text()?))?;
    Ok(image)
}

fn dockerfile(node: &Node) -> Result<Dockerfile, Fault> {
    let fields = node.fields(&["stages"])?;
    let mut count = 0;
    let stages = fields.need("stages", |node| {
        limited(node, |node| {
            let stage = stage(node, count)?;
            count += 1;
            Ok(stage)
        })
    })?;
    if stages.is_empty() {
        let fault = Fault::new(ErrorCode::Empty, "a Dockerfile has at least one stage");
        return Err(fault.in_field("stages"));
    }
    Ok(Dockerfile { stages })
}

/// Reads stage number `index`, which may refer to those before it.
fn stage(node: &Node, index: usize) -> Result<Stage, Fault> {
    let fields = node.fields(&["base", "instructions"])?;
    let base = fields.need("base", |node| {
        if node.as_text() == Some("scratch") {
            return Ok(StageBase::Scratch);
        }
        let fields = base_fields(node, &["ref", "digest", "platform", "stage"])?;
        let Some(stage) = fields.read("stage", Node::number)? else {
            return base_image(&fields).map(StageBase::Image);
        };
        if let Some(other) = fields.names().find(|name| *name != "stage") {
            let fault = Fault::new(ErrorCode::Conflict, "cannot stand beside `stage`");
            return Err(fault.in_field(other));
        }
        earlier_stage(stage, index).map_err(|fault| fault.in_field("stage"))?;
        Ok(StageBase::Stage(stage))
    })?;
    let instructions = fields.read("instructions", |node| {
        limited(node, |node| {
            instruction(&node.fields(&["text", "context", "images"])?, Some(index))
        })
    })?;
    Ok(Stage {
        base,
        instructions: instructions.unwrap_or_default(),
    })
}

fn earlier_stage(stage: usize, index: usize) -> Result<(), Fault> {
    if stage < index {
        return Ok(());
    }
    let message = format!("stage {stage} does not stand before this one");
    Err(Fault::new(ErrorCode::Value, message).hint("stages are counted from 0"))
}

/// Reads an instruction that may refer to the stages before number `stage`; that of a step has no
/// stages to refer to.
fn instruction(fields: &Fields<'_>, stage: Option<usize>) -> Result<Instruction, Fault> {
    let images = fields.read("images", |node| {
        limited(node, |node| {
            base_image(&node.fields(&["ref", "digest", "platform"])?)
        })
    })?;
    let instruction = Instruction {
        text: fields.need("text", |node| {
            let text = node.text()?;
            check::command(text)?;
            Ok(text.to_owned())
        })?,
        context: fields.read("context", digest)?,
        images: images.unwrap_or_default(),
    };
    check_canonical(&instruction).map_err(|problem| {
        Fault::new(ErrorCode::Dockerfile, problem.to_string()).in_field("text")
    })?;
    for read in reads(&instruction.text) {
        check_read(read, stage, instruction.images.len()).map_err(|f| f.in_field("text"))?;
    }
    Ok(instruction)
}

/// Checks that what an instruction reads from is there.
fn check_read(read: ReadFrom, stage: Option<usize>, images: usize) -> Result<(), Fault> {
    match (read, stage) {
        (ReadFrom::Image(index), _) if index < images => Ok(()),
        (ReadFrom::Image(index), _) => {
            let message = format!("reads from image @{index}, and `images` has {images}");
            Err(Fault::new(ErrorCode::Value, message).hint("images are counted from 0"))
        }
        (ReadFrom::Stage(read), Some(stage)) => earlier_stage(read, stage),
        (ReadFrom::Stage(read), None) => {
            let fault = Fault::new(ErrorCode::Value, format_args!("reads from stage {read}"));
            Err(fault.hint("a step has no stages; name an image, or use a whole Dockerfile"))
        }
    }
}

fn step(node: &Node) -> Result<Step, Fault> {
    const OPTIONS: [&str; 4] = ["kind", "env", "secrets", "force"];
    const KINDS: [&str; 8] = [
        "pip_install",
        "uv_pip_install",
        "uv_sync",
        "apt_install",
        "run",
        "add_file",
        "add_dir",
        "dockerfile",
    ];
    let any = [
        &["packages", "command", "dest", "digest", "mode"][..],
        &["text", "context", "images"],
        &project::FIELDS,
    ]
    .concat();
    let word = node
        .fields(&[&OPTIONS[..], &any[..]].concat())?
        .need("kind", Node::text)?;
    let of = |own: &[&str]| node.fields(&[&OPTIONS[..], own].concat());
    let kind = match word {
        "pip_install" => StepKind::PipInstall {
            packages: of(&["packages"])?.need("packages", |n| normalise_list(n.texts()?))?,
        },
        "uv_pip_install" => StepKind::UvPipInstall {
            packages: of(&["packages"])?.need("packages", |n| normalise_list(n.texts()?))?,
        },
        "apt_install" => StepKind::AptInstall {
            packages: of(&["packages"])?.need("packages", |n| check::apt_packages(n.texts()?))?,
        },
        "uv_sync" => StepKind::UvSync(UvProject::read(&of(&project::FIELDS)?)?),
        "run" => StepKind::Run {
            command: of(&["command"])?.need("command", |node| {
                let text = node.text()?;
                check::command(text)?;
                Ok(text.to_owned())
            })?,
        },
        "add_file" => {
            let fields = of(&["dest", "digest", "mode"])?;
            StepKind::AddFile {
                dest: fields.need("dest", file_dest)?,
                digest: fields.need("digest", digest)?,
                mode: fields.need("mode", |node| check::mode(node.text()?))?,
            }
        }
        "add_dir" => {
            let fields = of(&["dest", "digest"])?;
            StepKind::AddDir {
                dest: fields.need("dest", image_path)?,
                digest: fields.need("digest", digest)?,
            }
        }
        "dockerfile" => {
            StepKind::Dockerfile(instruction(&of(&["text", "context", "images"])?, None)?)
        }
        other => {
            let fault = Fault::new(
                ErrorCode::Value,
                format_args!("`{other}` is no kind of step"),
            );
            let hint = match crate::spelling::nearest(other, &KINDS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known: {}", KINDS.join(", ")),
            };
            return Err(fault.hint(hint).in_field("kind"));
        }
    };
    let fields = of(&any)?;
    let step = Step {
        env: env(&fields, "env")?,
        secrets: fields.read("secrets", secrets)?.unwrap_or_default(),
        force: fields.read("force", Node::boolean)?.unwrap_or_default(),
        kind,
    };
    if matches!(
        step.kind,
        StepKind::AddFile { .. } | StepKind::AddDir { .. }
    ) {
        let unused = [
            ("env", !step.env.is_empty()),
            ("secrets", !step.secrets.is_empty()),
        ];
        if let Some((name, _)) = unused.into_iter().find(|(_, given)| *given) {
            let fault = Fault::new(
                ErrorCode::Conflict,
                format_args!("a copy has no use for `{name}`"),
            );
            return Err(fault.hint("remove it").in_field(name));
        }
    }
    Ok(step)
}

fn mount(node: &Node) -> Result<Mount, Fault> {
    let fields = node.fields(&["src", "dest", "dir", "exclude", "after"])?;
    let dir = fields.read("dir", Node::boolean)?.unwrap_or_default();
    let dest = |node: &Node| {
        if dir {
            image_path(node)
        } else {
            file_dest(node)
        }
    };
    let src = |node: &Node| match node.text()? {
        "" => Err(Fault::new(ErrorCode::Empty, "the path is empty")),
        text => Ok(text.to_owned()),
    };
    Ok(Mount {
        src: fields.need("src", src)?,
        dest: fields.need("dest", dest)?,
        dir,
        exclude: fields.read("exclude", Node::texts)?.unwrap_or_default(),
        after: fields.read("after", Node::number)?.unwrap_or_default(),
    })
}

/// The place of a file: unlike in a call, there is no source whose name a directory could take.
fn file_dest(node: &Node) -> Result<String, Fault> {
    let text = node.text()?;
    let path = check::image_path(text)?;
    if text.ends_with('/') {
        let fault = Fault::new(ErrorCode::Path, format_args!("`{text}` names a directory"));
        return Err(fault.hint("write the path of the file itself"));
    }
    Ok(path)
}

/// An absolute path in the image.
pub(super) fn image_path(node: &Node) -> Result<String, Fault> {
    check::image_path(node.text()?)
}

pub(super) fn digest(node: &Node) -> Result<Digest, Fault> {
    check::digest(node.text()?)
}

fn arguments(node: &Node, instruction: &str) -> Result<Vec<String>, Fault> {
    let words = node.texts()?;
    check::arguments(&words, instruction)?;
    Ok(words)
}

/// Names of secrets.
pub(crate) fn secrets(node: &Node) -> Result<BTreeSet<String>, Fault> {
    let names = node.texts()?;
    each(&names, |name| check::secret(name))?;
    Ok(names.into_iter().collect())
}

fn checked_text(
    fields: &Fields<'_>,
    name: &str,
    check: impl Fn(&str) -> Result<(), Fault>,
) -> Result<Option<String>, Fault> {
    fields.read(name, |node| {
        let text = node.text()?;
        check(text)?;
        Ok(text.to_owned())
    })
}

fn env(fields: &Fields<'_>, name: &str) -> Result<BTreeMap<String, String>, Fault> {
    text_map(fields, name, check::env)
}

fn text_map(
    fields: &Fields<'_>,
    name: &str,
    check: impl Fn(&str, &str) -> Result<(), Fault>,
) -> Result<BTreeMap<String, String>, Fault> {
    let map = fields.read(name, |node| {
        let pairs = node.text_map()?;
        pairs
            .iter()
            .try_for_each(|(name, value)| check(name, value))?;
        Ok(pairs.into_iter().collect())
    })?;
    Ok(map.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;
    use crate::image::{LocalOptions, StepOptions};
    use crate::source::MemoryFiles;

    #[test]
    fn the_cheap_bound_is_a_bound() {
        let odd = "\u{1}\u{1f600}\"\\x";
        let digest = format!("sha256:{}", "a".repeat(64));
        let reference = format!("registry.example:5000/{}@{digest}", "x".repeat(200));
        let files = MemoryFiles::new().file("a", "a");
        let options = || StepOptions::new().env("A", odd).secret("s").force();
        let mut full = Image::base(&reference)
            .env([("A", odd)])
            .runtime_env([("B", odd)])
            .label(odd, odd)
            .workdir("/w")
            .user("u")
            .entrypoint([odd, odd])
            .cmd([odd])
            .name("n:1")
            .add_local_file("a", "/m", LocalOptions::mount())
            .add_local_dir("b", "/n", LocalOptions::mount().exclude(odd));
        let dockerfile = format!("FROM {reference} AS a\nFROM a\nCOPY --from={reference} / /\n");
        for _ in 0..50 {
            full = full
                .pip_install_with(["a", "b==1"], options())
                .apt_install_with("git", options())
                .run_commands_with(odd, options())
                .add_local_file("a", "/a", LocalOptions::copy().mode(0o7777))
                .dockerfile_commands(format!("COPY --from={reference} /a /b"));
        }
        let images = [
            full,
            Image::scratch(),
            Image::scratch().run_commands("a"),
            Image::from_dockerfile(&dockerfile, None),
        ];
        for image in images {
            let spec = image.resolve(&files).unwrap().spec;
            let size = spec.to_json().canonical().len();
            assert!(size <= most_bytes(&spec), "{size} {}", most_bytes(&spec));
        }
    }

    #[test]
    fn refuses_a_spec_that_is_too_big() {
        let mut spec = Spec::new(Base::Scratch);
        let command = "x".repeat(128 << 10 >> 1);
        spec.steps = vec![Step::new(StepKind::Run { command }); 127];
        assert_eq!(spec.checked().as_ref(), Ok(&spec));
        spec.steps.push(spec.steps[0].clone());
        let error = spec.checked().unwrap_err();
        assert_eq!(error.code, ErrorCode::Limit);
        assert!(error.message.contains("of 8388608 allowed"), "{error}");
        assert_eq!(
            serde_json::to_string(&spec)
                .map(|json| json.len() > DOCUMENT_LIMIT)
                .ok(),
            Some(true)
        );
    }

    #[test]
    fn a_spec_inside_another_document_names_its_field() {
        let read = |json: &str| serde_json::from_str::<Spec>(json).unwrap_err().to_string();
        let error = read(r#"{"schema": "chalk.image/v1", "base": {"ref": "a", "tag": "b"}}"#);
        assert!(
            error.starts_with("base.tag: no such field: `tag`"),
            "{error}"
        );
    }
}
