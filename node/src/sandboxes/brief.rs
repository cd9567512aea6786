//! Reports of sandboxes, kept short: a node says all that it knows of with every session, and a
//! command can have megabytes of arguments.

use chalk_core::wire::agent::SandboxReport;

/// Most bytes of a list of texts.
const LIST: usize = 4 << 10;
/// Most bytes of a text.
const TEXT: usize = 2 << 10;
/// Stands where something was cut off.
const MARK: &str = "\u{2026}";
/// What a text takes in a list beside its bytes.
const AROUND: usize = 3;

/// Cuts what is long for people, too: the command, warnings, the reason of a failure.
pub(super) fn shorten(report: &mut SandboxReport) {
    shorten_list(&mut report.args);
    shorten_list(&mut report.warnings);
    if let Some(error) = &mut report.error {
        for text in [&mut error.title, &mut error.detail, &mut error.hint] {
            shorten_text(text, TEXT);
        }
    }
}

/// Cuts a list of texts.
pub(super) fn shorten_list(list: &mut Vec<String>) {
    let mut room = LIST;
    for position in 0..list.len() {
        let text = &mut list[position];
        match room.checked_sub(text.len() + AROUND) {
            Some(left) => room = left,
            None => {
                shorten_text(text, room.saturating_sub(AROUND));
                list.truncate(position + 1);
                return;
            }
        }
    }
}

fn shorten_text(text: &mut String, room: usize) {
    if text.len() <= room {
        return;
    }
    let mut end = room.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(MARK);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_where_they_get_long() {
        let check = |list: &[&str], expect: &[&str]| {
            let mut list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
            shorten_list(&mut list);
            assert_eq!(list, expect);
        };
        let long = "\u{e4}".repeat(1 << 20);
        check(&[], &[]);
        check(&["sh", "-c", "true"], &["sh", "-c", "true"]);
        let cut = format!("{}\u{2026}", "\u{e4}".repeat(2042));
        check(&["sh", &long, "more"], &["sh", &cut]);
        let whole = "x".repeat(LIST - AROUND);
        check(&[&whole], &[&whole]);
        check(&[&whole, "x", "y"], &[&whole, MARK]);
    }
}
