pub mod device;
pub mod goldens;
pub mod stages;
