//! A look at an expression's text before the parser gets it: nesting exhausts the parser's stack.

use super::{CelFault, MAX_BYTES, MAX_NESTING, MAX_TERNARIES};

/// Refuses what is too long or nested too deep, and strings that do not end.
///
/// Knows as much of CEL's lexical grammar as it takes to tell brackets from text that only looks so.
pub(super) fn scan(text: &str) -> Result<(), CelFault> {
    let fault = |at: usize, message: String| Err(CelFault::at_byte(text, at, message));
    if text.len() > MAX_BYTES {
        return fault(0, format!("is {} bytes, more than {MAX_BYTES}", text.len()));
    }
    let bytes = text.as_bytes();
    let (mut depth, mut ternaries, mut at) = (0, 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' | b'{' => {
                depth += 1;
                if depth > MAX_NESTING {
                    return fault(at, format!("is nested more than {MAX_NESTING} deep"));
                }
            }
            // Too many closing brackets are the parser's to refuse.
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'?' => {
                ternaries += 1;
                if ternaries > MAX_TERNARIES {
                    return fault(at, format!("has more than {MAX_TERNARIES} conditionals"));
                }
            }
            b'!' | b'-' => {
                let run = bytes[at..].iter().take_while(|b| **b == bytes[at]).count();
                if run > MAX_NESTING {
                    return fault(at, format!("has more than {MAX_NESTING} signs in a row"));
                }
                at += run;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'"' | b'\'' => {
                at = match string_end(bytes, at, false) {
                    Some(end) => end,
                    None => return fault(at, "has a string that does not end".to_owned()),
                };
                continue;
            }
            b if b.is_ascii_alphabetic() || b == b'_' => {
                let start = at;
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
                    at += 1;
                }
                let raw = matches!(
                    &bytes[start..at],
                    b"r" | b"R" | b"br" | b"bR" | b"Br" | b"BR"
                );
                if raw && matches!(bytes.get(at), Some(b'"' | b'\'')) {
                    at = match string_end(bytes, at, true) {
                        Some(end) => end,
                        None => return fault(at, "has a string that does not end".to_owned()),
                    };
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Where the string that begins at `start` ends (the byte after it).
fn string_end(bytes: &[u8], start: usize, raw: bool) -> Option<usize> {
    let quote = bytes[start];
    let triple = bytes.get(start + 1) == Some(&quote) && bytes.get(start + 2) == Some(&quote);
    if triple && let Some(end) = find_end(bytes, start + 3, &[quote; 3], raw) {
        return Some(end);
    }
    find_end(bytes, start + 1, &[quote], raw)
}

fn find_end(bytes: &[u8], from: usize, quotes: &[u8], raw: bool) -> Option<usize> {
    let mut at = from;
    while at < bytes.len() {
        if bytes[at..].starts_with(quotes) {
            return Some(at + quotes.len());
        }
        match bytes[at] {
            b'\\' if !raw => at += 1,
            b'\n' | b'\r' if quotes.len() == 1 => return None,
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::Position;

    #[test]
    fn brackets_in_strings_and_comments_do_not_count() {
        let open = "(".repeat(40);
        for text in [
            format!("'{open}' == \"{open}\""),
            format!(r#"'\'{open}' == r'\' + "{open}""#),
            format!("'''{open} ' {open}''' == '' // {open}"),
            format!("br\"{open}\" == b'{open}'"),
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
            format!(r"bar'\'' == {open}"),
            format!("'' == {open}"),
            format!("''')''' == {open}"),
            format!("// )))\n{open}"),
            "[{".repeat(9),
        ] {
            let fault = scan(&text).unwrap_err();
            assert!(fault.message.contains("nested"), "{text}: {fault}");
        }
    }

    #[test]
    fn the_place_of_a_fault_is_counted_in_characters() {
        let fault = scan("'é' ==\n'ü' + 'x").unwrap_err();
        assert_eq!(fault.position, Position { line: 2, column: 7 });
    }
}
