//! Which groups go on with the rows that they hold back.
use super::{
    super::{DecodeError, FinishedRow, Generator, GroupId, Instant},
    Thread,
};
use crate::decode::adaptive::Adaptive;

/// Rows of a group that are written only where its first disagree.
pub(super) struct Held {
    pub(super) adaptive: Adaptive,
    /// How many there are.
    pub(super) n_rows: usize,
    /// Its first, as far as they have ended.
    pub(super) ended: Vec<FinishedRow>,
}

impl<G: Generator> Thread<'_, G> {
    /// Starts the held rows of a group whose first have all ended; returns whether there are any. They are dropped where the first agree,
    /// where others wait, and where there is less time than the first took. There is room for them: they are no more than the first, and
    /// what they need of it was kept.
    pub(super) fn draw(&mut self, group: GroupId) -> Result<bool, DecodeError> {
        let now = Instant::now();
        let Some(running) = self.running.get_mut(&group) else { return Ok(false) };
        let Some(held) = running.held.take() else { return Ok(false) };
        let took = now - running.prefilled_at;
        let in_time = running.deadline.left(now).is_none_or(|left| left > took);
        let disagree = held.adaptive.disagree(&held.ended);
        if !(disagree && in_time && self.waiting.is_empty()) {
            running.is_cut = disagree;
            self.generator.cancel(group);
            return Ok(false);
        }
        let n_rows = self.generator.draw(group)?;
        (running.rows_left, running.n_tokens) = (n_rows, 1);
        running.bill.used.drawn(n_rows);
        Ok(n_rows > 0)
    }
}
