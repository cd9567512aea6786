//! `COPY` and `ADD`.

use super::machine::{Machine, Places};
use super::{Action, Chmod, Copy, CopySource, Download};
use crate::Digest;
use crate::dockerfile::{CopyWord, Copying, is_git, is_url};
use crate::path;
use crate::spec::Instruction;

pub(super) fn lower(
    machine: &Machine,
    instruction: &Instruction,
    copying: &Copying,
    places: &Places<'_>,
) -> Result<(Action, String), String> {
    let keyword = if copying.add { "ADD" } else { "COPY" };
    let word = |word: &Option<String>| word.as_deref().map(|w| machine.expand(w)).transpose();
    let chown = word(&copying.chown)?.filter(|chown| !chown.is_empty());
    let chmod = word(&copying.chmod)?.filter(|chmod| !chmod.is_empty());
    let checksum = word(&copying.checksum)?.filter(|checksum| !checksum.is_empty());
    let dest_word = machine.expand(&copying.dest)?;
    let dest = destination(&machine.workdir, &dest_word);

    let mut history = keyword.to_owned();
    let flags = [
        ("parents", copying.parents.then_some("")),
        ("chown", chown.as_deref()),
        ("chmod", chmod.as_deref()),
    ];
    for (name, value) in flags {
        match value {
            Some("") => history.push_str(&format!(" --{name}")),
            Some(value) => history.push_str(&format!(" --{name}={value}")),
            None => {}
        }
    }
    let chmod: Option<Chmod> = match chmod {
        Some(text) => Some(text.parse().map_err(|e| format!("--chmod: {e}"))?),
        None => None,
    };
    let checksum: Option<Digest> = match checksum {
        Some(text) => Some(text.parse().map_err(|e| format!("--checksum: {e}"))?),
        None => None,
    };
    let from = match &copying.from {
        Some(from) => Some(CopySource::Stage(places.find(from)?)),
        None => instruction.context.map(CopySource::Tree),
    };
    let template = Copy {
        from: CopySource::Inline(Vec::new()),
        sources: Vec::new(),
        dest: dest.clone(),
        chown: chown.clone(),
        chmod: chmod.clone(),
        parents: copying.parents,
        exclude: copying.exclude.clone(),
        unpack: copying.add && copying.unpack.unwrap_or(true),
    };
    let mut actions: Vec<Action> = Vec::new();
    let mut inline = Vec::new();
    let mut downloads = false;
    for source in &copying.sources {
        match source {
            CopyWord::Heredoc(heredoc) => {
                if heredoc.name.contains('/') || heredoc.name == "." || heredoc.name == ".." {
                    return Err(format!(
                        "the heredoc delimiter `{}` cannot name a file",
                        heredoc.name
                    ));
                }
                let contents = heredoc.contents();
                let contents = if heredoc.expand {
                    machine.expand_body(&contents)?
                } else {
                    contents
                };
                inline.push((heredoc.name.clone(), contents.into_bytes()));
            }
            CopyWord::Path(source) => {
                let source = machine.expand(source)?;
                history.push(' ');
                history.push_str(&source);
                if copying.from.is_none() && is_git(&source) {
                    return Err(format!(
                        "`{source}` is a git repository, which ADD does not fetch here"
                    ));
                }
                if copying.from.is_none() && is_url(&source) {
                    if !copying.add {
                        return Err(format!("COPY cannot fetch `{source}`: use ADD"));
                    }
                    downloads = true;
                    actions.push(Action::Download(Download {
                        file_name: file_name(&source),
                        url: source,
                        dest: dest.clone(),
                        checksum,
                        chown: chown.clone(),
                        chmod: chmod.clone(),
                        unpack: copying.unpack.unwrap_or(false),
                    }));
                    continue;
                }
                let source = below_root(&source, copying.parents);
                // Neighbouring sources are one copy.
                if let Some(Action::Copy(copy)) = actions.last_mut() {
                    copy.sources.push(source);
                    continue;
                }
                let from = from.clone().ok_or_else(|| {
                    format!("{keyword} reads from the build context, and has none")
                })?;
                actions.push(Action::Copy(Copy {
                    from,
                    sources: vec![source],
                    ..template.clone()
                }));
            }
        }
    }
    if checksum.is_some() && !downloads {
        return Err("--checksum goes with one http(s) URL".into());
    }
    for (name, _) in &inline {
        history.push_str(&format!(" <<{name}"));
    }
    if !inline.is_empty() {
        actions.push(Action::Copy(Copy {
            from: CopySource::Inline(inline),
            parents: false,
            exclude: Vec::new(),
            unpack: false,
            ..template
        }));
    }
    history.push_str(&format!(" {dest_word} # buildkit"));
    let action = match actions.len() {
        1 => actions.remove(0),
        _ => Action::Sequence(actions),
    };
    Ok((action, history))
}

/// Absolute destination; a trailing slash says directory.
fn destination(workdir: &str, dest: &str) -> String {
    let mut path = path::absolute(workdir, dest);
    let is_dir = matches!(dest, "" | ".") || dest.ends_with('/') || dest.ends_with("/.");
    if is_dir && path != "/" {
        path.push('/');
    }
    path
}

/// A source below the root it is read from: no leading slash, no `..`, `.` for the root.
fn below_root(source: &str, parents: bool) -> String {
    let clean = |source: &str| match &path::absolute("/", source)[1..] {
        "" => ".".to_owned(),
        path => path.to_owned(),
    };
    match source.split_once("/./") {
        Some((base, rest)) if parents => format!("{}/./{}", clean(base), clean(rest)),
        _ => clean(source),
    }
}

/// Name of the file that a URL gives, as BuildKit takes it.
fn file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let mut bytes = Vec::new();
    let mut at = 0;
    while let Some(&b) = path.as_bytes().get(at) {
        let code = path.get(at + 1..at + 3).filter(|_| b == b'%');
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                at += 3;
            }
            None => {
                bytes.push(b);
                at += 1;
            }
        }
    }
    let decoded = String::from_utf8_lossy(&bytes);
    match decoded.split('/').rfind(|word| !word.is_empty()) {
        Some(name) if name != "." && name != ".." && !name.contains('\0') => name.to_owned(),
        _ => "__unnamed__".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_destinations_and_sources() {
        let check =
            |dest: &str, expect: &str| assert_eq!(destination("/w", dest), expect, "{dest}");
        check("/a", "/a");
        check("/a/", "/a/");
        check("a", "/w/a");
        check(".", "/w/");
        check("./", "/w/");
        check("", "/w/");
        check("/", "/");
        check("../..", "/");
        check("/a/.", "/a/");
        assert_eq!(below_root("/a/../../b/", false), "b");
        assert_eq!(below_root(".", false), ".");
        assert_eq!(below_root("a/./b/../c", true), "a/./c");
        assert_eq!(below_root("a/./b", false), "a/b");
    }

    #[test]
    fn names_downloads() {
        let check = |url: &str, expect: &str| assert_eq!(file_name(url), expect, "{url}");
        check("https://h/a/b.tgz?x=/y#z", "b.tgz");
        check("https://h/a%20b", "a b");
        check("https://h/a%2f..", "__unnamed__");
        check("https://h", "__unnamed__");
        check("https://h/", "__unnamed__");
        check("https://h/a/", "a");
        check("https://h/%zz", "%zz");
    }
}
