//! Guest bytes to [`Op`]s: `iced-x86` decodes, the modules below choose a handler and lay out its operands.
