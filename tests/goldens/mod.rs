//! Numbers of reference implementations that ours must reproduce. Every case of every kind in the folder is checked.
mod causal;
mod encoders;
mod folders;
mod lora;
mod losses;
mod metrics;
mod reward_head;
mod sampler;
mod statistics;
mod tokenizer;
mod train_steps;
mod trained_losses;

/// Classes of model folders (`architectures[0]`), by the kind of golden that checks them.
const CAUSAL: [&str; 3] = ["Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM"];
const SCORERS: [&str; 3] =
    ["Qwen2ForSequenceClassification", "Qwen3ForSequenceClassification", "LlamaForSequenceClassification"];
const EMBEDDERS: [&str; 3] = ["BertModel", "RobertaModel", "XLMRobertaModel"];
const CLASSIFIERS: [&str; 3] = [
    "BertForSequenceClassification",
    "RobertaForSequenceClassification",
    "XLMRobertaForSequenceClassification",
];
