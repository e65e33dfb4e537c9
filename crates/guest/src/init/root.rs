//! The change from the initial ramfs to the root disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cmdline::{Cmdline, RootSpec};
use super::console::kernel_log;
use super::devices::Devices;
use super::mounts;
use crate::sys::{self, PollSet};

/// How long to wait for the root disk to appear.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait before looking beyond virtio devices.
const VIRTIO_PATIENCE: Duration = Duration::from_millis(100);

const NEW_ROOT: &str = "/newroot";

/// Offsets within an ext4 superblock, which itself lies at 1024 (Linux Documentation/filesystems/ext4/super.rst).
mod ext4 {
    pub(super) const SUPERBLOCK: u64 = 1024;
    pub(super) const BLOCKS: usize = 0x04;
    pub(super) const LOG_BLOCK_SIZE: usize = 0x18;
    pub(super) const MAGIC: usize = 0x38;
    pub(super) const LABEL: usize = 0x78;
}

/// Changes to the root disk the command line names. Without one, does nothing.
pub(super) fn change(cmdline: &Cmdline, devices: &mut Devices) -> io::Result<()> {
    let Some(spec) = &cmdline.root else {
        return Ok(());
    };
    let device = wait_for(spec, devices)?;
    let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let locked = fs::read_to_string(format!("/sys/class/block/{name}/ro")).is_ok_and(|s| s.trim_end() == "1");
    let new_root = Path::new(NEW_ROOT);
    fs::create_dir_all(new_root)?;
    let source = device.to_string_lossy();
    if cmdline.writable && !locked {
        // Tables of inodes that were never used stay unwritten: zeroing them would only cost the guest time.
        sys::mount(&source, new_root, "ext4", libc::MS_NOATIME, "noinit_itable")?;
        if let Err(error) = grow(&device, new_root) {
            kernel_log(&format!("cannot grow the root file system: {error}"));
        }
    } else {
        mount_layered(&source, new_root, devices)?;
    }
    mounts::move_to(new_root)?;
    free_initramfs();
    sys::move_mount_to_root(new_root)
}

fn wait_for(spec: &RootSpec, devices: &mut Devices) -> io::Result<PathBuf> {
    let begin = Instant::now();
    let mut all_loaded = false;
    loop {
        if let Some(device) = find(spec) {
            return Ok(device);
        }
        if !all_loaded && begin.elapsed() >= VIRTIO_PATIENCE {
            all_loaded = true;
            devices.load_all();
        }
        let limit = if all_loaded { PATIENCE } else { VIRTIO_PATIENCE };
        let left = limit.saturating_sub(begin.elapsed());
        if left.is_zero() && all_loaded {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no root disk {spec:?}")));
        }
        let mut set = PollSet::new();
        if let Some(events) = devices.descriptor() {
            set.add(&events, true, false);
        }
        set.wait(Some(left.min(Duration::from_millis(200))))?;
        while devices.next_event().is_some() {}
    }
}

fn find(spec: &RootSpec) -> Option<PathBuf> {
    match spec {
        RootSpec::Device(path) => Some(PathBuf::from(path)).filter(|p| p.exists()),
        RootSpec::Label(label) => {
            let blocks = fs::read_dir("/sys/class/block").ok()?;
            let mut paths: Vec<PathBuf> = blocks.flatten().map(|b| Path::new("/dev").join(b.file_name())).collect();
            paths.sort();
            paths.into_iter().find(|p| read_super(p).is_some_and(|s| label_of(&s) == label.as_bytes()))
        }
    }
}

/// The superblock of an ext4 file system on the device.
fn read_super(device: &Path) -> Option<[u8; 1024]> {
    let mut block = [0; 1024];
    File::open(device).ok()?.read_exact_at(&mut block, ext4::SUPERBLOCK).ok()?;
    (block.get(ext4::MAGIC..ext4::MAGIC + 2)? == [0x53, 0xef]).then_some(block)
}

