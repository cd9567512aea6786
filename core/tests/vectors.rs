//! Every vector of `tests/vectors/`: what Rust computes is what the files say. An independent script
//! (`tests/vectors/check.py`) checks the same files.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that reads vectors from disk"
)]

use std::collections::BTreeMap;

use chalk_core::declaration::Declaration;
use chalk_core::jcs::Json;
use chalk_core::source::MemoryFiles;
use chalk_core::tree::{Tree, TreeEntry, TreeNode};
use chalk_core::{Digest, Spec};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct VectorFile {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    /// `equal` or `differ`: what the hashes of the group are.
    expect: Option<String>,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    canonical: Option<String>,
    /// Canonical JSON.
    value: Option<Value>,
    /// A directory and its digest.
    tree: Option<BTreeMap<String, File>>,
    digest: Option<Digest>,
    /// An install list and its normal form.
    requirements: Option<Vec<String>>,
    normal: Option<Vec<String>>,
    /// A spec, its hashes and step keys.
    spec: Option<Box<RawValue>>,
    recipe_hash: Option<Digest>,
    image_hash: Option<Digest>,
    #[serde(default)]
    keys: Vec<Digest>,
    /// A declaration file that says the same, and the files that it names.
    file: Option<String>,
    text: Option<String>,
    #[serde(default)]
    files: BTreeMap<String, File>,
    /// The error of a declaration or spec that is none.
    refused: Option<String>,
}

#[derive(Deserialize)]
struct File {
    text: Option<String>,
    symlink: Option<String>,
    #[serde(default)]
    executable: bool,
}

fn read(name: &str) -> VectorFile {
    let path = format!(
        "{}/../tests/vectors/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Checks every vector of a file with `check`, then what each group says of its hashes.
fn check_all(name: &str, check: impl Fn(&str, &Vector) -> Option<Digest>) {
    for group in read(name).groups {
        let mut hashes = Vec::new();
        for vector in &group.vectors {
            let what = format!("{name}: {}: {}", group.name, vector.name);
            hashes.extend(check(&what, vector));
        }
        let count = hashes.len();
        hashes.sort();
        hashes.dedup();
        match group.expect.as_deref() {
            Some("equal") => assert!(count > 1 && hashes.len() == 1, "{}", group.name),
            Some("differ") => assert!(count > 1 && hashes.len() == count, "{}", group.name),
            other => assert_eq!(other, None, "{}", group.name),
        }
    }
}

fn json(value: &Value) -> Json<'_> {
    match value {
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(number) => Json::Number(number.as_u64().unwrap().try_into().unwrap()),
        Value::String(text) => Json::text(text),
        Value::Array(items) => Json::List(items.iter().map(json).collect()),
        Value::Object(fields) => Json::Map(
            fields
                .iter()
                .map(|(name, value)| (name.as_str(), json(value)))
                .collect(),
        ),
        Value::Null => panic!("no document holds null"),
    }
}

#[test]
fn canonical_json() {
    check_all("jcs", |what, vector| {
        let canonical = json(vector.value.as_ref().unwrap()).canonical();
        assert_eq!(Some(canonical), vector.canonical, "{what}");
        None
    });
}

#[test]
fn requirements() {
    check_all("requirements", |what, vector| {
        let packages = vector.requirements.as_ref().unwrap();
        let spec = serde_json::json!({
            "schema": "chalk.image/v1",
            "base": "scratch",
            "steps": [{"kind": "pip_install", "packages": packages}],
        });
        let spec = Spec::from_json(&spec.to_string()).unwrap();
        let chalk_core::spec::StepKind::PipInstall { packages } = &spec.steps[0].kind else {
            panic!("{what}");
        };
        assert_eq!(Some(packages), vector.normal.as_ref(), "{what}");
        None
    });
}

#[test]
fn trees() {
    check_all("trees", |what, vector| {
        let entry = |(path, file): (&String, &File)| TreeEntry {
            path: path.clone(),
            node: match (&file.text, &file.symlink) {
                (Some(text), _) => TreeNode::File {
                    digest: Digest::of(text.as_bytes()),
                    mode: if file.executable { "0755" } else { "0644" }.into(),
                },
                (None, Some(target)) => TreeNode::Symlink {
                    target: target.clone(),
                },
                (None, None) => TreeNode::Dir,
            },
        };
        let files = vector.tree.as_ref().unwrap();
        let tree = Tree::new(files.iter().map(entry).collect()).unwrap();
        assert_eq!(Some(tree.digest()), vector.digest, "{what}");
        vector.digest
    });
}

fn check_spec(what: &str, vector: &Vector, spec: &Spec) -> Option<Digest> {
    assert_eq!(
        Some(spec.canonical().canonical()),
        vector.canonical,
        "{what}"
    );
    assert_eq!(Some(spec.recipe_hash()), vector.recipe_hash, "{what}");
    assert_eq!(spec.image_hash(), vector.image_hash, "{what}");
    let keys: Vec<Digest> = spec
        .steps_with_keys()
        .into_iter()
        .map(|step| step.key)
        .collect();
    assert_eq!(keys, vector.keys, "{what}");
    // What is printed reads back as the same spec, on every way in.
    let printed = spec.to_json().pretty();
    assert_eq!(Spec::from_json(&printed).as_ref(), Ok(spec), "{what}");
    assert_eq!(
        &serde_json::from_str::<Spec>(&printed).unwrap(),
        spec,
        "{what}"
    );
    assert_eq!(spec.checked().as_ref(), Ok(spec), "{what}");
    vector.image_hash.or(vector.recipe_hash)
}

#[test]
fn specs() {
    for name in ["specs", "differ", "equal"] {
        check_all(name, |what, vector| {
            let text = vector.spec.as_ref().unwrap().get();
            check_spec(what, vector, &Spec::from_json(text).unwrap())
        });
    }
}

fn declared(vector: &Vector) -> Result<Spec, String> {
    let mut files = MemoryFiles::new();
    for (path, file) in &vector.files {
        files = match (&file.text, &file.symlink) {
            (Some(text), _) if file.executable => files.executable(path, text.as_str()),
            (Some(text), _) => files.file(path, text.as_str()),
            (None, Some(target)) => files.symlink(path, target),
            (None, None) => files.dir(path),
        };
    }
    let name = vector.file.as_deref().unwrap();
    let text = vector.text.as_deref().unwrap();
    let declaration = Declaration::read(name, text.as_bytes());
    let resolved = declaration
        .and_then(|d| d.resolve(&files))
        .map_err(|e| e.to_string())?;
    Ok(resolved.spec)
}

#[test]
fn declarations() {
    check_all("declarations", |what, vector| {
        let spec = declared(vector).unwrap();
        let expect = Spec::from_json(vector.spec.as_ref().unwrap().get()).unwrap();
        assert_eq!(spec, expect, "{what}");
        check_spec(what, vector, &spec)
    });
}

#[test]
fn refused() {
    check_all("refused", |what, vector| {
        assert_eq!(declared(vector).err(), vector.refused, "{what}");
        None
    });
}
