//! One linear layer behind one face.
