//! `--stats`: what the machine did, as a table or as one line of JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use visor_engine::{Timed, VcpuStats};
use visor_machine::DiskInfo;

/// What is printed. The JSON is this, field by field.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    engine: &'a str,
    /// Why this engine.
    reason: &'a str,
    /// Wall time since the machine was started.
    seconds: f64,
    /// Million guest instructions a second of wall time, all CPUs together.
    mips: f64,
    cpus: &'a [VcpuStats],
    disks: Vec<DiskRow>,
}

/// What a disk did.
#[derive(Debug, Serialize)]
struct DiskRow {
    name: String,
    means: String,
    reads: u64,
    read_bytes: u64,
    writes: u64,
    written_bytes: u64,
    flushes: u64,
    /// Requests that waited for room on the host.
    waited: u64,
}

impl From<DiskInfo> for DiskRow {
    fn from(d: DiskInfo) -> Self {
        let s = d.stats;
        DiskRow {
            name: d.name,
            means: d.means,
            reads: s.reads,
            read_bytes: s.read_bytes,
            writes: s.writes,
            written_bytes: s.written_bytes,
            flushes: s.flushes,
            waited: s.waited,
        }
    }
}

impl<'a> Report<'a> {
    /// The same with disks.
    pub(super) fn disks(mut self, disks: Vec<DiskInfo>) -> Self {
        self.disks = disks.into_iter().map(DiskRow::from).collect();
        self
    }

    pub(super) fn new(engine: &'a str, reason: &'a str, cpus: &'a [VcpuStats], elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let instructions: u64 = cpus.iter().map(|c| c.instructions).sum();
        Report { engine, reason, seconds, mips: instructions as f64 / seconds.max(1e-9) / 1e6, cpus, disks: Vec::new() }
    }

    /// One line.
    pub(super) fn json(&self) -> String {
        // Nothing in it can fail to be JSON.
        serde_json::to_string(self).map_or_else(|e| format!("{{\"error\":\"{e}\"}}\n"), |line| line + "\n")
    }

    /// A column per vCPU, and one for all if there are several. Lines about nothing are left out.
    pub(super) fn table(&self) -> String {
        let mut t = Table { out: String::new(), cpus: self.cpus };
        let _ = writeln!(t.out, "{:<24}{} ({})", "engine", self.engine, self.reason);
        let _ = writeln!(t.out, "{:<24}{:.3} s", "wall time", self.seconds);
        if self.cpus.len() > 1 {
            let names: String = (0..self.cpus.len()).map(|i| format!("{:>15}", format!("cpu{i}"))).collect();
            let _ = writeln!(t.out, "{:<24}{names}{:>15}", "", "all");
        }
        let mips = |n: u64| format!("{:.1}", n as f64 / self.seconds.max(1e-9) / 1e6);
        t.always("instructions", |c| c.instructions, |n| n.to_string());
        t.always("MIPS", |c| c.instructions, mips);
        t.exits();
        t.tlb();
        t.translator();
        t.times();
        for d in &self.disks {
            let (read, written) = (d.read_bytes >> 10, d.written_bytes >> 10);
            let _ = writeln!(
                t.out,
                "{:<24}{} reads ({read} KiB), {} writes ({written} KiB), {} flushes, by {}",
                format!("disk {}", d.name),
                d.reads,
                d.writes,
                d.flushes,
                d.means
            );
        }
        t.out
    }
}

struct Table<'a> {
    out: String,
    cpus: &'a [VcpuStats],
}

