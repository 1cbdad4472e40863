//! Files that torch saved: a zip archive of a pickle and the raw numbers of its tensors.
//!
//! A pickle is a program for a stack machine that can call anything. Here only its data is built: dictionaries, lists,
//! numbers, texts, and the one call that stands for a tensor. Any other call is refused by its name, nothing is imported
//! and nothing run. What a small file can blow up to is bounded before it is built.

use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, Stack};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

use crate::error::{Error, Result, short};
use crate::files::write_atomic;
use crate::guard::guarded;

const FORMAT: &str = "torch";
/// Bytes of a pickle: a few hundred a tensor.
const PICKLE: u64 = 1 << 20;
/// Parts of all values that the pickle has had copied.
const PARTS: usize = 1 << 22;
/// Values inside values.
const DEPTH: usize = 48;

/// What a pickle holds.
#[derive(Clone, Debug)]
pub enum Value {
    Tensor(Place),
    Dictionary(Vec<(Value, Value)>),
    List(Vec<Value>),
    Whole(i64),
    Number(f64),
    Text(String),
    Truth(bool),
    Nothing,
}

impl Value {
    /// An entry of a dictionary.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Dictionary(list) => {
                list.iter().rev().find(|(k, _)| matches!(k, Self::Text(t) if t == name)).map(|(_, v)| v)
            }
            _ => None,
        }
    }

    pub fn whole(&self) -> Option<usize> {
        match self {
            Self::Whole(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(t) => Some(t),
            _ => None,
        }
    }
}

/// Where a tensor's numbers lie.
#[derive(Clone, Debug)]
pub struct Place {
    pub shape: Vec<usize>,
    strides: Vec<usize>,
    /// The number of its first value in the storage.
    first: usize,
    storage: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    F16,
    BF16,
    F32,
    F64,
    /// A type of which no weights are: counters and masks lie beside them.
    Other,
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Other => 0,
        }
    }

    fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.as_chunks::<2>().0.iter();
        match self {
            Self::F16 => pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Self::BF16 => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Self::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Self::Other => Vec::new(),
        }
    }
}

/// An opened file.
pub struct TorchFile {
    path: PathBuf,
    archive: zip::ZipArchive<BufReader<File>>,
    /// The folder in the archive.
    root: String,
    pub value: Value,
}

