//! The program inside visor's own guest images, and the protocol it speaks with the host.
