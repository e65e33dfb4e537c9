//! Disk images: raw files.
