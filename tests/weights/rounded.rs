//! Weights that are stored in 8 bits.
use super::{Entry, config, f32_bytes, file_of, open, parameters};
use candle_core::Device;
use newshound::model::{
    precision::Precision,
    weights::{ModelError, Parameters, TensorSource},
};

/// What serving in 8 bits would make of the weights is what is stored.
#[test]
fn weights_in_8_bits_are_those_that_serving_rounds() {
    let config = config();
    let bytes = parameters(&config).to_rounded_safetensors().unwrap();
    let stored = || open(vec![("model.safetensors", bytes.clone())]).unwrap();
    assert!(stored().is_rounded());
    let again = Parameters::from_checkpoint(stored()).unwrap();
    assert_eq!(again.vars().len(), parameters(&config).vars().len(), "scales are no parameters");
    let ids = [1, 5, 9, 2];
    let logits = |source: &mut Parameters| {
        let model = Precision::Int8.load(&config, source, &Device::Cpu).unwrap();
        let (_, hidden) = model.prefill(&ids).unwrap();
        model.logits(&hidden).unwrap().squeeze(0).unwrap().to_vec1::<f32>().unwrap()
    };
    let (rounded, stored) = (logits(&mut parameters(&config)), logits(&mut { again }));
    for (rounded, stored) in rounded.iter().zip(&stored) {
        assert!((rounded - stored).abs() < 1e-5, "{rounded} {stored}");
    }
}

#[test]
fn bytes_without_the_size_of_their_steps_are_refused() {
    let bytes = || vec![1_u8, 255, 127, 129];
    let scales = |shape: Vec<usize>, values: &[f32]| ("w_scale", "F32", shape, f32_bytes(values));
    let read = |entries: &[Entry]| {
        let mut checkpoint = open(vec![("model.safetensors", file_of(entries))]).unwrap();
        checkpoint.tensor("w", &[2, 2])
    };
    let weight = ("w", "I8", vec![2, 2], bytes());
    let good = read(&[weight.clone(), scales(vec![2, 1], &[0.5, 2.0])]).unwrap();
    assert_eq!(good.to_vec2::<f32>().unwrap(), [[0.5, -0.5], [254.0, -254.0]]);
    assert!(
        matches!(read(std::slice::from_ref(&weight)), Err(ModelError::MissingTensor { tensor, .. }) if tensor == "w_scale")
    );
    let one = read(&[weight.clone(), scales(vec![1], &[0.5])]).unwrap_err().to_string();
    assert!(one.contains("expected 2 floats"), "{one}");
    let broken = read(&[weight, scales(vec![2, 1], &[0.5, f32::NAN])]);
    assert!(matches!(broken, Err(ModelError::NotFinite { .. })));
    let vector = ("w", "I8", vec![4], bytes());
    let mut checkpoint = open(vec![("model.safetensors", file_of(&[vector]))]).unwrap();
    assert!(checkpoint.tensor("w", &[4]).is_err());
}
