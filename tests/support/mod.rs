pub mod device;
pub mod goldens;
pub mod http;
pub mod lexicon;
pub mod logs;
pub mod stages;
