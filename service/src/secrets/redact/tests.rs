use proptest::prelude::*;

use super::*;

fn redaction(values: &[&[u8]]) -> Redaction {
    let secrets = values.iter().enumerate();
    let secrets = secrets.map(|(i, value)| (i.to_string(), Secret::new(*value)));
    Redaction::new(&secrets.collect()).unwrap()
}

/// Masks `pieces` of a stream.
fn masked<'a>(redaction: &Redaction, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut stream = redaction.stream();
    let mut out = Vec::new();
    for piece in pieces {
        stream.push(piece, &mut out);
    }
    stream.finish(&mut out);
    assert!(stream.held.is_empty() && stream.hits.is_empty());
    out
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn values_are_masked_however_they_are_cut() {
    let check = |values: &[&str], text: &str, expect: &str| {
        let values: Vec<_> = values.iter().map(|v| v.as_bytes()).collect();
        let redaction = redaction(&values);
        let bytes = text.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let got = String::from_utf8(masked(&redaction, pieces)).unwrap();
                assert_eq!(got, expect, "{text} cut at {first} and {second}");
            }
        }
    };
    check(&["hunter2"], "pw=hunter2;\n", "pw=***;\n");
    check(&["hunter2"], "hunter hunter", "hunter hunter");
    check(&["hunter2"], "hunter2hunter2", "***");
    check(&["hunter2", "terse22"], "hunterse22x", "hun***x");
    check(&["abcd", "abcdefgh"], "abcdef abcdefgh", "***ef ***");
    check(&["aaab"], "aaaab", "a***");
    check(&["one.\ntwo three\n"], "x two three y", "x *** y");
    check(&["abc"], "abc", "abc");
    check(&[" abcd\n"], "abcd", "***");
    check(&["it's me"], r"+ echo 'it'\''s me'", "+ echo '***'");
    check(&["pass word/ü"], "?p=pass%20word%2F%C3%BC&", "?p=***&");
    check(
        &["pass word/ü"],
        "?p=pass+word%2f%c3%bc&100%",
        "?p=***&100%",
    );
    check(&["a\"b\\c\nd"], r#"{"k":"a\"b\\c\nd"}"#, r#"{"k":"***"}"#);
    check(&["f😀xx"], r"\u0066\ud83d\ude00xx", "***");
    check(&["hunter2"], "68756e74657232 68756E74657232", "*** ***");
    check(&["hunter2"], "00 68 75 6e 74 65 72 32 0a", "00 *** 0a");
    check(&["hunter2x"], "hun\nter2\nx", "***");
    check(&["hunter2x"], "say h\nunter2x", "say h\n***");
}

#[test]
fn base64_is_masked_at_every_place_and_over_lines() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let secret = "correct horse battery staple ÿ?~";
    let redaction = redaction(&[secret.as_bytes()]);
    for before in 0..7 {
        let text = format!("{}{secret}\n", "x".repeat(before));
        for code in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
            for width in 2..=code.len() {
                let lines: Vec<_> = code.as_bytes().chunks(width).collect();
                let lines = lines.join(&b'\n');
                let got = masked(&redaction, [&lines[..]]);
                // What is left: the text before, digits with bits of others, and, where only the
                // first digit stood on a line, that one.
                let bare = got.iter().filter(|b| !is_blank(**b) && **b != b'*').count();
                let around = (before * 8).div_ceil(6) + 1 + 4;
                assert!(
                    bare <= around,
                    "{} of {code}",
                    String::from_utf8_lossy(&got)
                );
                assert!(holds(&got, MASK));
            }
        }
    }
}

#[test]
fn a_line_is_not_held_back_by_chance() {
    // Of `zebra...`: what ends with `z` may begin it, and must be seen all the same.
    let redaction = redaction(&[b"zebra-crossing"]);
    let mut stream = redaction.stream();
    let mut out = Vec::new();
    stream.push(b"quiz\n", &mut out);
    assert_eq!(out, b"quiz\n");
    stream.push(b"100%\nC:\\\n", &mut out);
    assert_eq!(out, b"quiz\n100%\nC:\\\n");
}

#[test]
fn what_is_held_back_is_bounded() {
    let redaction = redaction(&[b"aaaaaaaaaaaaaaaa", b"b b b b b b b b b"]);
    let mut out = Vec::new();
    for text in ["a", "b ", " ", "\n", "%61", "\\u0061", "%", "\\"] {
        let mut stream = redaction.stream();
        for _ in 0..1000 {
            stream.push(text.repeat(50).as_bytes(), &mut out);
            assert!(stream.held.len() < 16 << 10, "{text:?}");
            assert!(stream.hits.len() < 16 << 10, "{text:?}");
        }
    }
}