fn label_of(block: &[u8; 1024]) -> &[u8] {
    let label = block.get(ext4::LABEL..ext4::LABEL + 16).unwrap_or_default();
    label.split(|b| *b == 0).next().unwrap_or_default()
}

fn field(block: &[u8; 1024], at: usize) -> u64 {
    block.get(at..).and_then(<[u8]>::first_chunk::<4>).map_or(0, |b| u32::from_le_bytes(*b).into())
}

/// Lets the file system fill a disk that was made larger than the image.
fn grow(device: &Path, mount_point: &Path) -> io::Result<()> {
    let Some(block) = read_super(device) else {
        return Ok(());
    };
    let block_size = 1024u64 << field(&block, ext4::LOG_BLOCK_SIZE).min(6);
    let wanted = sys::block_device_size(&File::open(device)?)? / block_size;
    // A few blocks more are no gain: ext4 does not use a group that cannot hold its own tables.
    if wanted < field(&block, ext4::BLOCKS) + 8192 {
        return Ok(());
    }
    sys::grow_ext4(mount_point, wanted)
}

/// The disk below, memory on top: everything can be written, and nothing is kept.
fn mount_layered(source: &str, new_root: &Path, devices: &mut Devices) -> io::Result<()> {
    devices.loader.load("overlay")?;
    let (lower, upper) = (Path::new("/lower"), Path::new("/upper"));
    fs::create_dir_all(lower)?;
    fs::create_dir_all(upper)?;
    // `noload`: the journal of a disk that may not be written cannot be replayed.
    sys::mount(source, lower, "ext4", libc::MS_RDONLY, "noload")?;
    sys::mount("tmpfs", upper, "tmpfs", 0, "mode=0755")?;
    fs::create_dir_all(upper.join("data"))?;
    fs::create_dir_all(upper.join("work"))?;
    sys::mount("overlay", new_root, "overlay", 0, "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work")
}

/// Gives back the memory of the initial ramfs, which cannot be unmounted. This program's own file stays until it ends.
fn free_initramfs() {
    const RAMFS_MAGIC: u32 = 0x8584_58f6;
    const TMPFS_MAGIC: u32 = 0x0102_1994;
    let Ok((kind, _)) = sys::statfs_info(Path::new("/")) else {
        return;
    };
    let Ok(here) = fs::metadata("/") else { return };
    // Deleting everything is what this does: be sure that it is the ramfs, and that nobody else needs it.
    if std::process::id() != 1 || ![RAMFS_MAGIC, TMPFS_MAGIC].contains(&kind) {
        return;
    }
    for entry in fs::read_dir("/").into_iter().flatten().flatten() {
        let Ok(meta) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if meta.dev() != here.dev() {
            continue;
        }
        let _ = if meta.is_dir() { remove_tree(&entry.path(), here.dev()) } else { fs::remove_file(entry.path()) };
    }
}

fn remove_tree(path: &Path, device: u64) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        let meta = fs::symlink_metadata(entry.path())?;
        if meta.dev() != device {
            continue;
        }
        let _ = if meta.is_dir() { remove_tree(&entry.path(), device) } else { fs::remove_file(entry.path()) };
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_from_the_superblock() {
        let path = std::env::temp_dir().join(format!("visor-super-{}", std::process::id()));
        let mut image = vec![0u8; 4096];
        assert!({
            fs::write(&path, &image).unwrap();
            read_super(&path).is_none()
        });
        image[1024 + ext4::MAGIC..][..2].copy_from_slice(&[0x53, 0xef]);
        image[1024 + ext4::LABEL..][..5].copy_from_slice(b"visor");
        image[1024 + ext4::LOG_BLOCK_SIZE] = 2;
        fs::write(&path, &image).unwrap();
        let block = read_super(&path).unwrap();
        assert_eq!(label_of(&block), b"visor");
        assert_eq!(field(&block, ext4::LOG_BLOCK_SIZE), 2);
        fs::remove_file(path).unwrap();
    }
}
