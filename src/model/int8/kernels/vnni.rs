//! AVX-512 with VNNI: one instruction multiplies four bytes for each of 16 sums.
use super::{Block, INPUTS, OUTPUTS, Panels, Product, Rows, Sums, multiply_with};
use bytemuck::must_cast;
use std::arch::x86_64::{__m512i, _mm512_dpbusd_epi32, _mm512_set1_epi32, _mm512_setzero_si512};

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
    let sums = |rows: &[&[[i8; INPUTS]]], panel: &[Block], sums: &mut Sums| match *rows {
        [a] => tile([a], panel, sums),
        [a, b] => tile([a, b], panel, sums),
        [a, b, c] => tile([a, b, c], panel, sums),
        [a, b, c, d] => tile([a, b, c, d], panel, sums),
        [a, b, c, d, e] => tile([a, b, c, d, e], panel, sums),
        [a, b, c, d, e, f, ..] => tile([a, b, c, d, e, f], panel, sums),
        [] => {}
    };
    multiply_with(sums, rows, product, output);
}

/// Sums of `R` rows with one panel, in registers throughout.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn tile<const R: usize>(rows: [&[[i8; INPUTS]]; R], panel: &[Block], sums: &mut Sums) {
    let mut registers = [[_mm512_setzero_si512(); REGISTERS]; R];
    // As long as the panel, which the compiler cannot see otherwise.
    let rows = rows.map(|row| &row[..panel.len()]);
    for (at, block) in panel.iter().enumerate() {
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
