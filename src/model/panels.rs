//! Products of f32 rows with matrices that lie in panels, in registers.
//!
//! Every number is a sum in the order of its terms, whatever the tile that it is computed in. So a row's result does not depend on
//! the rows beside it.
#[cfg(target_arch = "x86_64")]
pub(in crate::model) mod x86;

/// Columns of a panel. Matrices lie in panels, one behind the other, so that a product reads memory in the order in which it lies: row
/// after row of a panel.
pub(in crate::model) const PANEL: usize = 32;

/// Smallest multiple of `PANEL` that holds `n` numbers.
pub(in crate::model) fn padded(n: usize) -> usize {
    n.next_multiple_of(PANEL)
}

/// How a machine multiplies up to eight rows with a matrix.
pub(in crate::model) trait Kernel: Fn(&[&[f32]], Matrix<'_>, &mut Sums<'_>) {}

impl<F: Fn(&[&[f32]], Matrix<'_>, &mut Sums<'_>)> Kernel for F {}

/// A matrix of which whole panels are read.
#[derive(Clone, Copy)]
pub(in crate::model) struct Matrix<'a> {
    pub(in crate::model) values: &'a [f32],
    /// Numbers from one panel to the next.
    pub(in crate::model) panel_len: usize,
    pub(in crate::model) n_columns: usize,
}

impl<'a> Matrix<'a> {
    /// Each panel that holds columns, term by term.
    #[inline(always)]
    fn panels(self) -> impl Iterator<Item = &'a [[f32; PANEL]]> {
        let n_panels = self.n_columns.div_ceil(PANEL);
        self.values.chunks(self.panel_len).take(n_panels).map(|panel| panel.as_chunks().0)
    }
}

/// Where the sums of a product go: row `i` begins at `i · stride`.
pub(in crate::model) struct Sums<'a> {
    pub(in crate::model) values: &'a mut [f32],
    pub(in crate::model) stride: usize,
    /// Whether they are added to what is there.
    pub(in crate::model) adds: bool,
}

impl Sums<'_> {
    /// Some columns of a row.
    #[inline(always)]
    fn at<const W: usize>(&mut self, row_idx: usize, first: usize) -> &mut [f32; W] {
        self.values[row_idx * self.stride + first..].first_chunk_mut().expect("sums have whole panels")
    }
}

/// Rows of a product at a time, at most.
pub(in crate::model) const TILE_ROWS: usize = 8;

/// What any machine can do, four rows at a time.
#[inline(always)]
pub(in crate::model) fn plain(rows: &[&[f32]], matrix: Matrix<'_>, sums: &mut Sums<'_>) {
    for (at, rows) in rows.chunks(4).enumerate() {
        let (stride, adds) = (sums.stride, sums.adds);
        let mut sums = Sums { values: &mut sums.values[at * 4 * stride..], stride, adds };
        match *rows {
            [a] => tile([a], matrix, &mut sums),
            [a, b] => tile([a, b], matrix, &mut sums),
            [a, b, c] => tile([a, b, c], matrix, &mut sums),
            [a, b, c, d, ..] => tile([a, b, c, d], matrix, &mut sums),
            [] => {}
        }
    }
}

/// Columns that are computed at a time: small registers hold them for four rows.
const WIDTH: usize = 16;

/// Sums of `R` rows (K) times (K, columns). Without an instruction for it, a fused multiplication would be a call.
#[inline(always)]
fn tile<const R: usize>(rows: [&[f32]; R], matrix: Matrix<'_>, sums: &mut Sums<'_>) {
    let n_terms = rows.iter().map(|row| row.len()).min().unwrap_or(0);
    let rows = rows.map(|row| &row[..n_terms]);
    for (panel_idx, panel) in matrix.panels().enumerate() {
        for within in (0..PANEL).step_by(WIDTH) {
            let first = panel_idx * PANEL + within;
            let mut registers = [[0.0_f32; WIDTH]; R];
            if sums.adds {
                for (row_idx, register) in registers.iter_mut().enumerate() {
                    *register = *sums.at(row_idx, first);
                }
            }
            for (at, terms) in panel[..n_terms].iter().enumerate() {
                let terms: &[f32; WIDTH] =
                    terms[within..].first_chunk().expect("a panel is a multiple of it");
                for (register, row) in registers.iter_mut().zip(rows) {
                    register.iter_mut().zip(terms).for_each(|(sum, term)| *sum += row[at] * term);
                }
            }
            for (row_idx, register) in registers.into_iter().enumerate() {
                *sums.at(row_idx, first) = register;
            }
        }
    }
}
