//! Specs as people and programs write them: in many spellings, now and then a wrong one.

use chalk_core::Digest;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::text::{Raw, shuffled, text};

/// The text of a spec.
pub(crate) fn spec() -> impl Strategy<Value = String> {
    let first = (
        base(),
        option::weighted(0.9, vec(step(), 0..6).prop_map(Raw::List)),
        some(text_map(env_name(), free())),
        some(text_map(env_name(), free())),
        option::of(text(path())),
    );
    let second = (
        option::of(text(word(&[
            "root",
            "app:1000",
            "1000:1000",
            "a.b-c_d",
            "www-data:",
        ]))),
        some(text_map(free().boxed(), free())),
        some(words()),
        some(words()),
        option::of(text(word(&["team/app:v1", "app", "Team/App"]))),
    );
    let third = (
        option::of(text(word(&[
            "linux/amd64",
            "linux/x86_64",
            "linux/arm64/v8",
            "linux/aarch64",
            "linux/arm/v7",
            "linux",
        ]))),
        some(vec(mount(), 0..3).prop_map(Raw::List)),
    );
    let whole = (first, second, third).prop_map(
        |(
            (base, steps, env, runtime_env, workdir),
            (user, labels, entrypoint, cmd, name),
            (platform, mounts),
        )| {
            let schema = Raw::Text("chalk.image/v1".into(), crate::text::Escape::Few);
            Raw::map([
                ("schema", Some(schema)),
                ("base", Some(base)),
                ("steps", steps),
                ("env", env),
                ("runtime_env", runtime_env),
                ("workdir", workdir),
                ("user", user),
                ("labels", labels),
                ("entrypoint", entrypoint),
                ("cmd", cmd),
                ("name", name),
                ("platform", platform),
                ("mounts", mounts),
            ])
        },
    );
    shuffled(whole).prop_map(|spec| {
        let mut text = String::new();
        spec.write(&mut text);
        text
    })
}

/// A field that is mostly left out.
fn some(value: impl Strategy<Value = Raw>) -> impl Strategy<Value = Option<Raw>> {
    option::weighted(0.3, value)
}

