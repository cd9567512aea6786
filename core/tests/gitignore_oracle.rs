//! Our reading of `.gitignore` against git's own, on made-up trees.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that runs git on real files"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use chalk_core::ignore::GitIgnore;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

fn name() -> impl Strategy<Value = String> {
    select(vec![
        "a", "b", "ab", "a.c", "foo", "foo.c", "b c", "é", "[x]", "#h", "!n", "a-b", "A",
    ])
    .prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    vec(name(), 1..4).prop_map(|words| words.join("/"))
}

fn pattern() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "a",
        "b",
        "ab",
        "foo",
        ".c",
        "*",
        "**",
        "?",
        "/",
        "/",
        "[ab]",
        "[!a]",
        "[a-c]",
        "[[:alpha:]]",
        "[]a]",
        "\\*",
        "\\ ",
        " ",
        "\\",
        "[",
        "c",
        "é",
        "[^/]",
        "!",
        "#",
        "\\!",
        "\\#",
        "-",
        "[[:space:]]",
        "[a\\]]",
    ]);
    let random = vec(piece, 1..6).prop_map(|pieces| pieces.concat());
    let usual = select(vec![
        "*.c", "/a", "a/", "**/b", "a/**", "a/**/b", "/*", "!/a", "*", "!*/", "foo*", "!foo.c",
        "# x", "", "a  ", "a\\ ", "b c", "\\#h", "\\!n", "**", "/**", "a/*", "!a/b", "**/", "a**b",
        "/a/b/",
    ])
    .prop_map(str::to_owned);
    (prop_oneof![usual, random], any::<bool>(), any::<bool>()).prop_map(
        |(pattern, negated, dir)| {
            let sign = if negated { "!" } else { "" };
            let slash = if dir { "/" } else { "" };
            format!("{sign}{pattern}{slash}")
        },
    )
}

/// Those of the paths that git leaves out. It looks itself which are directories: a slash at the end
/// would become part of what it matches.
fn git_ignores(dir: &Path, paths: &[String]) -> Vec<String> {
    let mut git = Command::new("git")
        .args([
            "-c",
            "core.excludesFile=/dev/null",
            "check-ignore",
            "--no-index",
            "--stdin",
            "-z",
        ])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git is installed");
    let mut input = git.stdin.take().unwrap();
    input
        .write_all((paths.join("\0") + "\0").as_bytes())
        .unwrap();
    drop(input);
    let output = git.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split('\0')
        .filter(|p| !p.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn agrees_with_git() {
    let found = Command::new("git").arg("--version").output();
    assert!(
        found.is_ok_and(|output| output.status.success()),
        "this test needs git"
    );
    let root = tempfile::tempdir().unwrap();
    let init = Command::new("git")
        .args(["init", "-q"])
        .current_dir(root.path())
        .status();
    assert!(init.unwrap().success());
    let ignores = btree_map(
        prop_oneof![Just(String::new()), path()],
        vec(pattern(), 1..8),
        1..4,
    );
    let case = (btree_set(path(), 1..12), ignores, any::<bool>());
    let mut runner = TestRunner::new(Config {
        cases: 400,
        ..Config::default()
    });
    let run = runner.run(&case, |(files, ignores, carriage_returns)| {
        check(
            root.path(),
            &files.into_iter().collect::<Vec<_>>(),
            &ignores,
            carriage_returns,
        )
    });
    if let Err(error) = run {
        std::panic::panic_any(error.to_string());
    }
}

fn check(
    root: &Path,
    files: &[String],
    ignores: &BTreeMap<String, Vec<String>>,
    carriage_returns: bool,
) -> Result<(), TestCaseError> {
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != ".git" {
            let path = entry.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
    // Where a file and a directory want one name, the first wins.
    for file in files {
        let path = root.join(file);
        if std::fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.exists() {
            std::fs::write(path, "").unwrap();
        }
    }
    let end = if carriage_returns { "\r\n" } else { "\n" };
    let mut ours = GitIgnore::default();
    for (dir, lines) in ignores {
        if root.join(dir).is_dir() {
            let text = lines.join(end);
            std::fs::write(root.join(dir).join(".gitignore"), &text).unwrap();
            ours.add(dir, &text);
        }
    }
    let mut paths = Vec::new();
    walk(root, "", &mut paths);
    let theirs = git_ignores(root, &paths);
    for path in &paths {
        prop_assert_eq!(
            ours.is_ignored(path, root.join(path).is_dir()),
            theirs.contains(path),
            "{} with {:?}",
            path,
            ignores
        );
    }
    Ok(())
}

fn walk(root: &Path, dir: &str, paths: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(dir)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name == ".git" {
            continue;
        }
        let path = if dir.is_empty() {
            name
        } else {
            format!("{dir}/{name}")
        };
        if entry.file_type().unwrap().is_dir() {
            paths.push(path.clone());
            walk(root, &path, paths);
        } else {
            paths.push(path);
        }
    }
}
