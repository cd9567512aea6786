//! Ways to read the output of a step: as it is, without blanks and line ends, with percent-encoding
//! undone (RFC 3986, section 2.1), and with the escapes of JSON (RFC 8259, section 7) and of most
//! languages undone. Each turns bytes into bytes one by one and knows where they came from.

use super::forms::is_blank;

/// How output is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// As it is.
    Plain,
    /// Without blanks and line ends.
    Joined,
    /// `%41` and `+` are `A` and a blank.
    Percent,
    /// `\n`, `\"`, `\u0041`, `\x41`.
    Escaped,
}

/// An encoded byte that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Begun {
    /// Where.
    start: u64,
    /// What of it is known.
    value: u32,
    /// Hexadecimal digits that are still to come; none after a lone `\`.
    digits: u8,
    /// Whether it is `\u`.
    wide: bool,
}

/// Undoes an encoding.
#[derive(Debug)]
pub(super) struct Decoder {
    reading: Reading,
    begun: Option<Begun>,
    /// First half of a character beyond U+FFFF, and where it began.
    half: Option<(u64, u32)>,
}

/// Takes a byte and where the first and the byte after the last that it was made of stand.
pub(super) type Take<'a> = &'a mut dyn FnMut(u8, u64, u64);

impl Decoder {
    pub(super) fn new(reading: Reading) -> Self {
        Self {
            reading,
            begun: None,
            half: None,
        }
    }

    /// Whether a byte means another one than itself, or may.
    pub(super) fn begins(&self, byte: u8) -> bool {
        match self.reading {
            Reading::Plain => false,
            Reading::Joined => is_blank(byte),
            Reading::Percent => matches!(byte, b'%' | b'+'),
            Reading::Escaped => byte == b'\\',
        }
    }

    /// Where something began that has not ended.
    pub(super) fn pending(&self) -> Option<u64> {
        let half = self.half.map(|(start, _)| start);
        half.or(self.begun.map(|begun| begun.start))
    }

    /// Takes the byte at `at`.
    pub(super) fn push(&mut self, byte: u8, at: u64, take: Take<'_>) {
        match self.reading {
            Reading::Joined if is_blank(byte) => {}
            Reading::Plain | Reading::Joined => take(byte, at, at + 1),
            Reading::Percent => self.percent(byte, at, take),
            Reading::Escaped => self.escaped(byte, at, take),
        }
    }

    fn percent(&mut self, byte: u8, at: u64, take: Take<'_>) {
        let Some(begun) = self.begun.take() else {
            match byte {
                b'%' => self.begin(at, 2, false),
                b'+' => take(b' ', at, at + 1),
                byte => take(byte, at, at + 1),
            }
            return;
        };
        match (hex_digit(byte), begun.digits) {
            (Some(digit), 1) => {
                let value = begun.value << 4 | digit;
                take(value.to_be_bytes()[3], begun.start, at + 1);
            }
            (Some(_), _) => self.digit(begun, byte),
            (None, _) => {
                // It was no code.
                take(b'%', begun.start, begun.start + 1);
                if begun.digits == 1 {
                    let first = b"0123456789ABCDEF"[begun.value as usize & 15];
                    take(first, begun.start + 1, at);
                }
                self.percent(byte, at, take);
            }
        }
    }

    fn escaped(&mut self, byte: u8, at: u64, take: Take<'_>) {
        let Some(begun) = self.begun.take() else {
            if byte == b'\\' {
                self.begin(at, 0, false);
            } else {
                self.half = None;
                take(byte, at, at + 1);
            }
            return;
        };
        if begun.digits == 0 {
            let control = match byte {
                b'u' => return self.begin(begun.start, 4, true),
                b'x' => return self.begin(begun.start, 2, false),
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'b' => 8,
                b'f' => 12,
                byte => byte,
            };
            self.half = None;
            return take(control, begun.start, at + 1);
        }
        match (hex_digit(byte), begun.digits) {
            (Some(digit), 1) => {
                let value = begun.value << 4 | digit;
                match begun.wide {
                    true => self.unit(value, begun.start, at + 1, take),
                    false => take(value.to_be_bytes()[3], begun.start, at + 1),
                }
            }
            (Some(_), _) => self.digit(begun, byte),
            // It was no code, and what it was is seen by the other readings.
            (None, _) => {
                self.half = None;
                self.escaped(byte, at, take);
            }
        }
    }

    fn begin(&mut self, start: u64, digits: u8, wide: bool) {
        self.begun = Some(Begun {
            start,
            value: 0,
            digits,
            wide,
        });
    }

    fn digit(&mut self, begun: Begun, byte: u8) {
        self.begun = Some(Begun {
            value: begun.value << 4 | hex_digit(byte).unwrap_or_default(),
            digits: begun.digits - 1,
            ..begun
        });
    }

    /// Takes a UTF-16 unit.
    fn unit(&mut self, unit: u32, start: u64, end: u64, take: Take<'_>) {
        if (0xD800..0xDC00).contains(&unit) {
            self.half = Some((start, unit));
            return;
        }
        let half = self.half.take();
        let (code, start) = match half {
            Some((start, high)) if (0xDC00..0xE000).contains(&unit) => {
                let code = 0x10000 + ((high - 0xD800) << 10) + (unit - 0xDC00);
                (code, start)
            }
            _ => (unit, start),
        };
        let code = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        for byte in code.encode_utf8(&mut [0; 4]).bytes() {
            take(byte, start, end);
        }
    }
}

fn hex_digit(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reading: Reading, text: &str) -> String {
        let mut decoder = Decoder::new(reading);
        let mut out = Vec::new();
        for (at, byte) in text.bytes().enumerate() {
            let at = at as u64;
            decoder.push(byte, at, &mut |byte, start, end| {
                assert!(start <= at && end <= at + 1);
                out.push(byte);
            });
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn readings() {
        let check = |reading, text: &str, expect: &str| {
            assert_eq!(read(reading, text), expect, "{reading:?} of {text}");
        };
        check(Reading::Plain, "a%41\\n b", "a%41\\n b");
        check(Reading::Joined, "a b\r\n\tc", "abc");
        check(Reading::Percent, "a%41%4a+%c3%bc", "aAJ ü");
        check(Reading::Percent, "100% %zz %4z%%41", "100% %zz %4z%A");
        check(Reading::Escaped, r#"a\"\\\/\n\u0041\x42\'"#, "a\"\\/\nAB'");
        check(Reading::Escaped, r"\u00fc\ud83d\ude00", "ü😀");
        check(
            Reading::Escaped,
            r"\ud83dx\u12x",
            "x\u{fffd}x".replace('\u{fffd}', "").as_str(),
        );
    }
}
