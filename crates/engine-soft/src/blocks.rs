//! The cache of decoded basic blocks.
