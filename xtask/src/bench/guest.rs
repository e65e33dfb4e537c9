//! The rows of the guest benchmark (`testing/linux/bench`): the same kernel and initramfs in QEMU and in visor, alternately in
//! one run, and the same program on the host.
//!
//! Rows beside the program's own: `boot`, seconds from exec to the guest's first user-space line; `bootcpu`, seconds of host CPU
//! for booting and powering off; `R:alone` and `R:twice`, row R by itself and in two processes at once, on two vCPUs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::GuestArgs;
use super::side::{Guest, Side, tail};
use super::table::{Table, rows};
use crate::shell::{cargo, root, step};

/// The row that is run twice at once.
const TWICE: &str = "sha256";
const NATIVE: &str = "native";

/// What of the benchmark is wanted.
struct Wanted {
    boot: bool,
    /// Rows of the program; `None`: none, empty: all.
    program: Option<Vec<String>>,
    twice: bool,
}

pub(super) fn run(args: &GuestArgs) -> anyhow::Result<()> {
    let visor = Side::visor(&args.visor)?;
    let directory = make()?;
    let default = ["qemu-system-x86_64".to_owned()];
    let qemus = if args.qemus.is_empty() { &default[..] } else { &args.qemus };
    let mut sides = Vec::new();
    for (i, command) in qemus.iter().enumerate() {
        sides.push(Side::qemu(if i == 0 { "qemu".to_owned() } else { format!("qemu{}", i + 1) }, command)?);
    }
    sides.push(visor);
    let wanted = wanted(&args.rows);
    let mut table = Table::new(sides.iter().map(|s| s.name.clone()));
    for pair in 1..=args.pairs.max(1) {
        native(&directory, &wanted, &mut table)?;
        for side in &sides {
            eprintln!("round {pair} of {}: {}", args.pairs.max(1), side.name);
            measure(side, &directory, &wanted, args, &mut table);
        }
    }
    print!("{}", table.render(NATIVE));
    if let Some(file) = &args.json {
        std::fs::write(file, table.json()?).with_context(|| file.display().to_string())?;
    }
    let bad = table.lost();
    if !bad.is_empty() {
        bail!("missing, or slower than QEMU: {}", bad.join(", "));
    }
    Ok(())
}

fn wanted(rows: &[String]) -> Wanted {
    let has = |name: &str| rows.is_empty() || rows.iter().any(|r| r == name);
    let own = ["boot", "bootcpu", "twice"];
    let program: Vec<String> = rows.iter().filter(|r| !own.contains(&r.as_str())).cloned().collect();
    let program = (rows.is_empty() || !program.is_empty()).then_some(program);
    Wanted { boot: has("boot") || has("bootcpu"), program, twice: has("twice") }
}

/// The guest's files, made anew by the test crate.
fn make() -> anyhow::Result<PathBuf> {
    let directory = root().join("target/bench-guest");
    let mut maker = cargo(&["run", "--quiet", "--locked", "--package", "visor-test-linux"]);
    maker.args(["--bin", "linux-guest", "--", "bench"]).arg(&directory);
    step("guest", &mut maker)?;
    Ok(directory)
}

fn native(directory: &Path, wanted: &Wanted, table: &mut Table) -> anyhow::Result<()> {
    let mut run = |arguments: &[String]| {
        let mut bench = Command::new(directory.join("bench"));
        let out = bench.args(arguments).env("BUSYBOX", directory.join("busybox")).output()?;
        if !out.status.success() {
            bail!("the benchmark fails on the host: {}", String::from_utf8_lossy(&out.stderr));
        }
        table.add(NATIVE, &rows(&String::from_utf8_lossy(&out.stdout)));
        Ok(())
    };
    if let Some(rows) = &wanted.program {
        run(rows)?;
    }
    if wanted.twice {
        run(&["twice".to_owned(), TWICE.to_owned()])?;
    }
    Ok(())
}

/// One round of a side. What fails leaves its rows empty, which is said at the end.
fn measure(side: &Side, directory: &Path, wanted: &Wanted, args: &GuestArgs, table: &mut Table) {
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let guest = |jobs: String, cpus| Guest {
        kernel: path("vmlinuz"),
        initrd: path("initrd.cpio"),
        append: format!("console=ttyS0 quiet {jobs}"),
        cpus,
    };
    let mut runs = Vec::new();
    if wanted.boot {
        runs.push((true, guest("rows=none".to_owned(), args.cpus)));
    }
    if let Some(rows) = &wanted.program {
        runs.push((false, guest(format!("rows={}", rows.join(",")), args.cpus)));
    }
    if wanted.twice {
        runs.push((false, guest(format!("twice={TWICE}"), 2)));
    }
    for (is_boot, guest) in runs {
        match side.run(&guest, false, Duration::from_secs(args.timeout)) {
            Ok(run) => {
                if !run.text.contains("DONE") {
                    eprintln!("! {} did not finish:\n{}", side.name, tail(&run.text));
                }
                table.add(&side.name, &rows(&run.text));
                if is_boot {
                    table.add(&side.name, &[("boot".to_owned(), run.ready), ("bootcpu".to_owned(), run.cpu)]);
                }
            }
            Err(e) => eprintln!("! {e:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn rows_choose_runs() {
        let rows = |names: &[&str]| wanted(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        let all = rows(&[]);
        assert!(all.boot && all.twice && all.program.is_some_and(|p| p.is_empty()));
        let boot = rows(&["boot"]);
        assert!(boot.boot && !boot.twice && boot.program.is_none());
        let some = rows(&["sieve", "twice"]);
        assert!(!some.boot && some.twice && some.program.is_some_and(|p| p == ["sieve"]));
    }
}
