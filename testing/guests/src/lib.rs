//! Bare-metal guest programs and the conformance suites that run them.
