//! The repository's own tools. `cargo xtask help` lists them.
//!
//! - `tidy`: the rules of ARCHITECTURE.md that a program can check;
//! - `test`: everything that must pass, in the order in which failures are cheapest;
//! - `bench`: comparisons, both sides in one run;
//! - `fuzz`, `stress`, `model-disk`: long runs of what the tests run briefly;
//! - `kvm-svm`: the KVM engine on `kvm_amd`, inside a machine with SVM that QEMU emulates.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bench;
mod fuzz;
mod judges;
mod kvm_svm;
mod model_disk;
mod shell;
mod stress;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

/// Tools of the visor repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check the rules of the house: layers, unsafe code, file and function lengths, texts.
    Tidy {
        /// Write the current lengths into the ratchet file, which may only shrink.
        #[arg(long)]
        bless: bool,
    },
    /// Run every check and test, as continuous integration does.
    #[command(visible_alias = "ci")]
    Test {
        /// Only the quick checks: format, tidy, clippy, docs.
        #[arg(long)]
        lint: bool,
    },
    /// Compare visor with QEMU's software engine and with the host, in one run.
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
    /// Run the stress guest: changing code, faults, debuggers, memory order, a kernel that patches itself, compilers.
    Stress(stress::StressArgs),
    /// Run random operations on disk images and on plain arrays, for long; QEMU's tools judge each image.
    ModelDisk(model_disk::ModelDiskArgs),
    /// Run the KVM engine on a real kvm_amd inside an emulated machine with SVM: conformance suite and Linux boots.
    KvmSvm {
        /// Only conformance programs whose name contains this.
        #[arg(default_value = "")]
        guest: String,
    },
    /// Run a fuzzer for long.
    Fuzz {
        /// `cpu`: instructions against the host; `kernel`: random bytes as kernels; otherwise a device, format, protocol or parser that is fed
        /// with hostile input: `list` names them, `all` runs one after the other.
        target: String,
        /// For `cpu`, arguments of the fuzzer such as `--seed 1 --seconds 600`; for `kernel`, the number of seeds; for the others
        /// `--seconds N` (60).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().task {
        Task::Tidy { bless } => tidy::run(bless),
        Task::Test { lint } => test::run(lint),
        Task::Bench { what } => bench::run(what),
        Task::Stress(args) => stress::run(&args),
        Task::ModelDisk(args) => model_disk::run(&args),
        Task::KvmSvm { guest } => kvm_svm::run(&guest),
        Task::Fuzz { target, rest } => fuzz::run(&target, &rest),
    }
}
