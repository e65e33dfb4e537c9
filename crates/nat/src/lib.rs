//! Address translation in user space.
#![forbid(unsafe_code)]
