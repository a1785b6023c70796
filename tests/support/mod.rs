pub mod device;
pub mod goldens;
pub mod http;
pub mod logs;
pub mod stages;
