//! Numbers and bits of the model-specific registers that a PC operating system touches (SDM 4).
