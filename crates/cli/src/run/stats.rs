//! `--stats`: what the machine did.

use std::fmt::Write as _;
use std::time::Duration;

use visor_engine::VcpuStats;

/// A table with a column per vCPU, and one for all if there are several.
pub(super) fn render(engine: &str, because: &str, cpus: &[VcpuStats], elapsed: Duration) -> String {
    let mut out = format!("engine         {engine} ({because})\n");
    let seconds = elapsed.as_secs_f64();
    let _ = writeln!(out, "wall time      {seconds:.3} s");
    if cpus.len() > 1 {
        let names: String = (0..cpus.len()).map(|i| format!("{:>15}", format!("cpu{i}"))).collect();
        let _ = writeln!(out, "{:<12}{names}{:>15}", "", "all");
    }
    let mips = |instructions: u64| instructions as f64 / seconds.max(1e-9) / 1e6;
    row(&mut out, "instructions", cpus, |c| c.instructions, |n| n.to_string());
    row(&mut out, "MIPS", cpus, |c| c.instructions, |n| format!("{:.1}", mips(n)));
    row(&mut out, "pio", cpus, |c| c.pio, |n| n.to_string());
    row(&mut out, "mmio", cpus, |c| c.mmio, |n| n.to_string());
    row(&mut out, "interrupts", cpus, |c| c.interrupts, |n| n.to_string());
    row(&mut out, "exceptions", cpus, |c| c.exceptions, |n| n.to_string());
    row(&mut out, "halts", cpus, |c| c.halts, |n| n.to_string());
    out
}

fn row(
    out: &mut String,
    name: &str,
    cpus: &[VcpuStats],
    count: impl Fn(&VcpuStats) -> u64,
    show: impl Fn(u64) -> String,
) {
    let _ = write!(out, "{name:<12}");
    for cpu in cpus {
        let _ = write!(out, "{:>15}", show(count(cpu)));
    }
    if cpus.len() > 1 {
        let _ = write!(out, "{:>15}", show(cpus.iter().map(&count).sum()));
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_two_cpus() {
        let cpu = |n| VcpuStats { instructions: n * 1_000_000, pio: n, ..VcpuStats::default() };
        let text = render("soft", "no KVM", &[cpu(30), cpu(70)], Duration::from_secs(2));
        assert!(text.starts_with("engine         soft (no KVM)\nwall time      2.000 s\n"), "{text}");
        let find = |name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(find("instructions"), ["30000000", "70000000", "100000000"]);
        assert_eq!(find("MIPS"), ["15.0", "35.0", "50.0"]);
        assert_eq!(find("pio"), ["30", "70", "100"]);
        let one = render("kvm", "x", &[cpu(1)], Duration::ZERO);
        assert!(one.lines().nth(2).is_some_and(|l| l.starts_with("instructions")), "{one}");
    }
}
