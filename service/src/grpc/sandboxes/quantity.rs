//! Quantities as Kubernetes writes them: `500m`, `2`, `4Gi`, `1e9`.

/// What the suffixes stand for.
const SUFFIXES: [(&str, f64); 13] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

/// The number that a quantity means; `None` when it means none above 0.
pub(super) fn parse(text: &str) -> Option<f64> {
    let suffix = SUFFIXES.iter().find(|(suffix, _)| text.ends_with(suffix));
    let (number, factor) = match suffix {
        Some((suffix, factor)) => (text.strip_suffix(suffix)?, *factor),
        None => (text, 1.0),
    };
    let digits =
        |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'+' | b'-' | b'e' | b'E');
    if !number.bytes().all(digits) {
        return None;
    }
    let value = number.parse::<f64>().ok()? * factor;
    (value.is_finite() && value > 0.0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let check = |text: &str, expect: Option<f64>| assert_eq!(parse(text), expect, "{text:?}");
        check("500m", Some(0.5));
        check("2", Some(2.0));
        check("0.1", Some(0.1));
        check("4Gi", Some(4_294_967_296.0));
        check("512Mi", Some(536_870_912.0));
        check("1k", Some(1000.0));
        check("1e9", Some(1e9));
        check("1.5G", Some(1.5e9));
        check("2E", Some(2e18));
        for wrong in [
            "", "0", "-1", "Gi", "1 Gi", "1gi", "inf", "NaN", "1e999", "x",
        ] {
            check(wrong, None);
        }
    }
}
