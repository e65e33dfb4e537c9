//! What the machine leaves in memory for the guest: ACPI, memory map, and the kernel loaders.
