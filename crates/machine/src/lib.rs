//! Assembles a PC from devices and an engine, and runs it.
