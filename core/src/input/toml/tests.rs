//! The `toml` crate's judgement on the same texts.

use proptest::prelude::*;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::{DEPTH_LIMIT, Field, Node, Value};
use super::*;

/// A tree with the offsets of everything in it.
fn show(node: &Node, out: &mut String) {
    let at = node.at.unwrap();
    match &node.value {
        Value::List(items) => {
            *out += &format!("{at}[");
            items.iter().for_each(|item| show(item, out));
            *out += "]";
        }
        Value::Map(fields) => {
            *out += &format!("{at}{{");
            for Field { name, at, node, .. } in fields {
                *out += &format!("{}{name:?}=", at.unwrap());
                show(node, out);
            }
            *out += "}";
        }
        value => *out += &format!("{at}{value:?} "),
    }
}

fn show_oracle(value: &Spanned<DeValue<'_>>, out: &mut String) {
    let at = value.span().start;
    match value.get_ref() {
        DeValue::Array(items) => {
            *out += &format!("{at}[");
            items.iter().for_each(|item| show_oracle(item, out));
            *out += "]";
        }
        DeValue::Table(table) => show_oracle_table(table, at, out),
        DeValue::String(text) => *out += &format!("{at}{:?} ", Value::Text(text.to_string())),
        DeValue::Boolean(value) => *out += &format!("{at}{:?} ", Value::Bool(*value)),
        DeValue::Integer(number) => {
            let number = u32::from_str_radix(number.as_str(), number.radix()).ok();
            *out += &format!("{at}{:?} ", Value::Number(number));
        }
        DeValue::Float(_) => *out += &format!("{at}{:?} ", Value::Number(None)),
        DeValue::Datetime(_) => *out += &format!("{at}{:?} ", Value::Other("a date")),
    }
}

fn show_oracle_table(table: &DeTable<'_>, at: usize, out: &mut String) {
    let mut fields: Vec<_> = table.iter().collect();
    fields.sort_by_key(|(name, _)| name.span().start);
    *out += &format!("{at}{{");
    for (name, value) in fields {
        *out += &format!("{}{:?}=", name.span().start, name.get_ref());
        show_oracle(value, out);
    }
    *out += "}";
}

/// Our words for a message of the oracle's.
fn in_our_words(message: &str) -> String {
    let mut message = message.replace(", expected nothing", "");
    for (theirs, ours) in [
        ("value of type inline table", "an inline table"),
        ("value of type string", "a text"),
        ("value of type integer", "a number"),
        ("value of type float", "a number"),
        ("value of type boolean", "true or false"),
        ("value of type datetime", "a date"),
        ("value of type array", "a list"),
        ("value of type table", "a map"),
    ] {
        message = message.replace(theirs, ours);
    }
    format!("not TOML: {message}")
}

/// Both accept the text and see the same tree, or both refuse it at the same place in the same words.
/// Says which.
fn same(text: &str) -> Result<bool, String> {
    match (super::read(text), DeTable::parse(text)) {
        (Ok(node), Ok(table)) => {
            let (mut ours, mut theirs) = (String::new(), String::new());
            show(&node, &mut ours);
            show_oracle_table(table.get_ref(), 0, &mut theirs);
            match ours == theirs {
                true => Ok(true),
                false => Err(format!("{ours}\nis not\n{theirs}")),
            }
        }
        // Dates are not looked into here.
        (_, Err(error)) if error.message().starts_with("invalid date") => Ok(false),
        (_, Err(error)) if error.message().starts_with("invalid time") => Ok(false),
        (_, Err(error)) if error.message().starts_with("invalid offset") => Ok(false),
        (Err(ours), Err(error)) => {
            let at = error.span().map(|span| position(text, span.start));
            let theirs = (at, in_our_words(error.message()));
            match ours.position == theirs.0 && ours.message == theirs.1 {
                true => Ok(false),
                // `{ a = {}, a.b = 1 }` is a duplicate key to the oracle.
                false if theirs.1.ends_with("duplicate key") && ours.position == at => Ok(false),
                false => Err(format!(
                    "{:?} {}\nis not\n{theirs:?}",
                    ours.position, ours.message
                )),
            }
        }
        (Ok(node), Err(error)) => Err(format!("only {error} for {node:?}")),
        (Err(ours), Ok(_)) => Err(format!("only we refuse: {ours}")),
    }
}

