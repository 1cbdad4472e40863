//! Words for shells on Unix.

/// A text as one word.
pub fn word(text: &str) -> String {
    let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:,+@%=".contains(c));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Words as a command.
pub fn line<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    words.into_iter().map(|w| word(w)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_read_one_word() {
        assert_eq!([word("text"), word(" Mary"), word("it's")], ["text", "' Mary'", r"'it'\''s'"]);
        assert_eq!((word(""), word("$(x)")), ("''".to_owned(), "'$(x)'".to_owned()));
    }
}
