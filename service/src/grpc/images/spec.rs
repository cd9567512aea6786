//! The `ImageSpec` of Chalk's own SDK as a declaration of ours.
//!
//! It goes through the same calls as `image.toml`, so that the same declaration has the same hash
//! whichever way it came.

use std::fmt::Write as _;
use std::io::Read as _;

use chalk_core::image::{Image, LocalOptions, Resolved, UvSyncOptions};
use chalk_core::source::{MemoryFiles, Source as _};
use chalk_core::upload::Contents;
use tonic::{Code, Status};

use super::super::proto::chalk::sandbox::v1::{self as proto, build_step::Step};

/// Largest file of a project, in bytes, once it is unpacked.
const PROJECT_LIMIT: u64 = 64 << 20;

/// What users cannot know of COPY and ADD.
const COPIES: &str = "The SDK sends the lines of a Dockerfile and nothing else: neither the files beside it, which COPY and ADD take, nor which stage a line belongs to, so that every FROM but the last is lost. Add files by add_local_file or add_local_dir with strategy=\"copy\", or build the Dockerfile by `chalk compute image build`.";

/// A declaration with the contents that it names.
pub(super) struct Declared {
    /// The spec, its base not yet pinned.
    pub(super) resolved: Resolved,
    files: MemoryFiles,
    /// Whether it copies from somewhere.
    copies: bool,
}

impl Declared {
    /// Why it cannot be built, with what the SDK has to do with it.
    pub(super) fn explain(&self, status: Status) -> Status {
        if self.copies && status.code() == Code::NotFound {
            return Status::not_found(format!("{}\n{COPIES}", status.message()));
        }
        status
    }

    /// The contents that the spec names by their digests.
    pub(super) fn contents(&self) -> Vec<Vec<u8>> {
        let contents = |contents: &Contents| match contents {
            Contents::Bytes(bytes) => Some(bytes.clone()),
            Contents::File(path) => self.files.read(path).ok().flatten(),
        };
        let uploads = self.resolved.uploads.iter();
        uploads
            .filter_map(|upload| contents(&upload.contents))
            .collect()
    }
}

fn wrong(words: impl Into<String>) -> Status {
    Status::invalid_argument(words)
}

/// Takes a declaration in.
///
/// # Errors
/// Everything that is wrong with it, by step.
pub(super) fn declare(spec: &proto::ImageSpec) -> Result<Declared, Status> {
    let base = Base::parse(&spec.base_image)?;
    let mut image = Image::base(base.reference);
    // What each call is for the one who declared it; calls count from 1.
    let mut calls = vec!["base_image".to_owned()];
    let mut files = MemoryFiles::new();
    if let Some(platform) = base.platform {
        image = image.platform(platform);
        calls.push("base_image".to_owned());
    }
    let mut copies = false;
    for (i, step) in spec.steps.iter().enumerate() {
        let Some(step) = &step.step else {
            return Err(wrong(format!(
                "steps[{i}]: a step of no kind that is known here: expected run_commands, pip_install, add_file, dockerfile_commands, uv_pip_install or uv_sync"
            )));
        };
        let before = image.length();
        let word = match step {
            Step::RunCommands(step) => {
                if !step.commands.is_empty() {
                    image = image.run_commands(&*step.commands);
                }
                "run_commands"
            }
            Step::PipInstall(step) => {
                image = image.pip_install(&*step.packages);
                "pip_install"
            }
            Step::UvPipInstall(step) => {
                image = image.uv_pip_install(&*step.packages);
                "uv_pip_install"
            }
            Step::AddFile(step) => {
                let name = format!("steps/{i}");
                files = files.file(&name, step.content.to_vec());
                let mut options = LocalOptions::copy();
                if let Some(mode) = step.mode {
                    options = options.mode(mode);
                }
                image = image.add_local_file(&name, &step.destination, options);
                "add_file"
            }
            Step::DockerfileCommands(step) => {
                copies |= step.commands.iter().any(|line| is_copy(line));
                // The SDK cuts a Dockerfile at its line ends, also inside an instruction.
                let text = step.commands.join("\n");
                if !text.trim().is_empty() {
                    image = image.dockerfile_commands([text]);
                }
                "dockerfile_commands"
            }
            Step::UvSync(step) => {
                let (next, added) = uv_sync(&image, files, step, i)?;
                (image, files) = (next, added);
                "uv_sync"
            }
        };
        for _ in before..image.length() {
            calls.push(format!("steps[{i}].{word}"));
        }
    }
    image = facts(image, spec, &mut calls);
    let resolved = image
        .resolve(&files)
        .map_err(|errors| explain(&errors.0, &calls, copies))?;
    Ok(Declared {
        resolved,
        files,
        copies,
    })
}

