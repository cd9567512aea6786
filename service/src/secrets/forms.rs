//! The forms in which tools print a value.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Shorter values would mask half of every log and hide nothing: there are few of them.
pub(crate) const SHORTEST: usize = 4;
/// Shorter forms are not looked for across blanks and line ends, where words meet by chance.
const SHORTEST_JOINED: usize = 8;

/// What is looked for in the output as it is.
pub(super) fn exact(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for part in parts(value) {
        forms.push(part.to_vec());
        forms.push(shell_quoted(part));
        forms.extend(encoded(part));
    }
    forms.sort();
    forms.dedup();
    forms
}

/// What is looked for in the output without its blanks and line ends.
///
/// A line end is passed only by what has begun with two bytes at least, so that lines are not held
/// back by chance; the forms without their first byte find the rest where only that stood before it.
pub(super) fn joined(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for form in exact(value) {
        let form: Vec<u8> = form.into_iter().filter(|b| !is_blank(*b)).collect();
        if form.len() >= SHORTEST_JOINED {
            forms.push(form[1..].to_vec());
            forms.push(form);
        }
    }
    forms.sort();
    forms.dedup();
    forms
}

/// What encoders put between the bytes of a value: they wrap their lines, and dumps have columns.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The value and its lines, which tools print one by one, too.
fn parts(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let whole = std::iter::once(value);
    let lines = value.split(|b| *b == b'\n');
    whole
        .chain(lines)
        .map(<[u8]>::trim_ascii)
        .filter(|part| part.len() >= SHORTEST)
}

/// As shells print what they run (`set -x`): `'` ends the quotes, stands escaped, and begins others.
fn shell_quoted(value: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted
}

/// Base64 in both alphabets and at every place of a longer text, and hexadecimal in both cases.
fn encoded(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![
        hex::encode(value).into_bytes(),
        hex::encode_upper(value).into_bytes(),
    ];
    for before in 0..3 {
        let mut text = vec![0; before];
        text.extend_from_slice(value);
        // Digits that hold bits of what stands before or after are not known; each tells at most
        // four bits of the value.
        let first = (before * 8).div_ceil(6);
        let last = text.len() * 8 / 6;
        for alphabet in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            forms.push(alphabet.encode(&text).as_bytes()[first..last].to_vec());
        }
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_what_encoders_print() {
        let value = b"hunter2>secret?\xff!";
        let forms = exact(value);
        let has = |text: &str| {
            let found = forms.iter().any(|f| f == text.as_bytes());
            assert!(found, "{text}");
        };
        has("68756e746572323e7365637265743fff21");
        has("68756E746572323E7365637265743FFF21");
        // By coreutils: of the value, of `a` and the value, of `ab` and the value; without the
        // digits that hold other bits.
        has("aHVudGVyMj5zZWNyZXQ//y");
        has("aHVudGVyMj5zZWNyZXQ__y");
        has("h1bnRlcjI+c2VjcmV0P/8h");
        has("odW50ZXIyPnNlY3JldD//I");
    }

    #[test]
    fn lines_are_looked_for_alone() {
        let forms = exact(b"-----\nabcdef\nx\n");
        assert!(forms.contains(&b"-----\nabcdef\nx".to_vec()));
        assert!(forms.contains(&b"abcdef".to_vec()) && !forms.contains(&b"x".to_vec()));
        assert!(exact(b"abc").is_empty() && exact(b" abc \n").is_empty());
    }

    #[test]
    fn quotes_of_shells() {
        assert!(exact(b"it's").contains(&br"it'\''s".to_vec()));
    }
}
