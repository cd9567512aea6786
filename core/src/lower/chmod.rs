//! Permission bits of `COPY --chmod`, in octal or in the symbolic words of `chmod(1)`.

use std::str::FromStr;

/// A change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// These bits, at most `0o7777`, whatever they were.
    Bits(u32),
    /// Changes one after the other.
    Symbolic(Vec<Clause>),
}

/// One clause of a symbolic mode: `u+rwX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clause {
    /// Mask of the classes that it names: any of `0o700`, `0o070`, `0o007`.
    who: u32,
    op: Op,
    /// Permissions as the three bits `rwx`.
    bits: u32,
    /// `X`: execute for directories and for what anyone may execute already.
    execute_if_any: bool,
    /// `s`: set-user-ID and set-group-ID of the classes named.
    set_id: bool,
    /// `t`.
    sticky: bool,
    /// `u`, `g` or `o` on the right side: how far to shift the mode to find the bits to copy.
    copy: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Set,
}

/// A text that is not a mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a file mode: expected octal digits up to 7777 (`755`) or changes such as `u+x,go-w`"
)]
pub struct InvalidChmod(pub String);

impl Chmod {
    /// The bits that an entry with the bits `mode` gets.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Bits(bits) => *bits,
            Self::Symbolic(clauses) => clauses
                .iter()
                .fold(mode & 0o7777, |mode, clause| clause.apply(mode, is_dir)),
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let mut rwx = match self.copy {
            Some(shift) => (mode >> shift) & 7,
            None => self.bits,
        };
        if self.execute_if_any && (is_dir || mode & 0o111 != 0) {
            rwx |= 1;
        }
        let mut bits = (rwx << 6 | rwx << 3 | rwx) & self.who;
        let mut special = 0;
        if self.who & 0o700 != 0 {
            special |= 0o4000;
        }
        if self.who & 0o070 != 0 {
            special |= 0o2000;
        }
        if self.set_id {
            bits |= special;
        }
        if self.sticky {
            bits |= 0o1000;
        }
        match self.op {
            Op::Add => mode | bits,
            Op::Remove => mode & !bits,
            // Like chmod(1), `=` leaves the set-ID bits of a directory alone unless it names them.
            Op::Set if is_dir => mode & !self.who | bits,
            Op::Set => mode & !(self.who | special) | bits,
        }
    }
}

impl FromStr for Chmod {
    type Err = InvalidChmod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidChmod(text.to_owned());
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(bits) if bits <= 0o7777 => Ok(Self::Bits(bits)),
                _ => Err(invalid()),
            };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            let start = part.find(['+', '-', '=']).ok_or_else(invalid)?;
            let mut who = 0;
            for class in part[..start].chars() {
                who |= match class {
                    'u' => 0o700,
                    'g' => 0o070,
                    'o' => 0o007,
                    'a' => 0o777,
                    _ => return Err(invalid()),
                };
            }
            let who = if who == 0 { 0o777 } else { who };
            let mut rest = part[start..].chars().peekable();
            while let Some(op) = rest.next() {
                let op = match op {
                    '+' => Op::Add,
                    '-' => Op::Remove,
                    '=' => Op::Set,
                    _ => return Err(invalid()),
                };
                let mut clause = Clause {
                    who,
                    op,
                    bits: 0,
                    execute_if_any: false,
                    set_id: false,
                    sticky: false,
                    copy: None,
                };
                while let Some(word) = rest.next_if(|c| !matches!(c, '+' | '-' | '=')) {
                    match word {
                        'r' => clause.bits |= 4,
                        'w' => clause.bits |= 2,
                        'x' => clause.bits |= 1,
                        'X' => clause.execute_if_any = true,
                        's' => clause.set_id = true,
                        't' => clause.sticky = true,
                        'u' => clause.copy = Some(6),
                        'g' => clause.copy = Some(3),
                        'o' => clause.copy = Some(0),
                        _ => return Err(invalid()),
                    }
                }
                clauses.push(clause);
            }
        }
        Ok(Self::Symbolic(clauses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applies_modes() {
        let check = |text: &str, mode: u32, is_dir: bool, expect: Option<u32>| {
            let got = text.parse::<Chmod>().ok().map(|c| c.apply(mode, is_dir));
            assert_eq!(got, expect, "{text} on {mode:o}");
        };
        check("755", 0o644, false, Some(0o755));
        check("0755", 0o644, false, Some(0o755));
        check("4711", 0o644, false, Some(0o4711));
        check("u+x", 0o644, false, Some(0o744));
        check("+x", 0o644, false, Some(0o755));
        check("a-w", 0o666, false, Some(0o444));
        check("u=rwX,go=rX", 0o600, false, Some(0o644));
        check("u=rwX,go=rX", 0o700, true, Some(0o755));
        check("go-rwx", 0o755, false, Some(0o700));
        check("g=u", 0o640, false, Some(0o660));
        check("u+s", 0o755, false, Some(0o4755));
        check("g+s,o+t", 0o755, true, Some(0o3755));
        check("u=rw", 0o4755, false, Some(0o655));
        check("u+w-x", 0o555, false, Some(0o655));
        for bad in ["", "8", "10000", "u", "u+y", "z+x", "u+x,,", "0x1"] {
            check(bad, 0, false, None);
        }
    }
}
