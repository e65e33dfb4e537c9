//! Local APIC and I/O APIC models.