#[test]
fn short_values_are_known() {
    let secrets = [("a", "abc"), ("b", "abcd"), ("c", "\n")];
    let secrets = secrets.map(|(name, value)| (name.to_owned(), Secret::new(value)));
    let redaction = Redaction::new(&secrets.into()).unwrap();
    assert!(redaction.warning("a").is_some());
    for name in ["b", "c", "d"] {
        assert_eq!(redaction.warning(name), None, "{name}");
    }
}

/// Encodes as one of the tools that steps have.
fn encode(kind: usize, before: &[u8], value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    use base64::Engine as _;
    use base64::engine::general_purpose as engines;
    use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
    let all: Vec<u8> = [before, value].concat();
    let text = String::from_utf8_lossy(value);
    let own = |code: String| (code.clone().into_bytes(), code.into_bytes());
    match kind {
        0 => own(text.into_owned()),
        1..=4 => {
            let engine = match kind {
                1 => engines::STANDARD,
                2 => engines::STANDARD_NO_PAD,
                3 => engines::URL_SAFE,
                _ => engines::URL_SAFE_NO_PAD,
            };
            let code = engine.encode(&all);
            // Digits that the value alone decides.
            let first = (before.len() * 8).div_ceil(6);
            let last = all.len() * 8 / 6;
            let inner = code.as_bytes()[first..last].to_vec();
            (code.into_bytes(), inner)
        }
        5 => own(hex::encode(value)),
        6 => own(hex::encode_upper(value)),
        7 => own(percent_encode(value, NON_ALPHANUMERIC).to_string()),
        8 => own(value.iter().map(|b| format!("%{b:02x}")).collect()),
        9 => {
            let quoted = serde_json::to_string(&*text).unwrap();
            own(quoted[1..quoted.len() - 1].to_owned())
        }
        _ => own(text
            .encode_utf16()
            .map(|unit| format!("\\u{unit:04x}"))
            .collect()),
    }
}

/// Cuts a text at those places.
fn pieces<'a>(text: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    places.windows(2).map(|w| &text[w[0]..w[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_form_of_a_value_is_left(
        // No form of it begins in the text around: that has other letters.
        value in "[k-z0-9+/=%\\\\\"' \u{e4}\u{1f600}]{2}[k-z]{3}[k-z0-9+/=%\\\\\"'\u{e4}\u{1f600}]{1,40}[k-z]",
        around in prop::collection::vec("[A-J:;,.\n -]{0,30}", 2),
        before in prop::collection::vec(any::<u8>(), 0..5),
        kind in 0_usize..11,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let value = value.trim();
        let redaction = redaction(&[value.as_bytes()]);
        let (code, inner) = encode(kind, &before, value.as_bytes());
        let text = [around[0].as_bytes(), &code, around[1].as_bytes()].concat();
        let whole = masked(&redaction, [&text[..]]);
        prop_assert!(
            !holds(&whole, &inner),
            "{} in {}", String::from_utf8_lossy(&inner), String::from_utf8_lossy(&whole)
        );
        prop_assert!(holds(&whole, MASK));
        prop_assert_eq!(&masked(&redaction, pieces(&text, &cuts)), &whole);
        // What stands around is left, apart from what touches it.
        prop_assert!(whole.starts_with(around[0].trim_end().as_bytes()));
        prop_assert!(whole.ends_with(around[1].trim_start().as_bytes()));
    }

    #[test]
    fn a_text_without_values_is_left(
        text in prop::collection::vec(any::<u8>(), 0..300),
        words in "([a-f0-9A-F%+\\\\u\n =/]{0,20}){0,20}",
        // Bytes of forms, but no form: `#` is in none of the alphabets.
        value in "[a-z]{2}#[a-z]{2}[#a-z]{4,20}#",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let redaction = redaction(&[value.as_bytes()]);
        for text in [text.as_slice(), words.as_bytes()] {
            let got = masked(&redaction, pieces(text, &cuts));
            prop_assert_eq!(got, text);
        }
    }

    #[test]
    fn any_bytes_are_masked_alike_however_they_are_cut(
        values in prop::collection::vec("[ab]{4,9}", 1..4),
        text in "[ab\n %\\\\x612+]{0,200}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let values: Vec<_> = values.iter().map(String::as_bytes).collect();
        let redaction = redaction(&values);
        let whole = masked(&redaction, [text.as_bytes()]);
        prop_assert_eq!(&masked(&redaction, pieces(text.as_bytes(), &cuts)), &whole);
        for value in values {
            prop_assert!(!holds(&whole, value));
        }
    }
}
