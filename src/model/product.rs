//! Products of a few rows with a matrix in f32 on the CPU, in registers.
//!
//! Every number is a sum in the order of its terms, whatever the tile that it is computed in. So a row's result does not depend on
//! the rows beside it.
use std::ops::Range;

/// Columns of a panel. A matrix lies in panels, one behind the other, so that a product reads memory in the order in which it lies: row
/// after row of a panel.
pub(super) const PANEL: usize = 32;

/// Smallest multiple of `PANEL` that holds `n` numbers.
pub(super) fn padded(n: usize) -> usize {
    n.next_multiple_of(PANEL)
}

/// Row numbers in runs of nearly equal length, none longer than `most`.
pub(super) fn tiles(n_rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let n_tiles = n_rows.div_ceil(most);
    (0..n_tiles).map(move |at| at * n_rows / n_tiles..(at + 1) * n_rows / n_tiles)
}

/// Cuts rows of `width` numbers into parts of some columns: of each part, its columns of every row.
pub(super) fn by_columns(rows: &mut [f32], width: usize, part_columns: usize) -> Vec<Vec<&mut [f32]>> {
    let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
    parts.resize_with(width.div_ceil(part_columns), Vec::new);
    for row in rows.chunks_mut(width) {
        parts.iter_mut().zip(row.chunks_mut(part_columns)).for_each(|(part, columns)| part.push(columns));
    }
    parts
}

/// How a machine multiplies.
pub(super) trait Machine {
    /// The product of up to eight rows with a matrix.
    fn product(rows: &[&[f32]], matrix: Matrix<'_>, sums: &mut Sums<'_>);
}

/// A matrix of which whole panels are read.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) values: &'a [f32],
    /// Numbers from one panel to the next.
    pub(super) panel_len: usize,
    pub(super) n_columns: usize,
}

/// Where the sums of a product go: row `i` begins at `i · stride`.
pub(super) struct Sums<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) stride: usize,
    /// Whether they are added to what is there.
    pub(super) adds: bool,
}

/// Rows of a product at a time, at most.
pub(super) const TILE_ROWS: usize = 8;

pub(super) struct Wide;
pub(super) struct Narrow;
pub(super) struct Plain;

impl Machine for Wide {
    #[inline(always)]
    fn product(rows: &[&[f32]], matrix: Matrix<'_>, sums: &mut Sums<'_>) {
        // 8 rows of two registers of 16 are 16 of 32 registers.
        match *rows {
            [a] => product::<1, 32, true>([a], matrix, sums),
            [a, b] => product::<2, 32, true>([a, b], matrix, sums),
            [a, b, c] => product::<3, 32, true>([a, b, c], matrix, sums),
            [a, b, c, d] => product::<4, 32, true>([a, b, c, d], matrix, sums),
            [a, b, c, d, e] => product::<5, 32, true>([a, b, c, d, e], matrix, sums),
            [a, b, c, d, e, f] => product::<6, 32, true>([a, b, c, d, e, f], matrix, sums),
            [a, b, c, d, e, f, g] => product::<7, 32, true>([a, b, c, d, e, f, g], matrix, sums),
            [a, b, c, d, e, f, g, h, ..] => product::<8, 32, true>([a, b, c, d, e, f, g, h], matrix, sums),
            [] => {}
        }
    }
}

impl Machine for Narrow {
    #[inline(always)]
    fn product(rows: &[&[f32]], matrix: Matrix<'_>, sums: &mut Sums<'_>) {
        four_at_a_time::<true>(rows, matrix, sums);
    }
}

impl Machine for Plain {
    #[inline(always)]
    fn product(rows: &[&[f32]], matrix: Matrix<'_>, sums: &mut Sums<'_>) {
        // Without an instruction for it, a fused multiplication would be a call.
        four_at_a_time::<false>(rows, matrix, sums);
    }
}

/// Four rows of two registers of eight are half of 16 registers.
#[inline(always)]
fn four_at_a_time<const FUSED: bool>(rows: &[&[f32]], matrix: Matrix<'_>, sums: &mut Sums<'_>) {
    for (at, rows) in rows.chunks(4).enumerate() {
        let (stride, adds) = (sums.stride, sums.adds);
        let mut sums = Sums { values: &mut sums.values[at * 4 * stride..], stride, adds };
        match *rows {
            [a] => product::<1, 16, FUSED>([a], matrix, &mut sums),
            [a, b] => product::<2, 16, FUSED>([a, b], matrix, &mut sums),
            [a, b, c] => product::<3, 16, FUSED>([a, b, c], matrix, &mut sums),
            [a, b, c, d, ..] => product::<4, 16, FUSED>([a, b, c, d], matrix, &mut sums),
            [] => {}
        }
    }
}

/// Sums of `R` rows (K) times (K, columns), `W` columns at a time; a panel is a multiple of them.
#[inline(always)]
fn product<const R: usize, const W: usize, const FUSED: bool>(
    rows: [&[f32]; R],
    matrix: Matrix<'_>,
    sums: &mut Sums<'_>,
) {
    let n_terms = rows.iter().map(|row| row.len()).min().unwrap_or(0);
    let rows = rows.map(|row| &row[..n_terms]);
    let panels = matrix.values.chunks(matrix.panel_len).take(matrix.n_columns.div_ceil(PANEL));
    for (panel_idx, panel) in panels.enumerate() {
        for within in (0..PANEL).step_by(W) {
            let first = panel_idx * PANEL + within;
            let mut registers = [[0.0_f32; W]; R];
            if sums.adds {
                for (row_idx, register) in registers.iter_mut().enumerate() {
                    register.copy_from_slice(&sums.values[row_idx * sums.stride + first..][..W]);
                }
            }
            for (at, terms) in panel.as_chunks::<PANEL>().0[..n_terms].iter().enumerate() {
                let terms: &[f32; W] = terms[within..].first_chunk().expect("a panel is a multiple of them");
                for (register, row) in registers.iter_mut().zip(rows) {
                    let factor = row[at];
                    for (sum, term) in register.iter_mut().zip(terms) {
                        *sum = if FUSED { factor.mul_add(*term, *sum) } else { factor * term + *sum };
                    }
                }
            }
            for (row_idx, register) in registers.iter().enumerate() {
                sums.values[row_idx * sums.stride + first..][..W].copy_from_slice(register);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once() {
        for (n_rows, most) in (0..40).flat_map(|n_rows| [(n_rows, 6), (n_rows, 8)]) {
            let tiles: Vec<_> = tiles(n_rows, most).collect();
            assert!(tiles.iter().all(|tile| (1..=most).contains(&tile.len())));
            assert!(tiles.into_iter().flatten().eq(0..n_rows));
        }
    }
}
