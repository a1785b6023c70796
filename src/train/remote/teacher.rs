//! A teacher that is served elsewhere: what it says of tokens that the student sampled. Ids go in and log-probabilities come out;
//! text is never sent, since read anew it may fall into other tokens.
//!
//! vLLM's server scores a prompt when asked for `prompt_logprobs`; trl's has a call of its own (`trl vllm-serve`).
use super::Service;
use crate::{
    text::tokens::Tokens,
    train::{error::TrainError, settings::remote::CallSettings},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::ValueEnum;
use serde_json::{Value, json};
use tracing::warn;

/// Text whose tokens tell tokenizers apart: words, digits, spaces, a line feed, letters beyond ASCII.
const PROBE: &str = "Rain jacket 2026,  news\nCafé in Zürich – 東京";
/// Rows of one call to trl's server, which scores them together.
const ROWS_PER_CALL: usize = 16;

/// Whose format a served teacher speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// `POST /v1/completions` with `prompt_logprobs`.
    Vllm,
    /// `POST /get_sequence_logprobs/`, binary.
    TrlServer,
}

/// A served teacher.
#[derive(Debug)]
pub struct RemoteTeacher {
    service: Service,
    protocol: Protocol,
    /// Name by which the server knows the model; empty where it has one only.
    model: String,
}

/// Prompt and completion of one row.
pub type Row<'a> = (&'a [u32], &'a [u32]);

impl RemoteTeacher {
    /// Finds the server, and makes sure that it reads the student's tokens as far as it tells.
    /// # Errors
    /// If nobody answers, or its tokenizer is another.
    pub fn open(
        protocol: Protocol,
        url: &str,
        tokens: &Tokens,
        calls: CallSettings,
    ) -> Result<Self, TrainError> {
        let service = Service::new(url, None, calls)?;
        let mut teacher = Self { service, protocol, model: String::new() };
        if protocol == Protocol::Vllm {
            let models = teacher.service.get("/v1/models")?;
            let model = models["data"][0]["id"].as_str();
            model.ok_or_else(|| teacher.strange("it serves no model"))?.clone_into(&mut teacher.model);
            teacher.check_tokenizer(tokens)?;
        } else {
            warn!(
                url,
                "trl's server says nothing of its tokenizer; that it reads the student's tokens is unchecked"
            );
        }
        Ok(teacher)
    }

    /// What a run of this teacher's student is known by.
    pub fn name(&self) -> String {
        // A server that does not say what it serves is known by where it is.
        let known = if self.model.is_empty() { &self.service.url } else { &self.model };
        format!("{:?} {known}", self.protocol)
    }

