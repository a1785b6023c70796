//! What a model thread drives.
use crate::decode::batch::{Admitted, Batch, DecodeError, FinishedRow, GroupId, GroupRequest};

/// What decodes. `decode::batch::Batch` does; tests put a script in its place.
pub trait Generator {
    /// Computes some positions of a prompt that is to be admitted, at most so many, and writes into the request that they are known;
    /// returns how many. 0: `admit` computes the rest at once.
    ///
    /// # Errors
    /// If the prompt cannot be decoded or the model fails.
    fn extend(&mut self, request: &mut GroupRequest, n_positions_max: usize) -> Result<usize, DecodeError>;
    /// Starts the rows of a prompt.
    ///
    /// # Errors
    /// If the prompt cannot be decoded or the model fails.
    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError>;
    /// Gives every row one token; returns the rows that ended.
    ///
    /// # Errors
    /// If the model fails.
    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError>;
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
    fn extend(&mut self, request: &mut GroupRequest, n_positions_max: usize) -> Result<usize, DecodeError> {
        (**self).extend(request, n_positions_max)
    }

    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> {
        (**self).admit(request)
    }

    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> {
        (**self).step()
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
    fn extend(&mut self, request: &mut GroupRequest, n_positions_max: usize) -> Result<usize, DecodeError> {
        Self::extend(self, request, n_positions_max)
    }

    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> {
        Self::admit(self, request)
    }

    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> {
        Self::step(self)
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
