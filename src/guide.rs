//! The guide: pages of plain markdown in `assets/guide`, built into the program. The window shows them behind every `?`, the
//! command line prints them, and a forge shows them as they lie there.
//!
//! `README.md` is the table of contents: its headings are groups, its links are pages. A view's page is `view-NAME.md`, a
//! workspace's `workspace-NAME.md`; each subcommand has a section of its name in `commands.md`.

use std::sync::OnceLock;

use crate::error::{Error, Result};

mod files {
    include!(concat!(env!("OUT_DIR"), "/guide.rs"));
}

/// The table of contents.
pub const CONTENTS: &str = "README";
/// The page with a section for each subcommand.
pub const COMMANDS: &str = "commands";
/// The section of a view's page that holds its formula and where it comes from.
const FORMULA: &str = "formula";

/// One page.
#[derive(Debug)]
pub struct Page {
    /// The file's name without `.md`.
    pub name: &'static str,
    /// Its parts, in order; the first has the page's title and what stands before the next heading.
    pub sections: Vec<Section>,
}

/// A heading and what stands below it.
#[derive(Debug)]
pub struct Section {
    pub title: &'static str,
    /// What a link calls it, as forges make it of the title.
    pub anchor: String,
    /// 1 for the page's title.
    pub level: usize,
    /// Markdown.
    pub body: &'static str,
}

/// A place that a search has found.
pub struct Hit {
    pub page: &'static Page,
    pub section: &'static Section,
    /// The first line that has one of the words.
    pub line: String,
}

/// A place in the guide: a page, and the anchor of one of its sections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub page: String,
    pub anchor: Option<String>,
}

impl Place {
    pub fn page(name: impl Into<String>) -> Self {
        Self { page: name.into(), anchor: None }
    }

    /// Where a link that stands on `page` leads to; `None` for one that leads out of the guide.
    pub fn of_link(page: &str, target: &str) -> Option<Self> {
        if let Some(anchor) = target.strip_prefix('#') {
            return Some(Self { page: page.to_owned(), anchor: Some(anchor.to_owned()) });
        }
        let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
        let name = file.strip_suffix(".md").filter(|n| !n.contains(['/', ':']))?;
        Some(Self { page: name.to_owned(), anchor: anchor.map(str::to_owned) })
    }

    /// The page, and the section where one is named; `None` where there is none of these names.
    pub fn find(&self) -> Option<(&'static Page, Option<&'static Section>)> {
        let page = page(&self.page)?;
        match &self.anchor {
            None => Some((page, None)),
            Some(anchor) => page.section(anchor).map(|section| (page, Some(section))),
        }
    }
}

impl Page {
    fn new(name: &'static str, text: &'static str) -> Self {
        let mut sections: Vec<Section> = Vec::new();
        let (mut at, mut begin, mut code) = (0, 0, false);
        for line in text.split_inclusive('\n') {
            code ^= line.trim_start().starts_with("```");
            let level = line.chars().take_while(|c| *c == '#').count();
            if !code && (1..=4).contains(&level) && line[level..].starts_with(' ') {
                if let Some(last) = sections.last_mut() {
                    last.body = text[begin..at].trim();
                }
                let title = line[level..].trim();
                sections.push(Section { title, anchor: anchor(title), level, body: "" });
                begin = at + line.len();
            }
            at += line.len();
        }
        match sections.last_mut() {
            Some(last) => last.body = text[begin..].trim(),
            None => sections.push(Section { title: name, anchor: anchor(name), level: 1, body: text.trim() }),
        }
        Self { name, sections }
    }

    pub fn title(&self) -> &'static str {
        self.sections.first().map_or(self.name, |s| s.title)
    }

    /// What it is about: the paragraph below the title.
    pub fn summary(&self) -> String {
        self.sections.first().map_or_else(String::new, |s| first_paragraph(s.body))
    }

    /// The formula of what a view shows, and its source.
    pub fn formula(&self) -> String {
        self.section(FORMULA).map_or_else(String::new, |s| first_paragraph(s.body))
    }

    pub fn section(&self, anchor: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.anchor == anchor)
    }

    /// Targets of its links.
    pub fn links(&self) -> impl Iterator<Item = &'static str> {
        self.sections.iter().flat_map(|s| links(s.body)).map(|(_, target)| target)
    }

    /// The whole page as it is printed: links are their words.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for s in &self.sections {
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&format!("{} {}\n\n", "#".repeat(s.level), s.title));
            if !s.body.is_empty() {
                out.push_str(&without_pictures(s.body));
                out.push('\n');
            }
        }
        out
    }
}