/// What holds for the whole image.
fn facts(mut image: Image, spec: &proto::ImageSpec, calls: &mut Vec<String>) -> Image {
    if let Some(workdir) = spec.workdir.as_ref().filter(|path| !path.is_empty()) {
        image = image.workdir(workdir);
        calls.push("workdir".to_owned());
    }
    if !spec.env.is_empty() {
        image = image.env(spec.env.clone());
        calls.push("env".to_owned());
    }
    if !spec.entrypoint.is_empty() {
        image = image.entrypoint(&*spec.entrypoint);
        calls.push("entrypoint".to_owned());
    }
    if !spec.cmd.is_empty() {
        image = image.cmd(&*spec.cmd);
        calls.push("cmd".to_owned());
    }
    image
}

/// What stands behind the `FROM` that the SDK took the base from.
struct Base<'a> {
    reference: &'a str,
    platform: Option<&'a str>,
}

impl<'a> Base<'a> {
    /// The SDK sends the rest of the line as it is, with flags and the name of the stage.
    fn parse(text: &'a str) -> Result<Self, Status> {
        let mut words = text.split_whitespace().peekable();
        let mut platform = None;
        while let Some(flag) = words.next_if(|word| word.starts_with("--")) {
            match flag.strip_prefix("--platform=") {
                Some(found) => platform = Some(found),
                None => return Err(wrong(format!("base_image: `{flag}` is no flag of FROM"))),
            }
        }
        let rest: Vec<&str> = words.collect();
        let reference = match rest[..] {
            [reference] => reference,
            [reference, word, _] if word.eq_ignore_ascii_case("as") => reference,
            [] => return Err(wrong("base_image: expected the reference of an image")),
            _ => {
                return Err(wrong(format!(
                    "base_image: `{}` is no reference of an image",
                    text.chars().take(200).collect::<String>()
                )));
            }
        };
        for variable in [Some(reference), platform].into_iter().flatten() {
            if variable.contains('$') {
                return Err(wrong(format!(
                    "base_image: `{variable}` names a build argument, and the SDK sends no value for one: write the base out, or build the Dockerfile by `chalk compute image build`"
                )));
            }
        }
        Ok(Self {
            reference,
            platform,
        })
    }
}

/// Whether a line begins an instruction that may copy from a context or another stage.
fn is_copy(line: &str) -> bool {
    let word = line.split_whitespace().next().unwrap_or_default();
    word.eq_ignore_ascii_case("copy") || word.eq_ignore_ascii_case("add")
}

/// Adds a `uv_sync` step, whose files come as LZ4 frames.
fn uv_sync(
    image: &Image,
    files: MemoryFiles,
    step: &proto::UvSyncStep,
    i: usize,
) -> Result<(Image, MemoryFiles), Status> {
    use proto::uv_sync_step::{PyprojectToml, UvLock};

    let unpack = |field: &str, frame: &[u8]| {
        let mut bytes = Vec::new();
        let reader = lz4_flex::frame::FrameDecoder::new(frame);
        let read = reader.take(PROJECT_LIMIT + 1).read_to_end(&mut bytes);
        match read {
            Ok(_) if bytes.len() as u64 <= PROJECT_LIMIT => Ok(bytes),
            Ok(_) => Err(wrong(format!(
                "steps[{i}].uv_sync.{field}: unpacked, at most {PROJECT_LIMIT} bytes are taken"
            ))),
            Err(error) => Err(wrong(format!(
                "steps[{i}].uv_sync.{field}: expected an LZ4 frame: {error}"
            ))),
        }
    };
    let missing = |field: &str| wrong(format!("steps[{i}].uv_sync.{field}: is missing"));
    let Some(PyprojectToml::PyprojectTomlLz4(pyproject)) = &step.pyproject_toml else {
        return Err(missing("pyproject_toml_lz4"));
    };
    let Some(UvLock::UvLockLz4(lock)) = &step.uv_lock else {
        return Err(missing("uv_lock_lz4"));
    };
    let pyproject = unpack("pyproject_toml_lz4", pyproject)?;
    let lock = unpack("uv_lock_lz4", lock)?;
    let project = format!("steps/{i}");
    let files = files
        .file(&format!("{project}/pyproject.toml"), pyproject)
        .file(&format!("{project}/uv.lock"), lock);
    let mut options = UvSyncOptions::new();
    for extra in &step.extras {
        options = options.extra(extra);
    }
    if let Some(workdir) = step.workdir.as_ref().filter(|path| !path.is_empty()) {
        options = options.workdir(workdir);
    }
    Ok((image.uv_sync_with(&project, options), files))
}

