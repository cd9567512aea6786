//! What holds for every declaration, tried on thousands of made-up ones.
#![allow(clippy::unwrap_used, reason = "a test")]

use chalk_core::image::{LocalOptions, StepOptions, Strategy as Local, UvSyncOptions};
use chalk_core::jcs::Json;
use chalk_core::source::MemoryFiles;
use chalk_core::spec::{
    Base, BaseImage, Dockerfile, Instruction, Mount, Stage, StageBase, Step, StepKind,
};
use chalk_core::{Digest, Image, Spec};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z \"\\\\'\n\t=,:{}\\[\\]$]{1,12}",
        "[^\0]{1,8}",
        select(vec![
            "é".to_owned(),
            "e\u{301}".to_owned(),
            "😀\u{fb33}".to_owned()
        ]),
    ]
}

fn env() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    btree_map(
        "[A-Za-z_][A-Za-z0-9_]{0,3}",
        prop_oneof![Just(String::new()), text()],
        0..4,
    )
}

fn command() -> impl Strategy<Value = String> {
    text().prop_filter("blank", |text| !text.trim().is_empty())
}

fn path() -> impl Strategy<Value = String> {
    "(/[a-zé.-]{1,5}){1,3}".prop_filter("dots", |path| {
        path.split('/').all(|word| !matches!(word, "." | ".."))
    })
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<u8>().prop_map(|byte| Digest::of(&[byte]))
}

fn base_image() -> impl Strategy<Value = BaseImage> {
    let reference = select(vec!["python:3.12", "ghcr.io/a/b:c", "localhost:5000/x"]);
    let make = |(reference, digest): (&str, _)| BaseImage {
        reference: reference.parse().unwrap(),
        digest,
        platform: None,
    };
    (reference, option::of(digest())).prop_map(make)
}

fn instruction() -> impl Strategy<Value = Instruction> {
    let plain = select(vec![
        "EXPOSE 8080",
        "RUN make",
        "USER worker",
        "RUN <<EOF\n a\nEOF",
    ]);
    let plain = plain.prop_map(|text| Instruction {
        text: text.into(),
        ..Instruction::default()
    });
    let copy = (digest(), "[a-z]{1,4}").prop_map(|(context, name)| Instruction {
        text: format!("COPY {name} /{name}"),
        context: Some(context),
        images: Vec::new(),
    });
    let from = base_image().prop_map(|image| Instruction {
        text: "COPY --from=@0 /a /a".into(),
        context: None,
        images: vec![image],
    });
    prop_oneof![plain, copy, from]
}

fn base() -> impl Strategy<Value = Base> {
    let first = prop_oneof![
        Just(StageBase::Scratch),
        base_image().prop_map(StageBase::Image)
    ];
    let stages = (first, vec(instruction(), 0..3), vec(instruction(), 0..3)).prop_map(
        |(base, first, mut second)| {
            second.push(Instruction {
                text: "COPY --from=0 /a /b".into(),
                ..Instruction::default()
            });
            Base::Dockerfile(Dockerfile {
                stages: vec![
                    Stage {
                        base,
                        instructions: first,
                    },
                    Stage {
                        base: StageBase::Stage(0),
                        instructions: second,
                    },
                ],
            })
        },
    );
    prop_oneof![
        1 => Just(Base::Scratch),
        4 => base_image().prop_map(Base::Image),
        2 => stages,
    ]
}

