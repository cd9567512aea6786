//! Whether the terminal is dark or light, asked of the terminal itself (OSC 11).
//!
//! Nothing waits for the answer: it comes among the keys, when it comes, and is picked out of them.
//! Crates that ask, such as `terminal-colorsaurus`, read the terminal themselves until it has answered
//! or a time is over, which would hold up the first frame and take keys that are typed meanwhile.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::theme::Tone;

/// What is written to ask. Terminals end their answer as the question ends; those that do not know it
/// leave it out.
pub(super) const QUESTION: &str = "\x1b]11;?\x07";

/// How every answer begins, as the keys that it looks like.
const BEGIN: &str = "]11;rgb";
/// Characters of the longest answer.
const LONGEST: usize = 40;

/// Picks the answer out of what is typed.
#[derive(Debug, Default)]
pub(super) struct Answer {
    asked: bool,
    /// Keys that are an answer so far, and its text.
    held: Vec<KeyEvent>,
    text: String,
    /// Whether the last key was an `esc` that the answer's first byte may have been.
    escaped: bool,
}

/// What came of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It belongs to an answer that is not whole yet.
    Held,
    /// These were typed.
    Keys(Vec<KeyEvent>),
    /// The terminal is so, as far as its answer can be read.
    Answered(Option<Tone>),
}

/// Whether it can be asked at all: the console of Linux would print the question.
pub(super) fn can_answer(term: Option<&str>) -> bool {
    !matches!(term, None | Some("" | "dumb" | "linux"))
}

impl Answer {
    /// The question was asked, and an answer may come.
    pub(super) fn asked(&mut self) {
        self.asked = true;
    }

    /// Whether it may still come.
    pub(super) fn is_awaited(&self) -> bool {
        self.asked
    }

    /// Takes a key.
    pub(super) fn take(&mut self, key: KeyEvent) -> Taken {
        if !self.asked {
            return Taken::Keys(vec![key]);
        }
        let plain = (key.modifiers - KeyModifiers::SHIFT).is_empty();
        let alt = key.modifiers == KeyModifiers::ALT;
        let escaped = std::mem::replace(&mut self.escaped, key.code == KeyCode::Esc);
        if self.held.is_empty() {
            // Alt and a key are an escape and that key, which may also come one by one.
            if key.code == KeyCode::Char(']') && (alt || (plain && escaped)) {
                self.held.push(key);
                self.text.push(']');
                return Taken::Held;
            }
            return Taken::Keys(vec![key]);
        }
        let known = self.text.len() >= BEGIN.len();
        let end = match key.code {
            KeyCode::Char('g') => key.modifiers == KeyModifiers::CONTROL,
            KeyCode::Char('\\') => alt || (plain && escaped),
            _ => false,
        };
        if known && end {
            let tone = tone(&self.text);
            self.forget();
            self.asked = false;
            return Taken::Answered(tone);
        }
        if known && key.code == KeyCode::Esc {
            return Taken::Held;
        }
        if let (true, KeyCode::Char(c)) = (plain, key.code) {
            self.text.push(c);
            let fits = match self.text.len() <= BEGIN.len() {
                true => BEGIN.starts_with(&self.text),
                false => c.is_ascii_hexdigit() || matches!(c, 'a' | ':' | '/'),
            };
            if fits && self.text.len() <= LONGEST {
                self.held.push(key);
                return Taken::Held;
            }
        }
        // It was no answer after all. Nobody types half of one; what broke off is not obeyed as keys.
        let mut keys = std::mem::take(&mut self.held);
        if known {
            keys.clear();
        }
        keys.push(key);
        self.forget();
        Taken::Keys(keys)
    }

    fn forget(&mut self) {
        self.held.clear();
        self.text.clear();
        self.escaped = false;
    }
}

