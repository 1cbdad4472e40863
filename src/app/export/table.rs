//! The numbers of a view with their axes, as files.

use std::io::{Cursor, Write as _};

use serde_json::{Value, json};
use zip::write::SimpleFileOptions;

use super::provenance::Provenance;
use crate::error::{Error, Result};
use crate::gpu::HeatData;

/// Numbers with their axes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub name: String,
    /// What the numbers are counted in: nats, logits; empty where they have no unit.
    pub unit: &'static str,
    pub row_axis: &'static str,
    pub col_axis: &'static str,
    pub rows: Vec<String>,
    pub cols: Vec<String>,
    /// [row][col]; `None` where there is no cell.
    pub values: Vec<Vec<Option<f32>>>,
    /// What stands in the cells, [row][col], where that is more than the number.
    pub texts: Option<Vec<Vec<String>>>,
    /// Other numbers of the same view.
    pub more: Vec<Self>,
}

/// What numbers are of, as lines before a table in text.
pub fn comments(of: &Provenance) -> String {
    of.lines().iter().map(|(name, value)| format!("# {name}: {}\n", value.replace(['\n', '\r'], " "))).collect()
}

impl Table {
    pub fn grid(
        name: &str,
        axes: (&'static str, &'static str),
        data: &HeatData,
        rows: Vec<String>,
        cols: Vec<String>,
    ) -> Self {
        let values = (0..data.rows).map(|r| (0..data.cols).map(|c| data.get(r, c)).collect()).collect();
        Self { name: name.to_owned(), row_axis: axes.0, col_axis: axes.1, rows, cols, values, ..Self::default() }
    }

    /// Says what the numbers are counted in.
    #[must_use]
    pub fn in_unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// Says what stands in the cells.
    #[must_use]
    pub fn with_texts(self, text: impl Fn(usize, usize) -> String) -> Self {
        let (rows, cols) = (self.rows.len(), self.cols.len());
        let texts = (0..rows).map(|r| (0..cols).map(|c| text(r, c)).collect()).collect();
        Self { texts: Some(texts), ..self }
    }

    /// The first rows and columns, without the tables that belong to it.
    pub fn first(&self, most: usize) -> Self {
        let rows = |texts: &[String]| texts.iter().take(most).cloned().collect();
        let cut = |texts: &Vec<Vec<String>>| texts.iter().take(most).map(|row| rows(row)).collect();
        Self {
            name: self.name.clone(),
            rows: rows(&self.rows),
            cols: rows(&self.cols),
            values: self.values.iter().take(most).map(|row| row.iter().take(most).copied().collect()).collect(),
            texts: self.texts.as_ref().map(cut),
            more: Vec::new(),
            ..*self
        }
    }

    /// This table, then those that belong to it.
    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.more)
    }

    /// Rows and columns with their names; what it is of stands before, in lines that begin with `#`. Further tables
    /// follow after an empty line.
    pub fn csv(&self, of: &Provenance) -> String {
        let mut out = comments(of);
        for (k, table) in self.all().enumerate() {
            if k > 0 {
                out.push_str("\n\n");
            }
            let unit = if table.unit.is_empty() { String::new() } else { format!(", {}", table.unit) };
            out += &format!("# {}{unit}\n", table.name);
            table.rows_as_csv(&mut out);
        }
        out
    }

    fn rows_as_csv(&self, out: &mut String) {
        out.push_str(&quoted(self.row_axis));
        for c in &self.cols {
            out.push(',');
            out.push_str(&quoted(c));
            if self.texts.is_some() {
                out.push(',');
                out.push_str(&quoted(&format!("{c} (text)")));
            }
        }
        for (r, name) in self.rows.iter().enumerate() {
            out.push('\n');
            out.push_str(&quoted(name));
            for (c, value) in self.values[r].iter().enumerate() {
                out.push(',');
                out.push_str(&value.map_or_else(String::new, |v| v.to_string()));
                if let Some(texts) = &self.texts {
                    out.push(',');
                    out.push_str(&quoted(&texts[r][c]));
                }
            }
        }
    }

    pub fn json(&self, of: &Provenance) -> Value {
        let table = |t: &Self| {
            let mut value = json!({
                "name": t.name, "unit": t.unit, "axes": [t.row_axis, t.col_axis],
                "rows": t.rows, "cols": t.cols, "values": t.values,
            });
            if let Some(texts) = &t.texts {
                value["texts"] = json!(texts);
            }
            value
        };
        let mut value = table(self);
        value["of"] = json!(of);
        if !self.more.is_empty() {
            value["more"] = self.more.iter().map(table).collect();
        }
        value
    }

    /// A NumPy archive: `values` [row, col] as f32, NaN where there is no cell; `rows`, `cols` and `texts` as strings; `of`
    /// as JSON text. Further tables have their name before those.
    ///
    /// # Errors
    /// None that a reader could meet: writing into memory.
    pub fn npz(&self, of: &Provenance) -> Result<Vec<u8>> {
        let fail = |e: &dyn std::fmt::Display| Error::failed(format!("the arrays could not be packed: {e}"));
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let mut add = |name: String, bytes: Vec<u8>| {
            zip.start_file(format!("{name}.npy"), SimpleFileOptions::default()).map_err(|e| fail(&e))?;
            zip.write_all(&bytes).map_err(|e| fail(&e))
        };
        for (k, table) in self.all().enumerate() {
            let name = |part: &str| if k == 0 { part.to_owned() } else { format!("{}_{part}", table.name) };
            let flat = table.values.iter().flatten().flat_map(|v| v.unwrap_or(f32::NAN).to_le_bytes());
            let shape = [table.rows.len(), table.cols.len()];
            add(name("values"), npy("<f4", &shape, flat.collect()))?;
            add(name("rows"), strings(&shape[..1], &table.rows))?;
            add(name("cols"), strings(&shape[1..], &table.cols))?;
            if let Some(texts) = &table.texts {
                add(name("texts"), strings(&shape, &texts.concat()))?;
            }
        }
        add("of".to_owned(), strings(&[], &[json!(of).to_string()]))?;
        Ok(zip.finish().map_err(|e| fail(&e))?.into_inner())
    }
}

