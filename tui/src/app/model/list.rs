//! A list that a person goes through: what is chosen, marked, filtered and sorted. The choice follows
//! the row's key, never its place, so that rows may come, go and move under it.

use std::collections::BTreeSet;
use std::ops::Range;

/// State of one list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct List {
    keys: Vec<String>,
    at: usize,
    /// Key of the chosen row; kept while it is filtered away.
    chosen: Option<String>,
    offset: usize,
    marked: BTreeSet<String>,
    /// What the rows must match; empty for all.
    pub(crate) filter: String,
    /// What they had to match when they were arranged last.
    filtered: String,
    /// Column that is sorted by.
    pub(crate) sort: usize,
    pub(crate) reverse: bool,
}

impl List {
    /// A list sorted by a column.
    pub(crate) fn sorted_by(sort: usize, reverse: bool) -> Self {
        Self {
            sort,
            reverse,
            ..Self::default()
        }
    }

    /// The rows are these now, in this order.
    pub(crate) fn arrange(&mut self, keys: Vec<String>) {
        self.keys = keys;
        let place = self
            .chosen
            .as_ref()
            .and_then(|chosen| self.keys.iter().position(|key| key == chosen));
        let refiltered = self.filtered != self.filter;
        if refiltered {
            self.filtered.clone_from(&self.filter);
        }
        match place {
            Some(at) => self.at = at,
            // Whoever filters looks for another row: the first that matches is shown.
            None if refiltered => self.at = 0,
            // The row is gone: what took its place is chosen, and becomes the choice only when the
            // person moves, so that a row that comes back is chosen again.
            None => self.at = self.at.min(self.keys.len().saturating_sub(1)),
        }
        if self.chosen.is_none() {
            self.chosen = self.keys.get(self.at).cloned();
        }
    }

    /// Forgets marks of rows that are gone for good.
    pub(crate) fn keep_marks(&mut self, exists: impl Fn(&str) -> bool) {
        self.marked.retain(|key| exists(key));
    }

    pub(crate) fn keys(&self) -> &[String] {
        &self.keys
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Index of the chosen row.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Key of the chosen row.
    pub(crate) fn chosen(&self) -> Option<&str> {
        self.keys.get(self.at).map(String::as_str)
    }

    /// Chooses by index; beyond the end is the last.
    pub(crate) fn choose_at(&mut self, at: usize) {
        self.at = at.min(self.keys.len().saturating_sub(1));
        self.chosen = self.keys.get(self.at).cloned();
    }

    /// Chooses by key, also one that is still to come.
    pub(crate) fn choose(&mut self, key: &str) {
        self.chosen = Some(key.to_owned());
        if let Some(at) = self.keys.iter().position(|k| k == key) {
            self.at = at;
        }
    }

    pub(crate) fn move_by(&mut self, rows: isize) {
        self.choose_at(self.at.saturating_add_signed(rows));
    }

    pub(crate) fn first(&mut self) {
        self.choose_at(0);
    }

    pub(crate) fn last(&mut self) {
        self.choose_at(usize::MAX);
    }

    /// Marks the chosen row or takes its mark away, and goes on to the next.
    pub(crate) fn toggle_mark(&mut self) {
        if let Some(key) = self.chosen().map(str::to_owned) {
            if !self.marked.remove(&key) {
                self.marked.insert(key);
            }
            self.move_by(1);
        }
    }

    pub(crate) fn clear_marks(&mut self) {
        self.marked.clear();
    }

    pub(crate) fn is_marked(&self, key: &str) -> bool {
        self.marked.contains(key)
    }

    pub(crate) fn marked(&self) -> &BTreeSet<String> {
        &self.marked
    }

    /// The marked rows, else the chosen one.
    pub(crate) fn subjects(&self) -> Vec<String> {
        if self.marked.is_empty() {
            self.chosen().map(str::to_owned).into_iter().collect()
        } else {
            self.marked.iter().cloned().collect()
        }
    }

    /// The rows that are shown where `height` fit, the chosen one among them.
    pub(crate) fn window(&mut self, height: usize) -> Range<usize> {
        if height == 0 {
            return 0..0;
        }
        self.offset = self
            .offset
            .min(self.at)
            .max((self.at + 1).saturating_sub(height))
            .min(self.keys.len().saturating_sub(height));
        self.offset..(self.offset + height).min(self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::List;

    fn keys(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_choice_follows_the_key() {
        let mut list = List::default();
        list.arrange(keys("a b c"));
        assert_eq!(list.chosen(), Some("a"));
        list.move_by(1);
        list.arrange(keys("x y a b c"));
        assert_eq!(list.chosen(), Some("b"));
        // Filtered away and back.
        list.arrange(keys("a c"));
        assert_eq!(list.chosen(), Some("c"));
        list.arrange(keys("a b c"));
        assert_eq!(list.chosen(), Some("b"));
        list.arrange(Vec::new());
        assert_eq!(list.chosen(), None);
        list.move_by(-3);
        list.last();
        assert_eq!(list.chosen(), None);
    }

    #[test]
    fn a_filter_that_leaves_the_choice_out_begins_at_the_first_match() {
        let mut list = List::default();
        list.arrange(keys("a b c d e"));
        list.choose_at(3);
        list.filter = "abe".to_owned();
        list.arrange(keys("a b e"));
        assert_eq!(list.chosen(), Some("a"));
        list.filter.clear();
        list.arrange(keys("a b c d e"));
        assert_eq!(list.chosen(), Some("d"));
    }

    #[test]
    fn a_choice_can_be_made_ahead() {
        let mut list = List::default();
        list.arrange(keys("a"));
        list.choose("b");
        list.arrange(keys("a b"));
        assert_eq!(list.chosen(), Some("b"));
    }

    #[test]
    fn the_window_holds_the_choice() {
        let mut list = List::default();
        list.arrange((0..100).map(|n| n.to_string()).collect());
        assert_eq!(list.window(10), 0..10);
        list.choose_at(50);
        assert_eq!(list.window(10), 41..51);
        list.choose_at(45);
        assert_eq!(list.window(10), 41..51);
        list.last();
        assert_eq!(list.window(10), 90..100);
        assert_eq!(list.window(200), 0..100);
        assert_eq!(list.window(0), 0..0);
    }

    #[test]
    fn marks_stand_in_for_the_choice() {
        let mut list = List::default();
        list.arrange(keys("a b c"));
        assert_eq!(list.subjects(), ["a"]);
        list.toggle_mark();
        list.toggle_mark();
        assert_eq!(list.subjects(), ["a", "b"]);
        list.keep_marks(|key| key != "a");
        assert_eq!(list.subjects(), ["b"]);
    }
}
