pub mod device;
pub mod goldens;
pub mod http;
pub mod stages;
