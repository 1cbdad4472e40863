//! Tensors of a file that `torch.save` wrote: a zip archive of a pickle and raw numbers. The pickle is read by an
//! interpreter that builds lists, dictionaries and names and can call nothing; what names anything but tensors and the
//! containers of the list below is refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, Stack, TensorInfo};
use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result, short};
use crate::guard::guarded;

const FORMAT: &str = "torch";
/// Bytes of a pickle at most: it holds names and shapes.
const MOST: u64 = 64 << 20;

/// What a pickle may name.
const KNOWN: [(&str, &str); 5] = [
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
];

/// A file's tensors, by name; those of dictionaries inside dictionaries are called `outer.inner`.
pub struct TorchFile {
    path: PathBuf,
    tensors: BTreeMap<String, TensorInfo>,
}

impl TorchFile {
    /// # Errors
    /// A file that is none, or whose pickle names something that is not on the list.
    pub fn open(path: &Path) -> Result<Self> {
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: FORMAT, what };
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(|e| {
            malformed(format!("it is no archive of torch 1.6 or later ({e}); save it again with a newer torch"))
        })?;
        let mut names = archive.file_names().filter_map(|n| n.ok().map(Cow::into_owned));
        let name = names.find(|n| n.ends_with("/data.pkl") || n == "data.pkl");
        drop(names);
        let name = name.ok_or_else(|| malformed("it holds no data.pkl".to_owned()))?;
        let mut pickle = Vec::new();
        let entry = archive.by_name(&name).map_err(|e| malformed(e.to_string()))?;
        entry.take(MOST + 1).read_to_end(&mut pickle).map_err(|e| Error::read(path, e))?;
        if pickle.len() as u64 > MOST {
            return Err(malformed(format!("its pickle has more than {} MB", MOST >> 20)));
        }
        let read = guarded(pickle.len(), move || -> candle_core::Result<Object> {
            let mut stack = Stack::empty();
            stack.read_loop(&mut &pickle[..])?;
            stack.finalize()
        });
        let object = match read {
            Ok(Ok(object)) => object,
            Ok(Err(e)) => return Err(malformed(format!("its pickle cannot be read: {e}"))),
            Err(fault) => return Err(malformed(format!("its pickle cannot be read: {fault}"))),
        };
        if let Some(class) = unknown(&object) {
            return Err(malformed(format!("its pickle names `{}`, which is never run here", short(&class))));
        }
        let folder = name.strip_suffix(".pkl").map(PathBuf::from).unwrap_or_default();
        let mut tensors = BTreeMap::new();
        collect(object, "", &folder, &mut tensors);
        Ok(Self { path: path.to_owned(), tensors })
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.layout.dims())
    }

    /// A tensor as f32, contiguous.
    ///
    /// # Errors
    /// A name that the file does not have, numbers that are cut short, or a layout with gaps.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let malformed = |what: String| Error::Malformed { path: self.path.clone(), format: FORMAT, what };
        let info = self.tensors.get(name).ok_or_else(|| malformed(format!("it holds no tensor `{}`", short(name))))?;
        let layout = &info.layout;
        let by_columns = layout.is_fortran_contiguous();
        if !layout.is_contiguous() && !by_columns {
            return Err(malformed(format!("`{}` is a view with gaps; save it with .contiguous()", short(name))));
        }
        let file = File::open(&self.path).map_err(|e| Error::read(&self.path, e))?;
        let whole = file.metadata().map_err(|e| Error::read(&self.path, e))?.len();
        let size = info.dtype.size_in_bytes() as u64;
        let count = layout.dims().iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64)).unwrap_or(u64::MAX);
        let bytes = count.saturating_mul(size);
        if bytes > whole {
            return Err(malformed(format!("`{}` claims {bytes} bytes of a file of {whole}", short(name))));
        }
        let mut archive =
            zip::ZipArchive::new(BufReader::new(file)).map_err(|e| malformed(format!("it is damaged ({e})")))?;
        let entry = archive
            .by_name(&info.path)
            .map_err(|e| malformed(format!("the numbers of `{}` are missing ({e})", short(name))))?;
        let mut entry = entry;
        std::io::copy(&mut entry.by_ref().take(layout.start_offset() as u64), &mut std::io::sink())
            .map_err(|e| Error::read(&self.path, e))?;
        let mut raw = Vec::new();
        entry.take(bytes).read_to_end(&mut raw).map_err(|e| Error::read(&self.path, e))?;
        if raw.len() as u64 != bytes {
            return Err(malformed(format!("`{}` is cut short", short(name))));
        }
        let dims = layout.dims().to_vec();
        let stored: Vec<usize> = if by_columns { dims.iter().rev().copied().collect() } else { dims };
        let tensor = Tensor::from_raw_buffer(&raw, info.dtype, &stored, &Device::Cpu)?.to_dtype(DType::F32)?;
        if !by_columns {
            return Ok(tensor);
        }
        let axes: Vec<usize> = (0..stored.len()).rev().collect();
        Ok(tensor.permute(axes)?.contiguous()?)
    }
}

/// The first thing that a pickle names and that is not on the list.
fn unknown(object: &Object) -> Option<String> {
    match object {
        Object::Class { module_name, class_name } => {
            let storage = module_name == "torch" && class_name.ends_with("Storage");
            let known = KNOWN.iter().any(|(m, c)| m == module_name && c == class_name);
            (!storage && !known).then(|| format!("{module_name}.{class_name}"))
        }
        Object::Tuple(list) | Object::List(list) => list.iter().find_map(unknown),
        Object::Dict(list) => list.iter().find_map(|(k, v)| unknown(k).or_else(|| unknown(v))),
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            unknown(callable).or_else(|| unknown(args))
        }
        Object::PersistentLoad(inner) => unknown(inner),
        _ => None,
    }
}

/// The tensors in a pickle's dictionaries. What is no tensor, or of a type that is not read, is passed over.
fn collect(object: Object, prefix: &str, folder: &Path, out: &mut BTreeMap<String, TensorInfo>) {
    let object = match object {
        // An ordered dictionary with attributes.
        Object::Build { callable, .. } => *callable,
        other => other,
    };
    let Object::Dict(entries) = object else { return };
    for (key, value) in entries {
        let key = match key {
            Object::Unicode(text) => text,
            Object::Int(n) => n.to_string(),
            _ => continue,
        };
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        if matches!(value, Object::Dict(_) | Object::Build { .. }) {
            collect(value, &name, folder, out);
        } else {
            let (named, folder) = (Object::Unicode(name.clone()), folder.to_owned());
            // The library trusts the arguments of what it rebuilds.
            if let Ok(Ok(Some(info))) = guarded(0, move || value.into_tensor_info(named, &folder)) {
                out.insert(name, info);
            }
        }
    }
}
