//! The keys that leave a sandbox running: Ctrl-P, Ctrl-Q, as with Docker.

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// Looks for the keys in what is typed, whatever the pieces it comes in.
#[derive(Debug, Default)]
pub(super) struct DetachKeys {
    /// A Ctrl-P that is held back until it is clear what follows.
    held: bool,
}

impl DetachKeys {
    /// Takes a piece of input; gives what is to be passed on, and whether the keys were pressed.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut pass = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            if std::mem::take(&mut self.held) {
                if byte == CTRL_Q {
                    return (pass, true);
                }
                pass.push(CTRL_P);
            }
            if byte == CTRL_P {
                self.held = true;
            } else {
                pass.push(byte);
            }
        }
        (pass, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_and_nothing_else_is_lost() {
        let check = |typed: &[u8], expect: &[u8], left: bool| {
            for size in 1..=typed.len() {
                let mut keys = DetachKeys::default();
                let mut passed = Vec::new();
                let mut detached = false;
                for piece in typed.chunks(size) {
                    let (pass, now) = keys.filter(piece);
                    passed.extend(pass);
                    detached |= now;
                    if detached {
                        break;
                    }
                }
                assert_eq!((&passed[..], detached), (expect, left), "pieces of {size}");
            }
        };
        check(b"ls\r", b"ls\r", false);
        check(b"a\x10\x11", b"a", true);
        check(b"\x10b", b"\x10b", false);
        check(b"\x10\x10\x11", b"\x10", true);
        check(b"\x11\x11", b"\x11\x11", false);
    }
}
