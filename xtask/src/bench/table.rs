//! Medians and ratios.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Seconds of every run, by row and side.
pub(super) struct Table {
    sides: Vec<String>,
    /// In order of appearance.
    rows: Vec<String>,
    runs: BTreeMap<(String, String), Vec<f64>>,
}

/// The side that is compared with the others.
const OURS: &str = "visor";

impl Table {
    pub(super) fn new(sides: impl Iterator<Item = String>) -> Self {
        Table { sides: sides.collect(), rows: Vec::new(), runs: BTreeMap::new() }
    }

    /// Adds what a run of `side` took.
    pub(super) fn add(&mut self, side: &str, rows: &[(String, f64)]) {
        for (row, seconds) in rows {
            if !self.rows.contains(row) {
                self.rows.push(row.clone());
            }
            self.runs.entry((row.clone(), side.to_owned())).or_default().push(*seconds);
        }
    }

    /// The table, with a column for `native` in front.
    pub(super) fn render(&self, native: &str) -> String {
        let mut out = format!("{:<14}{native:>10}", "row, s");
        for side in &self.sides {
            let _ = write!(out, "{side:>10}");
        }
        let _ = writeln!(out, "{:>12}{:>14}", "visor/qemu", "visor/native");
        let (mut to_qemu, mut to_native) = (Vec::new(), Vec::new());
        for row in &self.rows {
            let (ours, theirs, host) = (self.median(row, OURS), self.fastest(row), self.median(row, native));
            let (q, n) = (ratio(ours, theirs), ratio(ours, host));
            to_qemu.extend(q);
            to_native.extend(n);
            let _ = write!(out, "{row:<14}{:>10}", show(host, 3));
            for side in &self.sides {
                let _ = write!(out, "{:>10}", show(self.median(row, side), 3));
            }
            let _ = writeln!(out, "{:>12}{:>14}", show(q, 2), show(n, 2));
        }
        let mean = |v: &[f64]| show(geometric(v), 3);
        let _ = writeln!(
            out,
            "geometric mean: visor/qemu {} over {} rows, visor/native {} over {} rows",
            mean(&to_qemu),
            to_qemu.len(),
            mean(&to_native),
            to_native.len()
        );
        self.twice(native, &mut out);
        out
    }

    /// Rows that visor lacks, or in which it is slower than the fastest other side.
    pub(super) fn lost(&self) -> Vec<String> {
        let is_lost = |row: &&String| match (self.median(row, OURS), self.fastest(row)) {
            (None, _) => true,
            (Some(ours), Some(theirs)) => ours > theirs,
            (Some(_), None) => false,
        };
        let none = self.rows.is_empty().then(|| "everything".to_owned());
        self.rows.iter().filter(is_lost).cloned().chain(none).collect()
    }

    /// Medians by row and side, and every run.
    pub(super) fn json(&self) -> anyhow::Result<String> {
        let mut sides = serde_json::Map::new();
        for ((row, side), runs) in &self.runs {
            let entry = serde_json::json!({ "median": median(runs), "runs": runs });
            let side = sides.entry(side.clone()).or_insert_with(|| serde_json::json!({}));
            side[row] = entry;
        }
        Ok(serde_json::to_string_pretty(&sides)? + "\n")
    }

    /// How much longer two at once take than one, for each side.
    fn twice(&self, native: &str, out: &mut String) {
        for row in &self.rows {
            let Some(name) = row.strip_suffix(":twice") else { continue };
            let alone = format!("{name}:alone");
            let _ = write!(out, "{name} twice at once on two CPUs, in times of one alone:");
            for side in std::iter::once(native).chain(self.sides.iter().map(String::as_str)) {
                let r = ratio(self.median(row, side), self.median(&alone, side));
                let _ = write!(out, " {side} {}", show(r, 2));
            }
            out.push('\n');
        }
    }

    fn median(&self, row: &str, side: &str) -> Option<f64> {
        self.runs.get(&(row.to_owned(), side.to_owned())).map(|runs| median(runs))
    }

    fn fastest(&self, row: &str) -> Option<f64> {
        self.sides.iter().filter(|s| *s != OURS).filter_map(|s| self.median(row, s)).min_by(f64::total_cmp)
    }
}

/// The rows in a benchmark's output: `BENCH row seconds s ...`.
pub(super) fn rows(text: &str) -> Vec<(String, f64)> {
    let row = |line: &str| {
        let mut words = line.split_once("BENCH ")?.1.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

/// The median; the mean of the middle two of an even number.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { middle(half) } else { (middle(half.wrapping_sub(1)) + middle(half)) / 2.0 }
}

fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some(a? / b.filter(|b| *b > 0.0)?)
}

fn geometric(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().filter(|v| **v > 0.0).map(|v| v.ln()).sum();
    (!values.is_empty()).then(|| (sum / values.len() as f64).exp())
}

fn show(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut t = Table::new(["qemu", "qemu2", "visor"].into_iter().map(str::to_owned));
        let row = |name: &str, s| [(name.to_owned(), s)];
        for s in [1.0, 9.0, 2.0] {
            t.add("native", &row("a", s));
        }
        t.add("qemu", &row("a", 10.0));
        t.add("qemu2", &row("a", 8.0));
        t.add("visor", &row("a", 4.0));
        t
    }

    #[test]
    fn medians_and_ratios_to_the_fastest() {
        let text = table().render("native");
        let line = text.lines().find(|l| l.starts_with("a ")).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells, ["a", "2.000", "10.000", "8.000", "4.000", "0.50", "2.00"]);
        assert!(text.contains("visor/qemu 0.500 over 1 rows, visor/native 2.000 over 1 rows"), "{text}");
        assert!(table().lost().is_empty());
    }

    #[test]
    fn missing_and_slower_rows_are_lost() {
        let mut t = table();
        t.add("qemu2", &[("b".to_owned(), 1.0), ("c".to_owned(), 1.0)]);
        t.add("visor", &[("c".to_owned(), 1.1)]);
        assert_eq!(t.lost(), ["b", "c"]);
        assert_eq!(Table::new(std::iter::empty()).lost(), ["everything"]);
    }

    #[test]
    fn two_at_once_are_compared_with_one() {
        let mut t = Table::new(std::iter::once("visor".to_owned()));
        t.add("visor", &rows("BENCH x:alone 2.0 s check 1\nnoise\n[1.2] BENCH x:twice 2.3 s check 1\nBENCH y\n"));
        assert!(
            t.render("native").contains("x twice at once on two CPUs, in times of one alone: native - visor 1.15\n")
        );
    }

    #[test]
    fn the_middle_of_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert!(median(&[]).is_nan());
        assert_eq!(geometric(&[1.0, 4.0]), Some(2.0));
    }
}