fn packages() -> impl Strategy<Value = Vec<String>> {
    let name = "[a-z]{1,4}(-[a-z]{1,2})?(\\[[a-z]{1,3}\\])?(>=[0-9]\\.[0-9],?<[0-9]{2})?";
    let plain = vec(
        name.prop_filter("two", |name| !name.contains('<') || name.contains(",<")),
        1..4,
    );
    prop_oneof![
        plain,
        Just(vec!["b".to_owned(), "--pre".to_owned(), "A >=1".to_owned()]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let with_options = prop_oneof![
        packages().prop_map(|packages| StepKind::PipInstall { packages }),
        packages().prop_map(|packages| StepKind::UvPipInstall { packages }),
        btree_set("[a-z]{2,4}(=[0-9])?", 1..3).prop_map(|packages| StepKind::AptInstall {
            packages: packages.into_iter().collect()
        }),
        command().prop_map(|command| StepKind::Run { command }),
        instruction().prop_map(StepKind::Dockerfile),
    ];
    let secrets = btree_set("[A-Za-z][A-Za-z0-9_.-]{0,3}", 0..3);
    let with_options =
        (with_options, env(), secrets, any::<bool>()).prop_map(|(kind, env, secrets, force)| {
            Step {
                kind,
                env,
                secrets,
                force,
            }
        });
    let copies = prop_oneof![
        (path(), digest(), 0_u32..0o10000).prop_map(|(dest, digest, mode)| StepKind::AddFile {
            dest,
            digest,
            mode
        }),
        (path(), digest()).prop_map(|(dest, digest)| StepKind::AddDir { dest, digest }),
    ];
    prop_oneof![3 => with_options, 1 => copies.prop_map(Step::new)]
}

fn spec() -> impl Strategy<Value = Spec> {
    let words = || option::of(vec("[a-z ]{1,4}", 1..3));
    let mount = (path(), any::<bool>(), 0_usize..3).prop_map(|(dest, dir, after)| Mount {
        src: "src".into(),
        dest,
        dir,
        exclude: Vec::new(),
        after,
    });
    let labels = btree_map("[a-z.é]{1,5}", text(), 0..3);
    (
        (base(), vec(step(), 0..5), env(), env(), option::of(path())),
        (
            option::of("[a-z]{1,4}(:[0-9]{1,2})?"),
            labels,
            words(),
            words(),
            vec(mount, 0..2),
        ),
        select(vec!["linux/amd64", "linux/arm64", "linux/arm/v7"]),
    )
        .prop_map(|(first, second, platform)| {
            let mut spec = Spec::new(first.0);
            spec.steps = first.1;
            spec.env = first.2;
            spec.runtime_env = first.3;
            spec.workdir = first.4;
            spec.user = second.0;
            spec.labels = second.1;
            spec.entrypoint = second.2;
            spec.cmd = second.3;
            spec.mounts = second.4;
            spec.platform = platform.parse().unwrap();
            spec.checked().unwrap()
        })
}

/// The spec with everything that does not count at its default.
fn what_counts(spec: &Spec) -> Spec {
    let mut spec = spec.clone();
    spec.name = None;
    spec.mounts = Vec::new();
    for step in &mut spec.steps {
        step.force = false;
    }
    for image in spec.base_images_mut() {
        if image.digest.is_some() {
            image.reference = "x".parse().unwrap();
        }
    }
    spec
}

/// A declaration by its calls.
fn image() -> impl Strategy<Value = Image> {
    #[derive(Debug, Clone)]
    enum Call {
        Pip(Vec<String>),
        Run(Vec<String>, StepOptions),
        Apt(Vec<String>),
        Sync(Vec<String>, Option<String>),
        Requirements,
        File(String, Option<u32>),
        Dir(String, Vec<String>),
        Env(Vec<(String, String)>),
        RuntimeEnv(Vec<(String, String)>),
        Label(String, String),
        Workdir(String),
        Cmd(Vec<String>),
        Rest,
    }
    let options = (env(), any::<bool>()).prop_map(|(env, force)| {
        let mut options = StepOptions::new().secret("TOKEN");
        for (name, value) in env {
            options = options.env(name, value);
        }
        if force { options.force() } else { options }
    });
    let pairs = || env().prop_map(|env| env.into_iter().collect::<Vec<_>>());
    let call = prop_oneof![
        packages().prop_map(Call::Pip),
        (vec(command(), 1..3), options)
            .prop_map(|(commands, options)| Call::Run(commands, options)),
        vec("[a-z]{2,4}", 1..3).prop_map(Call::Apt),
        (vec("[A-Z]([._-]?[a-z]){0,2}", 0..3), option::of(path()))
            .prop_map(|(extras, dir)| Call::Sync(extras, dir)),
        Just(Call::Requirements),
        (path(), option::of(0_u32..0o10000)).prop_map(|(dest, mode)| Call::File(dest, mode)),
        (path(), vec("[a-z*]{1,3}", 0..2)).prop_map(|(dest, exclude)| Call::Dir(dest, exclude)),
        pairs().prop_map(Call::Env),
        pairs().prop_map(Call::RuntimeEnv),
        ("[a-zA-Z. ]{0,3}[a-z]", text()).prop_map(|(name, value)| Call::Label(name, value)),
        path().prop_map(Call::Workdir),
        vec(command(), 1..3).prop_map(Call::Cmd),
        Just(Call::Rest),
    ];
    let bases = select(vec!["3.12", "node:22-slim", "scratch"]);
    (bases, vec(call, 0..8)).prop_map(|(base, calls)| {
        let start = match base {
            "3.12" => Image::debian_slim(base),
            base => Image::base(base),
        };
        calls.into_iter().fold(start, |image, call| match call {
            Call::Pip(packages) => image.pip_install(packages),
            Call::Run(commands, options) => image.run_commands_with(commands, options),
            Call::Apt(packages) => image.apt_install(packages),
            Call::Sync(extras, dir) => {
                let options = extras
                    .into_iter()
                    .fold(UvSyncOptions::new(), UvSyncOptions::extra);
                let options = dir.into_iter().fold(options, UvSyncOptions::workdir);
                image.uv_sync_with("project", options)
            }
            Call::Requirements => image.pip_install_from_requirements("req.txt"),
            Call::File(dest, mode) => {
                let copy = LocalOptions::copy();
                let copy = mode.into_iter().fold(copy, LocalOptions::mode);
                image
                    .add_local_file("src/a.py", &dest, copy)
                    .add_local_file("src/a.py", &dest, Local::Mount)
            }
            Call::Dir(dest, exclude) => {
                let copy = exclude
                    .into_iter()
                    .fold(LocalOptions::copy(), LocalOptions::exclude);
                image.add_local_dir("src", &dest, copy)
            }
            Call::Env(pairs) => image.env(pairs),
            Call::RuntimeEnv(pairs) => image.runtime_env(pairs),
            Call::Label(name, value) => image.label(&name, &value),
            Call::Workdir(path) => image.workdir(&path),
            Call::Cmd(arguments) => image.cmd(arguments).entrypoint("x"),
            Call::Rest => image.user("a:b").platform("linux/arm64").name("a/b:c"),
        })
    })
}

fn files() -> MemoryFiles {
    MemoryFiles::new()
        .file("src/a.py", "a")
        .executable("src/b/run", "b")
        .file("project/pyproject.toml", "p")
        .file("project/uv.lock", "l")
        .file("req.txt", "requests\npandas>=2.0 # why\n")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_spec_reads_back_as_it_was_printed(spec in spec()) {
        let printed = spec.to_json().pretty();
        prop_assert_eq!(Spec::from_json(&printed), Ok(spec.clone()));
        prop_assert_eq!(Spec::from_json(&spec.to_json().canonical()), Ok(spec.clone()));
        prop_assert_eq!(serde_json::from_str::<Spec>(&printed).unwrap(), spec.clone());
        prop_assert_eq!(spec.checked(), Ok(spec));
    }

    #[test]
    fn the_canonical_document_is_json_and_stable(spec in spec()) {
        let text = spec.canonical().canonical();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&parsed, &serde_json::to_value(spec.canonical()).unwrap());
        // Whatever order a parser gives the names, they come out in the same one.
        fn reversed(value: &serde_json::Value) -> Json<'_> {
            match value {
                serde_json::Value::Object(fields) => Json::Map(
                    fields.iter().rev().map(|(n, v)| (n.as_str(), reversed(v))).collect(),
                ),
                serde_json::Value::Array(items) => Json::List(items.iter().map(reversed).collect()),
                serde_json::Value::String(text) => Json::text(text),
                other => Json::Number(u32::try_from(other.as_u64().unwrap()).unwrap()),
            }
        }
        prop_assert_eq!(reversed(&parsed).canonical(), text);
    }

    #[test]
    fn specs_share_a_document_only_when_they_mean_the_same(a in spec(), b in spec()) {
        let same = a.canonical().canonical() == b.canonical().canonical();
        prop_assert_eq!(same, what_counts(&a) == what_counts(&b));
        prop_assert_eq!(a.canonical().canonical(), what_counts(&a).canonical().canonical());
    }

    #[test]
    fn one_changed_step_changes_its_key_and_all_after(spec in spec(), command in command(), at in any::<prop::sample::Index>()) {
        prop_assume!(!spec.steps.is_empty());
        let at = at.index(spec.steps.len());
        let mut changed = spec.clone();
        changed.steps[at] = Step::new(StepKind::Run { command });
        prop_assume!(changed.steps[at].kind != spec.steps[at].kind);
        let (old, new) = (spec.steps_with_keys(), changed.steps_with_keys());
        let first = old.len() - spec.steps.len() + at;
        for (i, (old, new)) in old.iter().zip(&new).enumerate() {
            prop_assert_eq!(old.key == new.key, i < first);
        }
        let diff = chalk_core::diff(&spec, &changed);
        prop_assert_eq!(diff.first_step, Some(first));
        prop_assert_eq!(diff.reruns.len(), new.len() - first);
        prop_assert!(!diff.equal && !diff.changes.is_empty());
    }

    #[test]
    fn order_of_env_does_not_count(pairs in env(), rotate in 0_usize..4) {
        let pairs: Vec<_> = pairs.into_iter().collect();
        let mut other = pairs.clone();
        other.reverse();
        let middle = rotate.min(other.len());
        other.rotate_left(middle);
        let image = Image::debian_slim(None).run_commands("x");
        // In one call, in another order, and each in a call of its own before the step.
        let split = other.iter().rev().fold(Image::debian_slim(None), |image, pair| {
            image.env([pair.clone()])
        });
        let hash = |image: &Image| image.resolve(&files()).unwrap().spec.recipe_hash();
        prop_assert_eq!(hash(&image.env(pairs.clone())), hash(&image.env(other)));
        prop_assert_eq!(hash(&image.env(pairs)), hash(&split.run_commands("x")));
    }

    #[test]
    fn commands_may_be_split_over_calls(commands in vec(command(), 1..6), at in any::<prop::sample::Index>()) {
        let at = at.index(commands.len());
        let whole = Image::scratch().run_commands(commands.as_slice());
        let mut split = Image::scratch();
        for part in [&commands[..at], &commands[at..]] {
            if !part.is_empty() {
                split = split.run_commands(part);
            }
        }
        let spec = |image: &Image| image.resolve(&files()).unwrap().spec;
        prop_assert_eq!(spec(&whole), spec(&split));
    }

    #[test]
    fn a_declaration_reads_back_from_its_toml(image in image()) {
        let toml = image.to_toml().unwrap();
        let read = Image::from_toml(&toml);
        prop_assert!(read.is_ok(), "{:?}\n{}", read, toml);
        let read = read.unwrap();
        prop_assert_eq!(image.resolve(&files()).unwrap(), read.resolve(&files()).unwrap());
        prop_assert_eq!(read.to_toml().unwrap(), toml);
    }

    #[test]
    fn no_text_brings_a_reader_down(text in "\\PC{0,40}", toml in "(\\[+(image|step|x)\\]+|base|env|run_commands| = |\"a\"|\\[|\\]|\\{|\\}|\n|,){0,20}") {
        for text in [&text, &toml] {
            let _ = Spec::from_json(text);
            let _ = Image::from_toml(text);
            let _ = chalk_core::lock::Lock::parse(text);
        }
    }

    #[test]
    fn normalising_requirements_twice_changes_nothing(text in "[A-Za-z_.-]{1,6} ?(\\[[a-z, ]{0,4}\\])? ?([<>=!~]{1,3} ?[0-9.*ab]{1,4},? ?){0,3}(;[a-z_ <>='\"()]{0,12})?") {
        let install = |entry: &str| {
            let image = Image::scratch().pip_install(entry).resolve(&files()).ok()?;
            match &image.spec.steps[0].kind {
                StepKind::PipInstall { packages } => Some(packages[0].clone()),
                _ => None,
            }
        };
        if let Some(normal) = install(&text) {
            prop_assert_eq!(install(&normal), Some(normal));
        }
    }
}

#[test]
fn a_long_chain_is_cheap_to_extend_and_to_drop() {
    let mut image = Image::scratch();
    let mut branches = Vec::new();
    for i in 0..9_999 {
        image = image.run_commands(format!("echo {i}"));
        branches.push(image.clone());
    }
    assert_eq!(image.resolve(&files()).unwrap().spec.steps.len(), 9_999);
    assert_eq!(branches[4].resolve(&files()).unwrap().spec.steps.len(), 5);
    let too_long = image
        .run_commands(["a", "b"])
        .resolve(&files())
        .unwrap_err();
    assert_eq!(
        too_long.to_string(),
        "steps: 10001 entries; at most 10000 are allowed"
    );
    drop(branches);
    drop(image);
}
