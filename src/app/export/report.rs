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
    let mut layout = Layout::wanted(named.unwrap_or(Workspace::Model), &document.look);
    layout.fill(document.look.filled.as_deref(), false);
    let mut views: Vec<_> = layout.seen().collect();
    for name in document.desk.notes.keys() {
        views.extend(view::by_name(name).map(|v| v.name).filter(|v| !views.contains(v)));
    }
    views
}

/// Opens a session without a window, computes what these views show, and hands each over when its results are there and it
/// has been drawn.
///
/// # Errors
/// Whatever a window would have shown as a message, or results that do not come in time.
pub fn each_view(
    document: Document,
    views: &[&'static str],
    limit: Duration,
    mut each: impl FnMut(&mut App, &'static ViewDef),
) -> Result<App> {
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
        let own: Vec<_> = workspace.views().iter().copied().filter(|v| views.contains(&v.name)).collect();
        if own.is_empty() {
            continue;
        }
        app.compute(&ctx, &own.iter().map(|v| v.name).collect::<Vec<_>>(), limit)?;
        for def in own {
            // The matrices that a view shows are made when it is drawn.
            app.plate(def.name, SIZE, true);
            each(&mut app, def);
        }
    }
    Ok(app)
}

/// The report of a session: these views, or those that it shows.
///
/// # Errors
/// As [`each_view`].
pub fn html(document: Document, title: &str, views: &[&'static str], limit: Duration) -> Result<String> {
    let (mut body, mut about) = (String::new(), Vec::new());
    each_view(document, views, limit, |app, def| {
        if about.iter().all(|(workspace, _)| *workspace != def.workspace) {
            let of = Provenance { view: String::new(), ..Provenance::of(&app.state, def) };
            about.push((def.workspace, facts(&of)));
        }
        body += &section(app, def);
    })?;
    let (title, about) = (escaped(title), about.into_iter().map(|(_, facts)| facts).collect::<String>());
    // The policy has a browser refuse whatever would be fetched.
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"Content-Security-Policy\" \
content=\"default-src 'none'; style-src 'unsafe-inline'\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{about}{body}</body></html>\n"
    ))
}

/// A view with its note, its picture, what it means, and the command that computes its numbers again.
fn section(app: &mut App, def: &'static ViewDef) -> String {
    let svg = own_ids(&app.plate(def.name, SIZE, true), def.name);
    let mut out = format!("<section><h2>{}</h2>", escaped(def.title));
    if let Some(note) = app.state.desk().notes.get(def.name) {
        let _ = write!(out, "<p class=\"note\">{}</p>", escaped(note));
    }
    let (help, formula) = (escaped(&def.help()), escaped(&def.formula()));
    let _ = write!(out, "<figure>{svg}</figure><p class=\"help\">{help}<br><code>{formula}</code></p>");
    if let Some(line) = command(&app.state, def) {
        let _ = write!(out, "<pre>{}</pre>", escaped(&line));
    }
    out + "</section>\n"
}

fn facts(of: &Provenance) -> String {
    let rows = of.lines().into_iter().filter(|(_, value)| !value.is_empty());
    let rows: String = rows.map(|(n, v)| format!("<tr><th>{}</th><td>{}</td></tr>", escaped(n), escaped(&v))).collect();
    format!("<table>{rows}</table>\n")
}

/// Pictures in one page must not share the names of their parts.
fn own_ids(svg: &str, name: &str) -> String {
    svg.replace("id=\"c", &format!("id=\"{name}-c")).replace("url(#c", &format!("url(#{name}-c"))
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
        let html = html(document, "a < b", &["lens", "attribution", "entropy"], Duration::from_secs(120)).unwrap();
        assert_eq!(html.matches("<svg").count(), 3);
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
