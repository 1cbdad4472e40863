//! Qwen Scope: a folder with one `layer{n}.sae.pt` a layer, each a dictionary of four tensors, read without executing
//! anything. The number of active features stands in the folder's name, as in `SAE-Res-Qwen3.5-2B-Base-W32K-L0_100`. The
//! stream that a layer leaves is encoded as it is: its k largest x·W_encᵀ + b_enc are kept, without a ReLU.

use std::path::Path;

use serde_json::json;

use super::{Format, name_of};
use crate::engine::{Site, SiteKind};
use crate::error::{Error, Result};
use crate::features::dictionary::{Activation, Dictionary, Normalisation};
use crate::model::torch_file::TorchFile;
use crate::progress::Progress;

const NAME: &str = "Qwen Scope";

pub const FORMAT: Format =
    Format { name: NAME, looks: "layer0.sae.pt in a folder named …-L0_50", matches, layer: layer_of, open };

/// The layer that a file's name says.
fn layer_of(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.strip_prefix("layer")?.strip_suffix(".sae.pt")?.parse().ok()
}

fn matches(path: &Path) -> bool {
    path.is_file() && layer_of(path).is_some()
}

/// The files of a folder by layer.
pub(super) fn layers(folder: &Path) -> Vec<(usize, std::path::PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut found: Vec<_> =
        entries.filter_map(|e| e.ok().map(|e| e.path())).filter_map(|p| Some((layer_of(&p)?, p))).collect();
    found.sort();
    found
}

/// What stands behind `L0_` in the name of one of the folders that a file lies in.
fn k_of(path: &Path) -> Option<usize> {
    let named = |folder: &Path| {
        let name = folder.file_name()?.to_str()?;
        let (_, rest) = name.rsplit_once("L0_")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    std::path::absolute(path).ok()?.ancestors().skip(1).find_map(named)
}

fn open(path: &Path, _: &Progress) -> Result<Dictionary> {
    let malformed = |what: &str| Error::Malformed { path: path.to_owned(), format: NAME, what: what.to_owned() };
    let layer = layer_of(path).ok_or_else(|| malformed("its name does not say its layer"))?;
    let k = k_of(path).ok_or_else(|| {
        malformed("no folder that it lies in says how many features are active; name one as published, ending in L0_50")
    })?;
    let mut file = TorchFile::open(path)?;
    let w_enc = file.named("W_enc")?.t()?.contiguous()?;
    let w_dec = file.named("W_dec")?.t()?.contiguous()?;
    let (d_in, d_sae) = w_enc.dims2()?;
    let mut vector = |name: &str| -> Result<Vec<f32>> { Ok(file.named(name)?.flatten_all()?.to_vec1()?) };
    let (b_enc, b_dec) = (vector("b_enc")?, vector("b_dec")?);
    let at = Some(Site::new(SiteKind::ResidPost, layer).into());
    let folder = path.parent().map_or_else(String::new, name_of);
    Ok(Dictionary {
        name: format!("{folder} layer {layer}"),
        path: path.to_owned(),
        format: NAME,
        d_in,
        d_sae,
        d_out: w_dec.dim(1)?,
        w_enc,
        b_enc,
        w_dec,
        later: Default::default(),
        b_dec,
        activation: Activation::Largest { k },
        subtract_b_dec: false,
        rescale: false,
        normalisation: Normalisation::None,
        skip: None,
        transcoder: false,
        input: at,
        output: at,
        model_name: None,
        config: json!({"layer": layer, "k": k}),
        warnings: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::model::torch_file::{Written, save};

    #[test]
    fn a_layer_is_read_as_it_was_published() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("SAE-Res-Qwen3-tiny-W4K-L0_2");
        std::fs::create_dir(&folder).unwrap();
        let tensor = |v: &[f32], shape: &[usize]| Tensor::from_slice(v, shape, &Device::Cpu).unwrap();
        // Three features of two coordinates.
        let (enc, dec) =
            (tensor(&[1.0, 0.0, 0.0, 1.0, -1.0, -1.0], &[3, 2]), tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]));
        let (b_enc, b_dec) = (tensor(&[0.0, 0.5, 0.25], &[3]), tensor(&[0.5, -0.5], &[2]));
        let entry = |name: &str, t| (Written::Text(name.into()), Written::Tensor(t));
        let all = [("W_enc", &enc), ("W_dec", &dec), ("b_enc", &b_enc), ("b_dec", &b_dec)];
        let written = || Written::Dictionary(all.iter().map(|(n, t)| entry(n, t)).collect());
        let file = folder.join("layer3.sae.pt");
        save(&file, &written()).unwrap();
        save(&folder.join("layer10.sae.pt"), &written()).unwrap();
        let d = super::super::open(&file, &Progress::new()).unwrap();
        assert_eq!((d.d_in, d.d_sae, d.d_out, d.transcoder), (2, 3, 2, false));
        assert_eq!(d.places().unwrap().0.to_string(), "blocks.3.hook_resid_post");
        // x = (1, −2): 1, −1.5 and 1.25, of which the two largest are kept.
        let x = tensor(&[1.0, -2.0], &[1, 2]);
        let acts = d.encode(&x, &Progress::new()).unwrap();
        assert_eq!([0, 1, 2].map(|f| acts.at(0, f)), [1.0, 0.0, 1.25]);
        // The decoder lies [d, feature]: feature 2 writes (3, 6).
        assert_eq!(d.direction(2).unwrap(), [3.0, 6.0]);
        assert_eq!(layers(&folder).into_iter().map(|l| l.0).collect::<Vec<_>>(), [3, 10]);
        assert_eq!(super::super::all_at(&folder).unwrap().len(), 2);
        let elsewhere = dir.path().join("layer3.sae.pt");
        save(&elsewhere, &written()).unwrap();
        let error = super::super::open(&elsewhere, &Progress::new()).unwrap_err().to_string();
        assert!(error.contains("L0_50"), "{error}");
    }
}
