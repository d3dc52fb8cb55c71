//! What must hold for any bytes at all. Each file stands alone: the fuzz targets mount
//! it by its path.

pub mod chunked;
pub mod command;
pub mod file;
pub mod head;
pub mod path;
pub mod range;
