//! How the parts of a model are called on the screen: heads as 23.3, as everywhere in the field. Files have `a23.h3`.

/// A text in which the names of files are those of the screen.
pub fn spoken(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['a', 'm']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let begins = !out.ends_with(|c: char| c.is_alphanumeric() || c == '.' || c == '_');
        match name(from).filter(|_| begins) {
            Some((said, length)) => {
                out.push_str(&said);
                rest = &from[length..];
            }
            None => {
                out.push_str(&from[..1]);
                rest = &from[1..];
            }
        }
    }
    out + rest
}

/// The name that a text begins with, as it is said, and its length.
fn name(text: &str) -> Option<(String, usize)> {
    let digits = |from: usize| text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let layer = digits(1);
    let end = 1 + layer;
    let ends = |at: usize| !text[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let part = |sign: &str| -> Option<(usize, &str)> {
        let from = end + sign.len();
        let length = text[end..].starts_with(sign).then(|| digits(from)).filter(|n| *n > 0)?;
        ends(from + length).then(|| (from + length, &text[from..from + length]))
    };
    if layer == 0 {
        return None;
    }
    let number = &text[1..end];
    match text.as_bytes()[0] {
        b'a' => part(".h").map(|(length, head)| (format!("{number}.{head}"), length)),
        _ => match part(".n") {
            Some((length, neuron)) => Some((format!("neuron {number}.{neuron}"), length)),
            None => ends(end).then(|| (format!("MLP {number}"), end)),
        },
    }
}

/// A number of things: "1 prompt", "2 prompts".
pub fn counted(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

/// The time that something will still take, as far as that is known.
pub fn left(seconds: f64) -> String {
    match seconds {
        s if s < 9.5 => format!("{:.0} s left", s.max(1.0).ceil()),
        // What is far away is not known to the second.
        s if s < 90.0 => format!("about {:.0} s left", (s / 5.0).round() * 5.0),
        s if s < 5400.0 => format!("about {:.0} min left", s / 60.0),
        s => format!("about {:.1} h left", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::{left, spoken};

    #[test]
    fn times_are_said_in_few_digits() {
        let times = [0.0, 3.2, 9.4, 33.8, 120.0, 7200.0].map(left);
        let said = ["1 s left", "4 s left", "10 s left", "about 35 s left", "about 2 min left", "about 2.0 h left"];
        assert_eq!(times, said);
    }

    #[test]
    fn heads_are_called_as_in_the_field() {
        let cases = [
            ("a23.h3", "23.3"),
            ("a1.h2 → a13.h4.q", "1.2 → 13.4.q"),
            ("m5", "MLP 5"),
            ("m5.n17", "neuron 5.17"),
            ("embed", "embed"),
            ("m5 others", "MLP 5 others"),
            (" am5 a5 am mat1 m1x é a2.h", " am5 a5 am mat1 m1x é a2.h"),
            ("group a0.h1+a0.h2", "group 0.1+0.2"),
        ];
        for (file, screen) in cases {
            assert_eq!(spoken(file), screen);
        }
    }
}
