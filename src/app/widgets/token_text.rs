//! How a token's text is shown: spaces and line breaks visible, nothing invisible, no grapheme cut.

use unicode_segmentation::UnicodeSegmentation;

/// The text with `·` for spaces, signs for line breaks and tabs, and escapes for what has no shape.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        match c {
            ' ' => out.push('·'),
            '\n' => out.push('↵'),
            '\t' => out.push('⇥'),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || is_shapeless(c) => out.push_str(&format!("\\u{:x}", c as u32)),
            c => out.push(c),
        }
    }
    if out.is_empty() { "∅".to_owned() } else { out }
}

/// A name of several words: as [`visible`], but for the spaces between them.
pub fn name(text: &str) -> String {
    let words = text.split(' ').map(|w| if w.is_empty() { String::new() } else { visible(w) });
    words.collect::<Vec<_>>().join(" ")
}

fn is_shapeless(c: char) -> bool {
    matches!(c, '\u{a0}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fe00}'..='\u{fe0f}' | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..)
}

/// The text of one token of these bytes: of a piece of a character, what the bytes are.
pub fn said(bytes: &[u8], text: &str) -> String {
    if bytes.is_empty() || bytes.utf8_chunks().any(|c| !c.valid().is_empty()) {
        return visible(text);
    }
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02X}")).collect();
    format!("byte {}", hex.join(" "))
}

/// How many tokens of these bytes, from the first on, make whole characters together: 1 where the first does, or where
/// none do.
pub fn whole(tokens: &[&[u8]]) -> usize {
    /// A character has four bytes at most.
    const MOST: usize = 4;
    let mut bytes = Vec::new();
    for (i, token) in tokens.iter().enumerate().take(MOST) {
        bytes.extend_from_slice(token);
        if std::str::from_utf8(&bytes).is_ok() {
            return i + 1;
        }
    }
    1
}

/// [`visible`] text of at most `limit` graphemes, with an ellipsis where it is cut.
pub fn short(text: &str, limit: usize) -> String {
    cut(&visible(text), limit)
}

/// At most `limit` characters of a name, as readers count them.
pub fn cut(text: &str, limit: usize) -> String {
    if text.graphemes(true).count() <= limit {
        return text.to_owned();
    }
    let mut cut: String = text.graphemes(true).take(limit.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitespace_is_visible() {
        assert_eq!(visible(" Mary"), "·Mary");
        assert_eq!(visible("\n\n\t"), "↵↵⇥");
        assert_eq!(visible("\u{200b}"), "\\u200b");
        assert_eq!(visible(""), "∅");
        assert_eq!((name("MLP 29"), name("a\nb  c"), name("")), ("MLP 29".into(), "a↵b  c".into(), String::new()));
    }

    #[test]
    fn pieces_of_characters_are_put_together_or_said_to_be_bytes() {
        let e = "é".as_bytes();
        assert_eq!(said(&e[..1], "\\xC3"), "byte C3");
        assert_eq!(said(b" a", " a"), "·a");
        // Other tokens may be called what a byte is written as.
        assert_eq!(said(b"\\xC3", "\\xC3"), "\\xC3");
        assert_eq!(said(b"", ""), "∅");
        assert_eq!(whole(&[&e[..1], &e[1..], b"x"]), 2);
        assert_eq!((whole(&[b"x", &e[..1]]), whole(&[&e[1..], b"x"]), whole(&[])), (1, 1, 1));
    }

    #[test]
    fn graphemes_stay_whole() {
        // e + combining acute is one grapheme of two characters.
        assert_eq!(short("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
        assert_eq!(short("abc", 3), "abc");
    }
}
