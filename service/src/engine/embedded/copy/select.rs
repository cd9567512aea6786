//! What of a tree a copy takes, for an engine that copies elsewhere.

use std::collections::BTreeMap;

use chalk_core::ignore::DockerIgnore;

use super::last;
use super::source::{Node, Result, Source, Virtual, join};

/// Sources of a copy and what of them counts.
pub(in crate::engine) struct Selection<'a> {
    /// Paths or patterns.
    pub(in crate::engine) sources: &'a [String],
    /// What is left out.
    pub(in crate::engine) exclude: &'a [String],
    /// Keep the path of the sources.
    pub(in crate::engine) parents: bool,
}

/// One source.
pub(in crate::engine) struct Selected {
    /// A directory with nothing but what is to be copied.
    pub(in crate::engine) root: Virtual,
    /// Name of the one file in it; `None` where all that the directory holds is to be copied.
    pub(in crate::engine) name: Option<String>,
}

impl Selection<'_> {
    /// Finds the sources, in order.
    ///
    /// # Errors
    /// When a source is not there, or a pattern is wrong.
    pub(in crate::engine) fn of(&self, root: Virtual) -> Result<Vec<Selected>> {
        let exclude = DockerIgnore::of(self.exclude.iter().map(String::as_str));
        let exclude = exclude.map_err(|e| format!("--exclude: {e}"))?;
        let source = Source::Virtual(root);
        let mut selected = Vec::new();
        for pattern in self.sources {
            for path in source.expand(pattern.trim_start_matches('/'))? {
                let Some(Node::Virtual(node)) = source.find(&path, true)? else {
                    return Err(format!(
                        "`{}` is a symbolic link that leads nowhere",
                        path.escape_ascii()
                    ));
                };
                if self.parents {
                    let root = with_parents(pattern, &path, node, &exclude)?;
                    selected.push(Selected { root, name: None });
                } else if let Virtual::Dir(children) = node {
                    let root = Virtual::Dir(without(children, b"", &exclude));
                    selected.push(Selected { root, name: None });
                } else {
                    let name = String::from_utf8_lossy(&last(&path)).into_owned();
                    if exclude.matches(&name) {
                        continue;
                    }
                    let mut root = Virtual::empty();
                    root.insert(&name, node.clone())?;
                    let name = Some(name);
                    selected.push(Selected { root, name });
                }
            }
        }
        Ok(selected)
    }
}

/// A node below the path that it keeps: all of it, or what follows `/./` in the pattern.
fn with_parents(
    pattern: &str,
    path: &[u8],
    node: &Virtual,
    exclude: &DockerIgnore,
) -> Result<Virtual> {
    let real = |part: &&str| !part.is_empty() && *part != ".";
    // The components in front of the pivot are the same in the pattern and in the match.
    let pivot = match pattern.trim_start_matches('/').split_once("/./") {
        Some((before, _)) => before.split('/').filter(real).count(),
        None => 0,
    };
    let path = String::from_utf8_lossy(path).into_owned();
    let kept: Vec<&str> = path.split('/').filter(real).skip(pivot).collect();
    let node = match node {
        Virtual::Dir(children) => Virtual::Dir(without(children, b"", exclude)),
        other => other.clone(),
    };
    if kept.is_empty() {
        return Ok(node);
    }
    let mut root = Virtual::empty();
    root.insert(&kept.join("/"), node)?;
    Ok(root)
}

fn without(
    children: &BTreeMap<Vec<u8>, Virtual>,
    below: &[u8],
    exclude: &DockerIgnore,
) -> BTreeMap<Vec<u8>, Virtual> {
    let mut kept = BTreeMap::new();
    for (name, child) in children {
        let path = join(below, name);
        let text = String::from_utf8_lossy(&path);
        let excluded = !exclude.is_empty() && exclude.matches(&text);
        match child {
            Virtual::Dir(_) if excluded && exclude.can_skip(&text) => {}
            Virtual::Dir(children) => {
                let inner = without(children, &path, exclude);
                kept.insert(name.clone(), Virtual::Dir(inner));
            }
            _ if excluded => {}
            other => {
                kept.insert(name.clone(), other.clone());
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::source::Contents;
    use super::*;

    fn paths(node: &Virtual, at: &str, found: &mut Vec<String>) {
        if let Virtual::Dir(children) = node {
            for (name, child) in children {
                let path = format!("{at}/{}", String::from_utf8_lossy(name));
                found.push(path.clone());
                paths(child, &path, found);
            }
        }
    }

    fn check(sources: &[&str], exclude: &[&str], parents: bool, expect: &[(&str, &[&str])]) {
        let mut root = Virtual::empty();
        for path in ["a/one.txt", "a/b/two.txt", "a/b/two.md", "c.txt"] {
            let file = Virtual::File {
                contents: Contents::Bytes(Vec::new()),
                mode: 0o644,
                mtime: 0,
            };
            root.insert(path, file).unwrap();
        }
        let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let (sources, exclude) = (owned(sources), owned(exclude));
        let selection = Selection {
            sources: &sources,
            exclude: &exclude,
            parents,
        };
        let got: Vec<(String, Vec<String>)> = selection
            .of(root)
            .unwrap()
            .into_iter()
            .map(|Selected { root, name }| {
                let mut found = Vec::new();
                paths(&root, "", &mut found);
                (name.unwrap_or_default(), found)
            })
            .collect();
        let expect: Vec<(String, Vec<String>)> = expect
            .iter()
            .map(|(name, found)| ((*name).to_owned(), owned(found)))
            .collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn takes_what_is_named_and_not_left_out() {
        check(&["c.txt"], &[], false, &[("c.txt", &["/c.txt"])]);
        check(
            &["a"],
            &["**/*.md"],
            false,
            &[("", &["/b", "/b/two.txt", "/one.txt"])],
        );
        check(&["a"], &["b"], false, &[("", &["/one.txt"])]);
        check(
            &["*.txt", "a/o*"],
            &["c.txt"],
            false,
            &[("one.txt", &["/one.txt"])],
        );
        check(
            &["a/b/*.txt"],
            &[],
            true,
            &[("", &["/a", "/a/b", "/a/b/two.txt"])],
        );
        check(&["a/./b"], &["*.md"], true, &[("", &["/b", "/b/two.txt"])]);
    }
}
