//! Hostile images, volumes and discs, and servers of files that lie.

mod foreign;
mod iso;
mod luks;
mod memory;
mod nbd;
mod patches;
mod pool;
mod qcow2;
mod sandbox;
mod web;

use crate::Target;

/// The formats.
pub(crate) const TARGETS: &[Target] = &[
    Target::new("qcow2", "qcow2 image in memory: read, written, snapshots, check, repair", qcow2::run, qcow2::seeds)
        .inputs(800)
        .heap(128 << 20)
        .longest(1 << 16),
    Target::new("qcow2-file", "qcow2 image as a file that names others", qcow2::run_file, qcow2::file_seeds)
        .inputs(800)
        .heap(128 << 20)
        .longest(1 << 16),
    Target::new("vmdk", "VMware disk", foreign::vmdk, foreign::vmdk_seeds).inputs(800).longest(1 << 14),
    Target::new("vdi", "VirtualBox disk", foreign::vdi, foreign::vdi_seeds).inputs(800).longest(1 << 14),
    Target::new("vhd", "Virtual PC disk", foreign::vhd, foreign::vhd_seeds).inputs(800).longest(1 << 14),
    Target::new("vhdx", "Hyper-V disk, with its log", foreign::vhdx, foreign::vhdx_seeds).inputs(200).longest(1 << 14),
    Target::new("raw", "a file whose format is found out", foreign::raw, foreign::raw_seeds)
        .inputs(300)
        .longest(1 << 14),
    Target::new("luks", "header of an encrypted volume", luks::run, luks::seeds).inputs(400).longest(1 << 16),
    Target::new("pool", "what is kept of a pool and on its members", pool::run, pool::seeds)
        .inputs(100)
        .longest(1 << 14),
    Target::new("iso", "ISO 9660 with Rock Ridge, Joliet, El Torito, hybrid tables", iso::run, iso::seeds)
        .inputs(800)
        .longest(1 << 16),
    Target::new("web", "a web server's answers to range requests", web::run, web::seeds).inputs(150).heap(64 << 20),
    Target::new("nbd-client", "an NBD server that lies", nbd::client, nbd::client_seeds).inputs(200).heap(64 << 20),
    Target::new("nbd-server", "an NBD client that lies", nbd::server, nbd::server_seeds).inputs(300).heap(128 << 20),
];
