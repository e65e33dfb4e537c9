//! The contract between a machine and its devices: buses, interrupt lines, timers, life cycle.