/// Every page, in the order of the table of contents; what it does not name comes last.
pub fn pages() -> &'static [Page] {
    static PAGES: OnceLock<Vec<Page>> = OnceLock::new();
    PAGES.get_or_init(|| {
        let mut all: Vec<Page> =
            files::FILES.iter().map(|(file, text)| Page::new(file.trim_end_matches(".md"), text)).collect();
        let order: Vec<&str> = all
            .iter()
            .find(|p| p.name == CONTENTS)
            .map_or_else(Vec::new, |p| p.links().map(|l| l.trim_end_matches(".md")).collect());
        all.sort_by_key(|p| (p.name != CONTENTS, order.iter().position(|n| *n == p.name).unwrap_or(usize::MAX)));
        all
    })
}

/// The page of this name.
pub fn page(name: &str) -> Option<&'static Page> {
    pages().iter().find(|p| p.name == name)
}

/// The pages of a view and of a workspace.
pub fn of_view(name: &str) -> Place {
    Place::page(format!("view-{name}"))
}

pub fn of_workspace(name: &str) -> Place {
    Place::page(format!("workspace-{name}"))
}

/// The table of contents: groups and their pages. What stands in no group is in the last one.
pub fn groups() -> Vec<(&'static str, Vec<&'static Page>)> {
    let mut groups: Vec<(&'static str, Vec<&'static Page>)> = Vec::new();
    let mut seen: Vec<&str> = vec![CONTENTS];
    for section in page(CONTENTS).map_or(&[][..], |p| &p.sections) {
        let named = links(section.body).filter_map(|(_, target)| page(target.strip_suffix(".md")?));
        let own: Vec<&'static Page> = named.filter(|p| !seen.contains(&p.name)).collect();
        seen.extend(own.iter().map(|p| p.name));
        if !own.is_empty() {
            groups.push((section.title, own));
        }
    }
    let rest: Vec<&'static Page> = pages().iter().filter(|p| !seen.contains(&p.name)).collect();
    if !rest.is_empty() {
        groups.push(("More", rest));
    }
    groups
}

/// Sections that have all of the words, those first whose heading has them, then those whose page is called so.
pub fn search(query: &str) -> Vec<Hit> {
    let words: Vec<String> = query.split_whitespace().map(str::to_lowercase).collect();
    if words.is_empty() {
        return Vec::new();
    }
    let mut hits: Vec<(usize, Hit)> = Vec::new();
    for page in pages().iter().filter(|p| p.name != CONTENTS) {
        let title = page.title().to_lowercase();
        for (k, section) in page.sections.iter().enumerate() {
            let (heading, body) = (section.title.to_lowercase(), plain(section.body));
            let low = body.to_lowercase();
            let here = |w: &String| heading.contains(w.as_str()) || low.contains(w.as_str());
            let any = words.iter().any(here);
            if !any || !words.iter().all(|w| here(w) || title.contains(w.as_str())) {
                continue;
            }
            let all_in = |text: &str| words.iter().all(|w| text.contains(w.as_str()));
            let rank = if k == 0 && all_in(&title) {
                0
            } else if all_in(&heading) {
                1
            } else if all_in(&title) {
                2
            } else {
                3
            };
            let has = |line: &&str| words.iter().any(|w| line.to_lowercase().contains(w.as_str()));
            let line = body.lines().find(has).or_else(|| body.lines().next()).unwrap_or_default().trim().to_owned();
            hits.push((rank, Hit { page, section, line }));
        }
    }
    hits.sort_by_key(|(rank, _)| *rank);
    hits.into_iter().map(|(_, hit)| hit).collect()
}

/// Returns the page, or the one whose title or section is meant.
///
/// # Errors
/// There is none of this name; the pages that have the words are named.
pub fn named(name: &str) -> Result<&'static Page> {
    let low = name.to_lowercase();
    let ends = |p: &&Page| p.name == low || p.name.split_once('-').is_some_and(|(_, rest)| rest == low);
    let titled = |p: &&Page| p.title().to_lowercase() == low;
    let found = page(&low).or_else(|| pages().iter().find(ends)).or_else(|| pages().iter().find(titled));
    found.ok_or_else(|| {
        let mut near: Vec<&str> = search(name).iter().map(|h| h.page.name).collect();
        near.dedup();
        near.truncate(5);
        let hint =
            if near.is_empty() { "`guide` alone lists them".to_owned() } else { format!("see {}", near.join(", ")) };
        Error::request(format!("the guide has no page {name}; {hint}"))
    })
}

