//! AVX-512 with VNNI: one instruction multiplies four bytes for each of 16 sums.
use super::{Block, INPUTS, Line, OUTPUTS, Panels, Product, Rows, Sums, multiply_with};
use bytemuck::must_cast;
use std::arch::x86_64::{
    __m512i, _MM_HINT_T1, _mm_prefetch, _mm512_dpbusd_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
};

/// Sums in one register.
const LANES: usize = 16;
const REGISTERS: usize = OUTPUTS / LANES;

/// Whether the processor has these instructions.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply(rows: &Rows, product: Product<Panels<'_>>, output: &mut [&mut [f32]]) {
    // A closure may use the instructions of the function that it stands in.
    let sums = |rows: &[&[[i8; INPUTS]]], panel: &[Block], ahead: &[Line], sums: &mut Sums| match *rows {
        [a] => tile([a], panel, ahead, sums),
        [a, b] => tile([a, b], panel, ahead, sums),
        [a, b, c] => tile([a, b, c], panel, ahead, sums),
        [a, b, c, d] => tile([a, b, c, d], panel, ahead, sums),
        [a, b, c, d, e] => tile([a, b, c, d, e], panel, ahead, sums),
        [a, b, c, d, e, f, ..] => tile([a, b, c, d, e, f], panel, ahead, sums),
        [] => {}
    };
    multiply_with(sums, rows, product, output);
}

/// Sums of `R` rows with one panel, in registers throughout; fetches `ahead`, a line at each step, and no more.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn tile<const R: usize>(mut rows: [&[[i8; INPUTS]]; R], panel: &[Block], ahead: &[Line], sums: &mut Sums) {
    let mut registers = [[_mm512_setzero_si512(); REGISTERS]; R];
    // As long as the panel, which the compiler cannot see otherwise.
    for row in &mut rows {
        *row = &row[..panel.len()];
    }
    for (at, block) in panel.iter().enumerate() {
        if let Some(line) = ahead.get(at) {
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
        }
        let weights: [__m512i; REGISTERS] = must_cast(*block);
        for (registers, row) in registers.iter_mut().zip(rows) {
            let input = _mm512_set1_epi32(i32::from_ne_bytes(must_cast(row[at])));
            for (register, weights) in registers.iter_mut().zip(weights) {
                *register = _mm512_dpbusd_epi32(*register, weights, input);
            }
        }
    }
    for (sums, registers) in sums.iter_mut().zip(registers) {
        *sums = must_cast(registers);
    }
}
