//! The contract between a disk front end and a disk back end.
