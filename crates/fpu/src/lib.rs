//! The x87, MMX, SSE and AVX unit: state, XSAVE image, and execution of one instruction on the host.
