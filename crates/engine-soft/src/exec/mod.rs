//! The handlers of all instructions, by group.
