//! What a misspelt word was probably meant to be.

/// The candidate with the fewest edits from `word`, if these are few for its length.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    const LONGEST: usize = 256;
    if word.len() > LONGEST {
        return None;
    }
    let fold = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let word = fold(word);
    let distance = |candidate: &&&str| edits(&word, &fold(candidate));
    let near = candidates
        .iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .min_by_key(distance)?;
    let allowed = (word.chars().count() / 3).max(1);
    (distance(&near) <= allowed).then_some(*near)
}

/// Damerau-Levenshtein distance with adjacent swaps.
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let mut best = (last[j] + usize::from(a[i] != b[j]))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_nearest_word() {
        let words = ["RUN", "COPY", "ENTRYPOINT", "ENV"];
        let check = |word: &str, expect: Option<&str>| assert_eq!(nearest(word, &words), expect);
        check("RUNN", Some("RUN"));
        check("run", Some("RUN"));
        check("CPOY", Some("COPY"));
        check("ENTRPOINT", Some("ENTRYPOINT"));
        check("FOO", None);
        assert_eq!(
            nearest("add-local-file", &["add_local_dir", "add_local_file"]),
            Some("add_local_file")
        );
        check("", None);
    }
}