fn quoted(text: &str) -> String {
    let plain = !text.contains([',', '"', '\n', '\r', '#']);
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

/// An array in NumPy's format, version 1.0, in C order.
fn npy(kind: &str, shape: &[usize], data: Vec<u8>) -> Vec<u8> {
    let shape: String = shape.iter().map(|n| format!("{n},")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    // What comes before the data is a multiple of 64 bytes and ends in a line break.
    let filled = (10 + header.len() + 1).next_multiple_of(64) - 11;
    header = format!("{header:filled$}\n");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.into_bytes());
    out.extend(data);
    out
}

/// Strings, each as long as the longest, four bytes a character.
fn strings(shape: &[usize], texts: &[String]) -> Vec<u8> {
    let longest = texts.iter().map(|t| t.chars().count()).max().unwrap_or(0).max(1);
    let padded = |t: &String| t.chars().map(u32::from).chain(std::iter::repeat(0)).take(longest).collect::<Vec<_>>();
    let data = texts.iter().flat_map(padded).flat_map(u32::to_le_bytes).collect();
    npy(&format!("<U{longest}"), shape, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let data = HeatData::new(2, 2, vec![1.5, crate::gpu::NOTHING, -2.0, 0.25]);
        let names = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let more = Table::grid("links", ("source", "value"), &data, names("x", "y"), names("u", "v"));
        let table = Table::grid("lens", ("layer", "pos"), &data, names("0", "1"), names("0 a,b", "1 #c"));
        Table { more: vec![more], ..table.in_unit("nats").with_texts(|r, c| format!("t{r}{c}")) }
    }

    #[test]
    fn tables_say_what_they_are_of() {
        let of = Provenance {
            program: "circuitscope 1".to_owned(),
            prompt: Some("a\nb".to_owned()),
            ..Provenance::default()
        };
        let csv = table().csv(&of);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "# program: circuitscope 1");
        assert!(lines.contains(&"# prompt: a b") && lines.contains(&"# lens, nats"), "{csv}");
        assert!(lines.contains(&"layer,\"0 a,b\",\"0 a,b (text)\",\"1 #c\",\"1 #c (text)\""), "{csv}");
        assert!(lines.contains(&"0,1.5,t00,,t01") && lines.contains(&"y,-2,0.25"), "{csv}");
        let value = table().json(&of);
        assert_eq!((&value["unit"], &value["values"][0][1]), (&json!("nats"), &Value::Null));
        assert_eq!((&value["texts"][1][0], &value["more"][0]["name"]), (&json!("t10"), &json!("links")));
        assert_eq!(value["of"]["prompt"], "a\nb");
    }

    #[test]
    fn arrays_are_numpys() {
        let bytes = table().npz(&Provenance::default()).unwrap();
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
        let mut read = |name: &str| {
            let mut out = Vec::new();
            std::io::Read::read_to_end(&mut zip.by_name(name).unwrap(), &mut out).unwrap();
            out
        };
        let bytes = read("values.npy");
        let values = npyz::NpyFile::new(&bytes[..]).unwrap();
        assert_eq!(values.shape(), [2, 2]);
        let values = values.into_vec::<f32>().unwrap();
        assert!(values[0] == 1.5 && values[1].is_nan() && values[2..] == [-2.0, 0.25]);
        let rows = read("cols.npy");
        assert_eq!(rows.len() % 4, 0);
        assert!(npyz::NpyFile::new(&rows[..]).unwrap().shape() == [2]);
        for (name, shape) in [("of.npy", &[][..]), ("links_values.npy", &[2, 2])] {
            let bytes = read(name);
            assert_eq!(npyz::NpyFile::new(&bytes[..]).unwrap().shape(), shape);
        }
    }
}
