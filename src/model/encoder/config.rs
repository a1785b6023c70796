//! `config.json` of the BERT and RoBERTa families, checked.
use crate::model::weights::ModelError;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Labels of a classifier whose config names none, as the published configuration classes have it.
const LABELS_DEFAULT: usize = 2;

/// How positions are counted, and what the classifier reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderFamily {
    /// Positions from 0; the classifier reads the pooled first token.
    Bert,
    /// Positions of real tokens from `pad_id` + 1; the classifier has a head of its own.
    Roberta,
}

/// An encoder's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// How positions are counted.
    pub family: EncoderFamily,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Heads per layer; divides `hidden_size`.
    pub n_heads: usize,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Rows of the position embedding; RoBERTa leaves the first `pad_id` + 1 to padding.
    pub n_position_rows: usize,
    /// Rows of the token type embedding; the first is used.
    pub n_token_types: usize,
    /// Added to the variance inside each norm.
    pub layer_norm_eps: f64,
    /// The id that pads rows.
    pub pad_id: u32,
    /// Labels of a classifier, in the order of its logits; `LABEL_i` where the config names none.
    pub labels: Vec<String>,
}

impl EncoderConfig {
    /// Parses a `config.json`. `file` names the source in errors.
    ///
    /// # Errors
    /// If it is no encoder of these families, a size is missing, zero, absurd or inconsistent, or it asks for something
    /// that is not supported: another activation, relative positions, causal attention.
    pub fn parse(json: &[u8], file: &str) -> Result<Self, ModelError> {
        let config = serde_json::from_slice::<Raw>(json)
            .map_err(|error| error.to_string())
            .and_then(Raw::check)
            .and_then(|config| config.check_sizes().map(|()| config));
        config.map_err(|reason| ModelError::Config { file: file.to_owned(), reason })
    }

    /// Longest row in tokens, those around the text included.
    pub fn tokens_max(&self) -> usize {
        match self.family {
            EncoderFamily::Bert => self.n_position_rows,
            EncoderFamily::Roberta => self.n_position_rows.saturating_sub(self.pad_id as usize + 1),
        }
    }

