//! A session's views as one HTML file that needs nothing else: pictures whose cells say their numbers, what they are of, the
//! commands that compute them again, and the user's notes.

use std::fmt::Write as _;
use std::time::Duration;

use eframe::egui;

use super::commands::command;
use super::provenance::Provenance;
use crate::app::App;
use crate::app::look::picture::opened;
use crate::app::model::{ModelAction, views};
use crate::app::shell::layout::Layout;
use crate::app::view::{self, ViewDef, Workspace};
use crate::error::Result;
use crate::session::{Document, Look};

/// Size of a report's pictures, points.
const SIZE: egui::Vec2 = egui::vec2(960.0, 560.0);

const STYLE: &str = "body{font:16px/1.5 Inter,system-ui,sans-serif;color:#1a1d23;background:#fff;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin:2.5rem 0 .3rem}\
table{border-collapse:collapse;font-size:.85rem}th{text-align:left;font-weight:400;color:#586070;padding:.1rem 1rem .1rem 0;vertical-align:top}\
td{font-family:'JetBrains Mono',ui-monospace,monospace;overflow-wrap:anywhere}\
figure{margin:.5rem 0}svg{width:100%;height:auto;border:1px solid #d6dae1;border-radius:6px}\
.note{border-left:3px solid #b26400;padding:.2rem .8rem;white-space:pre-wrap}.help{color:#586070;font-size:.9rem}\
pre{background:#eef0f4;border-radius:6px;padding:.6rem .8rem;font-size:.8rem;white-space:pre-wrap;overflow-wrap:anywhere}";

/// The views that a session shows, and those that a note stands beside.
pub fn shown(document: &Document) -> Vec<&'static str> {
    let named = Workspace::ALL.into_iter().find(|w| w.name() == document.look.workspace);
    let mut views: Vec<_> = Layout::wanted(named.unwrap_or(Workspace::Model), &document.look).seen().collect();
    for name in document.desk.notes.keys() {
        views.extend(view::by_name(name).map(|v| v.name).filter(|v| !views.contains(v)));
    }
    views
}

/// Opens a session without a window and computes what these views show.
///
/// # Errors
/// Whatever a window would have shown as a message, or results that do not come in time.
pub fn computed(document: Document, views: &[&'static str], limit: Duration) -> Result<App> {
    let ctx = egui::Context::default();
    let look = Look { workspace: document.look.workspace.clone(), light: true, ..Look::default() };
    let mut app = App::new(&ctx, Document { look, ..document }, Vec::new());
    app.bare = true;
    app.compute(&ctx, &[], limit)?;
    opened(&app)?;
    // What a window asks for at a click is part of what the session shows.
    if views.contains(&views::patching::VIEW.name) {
        app.state.apply(ModelAction::Sweep(None), 0.0);
    }
    if views.contains(&views::generation::VIEW.name) {
        app.state.apply(ModelAction::Generate, 0.0);
    }
    // Views of one workspace are looked at together.
    for workspace in Workspace::ALL {
        let own: Vec<_> = workspace.views().iter().map(|v| v.name).filter(|v| views.contains(v)).collect();
        if !own.is_empty() {
            app.compute(&ctx, &own, limit)?;
        }
    }
    Ok(app)
}

impl App {
    /// The report of these views, whose results are there.
    pub fn report(&mut self, title: &str, names: &[&'static str]) -> String {
        let mut body = String::new();
        let defs: Vec<&ViewDef> = names.iter().filter_map(|n| view::by_name(n)).collect();
        if let Some(first) = defs.first() {
            let of = Provenance { view: String::new(), ..Provenance::of(&self.state, first) };
            body += &facts(&of);
        }
        for (k, def) in defs.into_iter().enumerate() {
            self.layout = Layout::only(&[def.name]);
            // Twice: a view may ask for something when it is first drawn.
            self.plate(def.name, SIZE, true);
            let svg = own_ids(&self.plate(def.name, SIZE, true), k);
            let _ = write!(body, "<section><h2>{}</h2>", escaped(def.title));
            if let Some(note) = self.state.desk().notes.get(def.name) {
                let _ = write!(body, "<p class=\"note\">{}</p>", escaped(note));
            }
            let _ = write!(
                body,
                "<figure>{svg}</figure><p class=\"help\">{}<br><code>{}</code></p>",
                escaped(def.help),
                escaped(def.formula)
            );
            if let Some(line) = command(&self.state, def) {
                let _ = write!(body, "<pre>{}</pre>", escaped(&line));
            }
            body.push_str("</section>\n");
        }
        let title = escaped(title);
        // The policy has a browser refuse whatever would be fetched.
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"Content-Security-Policy\" \
content=\"default-src 'none'; style-src 'unsafe-inline'\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{body}</body></html>\n"
        )
    }
}

fn facts(of: &Provenance) -> String {
    let rows = of.lines().into_iter().filter(|(_, value)| !value.is_empty());
    let rows: String = rows.map(|(n, v)| format!("<tr><th>{}</th><td>{}</td></tr>", escaped(n), escaped(&v))).collect();
    format!("<table>{rows}</table>\n")
}

/// Pictures in one page must not share the names of their parts.
fn own_ids(svg: &str, k: usize) -> String {
    svg.replace("id=\"c", &format!("id=\"p{k}c")).replace("url(#c", &format!("url(#p{k}c"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Desk;

    #[test]
    fn a_report_stands_alone() {
        let desk = Desk {
            model: "induction".to_owned(),
            prompt: "The <b> & the <b> & the".to_owned(),
            notes: [("lens".to_owned(), "see <here>".to_owned())].into(),
            ..Desk::default()
        };
        let document = Document::from(desk);
        let views = shown(&document);
        assert!(views.contains(&"lens") && views.contains(&"attention"));
        let mut app = computed(document, &["lens", "attribution"], Duration::from_secs(120)).unwrap();
        let html = app.report("a < b", &["lens", "attribution"]);
        assert_eq!(html.matches("<svg").count(), 2);
        assert!(html.contains("<h1>a &lt; b</h1>") && html.contains("see &lt;here&gt;"));
        assert!(html.contains("circuitscope lens -m induction -p"), "the command is there");
        // Cells say their numbers; nothing is fetched, and no two parts share a name.
        assert!(html.matches("<title>").count() > 20);
        for fetched in ["src=", "href=", "@import", "url(http", "<script"] {
            assert!(!html.contains(fetched), "{fetched}");
        }
        let ids: Vec<&str> = html.split("id=\"").skip(1).filter_map(|t| t.split('"').next()).collect();
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(ids.len(), distinct.len());
    }
}
