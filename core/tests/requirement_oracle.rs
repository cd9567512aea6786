//! Our small grammar of requirements against PyPA's `packaging`, on hand-picked and on made-up
//! requirements. Needs Python and PyPI; says so and passes where they are not to be had.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    clippy::unwrap_used,
    reason = "a test that runs Python"
)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use chalk_core::Image;
use chalk_core::source::MemoryFiles;
use chalk_core::spec::StepKind;

/// The oracle's version: another one may draw the lines elsewhere.
const PACKAGING: &str = "packaging==25.0";

const PICKED: &[&str] = &[
    "requests",
    "Requests",
    "zope.interface",
    "a",
    "1a",
    "a-",
    "-a",
    "_a",
    "a__b",
    "requests[security,tests]>=2.8.1,==2.8.*;python_version<'2.7'",
    "name@http://foo.com",
    "name [fred,bar] @ http://foo.com ; python_version=='2.7'",
    "name[quux, strange];python_version<'2.7' and platform_version=='2'",
    "name; os_name=='a' or os_name=='b'",
    "name; os_name=='a' and os_name=='b' or os_name=='c'",
    "name; (os_name=='a')",
    "name; ((os_name=='a'))",
    "name; os_name=='a' and (os_name=='b' or os_name=='c')",
    "name; 'x' in os_name",
    "name; os_name not in 'x y'",
    "name; os_name notin 'x'",
    "name; os_name not  in 'x'",
    "name; os.name=='x'",
    "name; platform.version>'1'",
    "name; python_implementation=='x'",
    "name; implementation_version>='1'",
    "name; extra == \"x'y\"",
    "name; os_name=='x\"",
    "name; os_name===os_name",
    "name; os_name",
    "name; == 'x'",
    "name; os_name=='a' xor os_name=='b'",
    "name; os_name=='a' and",
    "name;",
    "name ;",
    "name<2,>1",
    "name (<2,>1)",
    "name (<2,>1",
    "name <2,>1)",
    "name()",
    "name[]",
    "name[,]",
    "name[a,]",
    "name[a b]",
    "name[a]b",
    "name>1,",
    "name,>1",
    "name>1 <2",
    "name=1",
    "name=>1",
    "name==",
    "name==1.0.dev",
    "name==1.0a1.post2.dev3",
    "name==1.0-1",
    "name==1.0--1",
    "name==1.0_1",
    "name==v1",
    "name==1!1",
    "name==1!",
    "name==1.*.2",
    "name==1.0a.*",
    "name==1.0+local",
    "name==1.0+local.1-x_y",
    "name==1.0+",
    "name==1.0+.x",
    "name!=1.0+x",
    "name>1.0+x",
    "name>=1.*",
    "name~=1",
    "name~=1.0",
    "name~=1.0.*",
    "name~=1.0+x",
    "name~=1!2.0rc1",
    "name===1.0",
    "name=== anything/at-all",
    "name===a,b",
    "name===a;os_name=='x'",
    "name===",
    "name<=>1",
    "name<>1",
    "name>1.0.0c1",
    "name>1.0preview",
    "name>1.0pre-2",
    "name>1.0rev3",
    "name>1.0r3",
    "name>1.0ALPHA",
    "name>1.0dev1.post2",
    "name>1.0x",
    "name 1.0",
    "two names",
    "a,b",
    "name>1 # comment",
    "näme",
    "name>１",
    "name[é]",
];

/// Numbers from a fixed seed (splitmix64), so that every run tries the same texts.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % limit as u64).unwrap()
    }

    fn of<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[self.below(words.len())]
    }
}

/// A text that is often a requirement, and often nearly one.
fn made_up(chance: &mut Chance) -> String {
    const NAMES: [&str; 5] = ["a", "Foo", "x_y", "z.1-b", "n-"];
    const OPERATORS: [&str; 10] = ["==", "!=", "<=", ">=", "<", ">", "~=", "===", "=", "=="];
    const PARTS: [&str; 24] = [
        "1", "1.0", "2.3.4", "0", "1!2", "v3", "a1", "rc", ".dev2", "-1", ".post1", "_pre3", "b-2",
        ".*", "+cu1", "+a.b", "dev", "r4", "-rev", "c.1", "+", ".", "x", "1.0.0",
    ];
    const VARIABLES: [&str; 7] = [
        "os_name",
        "python_version",
        "extra",
        "'x'",
        "\"y z\"",
        "sys.platform",
        "nothing",
    ];
    const COMPARISONS: [&str; 8] = ["==", "<", ">=", "in", "not in", "~=", "not", "==="];
    const BLANKS: [&str; 4] = ["", "", " ", "  "];
    let mut out = String::from(chance.of(&NAMES));
    out += chance.of(&BLANKS);
    if chance.below(4) == 0 {
        out += chance.of(&["[a]", "[b, A]", "[]", "[c,]", "[ d ]", "[e"]);
    }
    let parentheses = chance.below(8) == 0;
    if parentheses {
        out += "(";
    }
    for i in 0..chance.below(4) {
        if i > 0 {
            out += chance.of(&[",", ",", " , ", " "]);
        }
        out += chance.of(&BLANKS);
        out += chance.of(&OPERATORS);
        out += chance.of(&BLANKS);
        for _ in 0..=chance.below(3) {
            out += chance.of(&PARTS);
        }
    }
    if parentheses && chance.below(6) > 0 {
        out += ")";
    }
    if chance.below(3) == 0 {
        out += chance.of(&[";", " ; "]);
        for i in 0..=chance.below(3) {
            if i > 0 {
                out += chance.of(&[" and ", " or ", " nor ", "or"]);
            }
            let open = chance.below(5) == 0;
            if open {
                out += "(";
            }
            out += chance.of(&VARIABLES);
            out += chance.of(&[" ", " ", ""]);
            out += chance.of(&COMPARISONS);
            out += chance.of(&[" ", " ", ""]);
            out += chance.of(&VARIABLES);
            if open && chance.below(6) > 0 {
                out += ")";
            }
        }
    }
    out += chance.of(&BLANKS);
    out
}

