//! `guide`: prints the guide, which the window shows behind every `?`.

use serde_json::{Value, json};

use super::{emit, emit_json};
use crate::error::{Error, Result};
use crate::guide::{self, Page};

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Page to print, by its name or title; without one all are listed
    #[arg(value_name = "PAGE", conflicts_with = "search")]
    page: Option<String>,
    /// List the places that have all of these words
    #[arg(long, value_name = "WORDS")]
    search: Option<String>,
    /// Print one JSON document on stdout and nothing else
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &Arguments) -> Result<()> {
    match (&args.page, &args.search) {
        (Some(name), _) => print_page(guide::named(name)?, args.json),
        (None, Some(words)) => print_hits(words, args.json),
        (None, None) => print_pages(args.json),
    }
}

fn print_page(page: &Page, as_json: bool) -> Result<()> {
    if !as_json {
        return emit(page.text().trim_end());
    }
    let sections: Vec<Value> =
        page.sections.iter().map(|s| json!({"title": s.title, "anchor": s.anchor, "text": s.body})).collect();
    emit_json(json!({"name": page.name, "title": page.title(), "sections": sections}))
}

fn print_hits(words: &str, as_json: bool) -> Result<()> {
    let hits = guide::search(words);
    if as_json {
        let list: Vec<Value> =
            hits.iter().map(|h| json!({"page": h.page.name, "section": h.section.title, "line": h.line})).collect();
        return emit_json(json!({ "found": list }));
    }
    if hits.is_empty() {
        return Err(Error::failed(format!("nothing in the guide has all of these words: {words}; try fewer")));
    }
    let mut text = String::new();
    for hit in &hits {
        text += &format!("{}: {}\n    {}\n", hit.page.name, hit.section.title, hit.line);
    }
    emit(text.trim_end())
}

fn print_pages(as_json: bool) -> Result<()> {
    if as_json {
        let list: Vec<Value> = guide::pages()
            .iter()
            .map(|p| json!({"name": p.name, "title": p.title(), "summary": p.summary()}))
            .collect();
        return emit_json(json!({ "pages": list }));
    }
    let width = guide::pages().iter().map(|p| p.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (group, pages) in guide::groups() {
        text += &format!("{group}\n");
        for page in pages {
            text += &format!("  {:<width$}  {}\n", page.name, page.title());
        }
    }
    emit(text.trim_end())
}