impl TorchFile {
    /// Reads what a file holds, all but the tensors' numbers.
    ///
    /// # Errors
    /// A file that is no archive of torch's, a pickle that calls anything but a tensor, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let malformed = |what: String| Error::Malformed { path: path.to_owned(), format: FORMAT, what };
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let size = file.metadata().map_err(|e| Error::read(path, e))?.len();
        let listed = guarded(size as usize, move || zip::ZipArchive::new(BufReader::new(file)));
        let mut archive = listed
            .map_err(|fault| malformed(format!("its list of files cannot be read: {fault}")))?
            .map_err(|e| malformed(format!("it is no archive as torch has saved them since version 1.6 ({e})")))?;
        let name = archive
            .file_names()
            .filter_map(|n| n.ok().map(std::borrow::Cow::into_owned))
            .find(|n| n == "data.pkl" || n.ends_with("/data.pkl"))
            .ok_or_else(|| malformed("it holds no data.pkl".to_owned()))?;
        let root = name.trim_end_matches("data.pkl").to_owned();
        let mut pickle = Vec::new();
        let entry = archive.by_name(&name).map_err(|e| malformed(e.to_string()))?;
        entry.take(PICKLE + 1).read_to_end(&mut pickle).map_err(|e| Error::read(path, e))?;
        if pickle.len() as u64 > PICKLE {
            return Err(malformed(format!("its pickle has more than {PICKLE} bytes, too many for tensors")));
        }
        // Files before torch 2.1 do not say it.
        if let Ok(mut entry) = archive.by_name(&format!("{root}byteorder")) {
            let mut order = String::new();
            let read = entry.by_ref().take(16).read_to_string(&mut order);
            if read.is_err() || order != "little" {
                return Err(malformed("its numbers are in the byte order of other processors".to_owned()));
            }
        }
        let parsed = guarded(pickle.len(), move || parse(&pickle));
        let object =
            parsed.unwrap_or_else(|fault| Err(format!("its pickle cannot be read: {fault}"))).map_err(malformed)?;
        let value = value(object).map_err(malformed)?;
        Ok(Self { path: path.to_owned(), archive, root, value })
    }

    /// Returns where a tensor lies by its name in the file's dictionary, or in one inside it (`outer.inner`).
    pub fn place(&self, name: &str) -> Option<&Place> {
        let outer = name.split_once('.').and_then(|(outer, inner)| self.value.get(outer)?.get(inner));
        match self.value.get(name).or(outer)? {
            Value::Tensor(place) => Some(place),
            _ => None,
        }
    }

    /// Reads a tensor by its name.
    ///
    /// # Errors
    /// There is none; as [`Self::tensor`].
    pub fn named(&mut self, name: &str) -> Result<Tensor> {
        let place = self.place(name).cloned().ok_or_else(|| Error::Malformed {
            path: self.path.clone(),
            format: FORMAT,
            what: format!("it holds no tensor `{}`", short(name)),
        })?;
        self.tensor(&place)
    }

    /// Reads a tensor's numbers as f32.
    ///
    /// # Errors
    /// They do not lie where the pickle says.
    pub fn tensor(&mut self, place: &Place) -> Result<Tensor> {
        let path = self.path.clone();
        let malformed = |what: String| Error::Malformed { path: path.clone(), format: FORMAT, what };
        if matches!(place.kind, Kind::Other) {
            return Err(malformed(
                "a tensor is of whole numbers; read are halves, bfloat16, floats and doubles".to_owned(),
            ));
        }
        let name = format!("{}data/{}", self.root, place.storage);
        let entry = self.archive.by_name(&name).map_err(|e| malformed(format!("it lacks `{}` ({e})", short(&name))))?;
        if entry.compression() != CompressionMethod::Stored {
            return Err(malformed(format!("`{}` is compressed, which torch does not do", short(&name))));
        }
        let (size, bytes) = (entry.size(), place.kind.bytes());
        // The last value that the shape reaches must lie inside the storage.
        let last = place.shape.iter().zip(&place.strides).try_fold(place.first, |at, (n, stride)| {
            n.checked_sub(1).and_then(|n| n.checked_mul(*stride)).and_then(|n| at.checked_add(n))
        });
        let count = place.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let fits = |n: usize| n.checked_mul(bytes).is_some_and(|n| n as u64 <= size);
        let count = match (last, count) {
            // No value is there twice, so that a small storage makes no large tensor.
            (Some(last), Some(count)) if last < usize::MAX && fits(last + 1) && fits(count) => count,
            _ => return Err(malformed(format!("a tensor of shape {:?} does not fit its {size} bytes", place.shape))),
        };
        let mut raw = Vec::new();
        entry.take(size).read_to_end(&mut raw).map_err(|e| Error::read(&path, e))?;
        if raw.len() as u64 != size {
            return Err(malformed(format!("`{}` ends early", short(&name))));
        }
        let values = place.kind.decode(&raw);
        let mut plain = vec![1usize; place.shape.len()];
        for i in (1..place.shape.len()).rev() {
            plain[i - 1] = plain[i] * place.shape[i];
        }
        let values = if plain == place.strides {
            values.get(place.first..place.first + count).map(<[f32]>::to_vec)
        } else {
            let at = |i: usize| {
                let place_of = |(n, (d, stride)): (&usize, (&usize, &usize))| i / n % d * stride;
                place.first + plain.iter().zip(place.shape.iter().zip(&place.strides)).map(place_of).sum::<usize>()
            };
            (0..count).map(|i| values.get(at(i)).copied()).collect()
        };
        let values = values.ok_or_else(|| malformed("a tensor reaches beyond its storage".to_owned()))?;
        if values.iter().map(|v| v * 0.0).sum::<f32>() != 0.0 {
            return Err(Error::NotFinite { path: Some(path), name });
        }
        Ok(Tensor::from_vec(values, place.shape.as_slice(), &Device::Cpu)?)
    }
}

