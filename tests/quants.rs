//! Every GGML type decodes as the `gguf` Python package decodes it (`tests/quants/make.py`).
#![allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests write and print freely")]

mod common;

use circuitscope::model::dequantize::{Stored, decode};
use common::fixture;

#[test]
fn every_type_decodes_as_in_gguf() {
    let bytes = std::fs::read(fixture("quants/blocks.bin")).unwrap();
    let mut at = 0;
    let mut take = |n: usize| {
        at += n;
        &bytes[at - n..at]
    };
    let mut seen = Vec::new();
    for _ in 0..17 {
        let [kind, blocks, size, per] =
            std::array::from_fn(|_| u32::from_le_bytes(take(4).try_into().unwrap())).map(|v| v as usize);
        let stored = Stored::from_ggml(kind as u32).unwrap();
        assert_eq!(stored.block(), (per, size), "{stored:?}");
        let mut values = vec![0f32; blocks * per];
        decode(stored, take(blocks * size), &mut values);
        let wanted = take(4 * blocks * per).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        for (i, (got, want)) in values.iter().zip(wanted).enumerate() {
            assert!((got - want).abs() <= 1e-5 * want.abs().max(1e-6), "{stored:?} value {i}: {got} against {want}");
        }
        seen.push(stored);
    }
    for (stored, _) in Stored::ALL {
        let plain = [Stored::F32, Stored::F64].contains(&stored);
        assert!(plain || seen.contains(&stored), "{stored:?} is not compared");
    }
}