    fn check_sizes(&self) -> Result<(), String> {
        // The upper limits are far above every published encoder; they keep typing mistakes from becoming allocations.
        let limits = [
            ("hidden_size", self.hidden_size, 1 << 14),
            ("intermediate_size", self.intermediate_size, 1 << 16),
            ("num_hidden_layers", self.n_layers, 1 << 8),
            ("num_attention_heads", self.n_heads, 1 << 8),
            ("vocab_size", self.vocab_size, 1 << 21),
            ("max_position_embeddings", self.n_position_rows, 1 << 16),
            ("type_vocab_size", self.n_token_types, 1 << 8),
            ("number of labels", self.labels.len(), 1 << 12),
        ];
        for (key, value, max) in limits {
            if value == 0 || value > max {
                return Err(format!("{key} is {value}, expected 1 to {max}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.n_heads) {
            let (width, heads) = (self.hidden_size, self.n_heads);
            return Err(format!("hidden_size {width} is not a multiple of num_attention_heads {heads}"));
        }
        if self.pad_id as usize >= self.vocab_size || self.tokens_max() == 0 {
            return Err(format!("pad_token_id {} leaves no room for tokens", self.pad_id));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            return Err(format!(
                "layer_norm_eps is {}, expected a number between 0 and 1",
                self.layer_norm_eps
            ));
        }
        Ok(())
    }
}

/// The keys of `config.json` that decide an encoder's shape; others do not change its numbers.
#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: Option<usize>,
    layer_norm_eps: Option<f64>,
    pad_token_id: Option<u32>,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
    id2label: Option<BTreeMap<String, Value>>,
    num_labels: Option<usize>,
}

impl Raw {
    fn check(self) -> Result<EncoderConfig, String> {
        let (family, pad_default) = match self.model_type.as_deref() {
            Some("bert") => (EncoderFamily::Bert, 0),
            Some("roberta" | "xlm-roberta" | "camembert") => (EncoderFamily::Roberta, 1),
            other => {
                return Err(format!(
                    "model_type is {other:?}, expected bert, roberta, xlm-roberta or camembert"
                ));
            }
        };
        let supported = [
            ("hidden_act", self.hidden_act.as_deref(), "gelu"),
            ("position_embedding_type", self.position_embedding_type.as_deref(), "absolute"),
        ];
        for (key, value, only) in supported {
            if let Some(value) = value.filter(|&value| value != only) {
                return Err(format!("{key} is {value:?}, expected {only:?}"));
            }
        }
        if self.is_decoder == Some(true) {
            return Err("is_decoder is true, expected an encoder".to_owned());
        }
        Ok(EncoderConfig {
            family,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            n_layers: self.num_hidden_layers,
            n_heads: self.num_attention_heads,
            vocab_size: self.vocab_size,
            n_position_rows: self.max_position_embeddings,
            n_token_types: self.type_vocab_size.unwrap_or(2),
            layer_norm_eps: self.layer_norm_eps.unwrap_or(1e-12),
            pad_id: self.pad_token_id.unwrap_or(pad_default),
            labels: labels(self.id2label.as_ref(), self.num_labels)?,
        })
    }
}

/// Label names in the order of their ids, which must be 0, 1, ..
fn labels(named: Option<&BTreeMap<String, Value>>, n_labels: Option<usize>) -> Result<Vec<String>, String> {
    let Some(named) = named else {
        // The count is checked with the other sizes; here it must only not become an allocation.
        let n_labels = n_labels.unwrap_or(LABELS_DEFAULT).min(1 << 13);
        return Ok((0..n_labels).map(|id| format!("LABEL_{id}")).collect());
    };
    let name = |id: usize| named.get(&id.to_string()).and_then(Value::as_str).map(str::to_owned);
    let names: Option<Vec<String>> = (0..named.len()).map(name).collect();
    names.ok_or_else(|| "id2label does not name labels 0, 1, ..".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({"model_type": "roberta", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "vocab_size": 500, "max_position_embeddings": 66, "pad_token_id": 1})
    }

    fn with(key: &str, value: Value) -> Result<EncoderConfig, ModelError> {
        let mut config = base();
        config[key] = value;
        EncoderConfig::parse(config.to_string().as_bytes(), "config.json")
    }

    #[test]
    fn roberta_leaves_positions_to_padding_and_bert_does_not() {
        assert_eq!(with("model_type", json!("roberta")).unwrap().tokens_max(), 64);
        assert_eq!(with("model_type", json!("bert")).unwrap().tokens_max(), 66);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let wrong = [
            ("model_type", json!("t5")),
            ("hidden_act", json!("gelu_new")),
            ("position_embedding_type", json!("relative_key")),
            ("is_decoder", json!(true)),
            ("num_attention_heads", json!(5)),
            ("num_attention_heads", json!(0)),
            ("vocab_size", json!(1u64 << 40)),
            ("max_position_embeddings", json!(2)),
            ("pad_token_id", json!(500)),
            ("layer_norm_eps", json!(0.0)),
            ("num_labels", json!(1u64 << 40)),
            ("id2label", json!({"0": "drop", "2": "keep"})),
            ("id2label", json!({})),
        ];
        for (key, value) in wrong {
            let refused = with(key, value.clone());
            assert!(matches!(refused, Err(ModelError::Config { .. })), "{key} = {value}");
        }
        assert!(EncoderConfig::parse(b"[]", "config.json").is_err());
    }

    #[test]
    fn labels_are_named_counted_or_two() {
        assert_eq!(with("id2label", json!({"1": "keep", "0": "drop"})).unwrap().labels, ["drop", "keep"]);
        assert_eq!(with("num_labels", json!(3)).unwrap().labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
        assert_eq!(with("num_labels", Value::Null).unwrap().labels.len(), 2);
    }
}
