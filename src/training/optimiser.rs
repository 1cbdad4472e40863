//! AdamW [Loshchilov and Hutter 2019] with a state that can be saved. The one in candle keeps its moments private, and
//! without them a resumed training is not the same training.

use std::collections::HashMap;

use candle_core::{Tensor, Var, backprop::GradStore};

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug)]
pub struct AdamWSettings {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// One variable with its running moments.
struct Slot {
    name: String,
    var: Var,
    first: Tensor,
    second: Tensor,
}

pub struct AdamW {
    settings: AdamWSettings,
    slots: Vec<Slot>,
    /// Number of steps taken.
    pub step: usize,
}

impl AdamW {
    pub fn new(vars: Vec<(String, Var)>, settings: AdamWSettings) -> Result<Self> {
        let slots = vars
            .into_iter()
            .map(|(name, var)| {
                let zero = var.zeros_like()?;
                Ok(Slot { name, first: zero.clone(), second: zero, var })
            })
            .collect::<Result<_>>()?;
        Ok(Self { settings, slots, step: 0 })
    }

    /// Takes one step with the given learning rate.
    pub fn update(&mut self, gradients: &GradStore, rate: f64) -> Result<()> {
        self.step += 1;
        let AdamWSettings { beta1, beta2, eps, weight_decay } = self.settings;
        let (c1, c2) = (1.0 - beta1.powi(self.step as i32), 1.0 - beta2.powi(self.step as i32));
        for slot in &mut self.slots {
            let Some(g) = gradients.get(slot.var.as_tensor()) else { continue };
            let g = g.detach();
            slot.first = ((&slot.first * beta1)? + (&g * (1.0 - beta1))?)?;
            slot.second = ((&slot.second * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
            let direction = ((&slot.first / c1)? / ((&slot.second / c2)?.sqrt()? + eps)?)?;
            let old = slot.var.as_detached_tensor();
            slot.var.set(&((old * (1.0 - rate * weight_decay))? - (direction * rate)?)?)?;
        }
        Ok(())
    }

    /// Returns the variables and their moments, with names.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.slots
            .iter()
            .flat_map(|s| {
                [
                    (s.name.clone(), s.var.as_detached_tensor()),
                    (format!("adam.first.{}", s.name), s.first.clone()),
                    (format!("adam.second.{}", s.name), s.second.clone()),
                ]
            })
            .collect()
    }

    /// Restores the variables and moments of [`AdamW::state`].
    ///
    /// # Errors
    /// Returns an error if one of them is missing.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>, step: usize) -> Result<()> {
        let get = |name: &str| {
            state
                .get(name)
                .cloned()
                .ok_or_else(|| Error::failed(format!("the checkpoint lacks `{name}`; delete it and start again")))
        };
        for slot in &mut self.slots {
            slot.var.set(&get(&slot.name)?)?;
            slot.first = get(&format!("adam.first.{}", slot.name))?;
            slot.second = get(&format!("adam.second.{}", slot.name))?;
        }
        self.step = step;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn first_step_is_the_rate_against_the_gradient() {
        // With fresh moments the corrected direction is g/|g|: w = 1 − 0.1·0.01·1 − 0.1.
        let var = Var::from_tensor(&Tensor::new(&[1f32], &Device::Cpu).unwrap()).unwrap();
        let mut adam = AdamW::new(vec![("w".to_owned(), var.clone())], AdamWSettings::default()).unwrap();
        let loss = (var.as_tensor() * 3.0).unwrap().sum_all().unwrap();
        adam.update(&loss.backward().unwrap(), 0.1).unwrap();
        let w = var.as_tensor().to_vec1::<f32>().unwrap()[0];
        assert!((w - (1.0 - 0.001 - 0.1)).abs() < 1e-6, "{w}");
    }
}
