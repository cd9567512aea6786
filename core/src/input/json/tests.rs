//! serde_json's judgement on the same texts.

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::*;

/// A map in order, with repeated names.
struct Pairs<'t>(Vec<(String, &'t RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

/// What serde_json makes of a text, with the offsets of all values.
fn oracle(text: &str, raw: &RawValue) -> serde_json::Result<Node> {
    let raw = raw.get();
    let at = raw.as_ptr().addr() - text.as_ptr().addr();
    let value = match raw.as_bytes()[0] {
        b'"' => Value::Text(serde_json::from_str(raw)?),
        b't' => Value::Bool(true),
        b'f' => Value::Bool(false),
        b'n' => Value::Other("null"),
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(raw)?;
            let nodes = items.into_iter().map(|item| oracle(text, item));
            Value::List(nodes.collect::<Result<_, _>>()?)
        }
        b'{' => {
            let pairs: Pairs<'_> = serde_json::from_str(raw)?;
            let fields = pairs.0.into_iter().map(|(name, value)| {
                let node = oracle(text, value)?;
                Ok(Field::new(name, None, node))
            });
            Value::Map(fields.collect::<Result<_, _>>()?)
        }
        _ => Value::Number(raw.parse().ok()),
    };
    Ok(Node::new(Some(at), value))
}

/// Takes the offsets of names away, which the oracle does not know, when they are right.
fn without_names(node: &mut Node, text: &str) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| without_names(item, text)),
        Value::Map(fields) => {
            for field in fields {
                let mut names = serde_json::Deserializer::from_str(&text[field.at.unwrap()..])
                    .into_iter::<String>();
                assert_eq!(names.next().unwrap().unwrap(), field.name);
                field.at = None;
                without_names(&mut field.node, text);
            }
        }
        _ => {}
    }
}

/// Both accept the text and see the same tree, or both refuse it. Says which.
fn same(text: &str) -> bool {
    let theirs = serde_json::from_str(text).and_then(|raw| oracle(text, raw));
    match (read(text), theirs) {
        (Ok(mut ours), Ok(theirs)) => {
            without_names(&mut ours, text);
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{text}");
            true
        }
        (Err(_), Err(_)) => false,
        (ours, theirs) => panic!("{text}: {ours:?} is not {theirs:?}"),
    }
}

#[test]
fn agrees_with_serde_json() {
    for text in [
        "1",
        " [ ] \r\n",
        "{}",
        r#"{"a": 1, "a": {"": [null, true, false, "é\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t"]}}"#,
        r#"{"\u0061": 1}"#,
        "\"\u{7f}\u{2028}\"",
        "[0, -0, 1.0, 1e2, 1E+2, -1.5e-3, 4294967295, 4294967296, 123456789012345678901234567890]",
    ] {
        assert!(same(text), "{text}");
    }
    for text in [
        "",
        " ",
        "[",
        "]",
        "{",
        "}",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\" 1}",
        "{\"a\":1,}",
        "{,}",
        "{1:2}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1 \"b\":2}",
        "1 2",
        "[] []",
        "{} x",
        "tru",
        "nul",
        "True",
        "NaN",
        "Infinity",
        "-",
        "+1",
        "01",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x1",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\ud800\"",
        "\"\\ud800x\"",
        "\"\n\"",
        "\"\u{1}\"",
        "// x\n1",
        "/* */1",
        "[1]\u{a0}",
        "\u{feff}{}",
        "\u{feff}",
        "[\u{c}]",
        "é",
    ] {
        assert!(!same(text), "{text}");
    }
}

#[test]
fn says_what_is_wrong_and_where() {
    let check = |text: &str, expect: &str| {
        assert_eq!(read(text).unwrap_err().to_string(), expect, "{text}");
    };
    check("", "1:1: not JSON: expected a value, but the text ends");
    check("[1,\n é]", "2:2: not JSON: expected a value");
    check(
        "[1",
        "1:3: not JSON: expected `,` or `]`, but the text ends",
    );
    check("[1,]", "1:4: not JSON: expected a value");
    check("{\"é\" 1}", "1:6: not JSON: expected `:`");
    check("{\"é\":}", "1:6: not JSON: expected a value");
    check("{\"é\": 1 2}", "1:9: not JSON: expected `,` or `}`");
    check("{\"é\": 1,}", "1:9: not JSON: key must be a string");
    check("{1: 2}", "1:2: not JSON: key must be a string");
    check("[1] 2", "1:5: not JSON: expected the end after the value");
    check("[1, \"é\\\"", "1:5: not JSON: the string does not end");
    check("[\"é\\q\"]", "1:4: not JSON: no such escape");
    check("[\"é\\u12é4\"]", "1:4: not JSON: no such escape");
    check(
        "[\"é\n\"]",
        "1:4: not JSON: control characters in a string need an escape",
    );
    check("[\"é\\ud800\"]", "1:4: not JSON: a surrogate stands alone");
    check(
        "[\"é\\udc00\\ud800\"]",
        "1:4: not JSON: a surrogate stands alone",
    );
    check("[01]", "1:3: not JSON: expected `,` or `]`");
    check("[1.e1]", "1:4: not JSON: expected a digit");
    check("-", "1:2: not JSON: expected a digit, but the text ends");
    let nested = |count: usize| format!("{}{}", "[".repeat(count), "]".repeat(count));
    assert!(read(&nested(DEPTH_LIMIT + 1)).is_ok());
    check(&nested(DEPTH_LIMIT + 2), "1:34: nested deeper than 32");
    check(&"[{\"a\":".repeat(100_000), "1:98: nested deeper than 32");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn agrees_with_serde_json_on_signs(signs in proptest::collection::vec(sign(), 0..12)) {
        same(&signs.concat());
    }
}

proptest! {
    #[test]
    fn agrees_with_serde_json_on_documents(text in document()) {
        prop_assert!(same(&text), "{}", text);
    }
}

fn document() -> impl Strategy<Value = String> {
    let string = any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap());
    let number = "-?(0|[1-9][0-9]{0,10})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?";
    let leaf = prop_oneof![
        string.clone(),
        number,
        "true|false|null",
        "\"(a|\\\\u[0-9abefABEF]{4}|\\\\ud83d\\\\ude0[0-9a-f]|\\\\[bfnrt/])*\"",
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        let item = ("[ \n\r\t]{0,2}", inner, "[ \n\r\t]{0,2}")
            .prop_map(|(before, value, after)| before + &value + &after);
        let pair = (string.clone(), item.clone()).prop_map(|(name, value)| name + ":" + &value);
        prop_oneof![
            proptest::collection::vec(item, 0..5).prop_map(|i| format!("[{}]", i.join(","))),
            proptest::collection::vec(pair, 0..5).prop_map(|i| format!("{{{}}}", i.join(", "))),
        ]
    })
}

fn sign() -> impl Strategy<Value = String> {
    let signs = [
        "[", "]", "{", "}", ":", ",", " ", "\n", "\"", "\\", "\\u", "d800", "dc00", "true",
        "false", "null", "\"a\":", "\"a\"", "é", "\u{1}", "[1, ", "{\"b\": ", "]}",
    ];
    prop_oneof![
        4 => proptest::sample::select(signs.to_vec()).prop_map(str::to_owned),
        1 => "-?[0-9.eE+-]{1,5}",
        1 => "[a-z0-9\\\\/\"]{0,3}",
    ]
}
