//! Tests of operand layout and of key instructions through directly lowered ops.
