//! Wire behaviour, one file each.
