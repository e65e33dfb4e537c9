//! The commands of `visor disk` as data.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use visor_disk::Format;

use crate::values::parse_size;

#[derive(Subcommand, Debug)]
pub(crate) enum DiskCommand {
    /// Make a new disk.
    #[command(after_help = "Examples:
  visor disk create data --size 10G                     grows as the guest writes (qcow2)
  visor disk create data --size 10G --alloc static      all space taken now (raw)
  visor disk create ./work.qcow2 --size 20G --backing base.qcow2
  visor disk create pool:safe/data --size 10G           in a pool (visor pool create)
  visor disk create web --backing https://store/debian.qcow2
  visor disk create secret --size 10G --encrypt         asks for a passphrase; readable by cryptsetup
  visor disk create secret --size 10G --encrypt --key-file secret.key")]
    Create(CreateArgs),
    /// List disks: capacity, space taken on the host, space used by the guest, and waste.
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  visor disk ls\n  visor disk ls --json\n  visor disk ls ./work.qcow2"
    )]
    Ls {
        /// These instead of all in the user's folder.
        disks: Vec<String>,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what a disk is.
    #[command(visible_aliases = ["inspect", "show"], after_help = "Examples:\n  visor disk info data\n  visor disk info data --json\n  visor disk info ./old.vmdk")]
    Info(Which),
    /// Show what lies where: data, zeroes, holes, what snapshots share, fragments.
    #[command(
        after_help = "Examples:\n  visor disk map data\n  visor disk map data --json\n  visor disk map data --svg > map.svg"
    )]
    Map {
        #[command(flatten)]
        which: Which,
        /// Print a picture.
        #[arg(long, conflicts_with = "json")]
        svg: bool,
    },
    /// Check a disk's metadata, and repair it.
    #[command(
        after_help = "Examples:\n  visor disk check data\n  visor disk check data --repair\n  visor disk check data --json"
    )]
    Check {
        #[command(flatten)]
        which: Which,
        /// Repair what is wrong.
        #[arg(long)]
        repair: bool,
    },
    /// Give space back to the host that holds only zeroes or nothing.
    #[command(
        after_help = "Examples:\n  visor disk compact data\n  visor disk compact data --rewrite     also brings fragments together\n  visor disk compact data --json"
    )]
    Compact {
        #[command(flatten)]
        which: Which,
        /// Write the disk anew, in order. Not with snapshots.
        #[arg(long)]
        rewrite: bool,
    },
    /// Copy a disk into a new one of another format or allocation.
    #[command(after_help = "Examples:
  visor disk convert old.vmdk data --format qcow2
  visor disk convert data ./data.raw --alloc static
  visor disk convert data ./data.qcow2 --compress
  visor disk convert data secret --encrypt --key-file secret.key")]
    Convert(ConvertArgs),
    /// Change the size of a disk. Shrinking below the data is refused.
    #[command(
        after_help = "Examples:\n  visor disk resize data 20G\n  visor disk resize data +5G\n  visor disk resize data 15G --json"
    )]
    Resize {
        #[command(flatten)]
        which: Which,
        /// The new size, or how much more with `+`.
        size: String,
    },
    /// Make a copy of a disk, or with --linked one that holds only what differs.
    #[command(
        after_help = "Examples:\n  visor disk clone data data2\n  visor disk clone base web --linked\n  visor disk clone data ./copy.qcow2"
    )]
    Clone {
        /// The disk.
        disk: String,
        /// The new one.
        new: String,
        /// Share what is the same. The original must not change afterwards.
        #[arg(long)]
        linked: bool,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List, add and remove the keys of an encrypted disk.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Keep states of a disk, and go back to them.
    Snapshot {
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Measure static against dynamic allocation on this host.
    #[command(
        after_help = "Examples:\n  visor disk bench\n  visor disk bench --size 4G --directory /srv\n  visor disk bench --json"
    )]
    Bench {
        /// Size of the disks that are made and removed again.
        #[arg(long, value_parser = parse_size, default_value = "1G")]
        size: u64,
        /// Where.
        #[arg(long)]
        directory: Option<PathBuf>,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Offer disks to others over NBD, until ctrl-C. Without --tls-cert there is no encryption: TCP is for trusted networks then.
    #[command(after_help = "Examples:
  visor disk serve data --socket /run/user/1000/data.sock
  visor disk serve data --listen 127.0.0.1:10809 --read-only
  visor disk serve data logs --listen 0.0.0.0:10809 --tls-cert server.pem --tls-key server.key --tls-ca ca.pem \\
    --allow data=web1 --allow logs=web1 --allow logs=web2
  visor run tiny --disk 'nbd+unix:///data?socket=/run/user/1000/data.sock'")]
    Serve(ServeArgs),
    /// Make a new disk and put it into a machine that runs, with a file system and mounted if wished.
    #[command(after_help = "Examples:
  visor disk add web --size 2G
  visor disk add web --size 2G --fs xfs --mount /data
  visor disk add web --size 10G --alloc static --disk web-data")]
    Add(super::add::AddArgs),
    #[command(flatten)]
    Live(super::live::LiveCommand),
    /// Remove a disk that nobody uses.
    #[command(
        visible_alias = "delete",
        after_help = "Examples:\n  visor disk rm data\n  visor disk rm data data2\n  visor -q disk rm data"
    )]
    Rm {
        /// The disks.
        #[arg(required = true)]
        disks: Vec<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum KeyCommand {
    /// List the keys of a disk: which slots are in use, not what is in them.
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  visor disk key ls secret\n  visor disk key ls secret --json\n  visor disk key ls ./work.luks"
    )]
    Ls {
        /// The disk.
        disk: String,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let another key open the disk too. Needs one that does.
    #[command(after_help = "Examples:
  visor disk key add secret                                        asks for both
  visor disk key add secret --key-file old.key --new-key-file new.key
  visor disk key add secret --keyring                              from now on without asking")]
    Add {
        /// The disk.
        disk: String,
        /// A key that opens it; otherwise the keyring or a person is asked.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// The new key; otherwise a person is asked.
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
        /// Make a random key and keep it in the user's keyring.
        #[arg(long, conflicts_with = "new_key_file")]
        keyring: bool,
    },
    /// Remove a key for good.
    #[command(
        visible_alias = "delete",
        after_help = "Examples:\n  visor disk key rm secret 0\n  visor -q disk key rm secret 1\n  visor disk key rm secret 1 --last     the data is lost for ever"
    )]
    Rm {
        /// The disk.
        disk: String,
        /// Its slot, from `visor disk key ls`.
        slot: u32,
        /// Even if it is the last one.
        #[arg(long)]
        last: bool,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum SnapshotCommand {
    /// Keep the disk as it is now.
    #[command(
        after_help = "Examples:\n  visor disk snapshot create data before\n  visor disk snapshot create ./work.qcow2 s1\n  visor -q disk snapshot create data s2"
    )]
    Create(SnapshotArgs),
    /// List the snapshots of a disk.
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  visor disk snapshot ls data\n  visor disk snapshot ls data --json\n  visor disk snapshot ls ./work.qcow2"
    )]
    Ls(Which),
    /// Make the disk again what it was; what was written since is lost.
    #[command(
        visible_alias = "restore",
        after_help = "Examples:\n  visor disk snapshot revert data before\n  visor disk snapshot revert data 1\n  visor disk snapshot revert ./work.qcow2 s1"
    )]
    Revert(SnapshotArgs),
    /// Remove a snapshot. What the disk or another snapshot needs stays.
    #[command(
        visible_alias = "delete",
        after_help = "Examples:\n  visor disk snapshot rm data before\n  visor disk snapshot rm data 1\n  visor disk snapshot rm ./work.qcow2 s1"
    )]
    Rm(SnapshotArgs),
}