/// What a heading is called in links, as forges call it: small letters, hyphens for spaces, no signs.
fn anchor(title: &str) -> String {
    let kept = title.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Words and target of every link. Code is passed over.
fn links(text: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut out = Vec::new();
    let mut block = false;
    for line in text.lines() {
        block ^= line.trim_start().starts_with("```");
        if block {
            continue;
        }
        // What stands between backticks is code.
        for piece in line.split('`').step_by(2) {
            let mut rest = piece;
            while let Some(at) = rest.find("](") {
                let (before, after) = (&rest[..at], &rest[at + 2..]);
                let Some(end) = after.find(')') else { break };
                let words = before.rfind('[').map_or("", |open| &before[open + 1..]);
                let picture = before.rfind('[').is_some_and(|open| before[..open].ends_with('!'));
                if !picture {
                    out.push((words, &after[..end]));
                }
                rest = &after[end..];
            }
        }
    }
    out.into_iter()
}

/// A body without its pictures, which are not built in.
pub fn without_pictures(body: &str) -> String {
    body.lines().filter(|l| !l.trim_start().starts_with("![")).collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// What the window shows of a page's body: no pictures, and only links that lead somewhere there, which are those into the
/// guide and those to the web. Others are files of the project, for whoever reads the page on a forge.
pub fn in_window(page: &str, body: &str) -> String {
    let lines = without_pictures(body);
    let leads = |target: &str| target.starts_with("https://") || Place::of_link(page, target).is_some();
    lines.lines().map(|line| with_links(line, leads)).collect::<Vec<_>>().join("\n")
}

/// A body in pieces: text, and code (true) without its fences.
pub fn blocks(body: &str) -> Vec<(bool, &str)> {
    let pieces = body.split("```").enumerate().map(|(i, piece)| match i % 2 {
        // What stands behind the fence is the language.
        1 => (true, piece.split_once('\n').map_or(piece, |(_, code)| code).trim_end()),
        _ => (false, piece.trim()),
    });
    pieces.filter(|(_, piece)| !piece.is_empty()).collect()
}

/// A body without its signs, paragraphs as lines.
fn plain(body: &str) -> String {
    let mut out = String::new();
    for line in without_pictures(body).lines() {
        let line = line.trim().trim_start_matches(['#', '-', '>']).trim();
        if line.is_empty() {
            out.push('\n');
        } else {
            if !out.is_empty() && !out.ends_with('\n') {
                out.push(' ');
            }
            out.push_str(&words(line));
        }
    }
    out.trim().to_owned()
}

/// A line with links as their words, but for those that are kept.
fn with_links(line: &str, keeps: impl Fn(&str) -> bool) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("](") {
        let Some(end) = rest[at..].find(')').map(|end| at + end) else { break };
        let open = rest[..at].rfind('[').unwrap_or(0);
        out.push_str(&rest[..open]);
        let link = if keeps(&rest[at + 2..end]) { &rest[open..=end] } else { rest[open..at].trim_start_matches('[') };
        out.push_str(link);
        rest = &rest[end + 1..];
    }
    out + rest
}

/// A line with links as their words, without the signs of code and stress.
fn words(line: &str) -> String {
    with_links(line, |_| false).replace(['`', '*'], "")
}

fn first_paragraph(body: &str) -> String {
    plain(body).lines().find(|l| !l.is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every link leads to a page or a section that is there, or to a file of the project, or out.
    #[test]
    fn every_link_and_heading_resolves() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut inside = 0;
        for page in pages() {
            for target in page.links() {
                if target.starts_with("https://") {
                    continue;
                }
                match Place::of_link(page.name, target) {
                    Some(place) => {
                        inside += 1;
                        assert!(place.find().is_some(), "{} links to {target}, which is not there", page.name);
                    }
                    None => {
                        let file = root.join("assets/guide").join(target.split('#').next().unwrap_or_default());
                        assert!(file.exists(), "{} links to {target}, which is not there", page.name);
                    }
                }
            }
        }
        assert!(inside > 100, "only {inside} links were found");
        // Those of the README as well.
        let readme = Page::new("readme", include_str!("../README.md"));
        let into = readme.links().filter_map(|t| t.strip_prefix("assets/guide/"));
        let places: Vec<Place> = into.filter_map(|t| Place::of_link("", t)).collect();
        assert!(places.len() > 5 && places.iter().all(|p| p.find().is_some()), "{places:?}");
        for target in readme.links().filter(|t| !t.starts_with("http") && !t.starts_with('#')) {
            assert!(root.join(target.split('#').next().unwrap_or_default()).exists(), "README.md links to {target}");
        }
    }

    /// Whether a page says in brackets, as in [Olsson et al. 2022], where what it shows comes from.
    fn names_its_source(page: &Page) -> bool {
        let inside =
            |part: &str| part.split_once(']').filter(|(_, after)| !after.starts_with('(')).map(|(i, _)| i.to_owned());
        let year =
            |word: &str| word.len() == 4 && word.starts_with(['1', '2']) && word.bytes().all(|b| b.is_ascii_digit());
        let told =
            |text: String| text.contains("TransformerLens") || text.split(|c: char| !c.is_alphanumeric()).any(year);
        page.sections.iter().flat_map(|s| s.body.split('[').skip(1)).filter_map(inside).any(told)
    }

    #[test]
    fn every_view_says_where_its_formula_comes_from() {
        let views: Vec<&Page> = pages().iter().filter(|p| p.name.starts_with("view-")).collect();
        let silent: Vec<&str> = views.iter().filter(|p| !names_its_source(p)).map(|p| p.name).collect();
        assert!(views.len() > 30 && silent.is_empty(), "{silent:?}");
    }

    #[test]
    fn every_page_has_a_title_a_summary_and_a_place_in_the_contents() {
        let contents = page(CONTENTS).expect("the table of contents");
        let listed: Vec<&str> = contents.links().filter_map(|t| t.strip_suffix(".md")).collect();
        for page in pages() {
            assert_eq!(page.sections[0].level, 1, "{} begins with no title", page.name);
            assert!(page.sections.iter().skip(1).all(|s| s.level > 1), "{} has two titles", page.name);
            assert!(page.summary().len() > 30, "{} says nothing below its title", page.name);
            let mut anchors: Vec<&str> = page.sections.iter().map(|s| s.anchor.as_str()).collect();
            anchors.sort_unstable();
            let before = anchors.len();
            anchors.dedup();
            assert_eq!(before, anchors.len(), "{} has two headings of one name", page.name);
            let times = listed.iter().filter(|n| **n == page.name).count();
            assert_eq!(times, usize::from(page.name != CONTENTS), "{} in the table of contents", page.name);
        }
        let grouped: usize = groups().iter().map(|(_, pages)| pages.len()).sum();
        assert_eq!(grouped + 1, pages().len());
    }

    #[test]
    fn headings_links_and_words_are_read() {
        let page = Page::new(
            "x",
            "# A title\n\nOne *two* [three](y.md#z)\nfour.\n\n## How: `it` works!\n\n```\n# no heading [a](b)\n```\n![p](q.png)\nend\n",
        );
        assert_eq!(page.title(), "A title");
        assert_eq!(page.summary(), "One two three four.");
        let anchors: Vec<&str> = page.sections.iter().map(|s| s.anchor.as_str()).collect();
        assert_eq!(anchors, ["a-title", "how-it-works"]);
        assert_eq!(page.links().collect::<Vec<_>>(), ["y.md#z"]);
        assert!(page.text().contains("# no heading") && !page.text().contains("q.png"));
        let shown = in_window("x", "See [a](y.md#b), [c](../d.md) and [e](https://f).\n![p](q.png)");
        assert_eq!(shown, "See [a](y.md#b), c and [e](https://f).");
        let place = |p: &str, a: Option<&str>| Some(Place { page: p.to_owned(), anchor: a.map(str::to_owned) });
        assert_eq!(Place::of_link("x", "y.md#z"), place("y", Some("z")));
        assert_eq!(Place::of_link("x", "#z"), place("x", Some("z")));
        assert_eq!(Place::of_link("x", "y.md"), place("y", None));
        assert_eq!(Place::of_link("x", "https://a.b/y.md"), None);
        assert_eq!(Place::of_link("x", "../../src/lib.rs"), None);
    }

    #[test]
    fn a_search_finds_headings_first_and_needs_every_word() {
        let hits = search("attention");
        assert_eq!(hits[0].page.name, "view-attention");
        assert!(search("faithfulness completeness").iter().any(|h| h.page.name == "view-circuit"));
        let hits = search("PATCHING formula");
        assert_eq!((hits[0].page.name, hits[0].section.anchor.as_str()), ("view-patching", "formula"));
        assert!(search("no-such-word-in-it").is_empty() && search("  ").is_empty());
        assert!(search("softmax").iter().all(|h| !h.line.is_empty()));
        assert_eq!(named("attention").unwrap().name, "view-attention");
        assert_eq!(named("What opens").unwrap().name, "models");
        let said = named("softmaxes of nowhere").unwrap_err().to_string();
        assert!(said.contains("no page softmaxes") && !said.contains('\n'), "{said}");
    }
}
