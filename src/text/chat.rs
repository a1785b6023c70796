//! Conversations in ChatML, as a model folder's own template renders them: the link to other tools.
//!
//! A general template engine is left out on purpose: it would run a program that came with the weights. Of a template
//! only two things are read: that it is ChatML, and which system text it puts where a conversation has none.
use super::tokens::{IM_END, IM_START};
use serde_json::Value;
use thiserror::Error;

/// Why a conversation cannot be rendered.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ChatError {
    /// `tokenizer_config.json` is not JSON.
    #[error("tokenizer_config.json could not be read: {reason}")]
    Unreadable {
        /// What the reader said.
        reason: String,
    },
    /// `tokenizer_config.json` holds no template.
    #[error("tokenizer_config.json has no chat_template")]
    Missing,
    /// The template is of another kind.
    #[error("chat template is not ChatML: it has no {token}")]
    NotChatMl {
        /// The token that ChatML would name.
        token: &'static str,
    },
    /// A message has a role other than system, user and assistant.
    #[error("message {idx} has an unknown role")]
    UnknownRole {
        /// Message, from 0.
        idx: usize,
    },
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// How a rendered conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The assistant's turn is opened, for the model to fill.
    AssistantTurn,
    /// The last message ends it.
    LastMessage,
}

/// A ChatML template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    default_system: Option<String>,
}

impl ChatTemplate {
    /// Reads `chat_template` of a `tokenizer_config.json`.
    ///
    /// # Errors
    /// If there is none, or if it is not ChatML.
    pub fn from_tokenizer_config(json: &[u8]) -> Result<Self, ChatError> {
        let config: Value = serde_json::from_slice(json)
            .map_err(|error| ChatError::Unreadable { reason: error.to_string() })?;
        let template = config.get("chat_template").and_then(Value::as_str).ok_or(ChatError::Missing)?;
        let missing = [IM_START, IM_END].into_iter().find(|token| !template.contains(token));
        match missing {
            Some(token) => Err(ChatError::NotChatMl { token }),
            None => Ok(Self { default_system: default_system(template) }),
        }
    }

    /// The text of a conversation, control tokens spelt out. It is for `encode_trusted`, so never for user text.
    ///
    /// # Errors
    /// If a role is unknown.
    pub fn render(&self, messages: &[Message], ending: Ending) -> Result<String, ChatError> {
        let mut text = String::new();
        let mut turn = |role: &str, content: &str| {
            for part in [IM_START, role, "\n", content, IM_END, "\n"] {
                text.push_str(part);
            }
        };
        let has_system = messages.first().is_some_and(|first| first.role == "system");
        if let (false, Some(system)) = (has_system, &self.default_system) {
            turn("system", system);
        }
        for (idx, message) in messages.iter().enumerate() {
            match message.role.as_str() {
                "system" | "user" | "assistant" => turn(&message.role, &message.content),
                _ => return Err(ChatError::UnknownRole { idx }),
            }
        }
        if ending == Ending::AssistantTurn {
            text.push_str(IM_START);
            text.push_str("assistant\n");
        }
        Ok(text)
    }
}

/// The literal between `<|im_start|>system`, a line feed (real or escaped) and `<|im_end|>`; an expression there is skipped.
fn default_system(template: &str) -> Option<String> {
    let opening = format!("{IM_START}system");
    template.match_indices(&opening).find_map(|(start, _)| {
        let rest = &template[start + opening.len()..];
        let rest = rest.strip_prefix('\n').or_else(|| rest.strip_prefix("\\n"))?;
        let literal = &rest[..rest.find(IM_END)?];
        let is_expression = literal.is_empty() || literal.starts_with(['\'', '"']);
        (!is_expression).then(|| literal.replace("\\n", "\n").replace("\\'", "'"))
    })
}