/// What we make of a requirement.
#[derive(Debug, PartialEq)]
enum Ours {
    Normal(String),
    Kept,
    Refused,
}

fn ours(text: &str) -> Ours {
    // A second, kept entry shows whether the first one is plain: such a list stays as it is.
    let install = |entries: &[&str]| {
        let image = Image::scratch()
            .pip_install(entries)
            .resolve(&MemoryFiles::new())
            .ok()?;
        match image.spec.steps.into_iter().next()?.kind {
            StepKind::PipInstall { packages } => Some(packages),
            _ => None,
        }
    };
    match install(&[text, "zzz"]) {
        None => Ours::Refused,
        Some(list)
            if list == [text, "zzz"]
                && install(&["zzz", text]) == Some(vec!["zzz".into(), text.into()]) =>
        {
            Ours::Kept
        }
        Some(_) => Ours::Normal(install(&[text]).unwrap().remove(0)),
    }
}

/// A Python that has the oracle; `None` where none can be made.
fn python() -> Option<String> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("requirement-oracle");
    let python = venv.join("bin/python").display().to_string();
    let has_it = |python: &str| {
        let check = format!(
            "import packaging; assert '{PACKAGING}'.endswith('==' + packaging.__version__)"
        );
        let run = Command::new(python)
            .args(["-c", &check])
            .stderr(Stdio::null())
            .status();
        run.is_ok_and(|status| status.success())
    };
    if has_it(&python) {
        return Some(python);
    }
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        output.status.success().then_some(())
    };
    run(
        "python3",
        &["-m", "venv", "--clear", &venv.display().to_string()],
    )?;
    run(
        &python,
        &[
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            PACKAGING,
        ],
    )?;
    has_it(&python).then_some(python)
}

#[test]
fn agrees_with_packaging() {
    let Some(python) = python() else {
        eprintln!("skipped: no Python with {PACKAGING} here, and none can be fetched from PyPI");
        return;
    };
    let mut chance = Chance(1);
    let mut texts: Vec<String> = PICKED.iter().map(|text| (*text).to_owned()).collect();
    texts.extend((0..20_000).map(|_| made_up(&mut chance)));
    let mut lines = String::new();
    for text in &texts {
        let normal = match ours(text) {
            Ours::Normal(normal) => Some(normal),
            Ours::Kept | Ours::Refused => None,
        };
        lines += &serde_json::to_string(&(text, normal)).unwrap();
        lines.push('\n');
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/requirement_oracle.py");
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (output, ()) = std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
        (child.wait_with_output().unwrap(), writer.join().unwrap())
    });
    let answers: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), texts.len());
    let mut wrong = Vec::new();
    let (mut plain, mut refused) = (0, 0);
    for (text, answer) in texts.iter().zip(&answers) {
        let ours = ours(text);
        let agrees = match (&ours, answer.as_str()) {
            (Ours::Kept, _) => true,
            // The oracle lets `===` stand twice, or without a version: nothing can satisfy that.
            (Ours::Refused, None) if text.contains("===") => true,
            (Ours::Refused, Some("refused")) => {
                refused += 1;
                true
            }
            (Ours::Normal(normal), None) => {
                plain += 1;
                let name = answer[1].as_str().unwrap();
                answer[0] == true && normal.starts_with(name)
            }
            _ => false,
        };
        if !agrees {
            wrong.push(format!("{text:?}: ours {ours:?}, packaging {answer}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    // The made-up texts are no good as a test when nearly all fall on one side.
    assert!(
        plain > 2_000 && refused > 2_000,
        "{plain} plain, {refused} refused"
    );
}
