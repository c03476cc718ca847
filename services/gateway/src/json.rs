//! A strict look through JSON text without building anything: what the rest of the system could
//! not store or read alike everywhere is refused here, at the gate.

use std::borrow::Cow;
use std::collections::HashSet;

/// Numbers may not be written with more characters: PostgreSQL's `numeric` has its limits too.
const MAX_NUMBER_CHARS: usize = 1_000;
/// From so many keys on, an object's keys are looked up in a hash set.
const FEW_KEYS: usize = 16;
/// Nesting of most events, with room for more.
const USUAL_DEPTH: usize = 8;
/// Fields of most events, with room for more.
const USUAL_FIELDS: usize = 12;
/// Keys of most events, with room for more.
const USUAL_KEYS: usize = 32;
/// Names under which our JSON library passes its own values around.
const RESERVED: &str = "$serde_json::private::";

/// Why the text is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// Not JSON.
    Syntax,
    /// A key stands twice in one object.
    DuplicateKey(String),
    /// `\ud800` to `\udfff` without its other half.
    LoneSurrogate,
    /// `\u0000`, which PostgreSQL cannot store.
    Nul,
    /// An integer beyond 64 bits, or another number beyond a double.
    Number,
    /// Nested more deeply than allowed.
    TooDeep,
    /// A key that means something to our JSON library.
    ReservedKey,
}

/// What is wrong, and in which field of the outermost object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Why.
    pub kind: FaultKind,
    /// The key of the outermost object whose value is at fault; `None` outside of any.
    pub field: Option<String>,
}

/// The fields of an object, in order: each name, and its value's JSON.
pub type Fields<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// Checks one JSON value that may nest `max_depth` objects and arrays in each other. Gives the fields
/// of the outermost object; none of what is no object.
pub fn check(text: &str, max_depth: usize) -> Result<Fields<'_>, Fault> {
    let mut scan = Scan {
        text,
        bytes: text.as_bytes(),
        at: 0,
        max_depth,
        open: Vec::with_capacity(USUAL_DEPTH),
        keys: Vec::with_capacity(USUAL_KEYS),
        field: None,
        fields: Vec::with_capacity(USUAL_FIELDS),
    };
    match scan.run() {
        Ok(()) => Ok(scan.fields),
        Err(kind) => Err(Fault {
            kind,
            field: scan.field.map(|(name, _)| name.into_owned()),
        }),
    }
}

