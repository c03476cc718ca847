//! A look at an expression's text before the parser gets it: nesting exhausts the parser's stack.

use super::{CelFault, MAX_BYTES, MAX_NESTING, MAX_TERNARIES};

/// Refuses what is too long or nested too deep, and every text that the parser might cut into
/// tokens otherwise than this does.
///
/// What tells brackets from text that only looks so must agree with CEL's lexer exactly, in its
/// repair of faults too (it swallows the character after a stray `=` or `&`). So only what is
/// certain passes: characters CEL knows, strings and escapes of CEL's exact form; no backticks, and
/// no comments.
pub(super) fn scan(text: &str) -> Result<(), CelFault> {
    Scan {
        text,
        bytes: text.as_bytes(),
        at: 0,
    }
    .run()
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn run(&mut self) -> Result<(), CelFault> {
        if self.text.len() > MAX_BYTES {
            let bytes = self.text.len();
            return Err(self.fault(0, format!("is {bytes} bytes, more than {MAX_BYTES}")));
        }
        let (mut depth, mut ternaries, mut signs) = (0usize, 0, 0);
        while let Some(&byte) = self.bytes.get(self.at) {
            let start = self.at;
            self.at += 1;
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => continue,
                b'(' | b'[' | b'{' => {
                    depth += 1;
                    if depth > MAX_NESTING {
                        let why = format!("is nested more than {MAX_NESTING} deep");
                        return Err(self.fault(start, why));
                    }
                }
                // Too many closing brackets are the parser's to refuse.
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                b'?' => {
                    ternaries += 1;
                    if ternaries > MAX_TERNARIES {
                        let why = format!("has more than {MAX_TERNARIES} conditionals");
                        return Err(self.fault(start, why));
                    }
                }
                b'!' | b'<' | b'>' if self.next_is(b'=') => self.at += 1,
                b'!' | b'-' => {
                    signs += 1;
                    if signs > MAX_NESTING {
                        let why = format!("has more than {MAX_NESTING} signs in a row");
                        return Err(self.fault(start, why));
                    }
                    continue;
                }
                b'=' | b'&' | b'|' => {
                    if !self.next_is(byte) {
                        let sign = char::from(byte);
                        return Err(self.fault(start, format!("has a single {sign}")));
                    }
                    self.at += 1;
                }
                b'/' if self.next_is(b'/') => {
                    return Err(self.fault(start, "must not contain comments"));
                }
                b'<' | b'>' | b'.' | b',' | b':' | b'+' | b'*' | b'/' | b'%' => {}
                b'"' | b'\'' => self.string(start, false)?,
                b if b.is_ascii_alphanumeric() || b == b'_' => self.word(start)?,
                b'`' => return Err(self.fault(start, "must not contain backticks")),
                _ => {
                    let found = self.text[start..].chars().next().unwrap_or_default();
                    let found = found.escape_default();
                    return Err(self.fault(start, format!("has {found} where CEL knows no such")));
                }
            }
            signs = 0;
        }
        Ok(())
    }

    fn fault(&self, at: usize, message: impl Into<String>) -> CelFault {
        CelFault::at_byte(self.text, at, message)
    }

    fn next_is(&self, byte: u8) -> bool {
        self.bytes.get(self.at) == Some(&byte)
    }

    /// A name or number from `start`, and the string that it may be the prefix of.
    fn word(&mut self, start: usize) -> Result<(), CelFault> {
        while let Some(b) = self.bytes.get(self.at)
            && (b.is_ascii_alphanumeric() || *b == b'_')
        {
            self.at += 1;
        }
        if !matches!(self.bytes.get(self.at), Some(b'"' | b'\'')) {
            return Ok(());
        }
        let raw = match &self.bytes[start..self.at] {
            b"r" | b"R" | b"br" | b"bR" | b"Br" | b"BR" => true,
            b"b" | b"B" => false,
            // Of `1ur'…'` CEL's lexer takes `1u` and then a raw string.
            _ => return Err(self.fault(self.at, "has a string right after a name or number")),
        };
        self.at += 1;
        self.string(self.at - 1, raw)
    }

    /// The string whose first quote, at `start`, was just passed.
    fn string(&mut self, start: usize, raw: bool) -> Result<(), CelFault> {
        let quote = self.bytes[start];
        let triple = self.bytes[start..].starts_with(&[quote; 3]);
        let quotes = if triple { 3 } else { 1 };
        self.at = start + quotes;
        loop {
            let rest = &self.bytes[self.at..];
            if rest.starts_with(&[quote; 3][..quotes]) {
                self.at += quotes;
                return Ok(());
            }
            match rest.first() {
                None => break,
                Some(b'\n' | b'\r') if !triple => break,
                Some(b'\\') if !raw => {
                    let Some(len) = escape_len(&rest[1..]) else {
                        let why = r"has an escape CEL does not know (a backslash is \\)";
                        return Err(self.fault(self.at, why));
                    };
                    self.at += 1 + len;
                }
                Some(_) => self.at += 1,
            }
        }
        Err(self.fault(start, "has a string that does not end"))
    }
}

