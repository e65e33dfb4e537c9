//! Virtio 1.2 over PCI: console, entropy, block.
