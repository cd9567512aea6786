#![allow(clippy::expect_used)]

use super::*;

const NVIDIA: &str = "cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  env: [COMMON=1]
  mounts:
    - hostPath: /usr/lib/libcuda.so
      containerPath: /usr/lib/libcuda.so
      options: [ro, nosuid, nodev, bind]
  hooks:
    - hookName: createContainer
      path: /usr/bin/nvidia-ctk
      args: [nvidia-ctk, hook]
devices:
  - name: 0
    containerEdits:
      deviceNodes:
        - path: /dev/nvidia0
  - name: \"1\"
    containerEdits:
      additionalGids: [44]
      deviceNodes:
        - path: /dev/nvidia1
          hostPath: /dev/null
          permissions: r
  - name: all
    containerEdits:
      env: [ALL=yes]
";

fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (path, text) in files {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }
    let dirs = ["low", "high"].map(|name| directory.path().join(name));
    (directory, dirs.to_vec())
}

#[test]
fn edits_of_devices_are_gathered() {
    let (_directory, dirs) = host(&[("low/nvidia.yaml", NVIDIA), ("low/notes.txt", "{")]);
    let names = ["nvidia.com/gpu=1".to_owned(), "nvidia.com/gpu=0".to_owned()];
    let found = resolve(&dirs, None, &names).expect("found");
    assert_eq!(found.env, [("COMMON".to_owned(), "1".to_owned())]);
    let expect = [
        ("/dev/null", "/dev/nvidia1"),
        ("/dev/nvidia0", "/dev/nvidia0"),
    ];
    assert_eq!(
        found.nodes,
        expect.map(|(source, target)| (PathBuf::from(source), PathBuf::from(target)))
    );
    assert_eq!(found.groups, [44]);
    assert_eq!(found.mounts.len(), 1);
    assert!(matches!(
        found.mounts[0],
        Mount::Bind {
            read_only: true,
            ..
        }
    ));
    let text = found.warnings.join("\n");
    assert!(
        text.contains("nvidia-ctk was not run") && text.contains("permissions `r`"),
        "{text}"
    );
}

#[test]
fn gpus_are_counted() {
    let (_directory, dirs) = host(&[("low/nvidia.yaml", NVIDIA)]);
    let registry = Registry::read(&dirs);
    let check = |wanted: &str, expect: &[&str]| {
        let found = registry.gpus(wanted).unwrap_or_default();
        assert_eq!(found, expect, "{wanted}");
    };
    check("all", &["nvidia.com/gpu=all"]);
    check("1", &["nvidia.com/gpu=0"]);
    check("2", &["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
    check("3", &[]);
    check("0", &[]);
    check("some", &[]);
    let other = r#"{"cdiVersion":"0.3.0","kind":"made.up/gpu","devices":[
        {"name":"b"},{"name":"a"}]}"#;
    let (_directory, dirs) = host(&[("high/other.json", other)]);
    let found = Registry::read(&dirs).gpus("all").expect("the only class");
    assert_eq!(found, ["made.up/gpu=a", "made.up/gpu=b"]);
}

#[test]
fn later_directories_win_and_conflicts_are_told() {
    let spec = |value: &str| {
        format!(
            r#"{{"cdiVersion":"0.6.0","kind":"a.b/c","devices":[
            {{"name":"x","containerEdits":{{"env":["V={value}"]}}}}]}}"#
        )
    };
    let (low, high) = (spec("low"), spec("high"));
    let names = ["a.b/c=x".to_owned()];
    let (_directory, dirs) = host(&[("low/a.json", &low), ("high/a.json", &high)]);
    let found = resolve(&dirs, None, &names).expect("found");
    assert_eq!(found.env, [("V".to_owned(), "high".to_owned())]);
    let (_directory, dirs) = host(&[("low/a.json", &low), ("low/b.json", &high)]);
    let problem = resolve(&dirs, None, &names).expect_err("two of a name");
    assert!(problem.detail.contains("both"), "{problem:?}");
}

#[test]
fn what_is_not_there_or_not_sound_is_told() {
    let check = |text: &str, name: &str, expect: &str| {
        let (_directory, dirs) = host(&[("low/a.json", text)]);
        let problem = resolve(&dirs, None, &[name.to_owned()]).expect_err(expect);
        let text = format!("{} {} {}", problem.title, problem.detail, problem.hint);
        assert!(text.contains(expect), "{text}");
    };
    let spec = r#"{"cdiVersion":"0.6.0","kind":"a.b/c","devices":[{"name":"x",
        "containerEdits":{"deviceNodes":[{"path":"dev/x"}]}},
        {"name":"y","containerEdits":{"env":["V"]}}]}"#;
    check(spec, "a.b/c=z", "no device `a.b/c=z`");
    check(spec, "a.b/c", "vendor/class=name");
    check(spec, "a.b/c=x", "no absolute path");
    check(spec, "a.b/c=y", "NAME=VALUE");
    check("{", "a.b/c=x", "a.json: EOF");
    check(
        r#"{"cdiVersion":"9.0.0","kind":"a.b/c","devices":[]}"#,
        "a.b/c=x",
        "9.0.0",
    );
    check(
        r#"{"cdiVersion":"0.6.0","kind":"abc","devices":[]}"#,
        "a.b/c=x",
        "`abc`",
    );
}