/// How long the escape is whose backslash was just passed; `None` for one that CEL does not know.
fn escape_len(after: &[u8]) -> Option<usize> {
    let digits = |from: usize, count: usize, is: fn(&u8) -> bool| {
        let digits = after.get(from..from + count)?;
        digits.iter().all(is).then_some(from + count)
    };
    let octal: fn(&u8) -> bool = |b| matches!(b, b'0'..=b'7');
    match after.first()? {
        b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'\\' | b'?' | b'`' => {
            Some(1)
        }
        b'x' | b'X' => digits(1, 2, u8::is_ascii_hexdigit),
        b'u' => digits(1, 4, u8::is_ascii_hexdigit),
        b'U' => digits(1, 8, u8::is_ascii_hexdigit),
        b'0'..=b'3' => digits(1, 2, octal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::Position;

    #[test]
    fn brackets_in_strings_do_not_count() {
        let open = "(".repeat(40);
        for text in [
            format!("'{open}' == \"{open}\""),
            format!(r#"'\'{open}' == r'\' + "{open}""#),
            format!("'''{open} ' {open}''' == '' "),
            format!("'''a\n{open}''' == ''''''"),
            format!("br\"{open}\" == b'{open}'"),
            format!(r"'\x41\u0041\U00000041\101\`\?{open}' == '// ` é'"),
        ] {
            assert_eq!(scan(&text), Ok(()), "{text}");
        }
    }

    #[test]
    fn brackets_after_strings_do_count() {
        let open = "(".repeat(17);
        for text in [
            open.clone(),
            format!("')))))))' == {open}"),
            format!(r"r'\' == {open}"),
            format!("'' == {open}"),
            format!("''')''' == {open}"),
            "[{".repeat(9),
        ] {
            let fault = scan(&text).unwrap_err();
            assert!(fault.message.contains("nested"), "{text}: {fault}");
        }
    }

    #[test]
    fn what_a_lexer_might_cut_otherwise_is_refused() {
        for (text, why) in [
            ("a.`b`", "backticks"),
            ("a.`//` == [", "backticks"),
            ("a // b", "comments"),
            (r"'\q'", "escape"),
            (r"'\x4'", "escape"),
            (r"'\u12'", "escape"),
            (r"'\400'", "escape"),
            (r"'\", "escape"),
            ("'a\n'", "does not end"),
            ("'''a''", "does not end"),
            ("'''''", "does not end"),
            (r"1ur'\'", "right after"),
            (r"0xbr'\'", "right after"),
            ("bar'x'", "right after"),
            ("a ='b'", "single ="),
            ("a &'b'", "single &"),
            ("a |'b'", "single |"),
            ("a === b", "single ="),
            ("a @ b", "has @"),
            (r"a \ b", "has \\\\"),
            ("é", "has \\u{e9}"),
            ("a\0", "has \\u{0}"),
        ] {
            let fault = scan(text).unwrap_err();
            assert!(fault.message.contains(why), "{text}: {fault}");
        }
        let signs = "! - ".repeat(9);
        assert!(scan(&signs).unwrap_err().message.contains("signs"));
        assert_eq!(scan(&"1 - ".repeat(40)), Ok(()));
    }

    #[test]
    fn the_place_of_a_fault_is_counted_in_characters() {
        let fault = scan("'é' ==\n'ü' + 'x").unwrap_err();
        assert_eq!(fault.position, Position { line: 2, column: 7 });
    }
}
