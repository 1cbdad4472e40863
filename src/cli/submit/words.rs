//! The words of a command line, told apart by the options that the program knows.

use clap::{Arg, ArgAction};

/// The options of the subcommand that words name.
pub struct Options<'a> {
    arguments: Vec<&'a Arg>,
    /// Words that name the subcommand.
    depth: usize,
}

impl<'a> Options<'a> {
    /// The options, and the subcommand's name.
    pub fn of(whole: &'a clap::Command, words: &[String]) -> (Self, String) {
        let (mut command, mut depth) = (whole, 0);
        while let Some(sub) = words.get(depth).and_then(|w| command.find_subcommand(w)) {
            (command, depth) = (sub, depth + 1);
        }
        (Self { arguments: command.get_arguments().collect(), depth }, words[..depth].join(" "))
    }

    pub fn knows(&self, id: &str) -> bool {
        self.arguments.iter().any(|a| a.get_id() == id)
    }

    /// What stands at a word: the option that begins there, how many words it has, and its value.
    fn at(&self, words: &[String], i: usize) -> (Option<&str>, usize, Option<String>) {
        let word = words[i].as_str();
        let takes = |a: &Arg| matches!(a.get_action(), ArgAction::Set | ArgAction::Append);
        let next = || words.get(i + 1).cloned();
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v.to_owned())));
            let Some(a) = self.arguments.iter().find(|a| a.get_long() == Some(name)) else { return (None, 1, None) };
            return match (takes(a), value) {
                (true, None) => (Some(a.get_id().as_str()), 2, next()),
                (_, value) => (Some(a.get_id().as_str()), 1, value),
            };
        }
        let Some(short) = word.strip_prefix('-').and_then(|w| w.chars().next()) else { return (None, 1, None) };
        let Some(a) = self.arguments.iter().find(|a| a.get_short() == Some(short)) else { return (None, 1, None) };
        let rest = &word[1 + short.len_utf8()..];
        match (takes(a), rest) {
            (true, "") => (Some(a.get_id().as_str()), 2, next()),
            (true, rest) => (Some(a.get_id().as_str()), 1, Some(rest.strip_prefix('=').unwrap_or(rest).to_owned())),
            (false, _) => (Some(a.get_id().as_str()), 1, None),
        }
    }

    /// The values of an option.
    pub fn values(&self, words: &[String], id: &str) -> Vec<String> {
        let (mut i, mut all) = (self.depth, Vec::new());
        while i < words.len() {
            let (found, n, value) = self.at(words, i);
            if found == Some(id) {
                all.extend(value);
            }
            i += n;
        }
        all
    }

    /// The first value of an option.
    pub fn value(&self, words: &[String], id: &str) -> Option<String> {
        self.values(words, id).into_iter().next()
    }

    /// The words without some options and their values.
    pub fn without(&self, words: &[String], ids: &[&str]) -> Vec<String> {
        let (mut i, mut left) = (self.depth, words[..self.depth].to_vec());
        while i < words.len() {
            let (found, n, _) = self.at(words, i);
            if found.is_none_or(|id| !ids.contains(&id)) {
                left.extend_from_slice(&words[i..(i + n).min(words.len())]);
            }
            i += n;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn words_are_told_apart() {
        let whole = Cli::command();
        let of = |line: &[&str]| line.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        for output in [&["-o", "a b"][..], &["-oa b"], &["-o=a b"], &["--output", "a b"], &["--output=a b"]] {
            let words =
                of(&[&["heads", "--over", "-o", "--json", "--context", "7"][..], output, &["-m", "x"]].concat());
            let (options, leaf) = Options::of(&whole, &words);
            assert_eq!((leaf.as_str(), options.knows("shard"), options.knows("mood")), ("heads", true, false));
            assert_eq!(options.value(&words, "output").as_deref(), Some("a b"));
            assert_eq!(options.value(&words, "over").as_deref(), Some("-o"), "a value is no option");
            let left = options.without(&words, &["output", "json", "context"]);
            assert_eq!(left, of(&["heads", "--over", "-o", "-m", "x"]));
        }
        let words = of(&["features", "train", "--layers", "all", "--bos", "-k", "3"]);
        let (options, leaf) = Options::of(&whole, &words);
        assert_eq!((leaf.as_str(), options.value(&words, "k").as_deref()), ("features train", Some("3")));
        assert_eq!(options.without(&words, &["bos"]).len(), 6);
    }
}
