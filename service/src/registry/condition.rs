//! Conditions of requests (RFC 9110, section 13): on the manifest that a tag or digest names now,
//! whose entity tag is its digest.

/// What a request is conditional on. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Condition {
    /// One of these must be there.
    pub(super) if_match: Option<EntityTags>,
    /// None of these may be there.
    pub(super) if_none_match: Option<EntityTags>,
}

/// Value of an `If-Match` or `If-None-Match` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntityTags {
    /// `*`: anything at all.
    Any,
    /// What stands between the quotes, and whether the tag is a weak one.
    Some(Vec<(String, bool)>),
}

impl Condition {
    /// Whether it holds when `current` is there.
    pub(super) fn holds(&self, current: Option<&str>) -> bool {
        let strong = |tags: &EntityTags| tags.have(current, false);
        let weak = |tags: &EntityTags| tags.have(current, true);
        self.if_match.as_ref().is_none_or(strong) && !self.if_none_match.as_ref().is_some_and(weak)
    }
}

impl EntityTags {
    /// Reads a field. What is no entity tag is left out: it could match nothing.
    pub(super) fn parse(text: &str) -> Self {
        if text.trim() == "*" {
            return Self::Any;
        }
        let mut tags = Vec::new();
        let mut rest = text;
        while let Some((before, tail)) = rest.split_once('"') {
            let Some((tag, after)) = tail.split_once('"') else {
                break;
            };
            tags.push((tag.to_owned(), before.trim_end().ends_with("W/")));
            rest = after;
        }
        Self::Some(tags)
    }

    /// Whether `current` is among them, by the weak or the strong comparison (section 8.8.3.2); our
    /// own tags are strong.
    pub(super) fn have(&self, current: Option<&str>, weak: bool) -> bool {
        match (self, current) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Some(tags), Some(current)) => tags
                .iter()
                .any(|(tag, is_weak)| tag == current && (weak || !is_weak)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let check = |text: &str, current: Option<&str>, strong: bool, weak: bool| {
            let tags = Some(EntityTags::parse(text));
            let required = Condition {
                if_match: tags.clone(),
                if_none_match: None,
            };
            let excluded = Condition {
                if_match: None,
                if_none_match: tags,
            };
            assert_eq!(required.holds(current), strong, "{text}");
            assert_eq!(excluded.holds(current), !weak, "{text}");
        };
        check("*", Some("a"), true, true);
        check("*", None, false, false);
        check("\"a\"", Some("a"), true, true);
        check("\"a\"", None, false, false);
        check("\"a\"", Some("b"), false, false);
        check("W/\"a\"", Some("a"), false, true);
        check("\"x,y\", W/\"z\",\"a\"", Some("a"), true, true);
        check("a", Some("a"), false, false);
        check("\"a", Some("a"), false, false);
        check("", Some(""), false, false);
        assert!(Condition::default().holds(None));
        assert!(Condition::default().holds(Some("a")));
    }
}
