//! Names of tests. Each file `stress/*.c` has its part; the programs are asked whether they know exactly these.

/// Tests of the 64-bit and of the 32-bit program.
pub const COMMON: &[&str] = &[
    "code-same-page",
    "code-ahead",
    "code-across-pages",
    "code-data-beside",
    "code-store-kinds",
    "code-kernel-stores",
    "code-fork-copies",
    "jit-aliases",
    "jit-mapped-file",
    "jit-write-xor-execute",
    "jit-moved",
    "jit-many-addresses",
    "jit-taken-away",
    "patch-announced",
    "patch-racing",
    "patch-poked",
    "patch-redirected",
    "patch-crowd",
    "fault-registers",
    "fault-halves",
    "fault-floats",
    "fault-odd-ones",
    "signal-interrupted",
    "signal-crossfire",
    "signal-frames",
    "signal-leaping",
    "ptrace-single-step",
    "ptrace-count-steps",
    "ptrace-breakpoints",
    "ptrace-watchpoints",
    "ptrace-system-calls",
    "atomic-counting",
    "atomic-split",
    "atomic-pairs",
    "atomic-futexes",
    "atomic-futex-kinds",
    "litmus-store-buffering",
    "litmus-fences",
    "litmus-exchanges",
    "litmus-locked",
    "litmus-message",
    "litmus-load-buffering",
    "litmus-independent-reads",
    "litmus-causality",
    "litmus-coherence",
    "litmus-two-by-two",
    "litmus-tearing",
    "shootdown-protect",
    "shootdown-exchange",
    "shootdown-exchange-code",
    "shootdown-forget",
    "shootdown-copy-on-write",
    "shootdown-same-address",
    "shootdown-churn",
    "process-exec-storm",
    "process-generations",
    "process-spawns",
    "process-short-lives",
    "process-ring",
    "clock-in-turn",
    "clock-migrating",
    "clock-sleeps",
    "legacy-segments",
    "legacy-old-code",
    "legacy-vdso",
];

/// Tests of the 64-bit program alone.
pub const ONLY_64: &[&str] = &[
    "legacy-vsyscall",
    "legacy-compatibility",
    "bpf-socket-filters",
    "bpf-seccomp",
    "trace-jump-labels",
    "trace-functions",
    "trace-kprobes",
    "trace-uprobes",
    "module-come-and-go",
];

/// Tests of the 64-bit program that take minutes on an interpreter: they patch every function of the kernel.
pub const LONG_64: &[&str] = &["trace-all-functions"];

/// Tests of the 32-bit program alone.
pub const ONLY_32: &[&str] = &["legacy-entries", "legacy-lost-instructions"];

/// Tests of the 64-bit program whose names begin with one of `groups`; all if there are none.
pub fn tests_64(groups: &[&str]) -> Vec<&'static str> {
    select(&[COMMON, ONLY_64], groups)
}

/// Those of the 32-bit program.
pub fn tests_32(groups: &[&str]) -> Vec<&'static str> {
    select(&[COMMON, ONLY_32], groups)
}

fn select(sets: &[&[&'static str]], groups: &[&str]) -> Vec<&'static str> {
    let wanted = |name: &&str| groups.is_empty() || groups.iter().any(|g| name.starts_with(g));
    sets.iter().flat_map(|s| s.iter().copied()).filter(wanted).collect()
}
