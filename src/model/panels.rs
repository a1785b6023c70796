//! Products of rows with matrices that lie in panels, in registers: in f32, or of numbers in bf16 with sums in f32.
//!
//! Every number is a sum in one order (of its terms, or of pairs of them), whatever the tile that it is computed in. So a row's result does
//! not depend on the rows beside it.
#[cfg(target_arch = "x86_64")]
pub(in crate::model) mod x86;

use half::bf16;

/// Columns of a panel. Matrices lie in panels, one behind the other, so that a product reads memory in the order in which it lies: row
/// after row of a panel.
pub(in crate::model) const PANEL: usize = 32;

/// Smallest multiple of `PANEL` that holds `n` numbers.
pub(in crate::model) fn padded(n: usize) -> usize {
    n.next_multiple_of(PANEL)
}

/// What a column of a panel has in one place: a term of its sum, or several that lie side by side.
pub(in crate::model) trait Terms: bytemuck::Pod + Send + Sync {
    /// How many.
    const N: usize;

    /// A row of numbers as terms; the last are filled up with zeros. Those that have to be rounded are put in `room`.
    fn of<'a>(numbers: &'a [f32], room: &'a mut Vec<Self>) -> &'a [Self];

    /// Sets one of the terms, rounded.
    fn set(&mut self, idx: usize, number: f32);

    /// Sum of the products of each term with its like.
    fn product(self, other: Self) -> f32;
}

impl Terms for f32 {
    const N: usize = 1;

    #[inline(always)]
    fn of<'a>(numbers: &'a [f32], _room: &'a mut Vec<Self>) -> &'a [Self] {
        numbers
    }

    #[inline(always)]
    fn set(&mut self, _idx: usize, number: f32) {
        *self = number;
    }

    #[inline(always)]
    fn product(self, other: Self) -> f32 {
        self * other
    }
}

/// Two terms in bf16: half of the memory, and where the processor has an instruction for them twice as many products.
pub(in crate::model) type Pair = [bf16; 2];

impl Terms for Pair {
    const N: usize = 2;

    #[inline(always)]
    fn of<'a>(numbers: &'a [f32], room: &'a mut Vec<Self>) -> &'a [Self] {
        room.clear();
        room.resize(numbers.len().div_ceil(Self::N), Self::default());
        let terms: &mut [bf16] = bytemuck::must_cast_slice_mut(room);
        for (term, number) in terms.iter_mut().zip(numbers) {
            *term = rounded(*number);
        }
        room
    }

    #[inline(always)]
    fn set(&mut self, idx: usize, number: f32) {
        self[idx] = rounded(number);
    }

    #[inline(always)]
    fn product(self, other: Self) -> f32 {
        let [first, second] = self.map(widened);
        let [like_first, like_second] = other.map(widened);
        first * like_first + second * like_second
    }
}

/// The same number in f32, whose upper half are the bits of bf16. `half` asks for NaN first, which no compiler vectorises.
#[inline(always)]
fn widened(number: bf16) -> f32 {
    f32::from_bits(u32::from(number.to_bits()) << 16)
}

/// The nearest number in bf16, the even one of two. `half` does the same with branches, which compilers do not vectorise.
#[inline(always)]
fn rounded(number: f32) -> bf16 {
    /// What one more bit of bf16 is of the bits of f32, halved, less one: a tie becomes odd or even by the last bit that is kept.
    const HALF_LESS_ONE: u32 = (1 << 15) - 1;
    let bits = number.to_bits();
    let nearest = bits.wrapping_add(HALF_LESS_ONE + ((bits >> 16) & 1)) >> 16;
    let kept = if number.is_nan() { u32::from(bf16::NAN.to_bits()) } else { nearest };
    #[allow(clippy::cast_possible_truncation, reason = "the upper half of 32 bits")]
    bf16::from_bits(kept as u16)
}

/// How a machine multiplies up to eight rows with a matrix.
pub(in crate::model) trait Kernel<T: Terms = f32>:
    Fn(&[&[T]], Matrix<'_, T>, &mut Sums<'_>)
{
}

impl<T: Terms, F: Fn(&[&[T]], Matrix<'_, T>, &mut Sums<'_>)> Kernel<T> for F {}

/// A matrix of which whole panels are read.
#[derive(Clone, Copy)]
pub(in crate::model) struct Matrix<'a, T = f32> {
    pub(in crate::model) values: &'a [T],
    /// Values from one panel to the next.
    pub(in crate::model) panel_len: usize,
    pub(in crate::model) n_columns: usize,
}

impl<'a, T: Copy> Matrix<'a, T> {
    /// Each panel that holds columns, term by term.
    #[inline(always)]
    fn panels(self) -> impl Iterator<Item = &'a [[T; PANEL]]> {
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
pub(in crate::model) fn plain<T: Terms>(rows: &[&[T]], matrix: Matrix<'_, T>, sums: &mut Sums<'_>) {
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
fn tile<T: Terms, const R: usize>(rows: [&[T]; R], matrix: Matrix<'_, T>, sums: &mut Sums<'_>) {
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
                let terms: &[T; WIDTH] = terms[within..].first_chunk().expect("a panel is a multiple of it");
                for (register, row) in registers.iter_mut().zip(rows) {
                    register.iter_mut().zip(terms).for_each(|(sum, terms)| *sum += row[at].product(*terms));
                }
            }
            for (row_idx, register) in registers.into_iter().enumerate() {
                *sums.at(row_idx, first) = register;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_as_the_library_of_half_numbers_rounds_them() {
        let tie = f32::from_bits(0x3f80_8000);
        let odd_tie = f32::from_bits(0x3f81_8000);
        let large = [f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 0.0, -0.0];
        let scattered = (0..10_000_u32).map(|idx| f32::from_bits(idx.wrapping_mul(2_654_435_761)));
        for number in scattered.filter(|number| !number.is_nan()).chain(large).chain([tie, odd_tie]) {
            assert_eq!(rounded(number).to_bits(), bf16::from_f32(number).to_bits(), "{number}");
        }
        assert!(rounded(f32::NAN).is_nan() && rounded(f32::from_bits(u32::MAX)).is_nan());
    }

    #[test]
    fn an_odd_number_of_terms_is_filled_up_with_a_zero() {
        let mut room = Vec::new();
        assert_eq!(Pair::of(&[1.0, 2.0, 3.0], &mut room), [[1.0, 2.0].map(rounded), [3.0, 0.0].map(rounded)]);
        assert_eq!(Pair::of(&[], &mut room), [] as [Pair; 0]);
    }
}
