//! The contract between a machine and the engine that runs its CPUs.