/// The tone of an answer such as `]11;rgb:ffff/ffff/dddd`: each colour has one to four hex digits.
fn tone(answer: &str) -> Option<Tone> {
    let (_, colors) = answer.split_once(':')?;
    let mut shares = colors.split('/').map(|digits| {
        let most = 16_u32.checked_pow(u32::try_from(digits.len()).ok()?)? - 1;
        let value = u32::from_str_radix(digits, 16).ok()?;
        (most > 0).then(|| f64::from(value) / f64::from(most))
    });
    let mut next = || shares.next()?;
    let (red, green, blue) = (next()?, next()?, next()?);
    // How bright it looks (Rec. 709).
    let bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    Some(if bright > 0.5 {
        Tone::Light
    } else {
        Tone::Dark
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(c: char) -> KeyEvent {
        KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)
    }

    fn with(c: char, modifiers: KeyModifiers) -> KeyEvent {
        KeyEvent::new(KeyCode::Char(c), modifiers)
    }

    const ESC: KeyEvent = KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE);

    /// What is typed in the end, and what was answered.
    fn take(keys: &[KeyEvent]) -> (Vec<KeyEvent>, Option<Option<Tone>>) {
        let mut answer = Answer::default();
        answer.asked();
        let (mut typed, mut answered) = (Vec::new(), None);
        for key in keys {
            match answer.take(*key) {
                Taken::Held => {}
                Taken::Keys(keys) => typed.extend(keys),
                Taken::Answered(tone) => answered = Some(tone),
            }
        }
        (typed, answered)
    }

    fn whole(colors: &str) -> Vec<KeyEvent> {
        let mut keys = vec![with(']', KeyModifiers::ALT)];
        let text = format!("11;{colors}");
        keys.extend(text.chars().map(|c| match c.is_uppercase() {
            true => with(c, KeyModifiers::SHIFT),
            false => key(c),
        }));
        keys
    }

    const ST: KeyEvent = KeyEvent::new(KeyCode::Char('\\'), KeyModifiers::ALT);
    const BEL: KeyEvent = KeyEvent::new(KeyCode::Char('g'), KeyModifiers::CONTROL);

    #[test]
    fn an_answer_is_no_key() {
        let check = |colors: &str, expect: Option<Tone>| {
            for end in [&[ST][..], &[BEL], &[ESC, key('\\')]] {
                let keys = [vec![key('j')], whole(colors), end.to_vec(), vec![key('k')]];
                let expect = (vec![key('j'), key('k')], Some(expect));
                assert_eq!(take(&keys.concat()), expect, "{colors}");
            }
        };
        check("rgb:ffff/ffff/ffff", Some(Tone::Light));
        check("rgb:FDFD/F6F6/E3E3", Some(Tone::Light));
        check("rgb:0000/0000/0000", Some(Tone::Dark));
        check("rgb:00/2b/36", Some(Tone::Dark));
        check("rgba:ffff/ffff/ffff/ffff", Some(Tone::Light));
        check("rgb:f/f/f", Some(Tone::Light));
        check("rgb:", None);
        check("rgb://", None);
    }

    #[test]
    fn an_answer_that_comes_in_two_pieces_is_one() {
        let mut keys = vec![ESC];
        keys.extend(whole("rgb:ffff/ffff/ffff"));
        keys[1] = key(']');
        keys.push(ST);
        // The escape went through: it cannot be told from the key until more comes.
        assert_eq!(take(&keys), (vec![ESC], Some(Some(Tone::Light))));
    }

    #[test]
    fn what_is_typed_stays_typed() {
        let check = |keys: &[KeyEvent]| assert_eq!(take(keys), (keys.to_vec(), None));
        check(&[key(']'), key('1'), key('1')]);
        check(&[with(']', KeyModifiers::ALT), key('1'), key('2')]);
        check(&[with(']', KeyModifiers::ALT), ESC]);
        check(&[ESC, key(']'), BEL]);
        check(&[ESC, ESC, key('g')]);
        // Half an answer is left out, and what follows it is typed.
        let mut keys = whole("rgb:ffff/ff");
        keys.push(key('q'));
        assert_eq!(take(&keys), (vec![key('q')], None));
        let mut keys = whole(&format!("rgb:{}", "f".repeat(99)));
        keys.push(key('q'));
        assert!(take(&keys).0.ends_with(&[key('q')]));
    }

    #[test]
    fn without_a_question_there_is_no_answer() {
        let mut answer = Answer::default();
        let first = with(']', KeyModifiers::ALT);
        assert_eq!(answer.take(first), Taken::Keys(vec![first]));
    }
}