#[derive(clap::Args, Debug)]
pub(crate) struct ServeArgs {
    /// The disks.
    #[arg(required = true)]
    pub(super) disks: Vec<String>,
    /// Their format, where the contents shall not decide.
    #[arg(long, value_parser = parse_format)]
    pub(super) format: Option<Format>,
    /// Names under which they are offered, in the same order; the disks' own if left out.
    #[arg(long, value_name = "NAME")]
    pub(super) export: Vec<String>,
    /// Listen at this socket.
    #[arg(long, value_name = "PATH", required_unless_present = "listen", conflicts_with = "listen")]
    pub(super) socket: Option<PathBuf>,
    /// Listen at this address.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: Option<String>,
    /// Nobody may write.
    #[arg(long)]
    pub(super) read_only: bool,
    /// Key of encrypted disks; otherwise the keyring or a person is asked.
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// Speak TLS only, with this certificate (PEM, with the chain behind it).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,
    /// The certificate's key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,
    /// Only for clients with a certificate of this authority.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(super) tls_ca: Option<PathBuf>,
    /// Only for the client whose certificate has this DNS name, or this fingerprint as `sha256:HEX`; for one export with `EXPORT=`.
    /// Can be repeated.
    #[arg(long, value_name = "[EXPORT=]NAME", requires = "tls_ca")]
    pub(super) allow: Vec<String>,
}