#[test]
fn agrees_with_the_toml_crate_on_tables() {
    let check = |text: &str, accepted: bool| {
        assert_eq!(same(text), Ok(accepted), "{text}");
    };
    // Tables that stand twice, and what a header may still begin.
    check("[a]\n[a]", false);
    check("[a]\n[b]\n[a]", false);
    check("[a.b]\n[a]\nc = 1", true);
    check("[a.b]\n[x]\n[a]\nc = 1\n[a.d]", true);
    check("[a.b]\n[a]\n[a]", false);
    check("[a.b]\n[a]\nb = 1", false);
    check("[a.b]\n[a]\nb.c = 1", false);
    check("[a.b.c]\n[a]\nb.d = 1", true);
    check("[a.b.c]\n[a]\nb.d = 1\n[a.b]", false);
    check("[a.b.c]\n[a]\nb.c = 1", false);
    check("[a.b.c]\n[a]\nb.c.d = 1", false);
    check("a = 1\n[a]", false);
    check("a = 1\n[a.b]", false);
    check("a = 1.5\n[a.b]", false);
    check("a = true\n[a.b]", false);
    check("a = 'x'\n[a.b]", false);
    check("a = 1979-05-27\n[a.b]", false);
    check("[a]\nb = 1\n[a.b]", false);
    check("[a]\nb = 1\n[a.b.c]", false);
    check("[a]\n[a.b]\n[a.c]\n[d]\n[a.e]", true);
    check("[a]\nb = 1\nb = 2", false);
    check("a = 1\n\"a\" = 2", false);
    check("a = 1\n\"\\u0061\" = 2", false);
    check("'' = 1\n\"\" = 2", false);
    check("[\"\"]\na = 1\n[\"\".b]", true);
    // Dotted keys.
    check("a.b = 1\na.c = 2", true);
    check("a.b = 1\na.b = 2", false);
    check("a.b = 1\na = 2", false);
    check("a = 1\na.b = 2", false);
    check("a.b = 1\na.b.c = 2", false);
    check("a.b.c = 1\na.b.d = 2\na.e = 3", true);
    check("a.b = 1\n[a]", false);
    check("a.b = 1\n[a.c]", true);
    check("a.b = 1\n[a.b]", false);
    check("a.b.c = 1\n[a.b]", false);
    check("a.b.c = 1\n[a.b.d]", true);
    check("[a]\nb.c = 1\n[a.b]", false);
    check("[a]\nb.c = 1\n[a.b.d]", true);
    check("[a.b]\nc = 1\n[a]\nb.d = 2", false);
    check("a . b = 1\na. 'b' = 2", false);
    check("1.2 = 3\n1.3 = 4", true);
    // Inline tables are whole.
    check("a = {}\n[a]", false);
    check("a = {}\n[a.b]", false);
    check("a = { b = 1 }\na.c = 2", false);
    check("a = { b = {} }\n[a.b.c]", false);
    check("a = { b.c = 1, b.d = 2 }", true);
    check("a = { b.c = 1, b = 2 }", false);
    check("a = { b = 1, b.c = 2 }", false);
    check("a = { b = {}, b.c = 2 }", false);
    check("a = { b = [], b.c = 2 }", false);
    check("a = { b = { c = 1, c = 2 }, b = 3 }", false);
    check("a = { b = 1, b = 2 }", false);
    check("a = { b.c = { d = 1 }, b.c.e = 2 }", false);
    check("a = { b = 1,\n c = 2, # x\n}", true);
    check("a = { b.c = 1 }\na.b.d = 2", false);
    // Lists.
    check("a = []\n[[a]]", false);
    check("a = [{}]\n[[a]]", false);
    check("a = [{}]\n[a.b]", false);
    check("a = [{}]\na.b = 1", false);
    check("a = [1, 'x', [], {}, 1.5, true,]", true);
    // Lists of tables.
    check("[[a]]\n[[a]]\nb = 1", true);
    check("[[a]]\nb = 1\nb = 2\n[[a]]", false);
    check("[[a]]\n[a]", false);
    check("[a]\n[[a]]", false);
    check("[a]\nb = 1\nb = 2\n[[a]]", false);
    check("[a.b]\n[[a]]", false);
    check("[[a.b]]\n[[a]]", false);
    check("[[a.b]]\n[a]", true);
    check("[[a.b]]\n[a]\nb.c = 1", false);
    check("[[a.b]]\n[a]\nb.c.d = 1", true);
    check("[[a]]\n[a.b]\n[[a]]\n[a.b]\nc = 1", true);
    check("[[a]]\n[a.b]\n[a.b]", false);
    check("[[a]]\n[[a.b]]\n[[a.b]]\n[a.b.c]\n[[a]]\n[[a.b]]", true);
    check("a.b = 1\n[[a]]", false);
    check("a.b = 1\n[[a.b]]", false);
    check("a.b = 1\n[[a.c]]", true);
    check("a = 1\n[[a]]\nb = 1\nb = 2", false);
    check("a = 1\n[[a.b]]\nb = 1", false);
    check("[[a]]\n[[b]]\n[[a]]\n[a.c]", true);
    // An error in the syntax further down goes before one in the tables.
    check("[a]\n[a]\nb =", false);
    check("a = 1\na = 2\n[", false);
}