impl Table<'_> {
    fn exits(&mut self) {
        self.timed("pio", true, |c| c.exits.pio);
        self.timed("mmio", true, |c| c.exits.mmio);
        self.timed("interrupts", true, |c| c.exits.interrupt);
        self.timed("exceptions", true, |c| c.exits.exception);
        self.timed("halts", true, |c| c.exits.hlt);
        let mut names: Vec<&str> = self.cpus.iter().flat_map(|c| c.exits.helpers.iter().map(|h| h.name)).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            self.timed(name, false, |c| {
                let mine = c.exits.helpers.iter().filter(|h| h.name == name);
                mine.fold(Timed::default(), |t, h| Timed { count: t.count + h.count, nanos: t.nanos + h.nanos })
            });
        }
    }

    fn tlb(&mut self) {
        self.count("TLB load misses", |c| c.tlb.load_misses);
        self.count("TLB store misses", |c| c.tlb.store_misses);
        self.count("TLB fetch misses", |c| c.tlb.fetch_misses);
        self.count("TLB flushes", |c| c.tlb.flushes);
        self.count("page walks", |c| c.tlb.walks);
    }

    fn translator(&mut self) {
        self.count("blocks decoded", |c| c.decoder.blocks);
        self.count("  of changed code", |c| c.decoder.stale);
        self.count("decoder flushes", |c| c.decoder.flushes);
        self.count("blocks translated", |c| c.translator.blocks);
        self.count("  instructions in them", |c| c.translator.instructions);
        self.count("code cache, KiB used", |c| c.translator.host_bytes >> 10);
        self.count("code cache, KiB", |c| c.translator.capacity >> 10);
        self.count("code cache flushes", |c| c.translator.flushes);
        self.count("blocks invalidated", |c| c.translator.invalidations.total());
        self.count("  by own stores", |c| c.translator.invalidations.own_store);
        self.count("  by another CPU", |c| c.translator.invalidations.other_cpu);
        self.count("  by a device", |c| c.translator.invalidations.device);
        self.count("  by a new mapping", |c| c.translator.invalidations.mapping);
        self.count("  by a new mode", |c| c.translator.invalidations.mode);
        self.count("  for room", |c| c.translator.invalidations.eviction);
        self.count("links made", |c| c.translator.links_made);
        self.count("links broken", |c| c.translator.links_broken);
        self.count("indirect jumps, hits", |c| c.translator.indirect_hits);
        self.count("indirect jumps, misses", |c| c.translator.indirect_misses);
        self.count("entries into the cache", |c| c.translator.entries);
        self.count("instrs. interpreted", |c| c.translator.interpreted);
        self.count("lockstep blocks", |c| c.translator.lockstep_blocks);
        // That there are none is what one wants to read.
        let compared = self.cpus.iter().any(|c| c.translator.lockstep_blocks != 0);
        self.row("  that differ", compared, |c| c.translator.lockstep_differences, |n| n.to_string());
    }

    fn times(&mut self) {
        self.share("time: guest code", |c| c.time.guest);
        self.share("time: interpreter", |c| c.time.interpreter);
        self.share("time: translation", |c| c.time.translation);
        self.share("time: helpers", |c| c.time.helpers);
        self.share("time: devices", |c| c.time.devices);
        self.share("time: idle", |c| c.time.idle);
    }

    /// A count, and where it was measured, the time.
    fn timed(&mut self, name: &str, always: bool, of: impl Fn(&VcpuStats) -> Timed) {
        self.row(name, always, |c| of(c).count, |n| n.to_string());
        self.row("  in ms", false, |c| of(c).nanos, |n| format!("{:.1}", n as f64 / 1e6));
    }

    fn count(&mut self, name: &str, of: impl Fn(&VcpuStats) -> u64) {
        self.row(name, false, of, |n| n.to_string());
    }

    fn always(&mut self, name: &str, of: impl Fn(&VcpuStats) -> u64, show: impl Fn(u64) -> String) {
        self.row(name, true, of, show);
    }

    fn share(&mut self, name: &str, of: impl Fn(&VcpuStats) -> u64) {
        let percent = |part: u64, all: u64| format!("{:.1} %", 100.0 * part as f64 / all.max(1) as f64);
        let (part, all) = (self.cpus.iter().map(&of).sum(), self.cpus.iter().map(|c| c.time.total()).sum());
        if part == 0 {
            return;
        }
        let each: Vec<String> = self.cpus.iter().map(|c| percent(of(c), c.time.total())).collect();
        self.line(name, &each, &percent(part, all));
    }

    fn row(&mut self, name: &str, always: bool, of: impl Fn(&VcpuStats) -> u64, show: impl Fn(u64) -> String) {
        let all: u64 = self.cpus.iter().map(&of).fold(0, u64::saturating_add);
        if all == 0 && !always {
            return;
        }
        let each: Vec<String> = self.cpus.iter().map(|c| show(of(c))).collect();
        self.line(name, &each, &show(all));
    }

    fn line(&mut self, name: &str, each: &[String], all: &str) {
        let _ = write!(self.out, "{name:<24}");
        for value in each {
            let _ = write!(self.out, "{value:>15}");
        }
        if self.cpus.len() > 1 {
            let _ = write!(self.out, "{all:>15}");
        }
        self.out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use visor_engine::HelperStats;

    use super::*;

    fn cpu(n: u64) -> VcpuStats {
        let mut s = VcpuStats { instructions: n * 1_000_000, ..VcpuStats::default() };
        s.exits.pio = Timed { count: n, nanos: n * 1_000_000 };
        s.exits.helpers.push(HelperStats { name: "cpuid", count: n, nanos: 0 });
        s.time.interpreter = 3 * n;
        s.time.idle = 100 - 3 * n;
        s
    }

    fn find(text: &str, name: &str) -> Vec<String> {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        line[24..].split_whitespace().filter(|w| *w != "%").map(str::to_owned).collect()
    }

    #[test]
    fn a_table_of_two_cpus() {
        let cpus = [cpu(10), cpu(30)];
        let text = Report::new("soft", "no KVM", &cpus, Duration::from_secs(2)).table();
        assert_eq!(find(&text, "engine"), ["soft", "(no", "KVM)"]);
        assert_eq!(find(&text, "instructions"), ["10000000", "30000000", "40000000"]);
        assert_eq!(find(&text, "MIPS"), ["5.0", "15.0", "20.0"]);
        assert_eq!(find(&text, "pio"), ["10", "30", "40"]);
        assert_eq!(find(&text, "  in ms"), ["10.0", "30.0", "40.0"]);
        assert_eq!(find(&text, "cpuid"), ["10", "30", "40"]);
        assert_eq!(find(&text, "mmio"), ["0", "0", "0"]);
        assert_eq!(find(&text, "time: interpreter"), ["30.0", "90.0", "60.0"]);
        assert!(!text.contains("translated"), "nothing is said of what did not happen: {text}");
    }

    #[test]
    fn what_lockstep_found_is_told_even_if_it_is_nothing() {
        let mut cpus = [cpu(1), cpu(1)];
        assert!(!Report::new("soft", "x", &cpus, Duration::ZERO).table().contains("differ"));
        cpus[0].translator.lockstep_blocks = 5;
        let text = Report::new("soft", "x", &cpus, Duration::ZERO).table();
        assert_eq!(find(&text, "lockstep blocks"), ["5", "0", "5"]);
        assert_eq!(find(&text, "  that differ"), ["0", "0", "0"]);
        cpus[1].translator.lockstep_differences = 3;
        assert_eq!(find(&Report::new("soft", "x", &cpus, Duration::ZERO).table(), "  that differ"), ["0", "3", "3"]);
    }

    #[test]
    fn one_cpu_has_one_column() {
        let cpus = [cpu(1)];
        let text = Report::new("kvm", "x", &cpus, Duration::ZERO).table();
        assert_eq!(find(&text, "instructions"), ["1000000"]);
        assert!(!text.contains("cpu0"), "no heading: {text}");
    }

    #[test]
    fn json_is_one_line_with_every_field() {
        let cpus = [cpu(10)];
        let line = Report::new("soft", "a \"reason\"", &cpus, Duration::from_secs(2)).json();
        assert_eq!(line.matches('\n').count(), 1);
        let v: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(v["reason"], "a \"reason\"");
        assert_eq!(v["mips"], 5.0);
        assert_eq!(v["cpus"][0]["exits"]["pio"]["nanos"], 10_000_000);
        assert_eq!(v["cpus"][0]["exits"]["helpers"][0]["name"], "cpuid");
        assert_eq!(v["cpus"][0]["translator"]["invalidations"]["own_store"], 0);
        assert_eq!(v["cpus"][0]["time"]["idle"], 70);
    }
}
