//! The same with the vector instructions of x86, named: whether a compiler finds them in a loop changes with the code around it, and where
//! it does not, products take several times as long.
use super::{Matrix, PANEL, Sums};
use bytemuck::must_cast;
use std::arch::x86_64::{
    __m256, __m512, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm512_fmadd_ps, _mm512_set1_ps,
    _mm512_setzero_ps,
};

/// Registers of columns that are computed at a time.
const REGISTERS: usize = 2;

/// AVX-512: 8 rows of two registers of 16 are 16 of 32 registers.
#[target_feature(enable = "avx512f")]
pub(in crate::model) fn wide(rows: &[&[f32]], matrix: Matrix<'_>, sums: &mut Sums<'_>) {
    match *rows {
        [a] => wide_tile([a], matrix, sums),
        [a, b] => wide_tile([a, b], matrix, sums),
        [a, b, c] => wide_tile([a, b, c], matrix, sums),
        [a, b, c, d] => wide_tile([a, b, c, d], matrix, sums),
        [a, b, c, d, e] => wide_tile([a, b, c, d, e], matrix, sums),
        [a, b, c, d, e, f] => wide_tile([a, b, c, d, e, f], matrix, sums),
        [a, b, c, d, e, f, g] => wide_tile([a, b, c, d, e, f, g], matrix, sums),
        [a, b, c, d, e, f, g, h, ..] => wide_tile([a, b, c, d, e, f, g, h], matrix, sums),
        [] => {}
    }
}

/// AVX2 with fused multiplication: four rows of two registers of eight are half of 16 registers.
#[target_feature(enable = "avx2,fma")]
pub(in crate::model) fn narrow(rows: &[&[f32]], matrix: Matrix<'_>, sums: &mut Sums<'_>) {
    for (at, rows) in rows.chunks(4).enumerate() {
        let (stride, adds) = (sums.stride, sums.adds);
        let mut sums = Sums { values: &mut sums.values[at * 4 * stride..], stride, adds };
        match *rows {
            [a] => narrow_tile([a], matrix, &mut sums),
            [a, b] => narrow_tile([a, b], matrix, &mut sums),
            [a, b, c] => narrow_tile([a, b, c], matrix, &mut sums),
            [a, b, c, d, ..] => narrow_tile([a, b, c, d], matrix, &mut sums),
            [] => {}
        }
    }
}

/// A function with instructions of these features: sums of `R` rows (K) times (K, columns), in registers throughout.
macro_rules! tile {
    ($name:ident, $features:literal, $register:ty, $zero:ident, $splat:ident, $fused:ident) => {
        #[target_feature(enable = $features)]
        #[inline]
        fn $name<const R: usize>(rows: [&[f32]; R], matrix: Matrix<'_>, sums: &mut Sums<'_>) {
            const WIDTH: usize = REGISTERS * size_of::<$register>() / size_of::<f32>();
            let n_terms = rows.iter().map(|row| row.len()).min().unwrap_or(0);
            let rows = rows.map(|row| &row[..n_terms]);
            for (panel_idx, panel) in matrix.panels().enumerate() {
                for within in (0..PANEL).step_by(WIDTH) {
                    let first = panel_idx * PANEL + within;
                    let mut registers = [[$zero(); REGISTERS]; R];
                    if sums.adds {
                        for (row_idx, registers) in registers.iter_mut().enumerate() {
                            *registers = must_cast::<[f32; WIDTH], _>(*sums.at(row_idx, first));
                        }
                    }
                    for (at, terms) in panel[..n_terms].iter().enumerate() {
                        let terms: &[f32; WIDTH] =
                            terms[within..].first_chunk().expect("a panel is a multiple of it");
                        let terms: [$register; REGISTERS] = must_cast(*terms);
                        for (registers, row) in registers.iter_mut().zip(rows) {
                            let factor = $splat(row[at]);
                            for (sum, term) in registers.iter_mut().zip(terms) {
                                *sum = $fused(factor, term, *sum);
                            }
                        }
                    }
                    for (row_idx, registers) in registers.into_iter().enumerate() {
                        *sums.at::<WIDTH>(row_idx, first) = must_cast(registers);
                    }
                }
            }
        }
    };
}

tile!(wide_tile, "avx512f", __m512, _mm512_setzero_ps, _mm512_set1_ps, _mm512_fmadd_ps);
tile!(narrow_tile, "avx2,fma", __m256, _mm256_setzero_ps, _mm256_set1_ps, _mm256_fmadd_ps);