#[test]
fn agrees_with_the_toml_crate_on_words() {
    let check = |text: &str, accepted: bool| {
        assert_eq!(same(text), Ok(accepted), "{text}");
    };
    check("", true);
    check("\u{feff}a = 1", true);
    check("a = 1\r\nb = 2\r\n", true);
    check("a = 1 # \u{7f}", false);
    check("a = 1 # \r\n", true);
    check("a = 1 # \u{1}\n", false);
    check("a = 1\rb = 2", false);
    check("# é\na = \"é\\u00e9\\U0001F600\\x41\\e\"", true);
    check("a = \"\\ud800\"", false);
    check("a = \"\\q\"", false);
    check("a = \"\u{1}\"", false);
    check("a = \"x\ny\"", false);
    check("a = 'x", false);
    check("a = \"\"\"\nx \\\n   y\"\"\"\"", true);
    check("a = '''\nx''y'''", true);
    check("'''a''' = 1", false);
    check("\"\"\"a\"\"\" = 1", false);
    check("a b = 1", false);
    check("= 1", false);
    check("a", false);
    check("a =", false);
    check("a = b", false);
    check("a == 1", false);
    check("a = 1 b = 2", false);
    check("a = 1, b = 2", false);
    check(".a = 1", false);
    check("a. = 1", false);
    check("a..b = 1", false);
    check("é = 1", false);
    check("[a", false);
    check("[a]]", false);
    check("[[a]", false);
    check("[ a . b ]", true);
    check("[]", false);
    check("[[]]", false);
    check("[a] b = 1", false);
    check("]", false);
    check("a = [1 2]", false);
    check("a = [1,,2]", false);
    check("a = [", false);
    check("a = ]", false);
    check("a = {", false);
    check("a = }", false);
    check("a = { b }", false);
    check("a = { b = }", false);
    check("a = { , }", false);
    check("a = { b = 1 c = 2 }", false);
    check("a = { [b] }", false);
    check("a = [ } ]", false);
    check("a = { ] }", false);
    check(
        "a = +1\nb = -1\nc = 1_000\nd = 0xff\ne = 0o17\nf = 0b11\ng = 4294967296",
        true,
    );
    check("a = 01", false);
    check("a = 1__0", false);
    check("a = 0xg", false);
    check("a = +0x1", false);
    check("a = 99999999999999999999999999", true);
    check("a = 1e5\nb = inf\nc = -nan\nd = 1.5e-3", true);
    check("a = 1.", false);
    check("a = .5", false);
    check("a = True", false);
    check(
        "a = 1979-05-27T07:32:00Z\nb = 07:32\nc = 1979-05-27 07:32:00",
        true,
    );
}

