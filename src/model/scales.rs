//! Weights in 8 bits and the scales that lie beside them: `X.weight_scale_inv` of DeepSeek and transformers' FP8,
//! `X.weight_scale` of compressed-tensors, FBGEMM and ModelOpt. A weight is its stored value times the scale.

use std::sync::Arc;

use serde_json::Value;

use super::changes::{Change, Scale};
use super::dequantize::{Stored, decode};
use super::safetensors_file::Index;
use super::store::{Entry, read_exact_at};
use crate::error::{Error, Result, short};

/// Returns the size of the blocks that share a scale, where `quantization_config` gives it.
///
/// # Errors
/// The method is not read; the option and its value.
pub fn block(config: &Value) -> std::result::Result<Option<[usize; 2]>, (&'static str, String)> {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let given = |key: &str| config.get(key).filter(|v| !v.is_null());
    let method = text("quant_method");
    match method {
        Some("fp8" | "fbgemm_fp8") => {}
        Some("compressed-tensors") => match text("format") {
            Some("float-quantized" | "naive-quantized" | "int-quantized" | "dense") => {
                // The weights of such a file are those of a rotated model.
                if given("transform_config").is_some_and(|t| t.as_object().is_none_or(|t| !t.is_empty())) {
                    return Err(("quantization_config.transform_config", "(set)".to_owned()));
                }
            }
            other => return Err(("quantization_config.format", other.unwrap_or("(none)").to_owned())),
        },
        Some("modelopt") => match text("quant_algo").or_else(|| config.pointer("/quantization/quant_algo")?.as_str()) {
            Some("FP8") => {}
            other => return Err(("quantization_config.quant_algo", other.unwrap_or("(none)").to_owned())),
        },
        other => return Err(("quantization_config.quant_method", other.unwrap_or("(none)").to_owned())),
    }
    let Some(sizes) = given("weight_block_size") else { return Ok(None) };
    let size = |v: &Value| usize::try_from(v.as_u64()?).ok().filter(|n| *n > 0);
    let two = sizes.as_array().and_then(|list| list.iter().map(size).collect::<Option<Vec<_>>>()?.try_into().ok());
    two.map(Some).ok_or_else(|| ("quantization_config.weight_block_size", short(&sizes.to_string())))
}

/// Attaches their scales to the weights in 8 bits, and takes the scales out of the index.
///
/// # Errors
/// Scales of a shape that fits no blocks, or with zero points.
pub fn attach(index: &mut Index, block: Option<[usize; 2]>) -> Result<()> {
    let small: Vec<(String, Stored)> = index
        .entries
        .iter()
        .filter(|(_, e)| matches!(e.stored, Stored::F8E4M3 | Stored::F8E5M2 | Stored::I8))
        .map(|(name, entry)| (name.clone(), entry.stored))
        .collect();
    for (name, stored) in small {
        let scale = ["_scale_inv", "_scale"].map(|end| format!("{name}{end}"));
        if let Some(kind) = scale.iter().find_map(|scale| index.unread.get(scale).cloned()) {
            index.entries.remove(&name);
            index.unread.insert(name, format!("{} with scales stored as {kind}", stored.name()));
            continue;
        }
        let Some(found) = scale.into_iter().find(|scale| index.entries.contains_key(scale)) else {
            // Whole numbers mean nothing by themselves; a float of 8 bits does.
            if stored == Stored::I8 {
                index.entries.remove(&name);
                index.unread.insert(name, "I8 without scales beside it".to_owned());
            }
            continue;
        };
        let has = |tensor: &str| index.entries.contains_key(tensor) || index.unread.contains_key(tensor);
        let columns = format!("{}_g_idx", name.trim_end_matches(".weight"));
        let odd = [
            (format!("{name}_zero_point"), "zero points"),
            (format!("{name}_g_idx"), "columns in another order"),
            (columns, "columns in another order"),
        ];
        if let Some((_, what)) = odd.iter().find(|(tensor, _)| has(tensor)) {
            index.entries.remove(&name);
            index.unread.insert(name, format!("{} with {what}", stored.name()));
            continue;
        }
        let Some(of) = index.entries.remove(&found) else { continue };
        let values = numbers(index, &found, &of)?;
        let Some(entry) = index.entries.get_mut(&name) else { continue };
        let change = scaled(&entry.shape, &of.shape, values, block).ok_or_else(|| {
            Error::failed(format!(
                "`{found}` of shape {:?} fits no blocks of `{name}` of shape {:?}",
                of.shape, entry.shape
            ))
        })?;
        entry.changes.push(Arc::new(Change::Scale(change)));
    }
    Ok(())
}

fn scaled(shape: &[usize], of: &[usize], values: Vec<f32>, block: Option<[usize; 2]>) -> Option<Scale> {
    let &[rows, cols] = shape else { return None };
    let (down, across) = match *of {
        _ if values.len() == 1 => (1, 1),
        [down] if down == rows => (down, 1),
        [down, across] => (down, across),
        _ => return None,
    };
    // Where nothing says it, the blocks are all alike.
    let even = [rows.checked_div(down).unwrap_or(0), cols.checked_div(across).unwrap_or(0)];
    let fits = |[r, c]: [usize; 2]| r > 0 && c > 0 && rows.div_ceil(r) == down && cols.div_ceil(c) == across;
    let [rows, cols] = block.filter(|b| fits(*b)).or(Some(even).filter(|b| fits(*b)))?;
    Some(Scale { values, rows, cols, across })
}

/// Reads a small tensor whole.
pub fn numbers(index: &Index, name: &str, entry: &Entry) -> Result<Vec<f32>> {
    let n = entry.shape.iter().product();
    let mut bytes = vec![0u8; entry.stored.bytes(n).unwrap_or(0)];
    let file = &index.files[entry.file];
    read_exact_at(file, &mut bytes, entry.offset).map_err(|e| Error::read(&index.root, e))?;
    let mut values = vec![0f32; n];
    decode(entry.stored, &bytes, &mut values);
    if values.iter().all(|v| v.is_finite()) {
        Ok(values)
    } else {
        Err(Error::NotFinite { path: Some(index.root.clone()), name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_scales() {
        let fit = |shape: &[usize], of: &[usize], block| {
            let n = of.iter().product();
            scaled(shape, of, vec![1.0; n], block).map(|s| (s.rows, s.cols, s.across))
        };
        assert_eq!(fit(&[6, 4], &[], None), Some((6, 4, 1)));
        assert_eq!(fit(&[6, 4], &[6, 1], None), Some((1, 4, 1)));
        assert_eq!(fit(&[6, 4], &[6], None), Some((1, 4, 1)));
        // 300 rows in blocks of 128: 128, 128 and 44, which three blocks of 100 would fit as well.
        assert_eq!(fit(&[300, 256], &[3, 2], Some([128, 128])), Some((128, 128, 2)));
        assert_eq!(fit(&[300, 256], &[3, 2], None), Some((100, 128, 2)));
        assert_eq!(fit(&[300, 250], &[3, 4], None), None);
        assert_eq!(fit(&[6, 4], &[5, 1], None), None);
        assert_eq!(fit(&[6], &[6], None), None);
    }
}
