//! A map from texts that is a sorted list.
//!
//! Each kind of B-tree costs five kilobytes of WebAssembly; this costs a tenth, and is as fast for what
//! is built once or mostly in order.

/// Values by their text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SortedMap<V> {
    entries: Vec<(String, V)>,
}

impl<V> Default for SortedMap<V> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

impl<V> SortedMap<V> {
    /// Sorts entries, each with a name of its own.
    pub(crate) fn of(mut entries: Vec<(String, V)>) -> Self {
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Self { entries }
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        // What comes in order belongs at the end.
        match self.entries.last() {
            Some((last, _)) if last.as_str() < name => Err(self.entries.len()),
            _ => self
                .entries
                .binary_search_by(|(other, _)| other.as_str().cmp(name)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        self.place(name).ok().map(|at| &self.entries[at].1)
    }

    /// The value of a name; a new one if it has none.
    pub(crate) fn entry(&mut self, name: &str) -> &mut V
    where
        V: Default,
    {
        let at = match self.place(name) {
            Ok(at) => at,
            Err(at) => {
                self.entries.insert(at, (name.to_owned(), V::default()));
                at
            }
        };
        &mut self.entries[at].1
    }

    /// All, sorted by name.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, (String, V)> {
        self.entries.iter()
    }

    /// Those whose name is not less.
    pub(crate) fn starting_at(&self, name: &str) -> &[(String, V)] {
        let (Ok(at) | Err(at)) = self.place(name);
        &self.entries[at..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in() {
        let mut map = SortedMap::of(vec![("b".to_owned(), 2), ("a".to_owned(), 1)]);
        *map.entry("c") += 3;
        *map.entry("aa") = 4;
        *map.entry("a") += 10;
        let all: Vec<_> = map.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(all, [("a", 11), ("aa", 4), ("b", 2), ("c", 3)]);
        assert_eq!(map.get("aa"), Some(&4));
        assert_eq!(map.get("ab"), None);
        assert_eq!(map.get("d"), None);
        let from = |name: &str| map.starting_at(name).len();
        assert_eq!([from(""), from("aa"), from("ab"), from("d")], [4, 3, 2, 0]);
    }
}
