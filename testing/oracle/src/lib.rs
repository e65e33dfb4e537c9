//! The host CPU as oracle: runs instructions natively and in the engine and compares.