    /// Log-probabilities of every token of every completion, nats, temperature 1.
    /// # Errors
    /// If a call fails, or what comes back does not fit what was asked.
    pub fn logprobs(&self, rows: &[Row<'_>]) -> Result<Vec<Vec<f32>>, TrainError> {
        match self.protocol {
            Protocol::Vllm => self.service.of_all(rows, |row| self.of_vllm(*row)).into_iter().collect(),
            Protocol::TrlServer => {
                let calls: Vec<&[Row<'_>]> = rows.chunks(ROWS_PER_CALL).collect();
                let parts = self.service.of_all(&calls, |rows| self.of_trl(rows));
                Ok(parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
            }
        }
    }

    fn of_vllm(&self, (prompt, completion): Row<'_>) -> Result<Vec<f32>, TrainError> {
        let ids = [prompt, completion].concat();
        let body = json!({
            "model": self.model,
            "prompt": ids,
            // The least that may be asked for; scoring the prompt is what is wanted.
            "max_tokens": 1,
            "temperature": 0,
            // Only the token itself, which is always among those given.
            "prompt_logprobs": 0,
        });
        let answer = self.service.post("/v1/completions", &body)?;
        let positions = answer["choices"][0]["prompt_logprobs"].as_array();
        let positions = positions.filter(|positions| positions.len() == ids.len());
        let positions =
            positions.ok_or_else(|| self.strange("prompt_logprobs has not one entry per token"))?;
        let of_token = |(position, id): (&Value, &u32)| {
            let logprob = position[id.to_string()]["logprob"].as_f64();
            #[allow(clippy::cast_possible_truncation, reason = "log-probabilities are f32")]
            let logprob = logprob.map(|logprob| logprob as f32);
            logprob.filter(|logprob| logprob.is_finite()).ok_or_else(|| {
                self.strange(&format!("no log-probability of id {id}; the tokenizer may be another"))
            })
        };
        positions.iter().zip(&ids).skip(prompt.len()).map(of_token).collect()
    }

    fn of_trl(&self, rows: &[Row<'_>]) -> Result<Vec<Vec<f32>>, TrainError> {
        let sequences: Vec<Vec<u32>> =
            rows.iter().map(|(prompt, completion)| [*prompt, *completion].concat()).collect();
        let prompt_lengths: Vec<usize> = rows.iter().map(|(prompt, _)| prompt.len()).collect();
        let body = json!({
            "sequences": sequences,
            "prompt_lengths": prompt_lengths,
            "top_logprobs": 1,
            "temperature": 1.0,
            "response_format": "binary",
        });
        let answer = self.service.post("/get_sequence_logprobs/", &body)?;
        let values = |name: &str| -> Option<Vec<[u8; 4]>> {
            let bytes = BASE64_STANDARD.decode(answer[name].as_str()?).ok()?;
            Some(bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect())
        };
        let missing = || self.strange("actual_logprobs_b64 or actual_token_ids_b64 is missing or no base64");
        let logprobs = values("actual_logprobs_b64").ok_or_else(missing)?;
        let ids = values("actual_token_ids_b64").ok_or_else(missing)?;
        let width = answer["shape"][1].as_u64().and_then(|width| usize::try_from(width).ok()).unwrap_or(0);
        let n_values = rows.len().checked_mul(width).filter(|_| answer["shape"][0] == rows.len());
        if width == 0 || n_values != Some(logprobs.len()) || ids.len() != logprobs.len() {
            return Err(self.strange("its arrays do not fit their shape"));
        }
        // Rows are padded to the longest.
        let padded = logprobs.chunks(width).zip(ids.chunks(width));
        rows.iter()
            .zip(padded)
            .map(|((_, completion), (logprobs, ids))| {
                let own = completion.iter().map(|id| id.to_le_bytes());
                if completion.len() > width || !own.eq(ids[..completion.len()].iter().copied()) {
                    return Err(self.strange("it scored other tokens than those given"));
                }
                let logprobs: Vec<f32> =
                    logprobs[..completion.len()].iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                match logprobs.iter().find(|logprob| !logprob.is_finite()) {
                    Some(logprob) => Err(self.strange(&format!("{logprob} is no log-probability"))),
                    None => Ok(logprobs),
                }
            })
            .collect()
    }

    /// Refuses a server that says that it cuts text into other tokens; one that has no such call is believed.
    fn check_tokenizer(&self, tokens: &Tokens) -> Result<(), TrainError> {
        let body = json!({"model": self.model, "prompt": PROBE, "add_special_tokens": false});
        match self.service.post("/tokenize", &body) {
            Ok(answer) => {
                let own: Vec<Value> = tokens.encode_text(PROBE).into_iter().map(Value::from).collect();
                match answer["tokens"].as_array() {
                    Some(other) if *other == own => Ok(()),
                    Some(_) | None => Err(self.strange("another tokenizer than the student's")),
                }
            }
            Err(error @ TrainError::Remote { refused: Some(404 | 405), .. }) => {
                warn!(%error, "the teacher does not tell its tokens; they are taken to be the student's");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn strange(&self, reason: &str) -> TrainError {
        let (url, reason) = (self.service.url.clone(), reason.to_owned());
        TrainError::Remote { url, n_tries: 1, reason, refused: None }
    }
}
