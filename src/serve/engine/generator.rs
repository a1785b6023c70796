//! What a model thread drives.
use crate::decode::batch::{
    Admitted, Batch, DecodeError, FinishedRow, GroupId, GroupRequest, TOGETHER_MIN, prefill_budget,
};

/// What decodes. `decode::batch::Batch` does; tests put a script in its place.
pub trait Generator {
    /// Starts the rows of a prompt.
    ///
    /// # Errors
    /// If the prompt cannot be decoded or the model fails.
    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError>;
    /// Starts the held rows of a group whose other rows have all ended; returns how many. Of what holds nothing back, none.
    ///
    /// # Errors
    /// If the model fails.
    fn draw(&mut self, _: GroupId) -> Result<usize, DecodeError> {
        Ok(0)
    }
    /// Rows of a group of which one more query has ended since it was asked last, as far as they are written: each at most
    /// `SHOWN_MAX` times. Of what shows nothing before it ends, none.
    fn grown(&mut self, _: GroupId) -> Vec<FinishedRow> {
        Vec::new()
    }
    /// Gives every row one token; returns the rows that ended.
    ///
    /// # Errors
    /// If the model fails.
    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError>;
    /// Positions of a prompt that are computed beside one step of the rows that run.
    fn prefill_budget(&self) -> usize {
        prefill_budget(self.n_rows(), TOGETHER_MIN)
    }
    /// Whether `step_beside` computes anything of a prompt; else prompts are admitted whole.
    fn splits_prompts(&self) -> bool;
    /// As `step`; and beside it computes some positions of a prompt that is to be admitted, at most so many, and writes into the request
    /// that they are known. The last is left to `admit`.
    ///
    /// # Errors
    /// If the prompt cannot be decoded, before any row has moved; or if the model fails.
    fn step_beside(
        &mut self,
        request: &mut GroupRequest,
        n_positions_max: usize,
    ) -> Result<Vec<FinishedRow>, DecodeError>;
    /// Drops the rows of a group; returns how many there were.
    fn cancel(&mut self, group: GroupId) -> usize;
    /// Rows of a group that are not finished.
    fn n_rows_of(&self, group: GroupId) -> usize;
    /// Rows that are not finished.
    fn n_rows(&self) -> usize;
    /// Memory of keys and values.
    fn kv_bytes(&self) -> usize;
}

impl<G: Generator + ?Sized> Generator for Box<G> {
    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> {
        (**self).admit(request)
    }

    fn draw(&mut self, group: GroupId) -> Result<usize, DecodeError> {
        (**self).draw(group)
    }

    fn grown(&mut self, group: GroupId) -> Vec<FinishedRow> {
        (**self).grown(group)
    }

    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> {
        (**self).step()
    }

    fn prefill_budget(&self) -> usize {
        (**self).prefill_budget()
    }

    fn splits_prompts(&self) -> bool {
        (**self).splits_prompts()
    }

    fn step_beside(
        &mut self,
        request: &mut GroupRequest,
        n_positions_max: usize,
    ) -> Result<Vec<FinishedRow>, DecodeError> {
        (**self).step_beside(request, n_positions_max)
    }

    fn cancel(&mut self, group: GroupId) -> usize {
        (**self).cancel(group)
    }

    fn n_rows_of(&self, group: GroupId) -> usize {
        (**self).n_rows_of(group)
    }

    fn n_rows(&self) -> usize {
        (**self).n_rows()
    }

    fn kv_bytes(&self) -> usize {
        (**self).kv_bytes()
    }
}

impl Generator for Batch {
    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> {
        Self::admit(self, request)
    }

    fn draw(&mut self, group: GroupId) -> Result<usize, DecodeError> {
        Self::draw(self, group)
    }

    fn grown(&mut self, group: GroupId) -> Vec<FinishedRow> {
        Self::grown(self, group)
    }

    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> {
        Self::step(self)
    }

    fn prefill_budget(&self) -> usize {
        Self::prefill_budget(self)
    }

    fn splits_prompts(&self) -> bool {
        true
    }

    fn step_beside(
        &mut self,
        request: &mut GroupRequest,
        n_positions_max: usize,
    ) -> Result<Vec<FinishedRow>, DecodeError> {
        Self::step_beside(self, request, n_positions_max)
    }

    fn cancel(&mut self, group: GroupId) -> usize {
        Self::cancel(self, group)
    }

    fn n_rows_of(&self, group: GroupId) -> usize {
        Self::n_rows_of(self, group)
    }

    fn n_rows(&self) -> usize {
        Self::n_rows(self)
    }

    fn kv_bytes(&self) -> usize {
        Self::kv_bytes(self)
    }
}
