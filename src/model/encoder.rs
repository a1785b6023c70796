//! BERT and RoBERTa family encoders: sentence embedder and signal cleaner.
