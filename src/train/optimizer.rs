//! `AdamW` with a state that can be written to disk and read back bit for bit.
use super::{error::TrainError, gradients::Gradients};
use candle_core::{Tensor, Var};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, View};
use std::{borrow::Cow, collections::BTreeMap, fs::File, path::Path};

/// Constants of the update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Decoupled weight decay; biases and norms have none.
    pub weight_decay: f64,
}

/// Means of the gradient and of its square.
#[derive(Clone, Debug, PartialEq)]
struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

/// The optimiser of one set of parameters.
///
/// Source of the formula: torch `AdamW` (arXiv 1711.05101), the single-tensor path, f32.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    settings: AdamWSettings,
    n_steps: u64,
    moments: BTreeMap<String, Moments>,
}

/// The numbers of one update, the same for all elements.
#[derive(Clone, Copy)]
struct Update {
    keep: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    eps: f32,
    step_size: f32,
    root_correction: f32,
}

impl AdamW {
    /// Starts with zero moments for the parameters given.
    pub fn new(settings: AdamWSettings, vars: &BTreeMap<String, Var>) -> Self {
        let moments = vars
            .iter()
            .map(|(name, var)| {
                let zeros = vec![0.0; var.elem_count()];
                (name.clone(), Moments { first: zeros.clone(), second: zeros })
            })
            .collect();
        Self { settings, n_steps: 0, moments }
    }

    /// Returns how many updates were made.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// Moves every parameter by one update.
    /// # Errors
    /// If a parameter has no gradient of its length, or no moments.
    pub fn step(
        &mut self,
        vars: &BTreeMap<String, Var>,
        gradients: &Gradients,
        learning_rate: f64,
    ) -> Result<(), TrainError> {
        self.n_steps += 1;
        let n_steps = self.n_steps;
        let settings = self.settings;
        let work: Vec<_> = self.moments.iter_mut().collect();
        work.into_par_iter().try_for_each(|(name, moments)| {
            let missing = |what: &str| TrainError::File {
                file: name.clone(),
                reason: format!("parameter has no {what}"),
            };
            let var = vars.get(name).ok_or_else(|| missing("value"))?;
            let gradient = gradients.get(name).ok_or_else(|| missing("gradient"))?;
            let mut values: Vec<f32> = var.flatten_all()?.to_vec1()?;
            if gradient.len() != values.len() || moments.first.len() != values.len() {
                return Err(missing("gradient of its length"));
            }
            let update = Update::new(settings, n_steps, learning_rate, decays(name));
            update.apply(&mut values, gradient, moments);
            var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
            Ok(())
        })
    }

    /// Writes the moments as a safetensors file, tensor by tensor: `first/<name>` and `second/<name>`.
    /// # Errors
    /// If the disk refuses.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        let views = self.moments.iter().flat_map(|(name, moments)| {
            [
                (format!("first/{name}"), Values::of(&moments.first)),
                (format!("second/{name}"), Values::of(&moments.second)),
            ]
        });
        safetensors::serialize_to_file(views, None, path).map_err(|error| TrainError::file(path, error))?;
        File::open(path).and_then(|file| file.sync_all()).map_err(TrainError::disk(path, "write"))
    }

    /// Reads moments back for the parameters given.
    /// # Errors
    /// If a moment is missing, of another length or the file is broken.
    pub fn from_safetensors(
        settings: AdamWSettings,
        vars: &BTreeMap<String, Var>,
        n_steps: u64,
        file: &[u8],
    ) -> Result<Self, TrainError> {
        let broken = |reason: String| TrainError::File { file: OPTIMIZER_FILE.to_owned(), reason };
        let tensors = SafeTensors::deserialize(file).map_err(|error| broken(error.to_string()))?;
        let read = |name: String, n_values: usize| {
            let view = tensors.tensor(&name).map_err(|error| broken(error.to_string()))?;
            if view.dtype() != Dtype::F32 || view.data().len() != n_values * 4 {
                return Err(broken(format!("{name} does not hold {n_values} f32 values")));
            }
            Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        let moments = vars
            .iter()
            .map(|(name, var)| {
                let n_values = var.elem_count();
                let first = read(format!("first/{name}"), n_values)?;
                Ok((name.clone(), Moments { first, second: read(format!("second/{name}"), n_values)? }))
            })
            .collect::<Result<_, TrainError>>()?;
        Ok(Self { settings, n_steps, moments })
    }
}

/// Name of the moments' file in a checkpoint.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Whether weight decay pulls a parameter to zero; it would only hurt biases and norms.
fn decays(name: &str) -> bool {
    !name.ends_with("bias") && !name.contains("norm")
}

/// Numbers that become bytes one tensor at a time: those of all would take as much memory as the moments once more.
struct Values<'a> {
    values: &'a [f32],
    shape: [usize; 1],
}

impl<'a> Values<'a> {
    fn of(values: &'a [f32]) -> Self {
        Self { values, shape: [values.len()] }
    }
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

impl Update {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "constants are computed in f64 and used in f32, as torch does"
    )]
    fn new(settings: AdamWSettings, n_steps: u64, learning_rate: f64, decays: bool) -> Self {
        let exponent = i32::try_from(n_steps).unwrap_or(i32::MAX);
        let correction1 = 1.0 - settings.beta1.powi(exponent);
        let correction2 = 1.0 - settings.beta2.powi(exponent);
        let weight_decay = if decays { settings.weight_decay } else { 0.0 };
        Self {
            keep: (1.0 - learning_rate * weight_decay) as f32,
            rest1: (1.0 - settings.beta1) as f32,
            beta2: settings.beta2 as f32,
            rest2: (1.0 - settings.beta2) as f32,
            eps: settings.eps as f32,
            step_size: (learning_rate / correction1) as f32,
            root_correction: correction2.sqrt() as f32,
        }
    }

    fn apply(self, values: &mut [f32], gradient: &[f32], moments: &mut Moments) {
        let rows = values.iter_mut().zip(gradient).zip(&mut moments.first).zip(&mut moments.second);
        for (((value, gradient), first), second) in rows {
            *value *= self.keep;
            *first += (gradient - *first) * self.rest1;
            *second = *second * self.beta2 + gradient * gradient * self.rest2;
            *value -= self.step_size * *first / (second.sqrt() / self.root_correction + self.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// The first update is the sign of the gradient times the rate, whatever the gradient's size.
    #[test]
    fn first_update_moves_by_the_rate_against_the_sign() {
        let var = Var::from_vec(vec![1.0_f32, 1.0], 2, &Device::Cpu).unwrap();
        let vars = BTreeMap::from([("norm.weight".to_owned(), var)]);
        let settings = AdamWSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
        let mut optimizer = AdamW::new(settings, &vars);
        let gradients = Gradients::from_map(BTreeMap::from([("norm.weight".to_owned(), vec![100.0, -0.01])]));
        optimizer.step(&vars, &gradients, 0.5).unwrap();
        let values: Vec<f32> = vars["norm.weight"].to_vec1().unwrap();
        assert!((values[0] - 0.5).abs() < 1e-5 && (values[1] - 1.5).abs() < 1e-5, "{values:?}");
    }
}
