pub mod device;
pub mod goldens;