/// Everything that is wrong, in the words of the one who declared it.
fn explain(errors: &[chalk_core::error::SpecError], calls: &[String], copies: bool) -> Status {
    let mut text = String::new();
    for error in errors {
        let mut error = error.clone();
        if let Some((call, rest)) = error
            .path
            .strip_prefix("call ")
            .and_then(|path| path.split_once(':'))
            && let Some(step) = call.parse().ok().and_then(|n: usize| calls.get(n - 1))
        {
            // What follows is the word of our call and, behind it, its field.
            let field = rest
                .trim_start()
                .trim_start_matches(|c: char| c.is_ascii_lowercase() || c == '_');
            error.path = format!("{step}{field}");
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = write!(text, "{error}");
    }
    if copies {
        text.push('\n');
        text.push_str(COPIES);
    }
    Status::invalid_argument(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(base: &str, steps: Vec<Step>) -> proto::ImageSpec {
        proto::ImageSpec {
            base_image: base.into(),
            steps: steps
                .into_iter()
                .map(|step| proto::BuildStep { step: Some(step) })
                .collect(),
            ..proto::ImageSpec::default()
        }
    }

    fn dockerfile(lines: &[&str]) -> Step {
        Step::DockerfileCommands(proto::DockerfileCommandsStep {
            commands: lines.iter().map(|line| (*line).to_owned()).collect(),
        })
    }

    fn hash(spec: &proto::ImageSpec) -> String {
        match declare(spec) {
            Ok(declared) => declared.resolved.spec.recipe_hash().to_string(),
            Err(status) => panic!("{status}"),
        }
    }

    #[test]
    fn a_declaration_has_the_hash_of_our_own() {
        let mut sent = spec(
            "python:3.12-slim-bookworm",
            vec![
                Step::PipInstall(proto::PipInstallStep {
                    packages: vec!["requests".into(), "pandas >=2.0".into()],
                }),
                Step::RunCommands(proto::RunCommandsStep {
                    commands: vec!["a".into(), "b".into()],
                }),
                Step::RunCommands(proto::RunCommandsStep::default()),
                Step::AddFile(proto::AddFileStep {
                    destination: "/app/app.py".into(),
                    content: "print()".into(),
                    mode: None,
                }),
                dockerfile(&["RUN apt-get update && \\", "true", "EXPOSE 80"]),
            ],
        );
        sent.workdir = Some("/app".into());
        sent.env.insert("PROJECT_ROOT".into(), "/app".into());
        let own = Image::debian_slim("3.12")
            .pip_install(["requests", "pandas>=2.0"])
            .run_commands(["a", "b"])
            .add_local_file("app.py", "/app/app.py", LocalOptions::copy())
            .dockerfile_commands(["RUN apt-get update && true", "EXPOSE 80"])
            .workdir("/app")
            .env([("PROJECT_ROOT", "/app")]);
        let files = MemoryFiles::new().file("app.py", "print()");
        let own = own.resolve(&files).unwrap().spec.recipe_hash().to_string();
        assert_eq!(hash(&sent), own);
        let contents = declare(&sent).ok().unwrap().contents();
        assert_eq!(contents, [b"print()".to_vec()]);
    }

    #[test]
    fn what_the_sdk_makes_of_from() {
        let plain = hash(&spec("node:22", vec![]));
        assert_eq!(hash(&spec("node:22 AS build", vec![])), plain);
        assert_eq!(
            hash(&spec("--platform=linux/amd64 node:22 as x", vec![])),
            plain
        );
        for (base, words) in [
            ("", "expected the reference"),
            ("a b", "no reference"),
            ("python:${V}", "build argument"),
            ("--nope=1 a", "no flag"),
            ("UPPER//x", "base_image"),
        ] {
            let status = declare(&spec(base, vec![])).err().unwrap();
            assert!(status.message().contains(words), "{base}: {status}");
        }
    }

    #[test]
    fn errors_name_the_step() {
        let wrong = |step: Step, expect: &str| {
            let run = Step::RunCommands(proto::RunCommandsStep {
                commands: vec!["true".into()],
            });
            let status = declare(&spec("a", vec![run, step])).err().unwrap();
            assert!(status.message().contains(expect), "{}", status.message());
        };
        let file = proto::AddFileStep {
            destination: "not/absolute".into(),
            ..proto::AddFileStep::default()
        };
        wrong(Step::AddFile(file), "steps[1].add_file.dest: ");
        wrong(
            dockerfile(&["RUN true", "NOPE x"]),
            "steps[1].dockerfile_commands",
        );
        wrong(dockerfile(&["COPY a /a"]), "neither the files beside it");
        // What was a stage is taken for an image, which nobody has.
        let copies = spec("a", vec![dockerfile(&["COPY --from=build /a /a"])]);
        let declared = declare(&copies).ok().unwrap();
        let status = declared.explain(Status::not_found("no such base"));
        assert!(status.message().contains("every FROM but the last"));
        let packages = vec![String::new()];
        wrong(
            Step::PipInstall(proto::PipInstallStep { packages }),
            "steps[1].pip_install",
        );
    }

    fn frame(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write as _;

        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_project_has_the_hash_of_our_own() {
        let sync = |extras: &[&str], workdir: Option<&str>| {
            Step::UvSync(proto::UvSyncStep {
                pyproject_toml: Some(proto::uv_sync_step::PyprojectToml::PyprojectTomlLz4(
                    frame(b"p").into(),
                )),
                uv_lock: Some(proto::uv_sync_step::UvLock::UvLockLz4(frame(b"l").into())),
                extras: extras.iter().map(|extra| (*extra).to_owned()).collect(),
                workdir: workdir.map(str::to_owned),
            })
        };
        let files = MemoryFiles::new()
            .file("api/pyproject.toml", "p")
            .file("api/uv.lock", "l");
        let check = |step: Step, options: UvSyncOptions| {
            let own = Image::base("a").uv_sync_with("api", options);
            let own = own.resolve(&files).unwrap().spec.recipe_hash();
            let sent = spec("a", vec![step]);
            assert_eq!(hash(&sent), own.to_string());
            let mut contents = declare(&sent).ok().unwrap().contents();
            contents.sort();
            assert_eq!(contents, [b"l", b"p"]);
        };
        check(sync(&[], None), UvSyncOptions::new());
        check(sync(&[], Some("")), UvSyncOptions::new());
        let options = UvSyncOptions::new().extra("a").extra("b").workdir("/srv");
        check(sync(&["b", "A"], Some("/srv/")), options);
        let wrong = |step: Step, expect: &str| {
            let status = declare(&spec("a", vec![step])).err().unwrap();
            assert!(status.message().contains(expect), "{}", status.message());
        };
        wrong(sync(&["a", "b c"], None), "steps[0].uv_sync.extras[1]: ");
        wrong(sync(&[], Some("srv")), "steps[0].uv_sync.workdir: ");
    }

    #[test]
    fn frames_are_bounded() {
        let wrong = |pyproject: Vec<u8>, expect: &str| {
            let step = proto::UvSyncStep {
                pyproject_toml: Some(proto::uv_sync_step::PyprojectToml::PyprojectTomlLz4(
                    pyproject.into(),
                )),
                uv_lock: Some(proto::uv_sync_step::UvLock::UvLockLz4(frame(b"x").into())),
                ..proto::UvSyncStep::default()
            };
            let status = declare(&spec("a", vec![Step::UvSync(step)])).err().unwrap();
            assert!(status.message().contains(expect), "{}", status.message());
        };
        wrong(b"no frame".to_vec(), "expected an LZ4 frame");
        wrong(frame(&vec![0; PROJECT_LIMIT as usize + 1]), "at most");
        let none = Step::UvSync(proto::UvSyncStep::default());
        let status = declare(&spec("a", vec![none])).err().unwrap();
        assert!(status.message().contains("pyproject_toml_lz4: is missing"));
    }
}
