//! What a filter lets through: fuzzy words in any order, with `!` before what must not be there, `'`
//! before what must stand as it is, `^` and `$` for beginning and end.

use frizbee::{Config, Matcher};

/// A filter.
pub(crate) struct Filter {
    matcher: Option<Matcher>,
}

impl Filter {
    pub(crate) fn new(query: &str) -> Self {
        let config = Config::default().max_typos(Some(0));
        let query = query.trim();
        // A sign alone is the beginning of something, and hides nothing yet.
        let said = query.chars().any(char::is_alphanumeric);
        Self {
            matcher: said.then(|| Matcher::from_query(query, &config)),
        }
    }

    /// Whether a text goes through.
    pub(crate) fn lets(&mut self, text: &str) -> bool {
        self.score(text).is_some()
    }

    /// As [`lets`](Self::lets), of a text that is made only where it is looked at.
    pub(crate) fn lets_by(&mut self, text: impl FnOnce() -> String) -> bool {
        self.matcher.is_none() || self.lets(&text())
    }

    /// How well a text fits, if it goes through; more is better.
    pub(crate) fn score(&mut self, text: &str) -> Option<u32> {
        match &mut self.matcher {
            None => Some(0),
            Some(matcher) => matcher.match_one(text, 0).map(|m| u32::from(m.score)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Filter;

    #[test]
    fn words_are_fuzzy_and_can_be_turned_round() {
        let check = |query: &str, text: &str, expect: bool| {
            assert_eq!(Filter::new(query).lets(text), expect, "{query} in {text}");
        };
        check("", "anything", true);
        check("tmap", "team/app:v1", true);
        check("v1 team", "team/app:v1", true);
        check("xyz", "team/app:v1", false);
        check("!team", "team/app:v1", false);
        check("!team", "other:v1", true);
        check("!", "other:v1", true);
        check("^team", "team/app", true);
        check("^app", "team/app", false);
        check("'app", "team/app", true);
    }
}
