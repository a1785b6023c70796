//! The same with the vector instructions of x86, named: whether a compiler finds them in a loop changes with the code around it, and where
//! it does not, products take several times as long.
use super::{Matrix, PANEL, Pair, Sums};
use bytemuck::must_cast;
use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512bh, __m512i, _mm256_and_si256, _mm256_fmadd_ps, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32, _mm512_and_si512, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
};

/// Registers of columns that are computed at a time.
const REGISTERS: usize = 2;

/// A function for up to eight rows of AVX-512: 8 rows of two registers of 16 are 16 of 32 registers.
macro_rules! wide {
    ($name:ident, $features:literal, $terms:ty, $tile:ident) => {
        #[target_feature(enable = $features)]
        pub(in crate::model) fn $name(rows: &[&[$terms]], matrix: Matrix<'_, $terms>, sums: &mut Sums<'_>) {
            match *rows {
                [a] => $tile([a], matrix, sums),
                [a, b] => $tile([a, b], matrix, sums),
                [a, b, c] => $tile([a, b, c], matrix, sums),
                [a, b, c, d] => $tile([a, b, c, d], matrix, sums),
                [a, b, c, d, e] => $tile([a, b, c, d, e], matrix, sums),
                [a, b, c, d, e, f] => $tile([a, b, c, d, e, f], matrix, sums),
                [a, b, c, d, e, f, g] => $tile([a, b, c, d, e, f, g], matrix, sums),
                [a, b, c, d, e, f, g, h, ..] => $tile([a, b, c, d, e, f, g, h], matrix, sums),
                [] => {}
            }
        }
    };
}

/// A function for any rows of AVX2, four at a time: four of two registers of eight are half of 16 registers.
macro_rules! narrow {
    ($name:ident, $terms:ty, $tile:ident) => {
        #[target_feature(enable = "avx2,fma")]
        pub(in crate::model) fn $name(rows: &[&[$terms]], matrix: Matrix<'_, $terms>, sums: &mut Sums<'_>) {
            for (at, rows) in rows.chunks(4).enumerate() {
                let (stride, adds) = (sums.stride, sums.adds);
                let mut sums = Sums { values: &mut sums.values[at * 4 * stride..], stride, adds };
                match *rows {
                    [a] => $tile([a], matrix, &mut sums),
                    [a, b] => $tile([a, b], matrix, &mut sums),
                    [a, b, c] => $tile([a, b, c], matrix, &mut sums),
                    [a, b, c, d, ..] => $tile([a, b, c, d], matrix, &mut sums),
                    [] => {}
                }
            }
        }
    };
}

/// A function with instructions of these features: sums of `R` rows (K) times (K, columns), in registers throughout.
macro_rules! tile {
    ($name:ident, $features:literal, $terms:ty, $register:ty, $zero:ident, $add:ident) => {
        #[target_feature(enable = $features)]
        #[inline]
        fn $name<const R: usize>(rows: [&[$terms]; R], matrix: Matrix<'_, $terms>, sums: &mut Sums<'_>) {
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
                        let terms: &[$terms; WIDTH] =
                            terms[within..].first_chunk().expect("a panel is a multiple of it");
                        let terms: [$register; REGISTERS] = must_cast(*terms);
                        for (registers, row) in registers.iter_mut().zip(rows) {
                            for (sum, terms) in registers.iter_mut().zip(terms) {
                                *sum = $add(*sum, row[at], terms);
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

wide!(wide, "avx512f", f32, wide_tile);
wide!(wide_pairs, "avx512f,avx512bf16", Pair, pairs_tile);
wide!(wide_widened, "avx512f", Pair, wide_widened_tile);
narrow!(narrow, f32, narrow_tile);
narrow!(narrow_widened, Pair, narrow_widened_tile);

tile!(wide_tile, "avx512f", f32, __m512, _mm512_setzero_ps, wide_fused);
tile!(pairs_tile, "avx512f,avx512bf16", Pair, __m512, _mm512_setzero_ps, pairs);
tile!(wide_widened_tile, "avx512f", Pair, __m512, _mm512_setzero_ps, wide_widening);
tile!(narrow_tile, "avx2,fma", f32, __m256, _mm256_setzero_ps, narrow_fused);
tile!(narrow_widened_tile, "avx2,fma", Pair, __m256, _mm256_setzero_ps, narrow_widening);

#[target_feature(enable = "avx512f")]
#[inline]
fn wide_fused(sum: __m512, factor: f32, terms: __m512) -> __m512 {
    _mm512_fmadd_ps(_mm512_set1_ps(factor), terms, sum)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn narrow_fused(sum: __m256, factor: f32, terms: __m256) -> __m256 {
    _mm256_fmadd_ps(_mm256_set1_ps(factor), terms, sum)
}

/// Both products of each pair in one instruction.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
#[allow(unsafe_code, reason = "there is no function that takes a register of bits as one of bf16")]
fn pairs(sum: __m512, factors: Pair, terms: __m512) -> __m512 {
    let factors = _mm512_set1_epi32(must_cast(factors));
    // SAFETY: all three are 512 bits, and any bits are numbers in bf16.
    let (factors, terms) = unsafe {
        (std::mem::transmute::<__m512i, __m512bh>(factors), std::mem::transmute::<__m512, __m512bh>(terms))
    };
    _mm512_dpbf16_ps(sum, factors, terms)
}

/// The bits of a pair, as one number, that are those of its second term in f32.
const SECOND: i32 = 0xffff_0000_u32.cast_signed();
/// By how many bits the first term is moved to where f32 has them.
const FIRST: u32 = 16;

#[target_feature(enable = "avx512f")]
#[inline]
fn wide_widening(sum: __m512, factors: Pair, terms: __m512) -> __m512 {
    let widened = |pairs: __m512i| -> [__m512; 2] {
        let second = _mm512_and_si512(pairs, _mm512_set1_epi32(SECOND));
        [must_cast(_mm512_slli_epi32::<FIRST>(pairs)), must_cast(second)]
    };
    let ([first, second], [like_first, like_second]) =
        (widened(_mm512_set1_epi32(must_cast(factors))), widened(must_cast(terms)));
    _mm512_fmadd_ps(second, like_second, _mm512_fmadd_ps(first, like_first, sum))
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn narrow_widening(sum: __m256, factors: Pair, terms: __m256) -> __m256 {
    let widened = |pairs: __m256i| -> [__m256; 2] {
        let second = _mm256_and_si256(pairs, _mm256_set1_epi32(SECOND));
        [must_cast(_mm256_slli_epi32::<{ FIRST.cast_signed() }>(pairs)), must_cast(second)]
    };
    let ([first, second], [like_first, like_second]) =
        (widened(_mm256_set1_epi32(must_cast(factors))), widened(must_cast(terms)));
    _mm256_fmadd_ps(second, like_second, _mm256_fmadd_ps(first, like_first, sum))
}
