//! Who goes before whom, where several wait for the same.
use crate::serve::batcher::Class;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The class of a job. Shared by all who wait for it: the first class of theirs.
#[derive(Debug)]
pub struct Precedence {
    first: Class,
    /// A place in `Class::ALL`.
    place: AtomicUsize,
}

impl Precedence {
    /// That of one who waits.
    pub fn new(class: Class) -> Self {
        Self { first: class, place: AtomicUsize::new(class as usize) }
    }

    /// The class of the one who asked first.
    pub fn first(&self) -> Class {
        self.first
    }

    /// One more waits; one of a later class changes nothing.
    pub fn join(&self, class: Class) {
        self.place.fetch_min(class as usize, Ordering::Relaxed);
    }

    /// The class that the job has by now.
    pub fn class(&self) -> Class {
        Class::ALL[self.place.load(Ordering::Relaxed)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_only_rises() {
        let precedence = Precedence::new(Class::Bulk);
        for (joins, expected) in [
            (Class::Default, Class::Default),
            (Class::Bulk, Class::Default),
            (Class::Interactive, Class::Interactive),
            (Class::Default, Class::Interactive),
        ] {
            precedence.join(joins);
            assert_eq!(precedence.class(), expected);
        }
        assert_eq!(precedence.first(), Class::Bulk);
    }
}