/// Counts the parts of a value; an error where they are too many or lie too deep.
fn parts(object: &Object, depth: usize, left: &mut usize) -> std::result::Result<(), String> {
    if depth > DEPTH || *left == 0 {
        return Err("its values lie in one another too deep, or are too many".to_owned());
    }
    *left -= 1;
    match object {
        Object::Tuple(list) | Object::List(list) => list.iter().try_for_each(|o| parts(o, depth + 1, left)),
        Object::Dict(list) => {
            list.iter().try_for_each(|(k, v)| parts(k, depth + 1, left).and_then(|()| parts(v, depth + 1, left)))
        }
        Object::Reduce { callable, args } | Object::Build { callable, args } => {
            parts(callable, depth + 1, left).and_then(|()| parts(args, depth + 1, left))
        }
        Object::PersistentLoad(o) => parts(o, depth + 1, left),
        Object::Unicode(text) => {
            *left = left.saturating_sub(text.len() / 16);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Builds what a pickle describes, one step after the other, and watches how large it gets.
fn parse(pickle: &[u8]) -> std::result::Result<Object, String> {
    let mut stack = Stack::empty();
    let mut rest = pickle;
    let mut left = PARTS;
    loop {
        let step = *rest.first().ok_or("its pickle ends early")?;
        // A text says its length, which is believed only where it is there.
        if step == b'X' {
            let length = rest.get(1..5).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
            if length.is_none_or(|n| n as usize > rest.len().saturating_sub(5)) {
                return Err("a text of its pickle ends early".to_owned());
            }
        }
        // A whole number of more than eight bytes is none that is read here.
        if step == 0x8a && rest.get(1).is_none_or(|n| *n > 8) {
            return Err("a number of its pickle is too long".to_owned());
        }
        let done = stack.read(&mut rest).map_err(|e| format!("its pickle is damaged or of another kind ({e})"))?;
        if let Some(top) = stack.stack().last() {
            parts(top, 0, &mut left)?;
        }
        if done {
            return stack.finalize().map_err(|e| e.to_string());
        }
    }
}

/// Turns what a pickle built into values. Calls are refused but for those that stand for a tensor.
fn value(object: Object) -> std::result::Result<Value, String> {
    Ok(match object {
        Object::Int(n) => Value::Whole(n.into()),
        Object::Long(n) => Value::Whole(n),
        Object::Float(v) => Value::Number(v),
        Object::Unicode(t) => Value::Text(t),
        Object::Bool(b) => Value::Truth(b),
        Object::None => Value::Nothing,
        Object::Tuple(list) | Object::List(list) => {
            Value::List(list.into_iter().map(value).collect::<std::result::Result<_, _>>()?)
        }
        Object::Dict(list) => {
            let pair = |(k, v)| Ok((value(k)?, value(v)?));
            Value::Dictionary(list.into_iter().map(pair).collect::<std::result::Result<_, String>>()?)
        }
        // A state dictionary carries a note of its modules' versions.
        Object::Build { callable, .. } if matches!(*callable, Object::Dict(_)) => value(*callable)?,
        Object::Reduce { callable, args } => called(*callable, *args)?,
        Object::Build { callable, .. } => return Err(refusal(&callable)),
        other => return Err(refusal(&other)),
    })
}

fn refusal(object: &Object) -> String {
    match object {
        Object::Class { module_name, class_name } => format!(
            "it would run `{}.{}`, and nothing in a file is run here; save plain dictionaries of tensors",
            short(module_name),
            short(class_name)
        ),
        Object::Reduce { callable, .. } | Object::Build { callable, .. } => refusal(callable),
        _ => "it holds something else than dictionaries, numbers, texts and tensors".to_owned(),
    }
}

fn called(callable: Object, args: Object) -> std::result::Result<Value, String> {
    let Object::Class { module_name, class_name } = &callable else { return Err(refusal(&callable)) };
    let damaged = || "a tensor of its pickle is damaged".to_owned();
    let Object::Tuple(args) = args else { return Err(damaged()) };
    match (module_name.as_str(), class_name.as_str()) {
        ("torch._utils", "_rebuild_tensor_v2") => tensor(&args).ok_or_else(damaged).and_then(|t| t),
        ("torch._utils", "_rebuild_parameter") => value(args.into_iter().next().ok_or_else(damaged)?),
        _ => Err(refusal(&callable)),
    }
}

/// The storage, its number of values, where the tensor begins, its shape and strides.
fn tensor(args: &[Object]) -> Option<std::result::Result<Value, String>> {
    let whole = |o: &Object| match o {
        Object::Int(n) => usize::try_from(*n).ok(),
        Object::Long(n) => usize::try_from(*n).ok(),
        _ => None,
    };
    let list = |o: &Object| match o {
        Object::Tuple(list) => list.iter().map(whole).collect::<Option<Vec<usize>>>(),
        _ => None,
    };
    let [Object::PersistentLoad(storage), first, shape, strides, ..] = args else { return None };
    let Object::Tuple(storage) = &**storage else { return None };
    let [Object::Unicode(word), Object::Class { module_name, class_name }, Object::Unicode(key), ..] = &storage[..]
    else {
        return None;
    };
    let kind = match (module_name.as_str(), class_name.as_str()) {
        ("torch", "HalfStorage") => Kind::F16,
        ("torch", "BFloat16Storage") => Kind::BF16,
        ("torch", "FloatStorage") => Kind::F32,
        ("torch", "DoubleStorage") => Kind::F64,
        ("torch", class) if class.ends_with("Storage") => Kind::Other,
        _ => {
            return Some(Err(refusal(&Object::Class {
                module_name: module_name.clone(),
                class_name: class_name.clone(),
            })));
        }
    };
    let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let (shape, strides) = (list(shape)?, list(strides)?);
    if word != "storage" || !plain || shape.len() != strides.len() {
        return None;
    }
    Some(Ok(Value::Tensor(Place { shape, strides, first: whole(first)?, storage: key.clone(), kind })))
}

/// A value to be written; tensors are written as halves.
pub enum Written<'a> {
    Tensor(&'a Tensor),
    Dictionary(Vec<(Written<'a>, Written<'a>)>),
    List(Vec<Written<'a>>),
    Whole(i64),
    Number(f64),
    Text(String),
}

/// Writes the pickle, and collects the tensors that it names.
fn pickle<'a>(value: &Written<'a>, out: &mut Vec<u8>, tensors: &mut Vec<&'a Tensor>) {
    let text = |out: &mut Vec<u8>, t: &str| {
        out.push(b'X');
        out.extend((t.len() as u32).to_le_bytes());
        out.extend(t.as_bytes());
    };
    let whole = |out: &mut Vec<u8>, n: i64| match i32::try_from(n) {
        Ok(n) => {
            out.push(b'J');
            out.extend(n.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]);
            out.extend(n.to_le_bytes());
        }
    };
    match value {
        Written::Whole(n) => whole(out, *n),
        Written::Number(v) => {
            out.push(b'G');
            out.extend(v.to_be_bytes());
        }
        Written::Text(t) => text(out, t),
        Written::List(list) => {
            out.extend(b"](");
            list.iter().for_each(|v| pickle(v, out, tensors));
            out.push(b'e');
        }
        Written::Dictionary(list) => {
            out.extend(b"}(");
            for (k, v) in list {
                pickle(k, out, tensors);
                pickle(v, out, tensors);
            }
            out.push(b'u');
        }
        Written::Tensor(t) => {
            out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            text(out, "storage");
            out.extend(b"ctorch\nHalfStorage\n");
            text(out, &tensors.len().to_string());
            text(out, "cpu");
            whole(out, t.elem_count() as i64);
            out.extend(b"tQ");
            whole(out, 0);
            let mut stride = t.elem_count();
            out.push(b'(');
            t.dims().iter().for_each(|d| whole(out, *d as i64));
            out.extend(b"t(");
            for d in t.dims() {
                stride /= (*d).max(1);
                whole(out, stride as i64);
            }
            // requires_grad and backward_hooks
            out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
            tensors.push(t);
        }
    }
}

/// Writes a file that `torch.load` opens, with `weights_only` too.
///
/// # Errors
/// The file cannot be written.
pub fn save(path: &Path, value: &Written<'_>) -> Result<()> {
    let failed = |e: std::io::Error| Error::write(path, e);
    let packed = |e: zip::result::ZipError| failed(std::io::Error::other(e));
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let root = path.file_stem().map_or_else(|| "archive".into(), |s| crate::files::file_name(&s.to_string_lossy()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
    let (mut bytes, mut tensors) = (b"\x80\x02".to_vec(), Vec::new());
    pickle(value, &mut bytes, &mut tensors);
    bytes.push(b'.');
    let mut entry = |name: &str, bytes: &[u8]| -> Result<()> {
        let large = stored.large_file(bytes.len() as u64 >= u64::from(u32::MAX));
        zip.start_file(format!("{root}/{name}"), large).map_err(packed)?;
        std::io::copy(&mut Cursor::new(bytes), &mut zip).map_err(failed)?;
        Ok(())
    };
    entry("data.pkl", &bytes)?;
    entry("byteorder", b"little")?;
    for (i, t) in tensors.iter().enumerate() {
        let values: Vec<f32> = t.flatten_all()?.to_vec1()?;
        if values.iter().any(|v| !f16::from_f32(*v).is_finite()) {
            return Err(Error::failed(format!(
                "{} cannot hold a number beyond 65504, as half precision",
                path.display()
            )));
        }
        let halves: Vec<u8> = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        entry(&format!("data/{i}"), &halves)?;
    }
    entry("version", b"3\n")?;
    write_atomic(path, &zip.finish().map_err(packed)?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(pickle: &[u8]) -> std::result::Result<Value, String> {
        value(parse(pickle)?)
    }

    #[test]
    fn what_is_written_is_read() {
        let t = Tensor::new(&[[1.5f32, -2.0, 0.25], [4.0, 0.0, 9.0]], &Device::Cpu).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a lens.pt");
        let text = |t: &str| Written::Text(t.to_owned());
        let layers = Written::Dictionary(vec![(Written::Whole(3), Written::Tensor(&t))]);
        let list = Written::List(vec![Written::Whole(1 << 40), Written::Number(0.5)]);
        save(&path, &Written::Dictionary(vec![(text("J"), layers), (text("list"), list)])).unwrap();
        let mut file = TorchFile::open(&path).unwrap();
        let Some(Value::List(list)) = file.value.get("list") else { panic!("{:?}", file.value) };
        assert!(matches!(list[..], [Value::Whole(n), Value::Number(v)] if n == 1 << 40 && v == 0.5));
        let Some(Value::Dictionary(layers)) = file.value.get("J").cloned() else { panic!("no layers") };
        let (Value::Whole(3), Value::Tensor(place)) = &layers[0] else { panic!("{layers:?}") };
        assert_eq!(file.tensor(place).unwrap().to_vec2::<f32>().unwrap(), t.to_vec2::<f32>().unwrap());
        // A transposed view, as torch saves one.
        let turned = Place { shape: vec![3, 2], strides: vec![1, 3], ..place.clone() };
        let there = file.tensor(&turned).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(there, t.t().unwrap().to_vec2::<f32>().unwrap());
        for bad in [vec![3, 3], vec![usize::MAX, 2], vec![0, usize::MAX]] {
            assert!(file.tensor(&Place { shape: bad, ..place.clone() }).is_err());
        }
    }

    #[test]
    fn nothing_in_a_pickle_is_run() {
        let error = parsed(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap_err();
        assert!(error.contains("`os.system`"), "{error}");
        let error = parsed(b"\x80\x02}X\x01\x00\x00\x00Jcbuiltins\neval\ns.").unwrap_err();
        assert!(error.contains("`builtins.eval`"), "{error}");
        let error = parsed(b"\x80\x02cnumpy\nndarray\n)\x81}b.").unwrap_err();
        assert!(error.contains("numpy.ndarray"), "{error}");
    }

    #[test]
    fn pickles_that_blow_up_are_refused() {
        // (x, x) of the one before, forty times: a billion parts.
        let mut doubling = b"\x80\x02K\x01q\x00".to_vec();
        (0..40).for_each(|_| doubling.extend(b"h\x00h\x00\x86q\x00"));
        doubling.push(b'.');
        let deep = [b"\x80\x02K\x01".to_vec(), vec![0x85; 100_000], b".".to_vec()].concat();
        let text = b"\x80\x02X\xff\xff\xff\xffabc".to_vec();
        let number = b"\x80\x02\x8a\xff1234".to_vec();
        for bad in [doubling, deep, text, number, b"\x80\x02]".to_vec(), b"\x80\x02a.".to_vec()] {
            assert!(parsed(&bad).is_err());
        }
    }
}
