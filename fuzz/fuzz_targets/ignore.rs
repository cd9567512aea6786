//! Ignore files and patterns: the first line is a path, the rest an ignore file.
#![no_main]

use chalk_core::glob::Glob;
use chalk_core::ignore::{DockerIgnore, GitIgnore};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (path, rules) = text.split_once('\n').unwrap_or((text, ""));
    let mut git = GitIgnore::new(&[path.to_owned()]);
    git.add("", rules);
    git.add("a", rules);
    let _ = git.is_ignored(path, true);
    if let Ok(docker) = DockerIgnore::parse(rules)
        && docker.can_skip(path)
    {
        assert!(docker.matches(&format!("{path}/x")));
    }
    if let Ok(glob) = Glob::go(rules) {
        let _ = glob.matches(path);
    }
});
