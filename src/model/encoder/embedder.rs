//! Sentence embeddings from a sentence-transformers folder: encoder, pooling, and unit length where the folder says so.
use super::{Encoder, config::EncoderConfig};
use crate::model::{
    ops::Numerics,
    scorer::last_token,
    weights::{Checkpoint, ModelError},
};
use candle_core::{D, DType, Device, Result, Tensor};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};

/// Which hidden states make the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over real tokens.
    Mean,
    /// The first token.
    Cls,
    /// The last real token.
    LastToken,
}

/// Whether embeddings are scaled to length 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// They are: the scalar product of two is their cosine.
    Unit,
    /// They are left as pooled.
    AsPooled,
}

/// What follows the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which hidden states make the embedding.
    pub pooling: Pooling,
    /// Whether embeddings are scaled to length 1.
    pub length: Length,
}

/// Embeds rows of token ids.
#[derive(Debug)]
pub struct Embedder {
    encoder: Encoder,
    head: Head,
}

impl Embedder {
    /// Opens a Hugging Face folder. Without `modules.json` the mean over tokens is taken, unscaled, as its library does.
    ///
    /// # Errors
    /// If a file is missing or broken, a tensor does not fit, or the folder asks for a module that is not supported.
    pub fn open(dir: &Path, device: &Device) -> std::result::Result<Self, ModelError> {
        let head = Head::read(dir)?;
        let config = EncoderConfig::parse(&read(dir, "config.json")?, "config.json")?;
        let mut checkpoint = Checkpoint::open(dir, DType::F32, device)?;
        Ok(Self { encoder: Encoder::load(&config, &mut checkpoint, Numerics::Serve)?, head })
    }

    /// Takes an encoder and what follows it.
    pub fn new(encoder: Encoder, head: Head) -> Self {
        Self { encoder, head }
    }

    /// The encoder beneath; its config has the longest row.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// What follows the encoder.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Embeds rows of ids, those around the text included: (B, D) f32. Rows are padded to the longest, so group rows of like length.
    ///
    /// # Errors
    /// If there is no row, a row is empty or too long, or an id is not below the vocabulary.
    pub fn embed(&self, rows: &[Vec<u32>]) -> std::result::Result<Tensor, ModelError> {
        let (ids, mask) = self.encoder.padded(rows)?;
        let hidden = self.encoder.hidden(&ids, &mask)?;
        let pooled = pool(&hidden, &mask, self.head.pooling)?;
        Ok(match self.head.length {
            Length::Unit => unit(&pooled)?,
            Length::AsPooled => pooled,
        })
    }
}

/// Pools hidden states (B, T, D) under a mask (B, T) f32 of 1 and 0: (B, D) f32.
///
/// # Errors
/// If shapes differ, or the last token of a row without real tokens is asked for.
pub fn pool(hidden: &Tensor, mask: &Tensor, pooling: Pooling) -> Result<Tensor> {
    let hidden = hidden.to_dtype(DType::F32)?;
    match pooling {
        Pooling::Mean => {
            let sum = hidden.broadcast_mul(&mask.unsqueeze(D::Minus1)?)?.sum(1)?;
            sum.broadcast_div(&mask.sum_keepdim(1)?.maximum(1e-9)?)
        }
        Pooling::Cls => hidden.narrow(1, 0, 1)?.squeeze(1),
        Pooling::LastToken => last_token(&hidden, mask),
    }
}

/// Scales vectors (.., D) to length 1; a zero vector stays.
///
/// # Errors
/// If there is no dimension.
pub fn unit(vectors: &Tensor) -> Result<Tensor> {
    vectors.broadcast_div(&vectors.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?)
}

/// One entry of `modules.json`.
#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Head {
    /// Reads `modules.json` and the pooling config that it names.
    ///
    /// # Errors
    /// If a file is broken, or a module or pooling is not supported.
    pub fn read(dir: &Path) -> std::result::Result<Self, ModelError> {
        let mut head = Self { pooling: Pooling::Mean, length: Length::AsPooled };
        if !dir.join("modules.json").is_file() {
            return Ok(head);
        }
        let modules: Vec<Module> = parse(&read(dir, "modules.json")?, "modules.json")?;
        for module in modules {
            match module.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Normalize" => head.length = Length::Unit,
                "Pooling" => {
                    // The name becomes a path, so it may not lead out of the folder.
                    if module.path.contains(['/', '\\', ':']) || module.path.starts_with('.') {
                        return Err(refused(
                            "modules.json",
                            format!("path {:?} is not a folder name", module.path),
                        ));
                    }
                    let file = format!("{}/config.json", module.path);
                    head.pooling = pooling(&read(dir, &file)?, &file)?;
                }
                other => return Err(refused("modules.json", format!("module {other:?} is not supported"))),
            }
        }
        Ok(head)
    }
}

