//! Paths of images and contexts, which always have `/`.

/// The shortest path that means the same, without looking at any file: Go's `path.Clean`. An empty
/// path becomes `.`; a relative one keeps the `..` words that it starts with.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut words: Vec<&str> = Vec::new();
    for word in path.split('/') {
        match word {
            "" | "." => {}
            ".." => match words.last() {
                Some(&last) if last != ".." => {
                    words.pop();
                }
                _ if rooted => {}
                _ => words.push(".."),
            },
            word => words.push(word),
        }
    }
    match (rooted, words.is_empty()) {
        (true, _) => format!("/{}", words.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => words.join("/"),
    }
}

/// `path` seen from the absolute directory `dir`, cleaned: it never leaves the root.
pub fn absolute(dir: &str, path: &str) -> String {
    if path.starts_with('/') {
        clean(path)
    } else {
        clean(&format!("/{dir}/{path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_like_go() {
        let check = |path: &str, expect: &str| assert_eq!(clean(path), expect, "{path}");
        check("", ".");
        check("abc", "abc");
        check("abc/", "abc");
        check("/", "/");
        check("//abc//def/", "/abc/def");
        check("./a/./b", "a/b");
        check("a/b/../../..", "..");
        check("../../a", "../../a");
        check("/../a", "/a");
        check("a/../b/..", ".");
        assert_eq!(absolute("/w", "x/../../../y"), "/y");
        assert_eq!(absolute("/w", "."), "/w");
        assert_eq!(absolute("/w", "/y/"), "/y");
    }
}