#[derive(clap::Args, Debug)]
pub(crate) struct SnapshotArgs {
    /// The disk.
    pub(super) disk: String,
    /// The snapshot.
    pub(super) snapshot: String,
    /// Print as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Which {
    /// A name of `visor disk ls`, or a path.
    pub(super) disk: String,
    /// Its format, where the contents shall not decide.
    #[arg(long, value_parser = parse_format)]
    pub(super) format: Option<Format>,
    /// Print as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct CreateArgs {
    /// A name, a path, or a volume of a pool: pool:POOL/VOLUME.
    pub(super) disk: String,
    /// Capacity: a number with K, M, G or T. With a backing file, its size if left out.
    #[arg(long, value_parser = parse_size, required_unless_present = "backing")]
    pub(super) size: Option<u64>,
    #[command(flatten)]
    pub(super) how: How,
    /// Show this image where nothing was written yet: a disk, a file, or a file of a web server (`https://...`), which is read by ranges
    /// and kept in a cache.
    #[arg(long, value_name = "FILE|URL")]
    pub(super) backing: Option<String>,
    #[command(flatten)]
    pub(super) web: super::web::WebArgs,
    /// Promise more than the pool has. Machines stop when it runs out, until there is room.
    #[arg(long)]
    pub(super) overcommit: bool,
    #[command(flatten)]
    pub(super) encrypt: super::encrypt::EncryptArgs,
    /// Print as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct How {
    /// Take all space now, or as it is written.
    #[arg(long, value_enum, default_value_t = AllocArg::Dynamic)]
    pub(super) alloc: AllocArg,
    /// Format of the new disk. If left out: what the ending of its name says, or raw for static ones and qcow2 for dynamic ones.
    #[arg(long, value_parser = parse_format)]
    pub(super) format: Option<Format>,
    /// Bytes of a cluster (qcow2).
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(super) cluster_size: Option<u64>,
    /// Clusters of 32 subclusters (qcow2).
    #[arg(long)]
    pub(super) extended_l2: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ConvertArgs {
    /// The disk to copy.
    pub(super) source: String,
    /// The new disk.
    pub(super) target: String,
    /// Format of the source, where its contents shall not decide.
    #[arg(long, value_parser = parse_format)]
    pub(super) source_format: Option<Format>,
    /// Key of an encrypted source; otherwise the keyring or a person is asked.
    #[arg(long, value_name = "FILE")]
    pub(super) source_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) how: How,
    #[command(flatten)]
    pub(super) encrypt: super::encrypt::EncryptArgs,
    /// Compress (qcow2).
    #[arg(long)]
    pub(super) compress: bool,
    /// How to compress.
    #[arg(long, value_enum, default_value_t = CompressionArg::Zstd)]
    pub(super) compression: CompressionArg,
    /// Wait until the copy is on the medium. Without it the host writes it there in the next seconds, as with cp.
    #[arg(long)]
    pub(super) sync: bool,
    /// Print as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AllocArg {
    /// All space now.
    Static,
    /// As it is written.
    Dynamic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressionArg {
    /// Read by every program that knows qcow2.
    Zlib,
    /// Faster and smaller; programs of 2020 or later.
    Zstd,
}

fn parse_format(text: &str) -> Result<Format, String> {
    Format::parse(text).ok_or_else(|| {
        let names: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
        format!("formats: {}", names.join(", "))
    })
}

/// As sizes, but a bare number is bytes.
fn parse_bytes(text: &str) -> Result<u64, String> {
    text.parse().or_else(|_| parse_size(text))
}