/// The one pooling mode that is switched on.
fn pooling(json: &[u8], file: &str) -> std::result::Result<Pooling, ModelError> {
    let config: BTreeMap<String, serde_json::Value> = parse(json, file)?;
    let is_on =
        |(key, value): &(&String, &serde_json::Value)| key.starts_with("pooling_mode_") && **value == true;
    let flags = config.iter().filter(is_on).map(|(key, _)| key.trim_start_matches("pooling_mode_"));
    let named = config.get("pooling_mode").and_then(serde_json::Value::as_str);
    let modes: Vec<&str> = flags.chain(named).collect();
    match modes.as_slice() {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        ["lasttoken"] => Ok(Pooling::LastToken),
        other => Err(refused(
            file,
            format!("pooling {other:?} is not supported, expected mean, cls or lasttoken alone"),
        )),
    }
}

pub(super) fn read(dir: &Path, file: &str) -> std::result::Result<Vec<u8>, ModelError> {
    std::fs::read(dir.join(file))
        .map_err(|error| ModelError::Unreadable { file: file.to_owned(), reason: error.to_string() })
}

fn parse<T: serde::de::DeserializeOwned>(json: &[u8], file: &str) -> std::result::Result<T, ModelError> {
    serde_json::from_slice(json).map_err(|error| refused(file, error.to_string()))
}

fn refused(file: &str, reason: String) -> ModelError {
    ModelError::Config { file: file.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(pooling: Pooling) -> Vec<Vec<f32>> {
        let hidden = Tensor::new(
            &[[[1f32, 2.0], [3.0, 4.0], [9.0, 9.0]], [[1.0, 0.0], [2.0, 0.0], [3.0, 3.0]]],
            &Device::Cpu,
        );
        let mask = Tensor::new(&[[1f32, 1.0, 0.0], [1.0, 1.0, 1.0]], &Device::Cpu);
        pool(&hidden.unwrap(), &mask.unwrap(), pooling).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn pooling_passes_padding_over() {
        assert_eq!(pooled(Pooling::Mean), [[2.0, 3.0], [2.0, 1.0]]);
        assert_eq!(pooled(Pooling::Cls), [[1.0, 2.0], [1.0, 0.0]]);
        assert_eq!(pooled(Pooling::LastToken), [[3.0, 4.0], [3.0, 3.0]]);
    }

    #[test]
    fn zero_vector_has_no_direction_and_stays() {
        let vectors = Tensor::new(&[[3f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        assert_eq!(unit(&vectors).unwrap().to_vec2::<f32>().unwrap(), [[0.6, 0.8], [0.0, 0.0]]);
    }

    #[test]
    fn one_known_pooling_mode_is_accepted() {
        let of = |json: &str| pooling(json.as_bytes(), "1_Pooling/config.json");
        let flags = |cls: bool, mean: bool| {
            format!(r#"{{"pooling_mode_cls_token": {cls}, "pooling_mode_mean_tokens": {mean}}}"#)
        };
        assert_eq!(of(&flags(true, false)).unwrap(), Pooling::Cls);
        assert_eq!(of(&flags(false, true)).unwrap(), Pooling::Mean);
        assert_eq!(of(r#"{"pooling_mode": "lasttoken"}"#).unwrap(), Pooling::LastToken);
        for refused in
            [flags(true, true), flags(false, false), r#"{"pooling_mode": "max"}"#.to_owned(), "[]".to_owned()]
        {
            assert!(of(&refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn folder_with_a_strange_module_or_path_is_refused() {
        let read = |modules: &str| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("modules.json"), modules).unwrap();
            Head::read(dir.path())
        };
        let normal = r#"[{"path": "", "type": "a.Transformer"}, {"path": "2", "type": "a.Normalize"}]"#;
        assert_eq!(read(normal).unwrap(), Head { pooling: Pooling::Mean, length: Length::Unit });
        for refused in [
            r#"[{"path": "2_Dense", "type": "a.Dense"}]"#,
            r#"[{"path": "../x", "type": "a.Pooling"}]"#,
            "{}",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }
}