/// One of some words, the last of which is wrong and rare.
fn word(words: &[&'static str]) -> BoxedStrategy<String> {
    let (wrong, right) = words.split_last().map_or(("", words), |(w, r)| (*w, r));
    prop_oneof![
        60 => select(right.to_vec()).prop_map(str::to_owned),
        1 => Just(wrong.to_owned()),
    ]
    .boxed()
}

/// Any text: what confuses readers and writers of JSON, of UTF-8 and of shells.
fn free() -> BoxedStrategy<String> {
    let odd = [
        "é",
        "e\u{301}",
        "😀\u{fb33}",
        "\u{fb33}😀",
        "\u{2028}\u{2029}",
        "\u{feff}x",
        "\u{ffff}",
        "\u{10ffff}",
        "\u{7f}\u{80}",
        "\u{1}\u{1f}",
        "\r\n",
        "\t\u{8}\u{c}",
        "\"\\/",
        "</script>",
        "\\u0041",
        "ſ K",
        "🏳️‍🌈",
        "نص",
        "  x ",
        "1 B 2",
        "null",
    ];
    prop_oneof![
        6 => "[a-zA-Z0-9 ./:=_-]{1,16}",
        3 => "[ -~\n\t]{1,16}",
        3 => vec(any::<char>(), 1..6).prop_map(String::from_iter),
        3 => vec(select(odd.to_vec()), 1..4).prop_map(|parts| parts.concat()),
    ]
    .prop_map(|text| text.replace('\0', "0"))
    .boxed()
}

fn env_name() -> BoxedStrategy<String> {
    prop_oneof![40 => "[A-Za-z_][A-Za-z0-9_]{0,4}", 1 => "[0-9=é]"].boxed()
}

fn text_map(
    name: BoxedStrategy<String>,
    value: BoxedStrategy<String>,
) -> impl Strategy<Value = Raw> {
    let fields = btree_map(name, text(value), 0..4);
    shuffled(fields.prop_map(|fields| Raw::Map(fields.into_iter().collect())))
}

fn words() -> impl Strategy<Value = Raw> {
    vec(text(free()), 1..4).prop_map(Raw::List)
}

fn path() -> BoxedStrategy<String> {
    prop_oneof![
        20 => "(/[a-zé.😀 _-]{0,5}){1,4}",
        5 => "(//?(\\.|[a-z]{1,3})){1,4}/?",
        1 => "[a-z./]{0,6}",
    ]
    .boxed()
}

fn digest() -> impl Strategy<Value = String> {
    prop_oneof![
        99 => any::<u8>().prop_map(|byte| Digest::of(&[byte]).to_string()),
        1 => "sha256:[0-9A-F]{0,64}",
    ]
}

fn reference() -> BoxedStrategy<String> {
    word(&[
        "python",
        "python:3.12",
        "library/python:3.12",
        "index.docker.io/library/python:3.12",
        "docker.io/team/app",
        "ghcr.io/a/b:c",
        "GHCR.io/a/b:c",
        "localhost/x",
        "localhost:5000/x/y__z:T_1",
        "a.b/c",
        "Python:3",
    ])
}

fn image() -> impl Strategy<Value = Raw> {
    let plain = (
        text(reference()),
        option::of(text(digest())),
        option::weighted(0.1, text(word(&["linux/arm64", "linux/amd64", "x"]))),
    );
    let plain = plain.prop_map(|(reference, digest, platform)| {
        Raw::map([
            ("ref", Some(reference)),
            ("digest", digest),
            ("platform", platform),
        ])
    });
    let joined =
        (reference(), digest()).prop_map(|(reference, digest)| format!("{reference}@{digest}"));
    let joined = text(joined).prop_map(|reference| Raw::map([("ref", Some(reference))]));
    shuffled(prop_oneof![4 => plain, 1 => joined])
}

fn base() -> impl Strategy<Value = Raw> {
    let scratch = || text(Just("scratch".to_owned()));
    // Only Dockerfiles may name a platform.
    let chain = image().prop_map(|image| match image {
        Raw::Map(fields) => Raw::Map(
            fields
                .into_iter()
                .filter(|(name, _)| name != "platform")
                .collect(),
        ),
        other => other,
    });
    let stage = |first: BoxedStrategy<Raw>| {
        (first, vec(instruction(), 0..4)).prop_map(|(base, instructions)| {
            Raw::map([
                ("base", Some(base)),
                ("instructions", Some(Raw::List(instructions))),
            ])
        })
    };
    let earlier = Just(Raw::map([("stage", Some(Raw::Number(0)))]));
    let first = stage(prop_oneof![1 => scratch(), 4 => image()].boxed());
    let second = stage(prop_oneof![1 => image(), 3 => earlier].boxed());
    let stages = (first, option::of(second)).prop_map(|(first, second)| {
        let stages = [first].into_iter().chain(second).collect();
        let dockerfile = Raw::map([("stages", Some(Raw::List(stages)))]);
        Raw::map([("dockerfile", Some(dockerfile))])
    });
    prop_oneof![1 => scratch(), 6 => chain, 3 => stages]
}

fn instruction() -> impl Strategy<Value = Raw> {
    let plain = prop_oneof![
        6 => word(&[
            "EXPOSE 8080",
            "RUN make",
            "RUN [\"a\",\"b c\"]",
            "RUN <<EOF\n a\n\tb\nEOF",
            "RUN --mount=type=cache,target=/c --network=none x",
            "USER worker",
            "ENV A=b",
            "ARG A=1",
            "SHELL [\"/bin/bash\",\"-c\"]",
            "HEALTHCHECK NONE",
            "STOPSIGNAL SIGTERM",
            "WORKDIR /é",
            "run  make",
        ]),
        2 => free().prop_map(|command| format!("RUN {}", command.trim().replace(['\n', '\r', '\\', '<'], " "))),
    ];
    let plain = text(plain).prop_map(|text| Raw::map([("text", Some(text))]));
    let copy = (text("COPY [a-z]{1,4} /[a-zé]{1,4}"), text(digest()));
    let copy = copy
        .prop_map(|(text, context)| Raw::map([("text", Some(text)), ("context", Some(context))]));
    let from = (text("COPY --from=@0 /[a-z]{1,3} /a"), image());
    let from = from.prop_map(|(text, image)| {
        Raw::map([
            ("text", Some(text)),
            ("images", Some(Raw::List(vec![image]))),
        ])
    });
    shuffled(prop_oneof![3 => plain, 1 => copy, 1 => from])
}

/// Requirement lists that are plain, and some that are not.
fn packages() -> impl Strategy<Value = Raw> {
    let plain = prop_oneof![requirement(), Just("Pandas >=2.0".to_owned())].boxed();
    let kept = word(&[
        "--pre",
        "-e .",
        "--index-url https://example.org/simple",
        "pkg @ https://example.org/pkg.zip",
        "./wheels/a.whl",
        "requests --hash=sha256:00",
        "${NAME}==1",
        "a b",
    ]);
    let list = prop_oneof![
        8 => vec(text(plain.clone()), 1..5),
        2 => vec(text(prop_oneof![2 => plain, 1 => kept]), 1..5),
        1 => vec(text(free()), 1..2),
    ];
    list.prop_map(Raw::List)
}

fn requirement() -> impl Strategy<Value = String> {
    let blank = || select(vec!["", "", "", " ", "\t "]);
    let name = "[A-Za-z0-9]([A-Za-z0-9._-]{0,5}[A-Za-z0-9])?";
    let extras = option::weighted(0.3, vec(("[A-Za-z]{1,3}", blank()), 0..3)).prop_map(|extras| {
        let words = |words: Vec<(String, &str)>| {
            words
                .into_iter()
                .map(|(a, b)| format!("{b}{a}{b}"))
                .collect::<Vec<_>>()
        };
        extras.map_or(String::new(), |extras| {
            format!("[{}]", words(extras).join(","))
        })
    });
    let version = "v?([0-9]!)?[0-9]{1,3}\\.[0-9]{1,2}((a|B|rc|-alpha_)[0-9]?)?([.-]?(post|REV)[0-9])?(\\.dev[0-9]?)?";
    let operator = select(vec!["==", "!=", ">=", "<=", "<", ">", "~=", "==="]);
    let specifier = prop_oneof![
        8 => (operator, blank(), version).prop_map(|(operator, blank, version)| format!("{operator}{blank}{version}")),
        1 => "[=!]=[0-9]\\.\\*",
        1 => "==[0-9]\\.[0-9]\\+[a-z]{1,2}[._-][0-9]",
    ];
    let specifiers = vec((blank(), specifier, blank()), 0..4).prop_map(|specifiers| {
        let each = specifiers.into_iter().map(|(a, b, c)| format!("{a}{b}{c}"));
        each.collect::<Vec<_>>().join(",")
    });
    let marker = option::weighted(
        0.2,
        select(vec![
            "python_version<'3.9'",
            " sys_platform == \"win32\" ",
            "extra == 'é😀'",
            "(os_name=='nt' or extra=='a') and python_version not in '3.8, 3.9'",
            "'3'<=python_full_version",
        ]),
    );
    let marker =
        marker.prop_map(|marker| marker.map_or(String::new(), |marker| format!(";{marker}")));
    (blank(), name, blank(), extras, specifiers, marker).prop_map(
        |(a, name, b, extras, versions, marker)| format!("{a}{name}{b}{extras}{versions}{marker}"),
    )
}

fn step() -> impl Strategy<Value = Raw> {
    let kind = |word: &'static str| Just(Raw::Text(word.into(), crate::text::Escape::Few));
    let installs = (
        prop_oneof![kind("pip_install"), kind("uv_pip_install")],
        packages(),
    )
        .prop_map(|(kind, packages)| vec![("kind", kind), ("packages", packages)]);
    let apt = text("[a-z0-9][a-z0-9+.-]{1,4}(=[0-9]:?[0-9.+~-]{1,3})?");
    let apt = (kind("apt_install"), vec(apt, 1..5))
        .prop_map(|(kind, packages)| vec![("kind", kind), ("packages", Raw::List(packages))]);
    let extra = text(prop_oneof![20 => "[A-Za-z0-9]([._-]{0,2}[A-Z0-9])?", 1 => free()]);
    let sync = (
        kind("uv_sync"),
        text(digest()),
        option::weighted(0.98, text(digest())),
        some(vec(extra, 0..4).prop_map(Raw::List)),
        some(text(path())),
    );
    let sync = sync.prop_map(|(kind, pyproject, lock, extras, workdir)| {
        let mut fields = vec![("kind", kind), ("pyproject", pyproject)];
        fields.extend(lock.map(|lock| ("lock", lock)));
        fields.extend(extras.map(|extras| ("extras", extras)));
        fields.extend(workdir.map(|workdir| ("workdir", workdir)));
        fields
    });
    let run = (kind("run"), text(free()))
        .prop_map(|(kind, command)| vec![("kind", kind), ("command", command)]);
    let dockerfile = (kind("dockerfile"), instruction()).prop_map(|(kind, instruction)| {
        let mut fields = vec![("kind", kind)];
        if let Raw::Map(more) = instruction {
            for name in ["text", "context", "images"] {
                let found = more.iter().find(|(field, _)| field == name);
                fields.extend(found.map(|(_, value)| (name, value.clone())));
            }
        }
        fields
    });
    let with_options = prop_oneof![2 => installs, 1 => apt, 1 => sync, 3 => run, 1 => dockerfile];
    let secret = text(prop_oneof![20 => "[A-Za-z0-9_.-]{1,4}", 1 => free()]);
    let options = (
        some(text_map(env_name(), free())),
        some(vec(secret, 0..4).prop_map(Raw::List)),
    );
    let with_options = (with_options, options).prop_map(|(mut fields, (env, secrets))| {
        fields.extend(env.map(|env| ("env", env)));
        fields.extend(secrets.map(|secrets| ("secrets", secrets)));
        fields
    });
    let mode = text(prop_oneof![20 => "0?[0-7]{3}", 5 => "[0-7]{4}", 1 => "[0-9]{0,5}"]);
    let file = (kind("add_file"), text(path()), text(digest()), mode).prop_map(
        |(kind, dest, digest, mode)| {
            vec![
                ("kind", kind),
                ("dest", dest),
                ("digest", digest),
                ("mode", mode),
            ]
        },
    );
    let dir = (kind("add_dir"), text(path()), text(digest()))
        .prop_map(|(kind, dest, digest)| vec![("kind", kind), ("dest", dest), ("digest", digest)]);
    let fields = prop_oneof![6 => with_options, 1 => file, 1 => dir];
    let whole = (fields, option::weighted(0.1, any::<bool>())).prop_map(|(mut fields, force)| {
        fields.extend(force.map(|force| ("force", Raw::Bool(force))));
        Raw::Map(
            fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    });
    shuffled(whole)
}

fn mount() -> impl Strategy<Value = Raw> {
    (text("[a-zé]{1,4}"), text(path()), any::<bool>()).prop_map(|(src, dest, dir)| {
        Raw::map([
            ("src", Some(src)),
            ("dest", Some(dest)),
            ("dir", dir.then_some(Raw::Bool(true))),
        ])
    })
}
