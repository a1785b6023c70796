pub mod goldens;
pub mod stages;
