//! x86-64 architecture as plain data: registers, descriptors, CPUID, MSRs, page-table formats.