enum Open<'a> {
    Array,
    /// Its keys are the scan's from this one on, as long as they are few; then they are looked up.
    Object(usize, HashSet<Cow<'a, str>>),
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    max_depth: usize,
    open: Vec<Open<'a>>,
    /// Keys of the open objects that have few, of inner ones behind those of outer ones.
    keys: Vec<Cow<'a, str>>,
    /// The field of the outermost object that is being read, and where its value begins.
    field: Option<(Cow<'a, str>, usize)>,
    /// Those that have been read.
    fields: Fields<'a>,
}

impl<'a> Scan<'a> {
    /// One value, then the end. Nesting is on a stack of our own, so depth costs no thread's stack.
    fn run(&mut self) -> Result<(), FaultKind> {
        loop {
            // Here a value begins.
            self.blanks();
            let opened = match self.peek() {
                Some(b'{') => {
                    self.push(Open::Object(self.keys.len(), HashSet::new()))?;
                    self.blanks();
                    if self.take(b'}') {
                        self.close();
                        false
                    } else {
                        self.key()?;
                        true
                    }
                }
                Some(b'[') => {
                    self.push(Open::Array)?;
                    self.blanks();
                    if self.take(b']') {
                        self.close();
                        false
                    } else {
                        true
                    }
                }
                Some(b'"') => {
                    self.string()?;
                    false
                }
                Some(b'-' | b'0'..=b'9') => {
                    self.number()?;
                    false
                }
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                _ => return Err(FaultKind::Syntax),
            };
            if opened {
                continue;
            }
            // Here a value has ended, and perhaps what encloses it.
            loop {
                if self.open.len() == 1
                    && let Some((name, start)) = self.field.take()
                {
                    self.fields.push((name, &self.text[start..self.at]));
                }
                self.blanks();
                let object = match self.open.last() {
                    None if self.at == self.bytes.len() => return Ok(()),
                    None => return Err(FaultKind::Syntax),
                    Some(open) => matches!(open, Open::Object(..)),
                };
                if self.take(b',') {
                    if object {
                        self.blanks();
                        self.key()?;
                    }
                    break;
                }
                if !self.take(if object { b'}' } else { b']' }) {
                    return Err(FaultKind::Syntax);
                }
                self.close();
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn push(&mut self, open: Open<'a>) -> Result<(), FaultKind> {
        if self.open.len() == self.max_depth {
            return Err(FaultKind::TooDeep);
        }
        self.at += 1;
        self.open.push(open);
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<bool, FaultKind> {
        if self.bytes[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(false)
        } else {
            Err(FaultKind::Syntax)
        }
    }

    fn key(&mut self) -> Result<(), FaultKind> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return Err(FaultKind::Syntax);
        }
        let escaped = self.string()?;
        let key: Cow<'a, str> = if escaped {
            let decoded: String =
                serde_json::from_str(&self.text[start..self.at]).map_err(|_| FaultKind::Syntax)?;
            Cow::Owned(decoded)
        } else {
            Cow::Borrowed(&self.text[start + 1..self.at - 1])
        };
        self.blanks();
        if !self.take(b':') {
            return Err(FaultKind::Syntax);
        }
        self.blanks();
        if self.open.len() == 1 {
            self.field = Some((key.clone(), self.at));
        }
        if key.starts_with(RESERVED) {
            return Err(FaultKind::ReservedKey);
        }
        self.remember(key)
    }

    /// Takes a key of the innermost object, which must not have it yet.
    fn remember(&mut self, key: Cow<'a, str>) -> Result<(), FaultKind> {
        let Some(Open::Object(first, many)) = self.open.last_mut() else {
            return Ok(());
        };
        let few = &self.keys[*first..];
        let known = if many.is_empty() {
            few.contains(&key)
        } else {
            many.contains(&key)
        };
        if known {
            return Err(FaultKind::DuplicateKey(key.into_owned()));
        }
        if many.is_empty() && few.len() < FEW_KEYS {
            self.keys.push(key);
        } else {
            many.extend(self.keys.drain(*first..));
            many.insert(key);
        }
        Ok(())
    }

    /// What was opened last ends.
    fn close(&mut self) {
        if let Some(Open::Object(first, _)) = self.open.pop() {
            self.keys.truncate(first);
        }
    }

    /// Says whether there are escapes in it.
    fn string(&mut self) -> Result<bool, FaultKind> {
        let mut escaped = false;
        self.at += 1;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
            self.at += rest.iter().take_while(|byte| plain(byte)).count();
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                _ => return Err(FaultKind::Syntax),
            }
        }
    }

    fn escape(&mut self) -> Result<(), FaultKind> {
        let kind = self.peek().ok_or(FaultKind::Syntax)?;
        self.at += 1;
        match kind {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => match self.hex()? {
                0 => Err(FaultKind::Nul),
                0xd800..=0xdbff => {
                    if !(self.take(b'\\') && self.take(b'u')) {
                        return Err(FaultKind::LoneSurrogate);
                    }
                    match self.hex()? {
                        0xdc00..=0xdfff => Ok(()),
                        _ => Err(FaultKind::LoneSurrogate),
                    }
                }
                0xdc00..=0xdfff => Err(FaultKind::LoneSurrogate),
                _ => Ok(()),
            },
            _ => Err(FaultKind::Syntax),
        }
    }

    fn hex(&mut self) -> Result<u16, FaultKind> {
        let digits = self
            .bytes
            .get(self.at..self.at + 4)
            .ok_or(FaultKind::Syntax)?;
        let mut value = 0;
        for &digit in digits {
            let digit = char::from(digit).to_digit(16).ok_or(FaultKind::Syntax)?;
            value = value * 16 + digit as u16;
        }
        self.at += 4;
        Ok(value)
    }

    fn number(&mut self) -> Result<(), FaultKind> {
        let start = self.at;
        self.take(b'-');
        // No digits may follow a leading zero.
        if !self.take(b'0') {
            self.digits()?;
        }
        let mut integer = true;
        if self.take(b'.') {
            integer = false;
            self.digits()?;
        }
        let mantissa = start..self.at;
        if self.take(b'e') || self.take(b'E') {
            integer = false;
            let _signed = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        let literal = &self.text[start..self.at];
        if literal.len() > MAX_NUMBER_CHARS {
            return Err(FaultKind::Number);
        }
        let fits = if integer {
            literal.parse::<i64>().is_ok()
        } else {
            literal.parse::<f64>().is_ok_and(|value| {
                let zero = !self.text[mantissa]
                    .bytes()
                    .any(|b| (b'1'..=b'9').contains(&b));
                value.is_finite() && (value != 0.0 || zero)
            })
        };
        if fits { Ok(()) } else { Err(FaultKind::Number) }
    }

    fn digits(&mut self) -> Result<(), FaultKind> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            Err(FaultKind::Syntax)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
