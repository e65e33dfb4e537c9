//! Guest RAM: one mapping, volatile access, dirty and code-page tracking.