#[test]
fn limits_depth_and_keys() {
    let check = |text: String, expect: Result<(), &str>| {
        let got = super::read(&text).map(drop).map_err(|e| e.to_string());
        assert_eq!(got, expect.map_err(str::to_owned), "{text:.80}");
    };
    let nested = |count: usize| format!("a = {}{}", "[".repeat(count), "]".repeat(count));
    check(nested(DEPTH_LIMIT), Ok(()));
    let deep = "1:37: nested deeper than 32";
    check(nested(DEPTH_LIMIT + 1), Err(deep));
    check(nested(100_000), Err(deep));
    let table = |count: usize| format!("[{}]\n", vec!["a"; count].join("."));
    let dotted = |count: usize| format!("{} = 1\n", vec!["a"; count].join("."));
    check(table(DEPTH_LIMIT), Ok(()));
    check(dotted(DEPTH_LIMIT), Ok(()));
    check(table(20) + &dotted(12), Ok(()));
    check(table(20) + &dotted(13), Err("2:25: nested deeper than 32"));
    check(table(100_000), Err("1:66: nested deeper than 32"));
    check(dotted(100_000), Err("1:65: nested deeper than 32"));
    check(
        format!("a = {}1{}", "{a.b = ".repeat(17), "}".repeat(17)),
        Err("1:113: nested deeper than 32"),
    );
    let steps = |count: usize| "[[step]]\na = 1\n".repeat(count);
    check(steps(100_000), Ok(()));
    let keys = |count: usize| (0..count).map(|i| format!("k{i} = 1\n")).collect();
    check(keys(10_000), Ok(()));
    check(keys(60_000), Err("11586:1: too many keys in a table"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Lines as they may stand in a file, in any order.
    #[test]
    fn agrees_with_the_toml_crate_on_lines(lines in proptest::collection::vec(line(), 0..8)) {
        let text = lines.join("\n");
        prop_assert!(same(&text).is_ok(), "{}\n{}", text, same(&text).unwrap_err());
    }

    /// Signs in any order.
    #[test]
    fn agrees_with_the_toml_crate_on_signs(signs in proptest::collection::vec(sign(), 0..16)) {
        let text: String = signs.concat();
        prop_assert!(same(&text).is_ok(), "{}\n{}", text, same(&text).unwrap_err());
    }
}

fn key() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["[abc]", Just("\"a\"".to_owned())], 1..4)
        .prop_map(|parts| parts.join("."))
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[0-9]{1,2}",
        Just("'x'".to_owned()),
        Just("true".to_owned())
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let pair = (key(), inner.clone()).prop_map(|(key, value)| format!("{key} = {value}"));
        prop_oneof![
            proptest::collection::vec(inner, 0..4)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            proptest::collection::vec(pair, 0..4)
                .prop_map(|items| format!("{{{}}}", items.join(", "))),
        ]
    })
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (key(), value()).prop_map(|(key, value)| format!("{key} = {value}")),
        3 => key().prop_map(|key| format!("[{key}]")),
        2 => key().prop_map(|key| format!("[[{key}]]")),
    ]
}

fn sign() -> impl Strategy<Value = String> {
    let signs = [
        "[", "]", "[[", "]]", "{", "}", "=", ".", ",", "\n", " ", "#", "'", "\"", "'''", "\"\"\"",
        "\\", "\r", "\t", "\u{1}", "é",
    ];
    prop_oneof![
        4 => proptest::sample::select(signs.to_vec()).prop_map(str::to_owned),
        2 => "[ab]",
        2 => key().prop_map(|key| format!("{key} = ")),
        1 => value(),
        1 => line().prop_map(|line| format!("{line}\n")),
        1 => "[+-]?[0-9_.eExobn:TZ-]{1,6}",
    ]
}
