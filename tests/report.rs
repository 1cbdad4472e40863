//! A report in a real browser: what it shows is there, and nothing is fetched. Without Chromium there is nothing to look
//! with; `CIRCUITSCOPE_BROWSER` names it, and then it must be there.
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]
#![cfg(all(feature = "gui", target_os = "linux"))]

mod common;

use std::path::Path;
use std::process::Command;

use common::run;

/// The browser, where there is one.
fn browser() -> Option<String> {
    let named = std::env::var("CIRCUITSCOPE_BROWSER").ok();
    let works = |name: &str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    match named {
        Some(name) => {
            assert!(works(&name), "CIRCUITSCOPE_BROWSER is {name}, which does not run");
            Some(name)
        }
        None => ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|n| works(n)).map(str::to_owned),
    }
}

/// Opens a page without a window; gives what the browser made of it.
fn look(browser: &str, page: &Path, folder: &Path, args: &[&str]) -> std::process::Output {
    let profile = format!("--user-data-dir={}", folder.join("profile").display());
    let usual =
        ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", &profile];
    let address = format!("file://{}", page.display());
    Command::new(browser).args(usual).args(args).arg(address).output().unwrap()
}

#[test]
fn a_report_is_whole_in_a_browser_and_fetches_nothing() {
    let Some(browser) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (session, page) = (folder.path().join("mine.scope"), folder.path().join("report.html"));
    let (s, p) = (session.display().to_string(), page.display().to_string());
    assert!(run(&["session", "new", "-m", "induction", "-o", &s]).status.success());
    let made = run(&["session", "report", &s, "-o", &p, "--view", "lens", "--view", "attention", "--view", "graph"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // What a reader finds.
    let dom = look(&browser, &page, folder.path(), &["--dump-dom"]);
    let dom = String::from_utf8_lossy(&dom.stdout).into_owned();
    assert_eq!(dom.matches("<figure>").count(), 3, "{}", &dom[..dom.len().min(500)]);
    assert!(dom.contains("Lenses") && dom.contains("circuitscope lens -m induction"));
    // A cell says its number when it is pointed at.
    let cell = dom.split("<title>").find(|t| t.starts_with("0, ")).unwrap();
    let number = cell.split("</title>").next().unwrap().rsplit(' ').next().unwrap();
    assert!(number.parse::<f32>().is_ok_and(|v| (0.0..=1.0).contains(&v)), "{number}");
    // The picture is drawn: not one colour all over.
    let picture = folder.path().join("page.png");
    let to = format!("--screenshot={}", picture.display());
    look(&browser, &page, folder.path(), &[&to, "--window-size=1000,1400"]);
    let image = image::open(&picture).unwrap().to_rgb8();
    let colours: std::collections::HashSet<_> = image.pixels().map(|p| p.0).collect();
    assert!(colours.len() > 100, "{} colours", colours.len());
    // No request leaves the page.
    let log = folder.path().join("net.json");
    let to = format!("--log-net-log={}", log.display());
    look(&browser, &page, folder.path(), &[&to, "--dump-dom"]);
    let log = std::fs::read_to_string(&log).unwrap();
    let page_asks = |line: &&str| line.contains("\"initiator\":\"file://") || line.contains("\"initiator\":\"null\"");
    let asked: Vec<&str> = log.lines().filter(|l| l.contains("\"url\":\"http")).filter(page_asks).collect();
    assert!(asked.is_empty(), "{asked:?}");
}
