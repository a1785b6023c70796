//! Numbers of reference implementations that ours must reproduce. Every case of every kind in the folder is checked.
mod causal;
mod encoders;
mod folders;
mod reward_head;
mod sampler;
mod tokenizer;
mod train_steps;
