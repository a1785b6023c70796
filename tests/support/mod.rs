pub mod goldens;
