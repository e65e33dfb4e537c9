//! The `visor` command.
fn main() {}
