//! Words of a tokenized text, for what is read token by token and judged word by word.

/// A word: the tokens `start..end`, without the space before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    pub text: String,
    pub start: usize,
    pub end: usize,
    /// Mean over its tokens.
    pub value: f32,
}

/// Joins tokens to words: one begins where a token begins with white space or a sign of punctuation, or follows either.
/// Tokens that are parts of a letter (`\xC3`) belong to the word that the letter stands in.
pub fn words(tokens: &[String], values: &[f32]) -> Vec<Word> {
    let mut all: Vec<Word> = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '\'' | '’' | '-' | '\\');
    for (i, (token, value)) in tokens.iter().zip(values).enumerate() {
        let goes_on = token.chars().next().is_some_and(is_word)
            && all.last().is_some_and(|w| w.text.chars().next_back().is_some_and(is_word));
        let text = token.trim();
        match all.last_mut() {
            Some(w) if goes_on => {
                w.text.push_str(token.trim_end());
                // Sums until all of its tokens are known.
                w.value += value;
                w.end = i + 1;
                if token.ends_with(char::is_whitespace) {
                    w.text.push(' ');
                }
            }
            Some(w) if text.is_empty() => w.text.push(' '),
            None if text.is_empty() => {}
            _ => {
                let text = if token.ends_with(char::is_whitespace) { format!("{text} ") } else { text.to_owned() };
                all.push(Word { text, start: i, end: i + 1, value: *value });
            }
        }
    }
    for w in &mut all {
        w.value /= (w.end - w.start) as f32;
        w.text.truncate(w.text.trim_end().len());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_join_to_words() {
        let tokens = [" The", " qu", "een", "'s", " cr", "own", ",", "\n", "a", " ", "cat", "."].map(str::to_owned);
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let found = words(&tokens, &values);
        let texts: Vec<&str> = found.iter().map(|w| w.text.as_str()).collect();
        assert_eq!(texts, ["The", "queen's", "crown", ",", "a", "cat", "."]);
        assert_eq!((found[1].start, found[1].end, found[1].value), (1, 4, 2.0));
        assert_eq!(found[2].value, 4.5);
        let parts = [" caf", "\\xC3", "\\xA9s", " of"].map(str::to_owned);
        let found = words(&parts, &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!((found.len(), found[0].start, found[0].end, found[0].value), (2, 0, 3, 2.0));
        assert!(words(&[], &[]).is_empty());
    }
}
