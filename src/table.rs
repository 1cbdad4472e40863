//! Tables of text.

/// A table with the first column left, the others right.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |s: &str| s.chars().count();
    let widths: Vec<usize> = (0..header.len())
        .map(|c| rows.iter().map(|r| r.get(c).map_or(0, |s| width(s))).chain([width(header[c])]).max().unwrap_or(0))
        .collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(i, (s, w))| {
            let pad = " ".repeat(w.saturating_sub(width(s)));
            if i == 0 { format!("{s}{pad}") } else { format!("{pad}{s}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let header: Vec<String> = header.iter().map(|s| (*s).to_owned()).collect();
    std::iter::once(line(&header)).chain(rows.iter().map(|r| line(r))).collect::<Vec<_>>().join("\n")
}
