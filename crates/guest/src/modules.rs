//! The table of kernel modules in an image: where each lies, what it needs, and which devices it drives.
//!
//! What `depmod` and `modprobe` do with `modules.dep` and `modules.alias`, in one small text file. One module per line:
//! name, path relative to the table, needed modules separated by commas or `-`, then alias patterns.
//!
//! ```text
//! virtio_blk kernel/drivers/block/virtio_blk.ko virtio,virtio_ring virtio:d00000002v*
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys;

#[cfg(test)]
mod tests;

/// Name of the table in a directory of modules.
pub const TABLE_NAME: &str = "modules.visor";

/// One module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Module {
    /// Path relative to the table, without spaces.
    pub path: PathBuf,
    /// Modules that must be loaded before, directly needed ones only.
    pub needs: Vec<String>,
    /// Patterns (`*`, `?`, `[...]`) of the device names (`MODALIAS`) and requests it answers.
    pub aliases: Vec<String>,
}

/// All modules of an image by normalised name (see [`normalise`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The modules.
    pub modules: BTreeMap<String, Module>,
}

/// Why modules cannot be put in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderError {
    /// No module or alias of this name.
    Unknown(String),
    /// These need each other in a circle, through the one named.
    Circle(String),
}

impl std::fmt::Display for OrderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "module {name} not found"),
            Self::Circle(name) => write!(f, "module {name} needs itself"),
        }
    }
}

impl std::error::Error for OrderError {}

/// Module names write `-` and `_` as the same; the kernel shows `_`.
pub fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

impl Table {
    /// Reads a table. Lines that make no sense are skipped: a damaged table should still boot what it can.
    pub fn parse(text: &str) -> Self {
        let mut modules = BTreeMap::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let mut fields = line.split_whitespace();
            let (Some(name), Some(path), Some(needs)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let needs = needs.split(',').filter(|n| !n.is_empty() && *n != "-").map(normalise).collect();
            let aliases = fields.map(str::to_owned).collect();
            modules.insert(normalise(name), Module { path: path.into(), needs, aliases });
        }
        Self { modules }
    }

    /// Writes the table, sorted by name.
    pub fn to_text(&self) -> String {
        let mut text = String::from("# name path needs aliases...\n");
        for (name, module) in &self.modules {
            let needs = if module.needs.is_empty() { "-".to_owned() } else { module.needs.join(",") };
            let _ = write!(text, "{name} {} {needs}", module.path.display());
            for alias in &module.aliases {
                let _ = write!(text, " {alias}");
            }
            text.push('\n');
        }
        text
    }

    /// The modules that drive a device with this `MODALIAS`, or answer a request like `fs-xfs`.
    pub fn matching(&self, alias: &str) -> Vec<&str> {
        let hit = |m: &Module| m.aliases.iter().any(|p| glob(p.as_bytes(), alias.as_bytes()));
        self.modules.iter().filter(|(_, m)| hit(m)).map(|(n, _)| n.as_str()).collect()
    }

    /// The modules to load for `name` in order, itself last.
    ///
    /// # Errors
    /// When one is missing, or they need each other.
    pub fn load_order(&self, name: &str) -> Result<Vec<String>, OrderError> {
        let mut order = Vec::new();
        self.visit(&normalise(name), &mut BTreeSet::new(), &mut order)?;
        Ok(order)
    }

    fn visit(&self, name: &str, open: &mut BTreeSet<String>, order: &mut Vec<String>) -> Result<(), OrderError> {
        if order.iter().any(|n| n == name) {
            return Ok(());
        }
        let module = self.modules.get(name).ok_or_else(|| OrderError::Unknown(name.to_owned()))?;
        if !open.insert(name.to_owned()) {
            return Err(OrderError::Circle(name.to_owned()));
        }
        for need in &module.needs {
            self.visit(need, open, order)?;
        }
        open.remove(name);
        order.push(name.to_owned());
        Ok(())
    }
}

/// Loads modules of the table in one directory into the running kernel.
#[derive(Debug, Default)]
pub struct Loader {
    directory: PathBuf,
    table: Table,
    loaded: BTreeSet<String>,
}

impl Loader {
    /// A loader for the table in `directory`; without a table it knows no modules.
    pub fn open(directory: &Path) -> Self {
        let text = std::fs::read_to_string(directory.join(TABLE_NAME)).unwrap_or_default();
        Self { directory: directory.to_owned(), table: Table::parse(&text), loaded: BTreeSet::new() }
    }

    /// Goes on with the table in another directory; what has been loaded stays known.
    pub fn move_to(&mut self, directory: &Path) {
        let loaded = std::mem::take(&mut self.loaded);
        *self = Self { loaded, ..Self::open(directory) };
    }

    /// Is there a module for this alias that has not been loaded?
    pub fn has_unloaded(&self, alias: &str) -> bool {
        self.table.matching(alias).iter().any(|name| !self.loaded.contains(*name))
    }

    /// Loads a module, given by name or alias, and what it needs.
    ///
    /// # Errors
    /// When there is no such module, or the kernel refuses one.
    pub fn load(&mut self, name: &str) -> io::Result<()> {
        let plain = normalise(name);
        let names: Vec<String> = if self.table.modules.contains_key(&plain) {
            vec![plain]
        } else {
            self.table.matching(name).into_iter().map(str::to_owned).collect()
        };
        if names.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, OrderError::Unknown(name.to_owned())));
        }
        for name in names {
            for module in self.table.load_order(&name).map_err(io::Error::other)? {
                self.load_one(&module)?;
            }
        }
        Ok(())
    }

    fn load_one(&mut self, name: &str) -> io::Result<()> {
        if self.loaded.contains(name) {
            return Ok(());
        }
        if let Some(module) = self.table.modules.get(name) {
            let file = File::open(self.directory.join(&module.path))?;
            match sys::finit_module(&file) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        self.loaded.insert(name.to_owned());
        Ok(())
    }
}

/// Does `text` match the pattern (fnmatch(3) without special treatment of `/` and `.`)? Works in place with one point
/// of return, so the time is bounded by the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(pattern.get(p..).unwrap_or_default(), text[t]),
            Some(c) if *c == text[t] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(n), _) => {
                p += n;
                t += 1;
            }
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == b'*')
}

/// The length of the bracket expression at the front of `pattern` if it holds `c`.
fn class(pattern: &[u8], c: u8) -> Option<usize> {
    let end = pattern.iter().position(|b| *b == b']')?;
    let inside = pattern.get(1..end)?;
    let (inside, negated) = match inside {
        [b'!' | b'^', rest @ ..] => (rest, true),
        all => (all, false),
    };
    let mut hit = false;
    let mut rest = inside;
    while let [first, tail @ ..] = rest {
        if let [b'-', last, tail @ ..] = tail {
            hit |= (*first..=*last).contains(&c);
            rest = tail;
        } else {
            hit |= *first == c;
            rest = tail;
        }
    }
    (hit != negated).then_some(end + 1)
}
