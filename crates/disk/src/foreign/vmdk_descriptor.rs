//! The text that describes a VMDK disk: its extents and its parent.

use visor_qcow2::Result;

use super::{corrupt, unsupported};

/// Most bytes of a descriptor, and most extents.
pub(super) const MAX_BYTES: u64 = 1 << 20;
const MAX_EXTENTS: usize = 4096;

/// What a descriptor says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) extents: Vec<Extent>,
    /// Name of the parent, if there is one.
    pub(super) parent: Option<String>,
}

/// A line such as `RW 4192256 SPARSE "disk-s001.vmdk"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
    pub(super) name: String,
    /// Sectors of a flat file before the extent.
    pub(super) offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    Flat,
    Sparse,
    Zero,
}

impl Descriptor {
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(text);
        let text = text.split('\0').next().unwrap_or("");
        if !text.trim_start().starts_with("# Disk DescriptorFile") {
            return Err(corrupt("not a VMDK descriptor"));
        }
        let mut d = Descriptor::default();
        let (mut hint, mut has_parent) = (None, false);
        for line in text.lines().map(str::trim) {
            let first = line.split_whitespace().next().unwrap_or("");
            if ["RW", "RDONLY", "NOACCESS"].contains(&first) {
                d.extents.push(extent(line)?);
            } else if let Some((key, value)) = line.split_once('=') {
                match key.trim() {
                    "parentFileNameHint" => hint = Some(value.trim().trim_matches('"').to_owned()),
                    "parentCID" => has_parent = !value.trim().eq_ignore_ascii_case("ffffffff"),
                    _ => {}
                }
            }
        }
        if d.extents.is_empty() || d.extents.len() > MAX_EXTENTS {
            return Err(corrupt(format!("{} extents", d.extents.len())));
        }
        if has_parent {
            d.parent = Some(hint.ok_or_else(|| corrupt("a parent without a name"))?);
        }
        Ok(d)
    }
}

fn extent(line: &str) -> Result<Extent> {
    let bad = || corrupt(format!("the extent `{line}`"));
    let (head, tail) = line.split_once('"').map_or((line, ""), |(h, t)| (h, t));
    let words: Vec<&str> = head.split_whitespace().collect();
    let sectors: u64 = words.get(1).and_then(|n| n.parse().ok()).filter(|n| *n <= 1 << 45).ok_or_else(bad)?;
    let kind = match words.get(2).copied() {
        Some("FLAT" | "VMFS") => ExtentKind::Flat,
        Some("SPARSE" | "VMFSSPARSE") => ExtentKind::Sparse,
        Some("ZERO") => ExtentKind::Zero,
        other => return Err(unsupported(format!("a VMDK extent of type {}", other.unwrap_or("nothing")))),
    };
    let (name, rest) = tail.split_once('"').unwrap_or(("", ""));
    if name.is_empty() && kind != ExtentKind::Zero {
        return Err(bad());
    }
    let offset = rest.split_whitespace().next().map_or(Ok(0), |n| n.parse().map_err(|_| bad()))?;
    if offset > 1 << 45 {
        return Err(bad());
    }
    Ok(Extent { sectors, kind, name: name.to_owned(), offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors() {
        let text = b"# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\n\
            RW 4192256 SPARSE \"disk one-s001.vmdk\"\nRW 100 FLAT \"f.vmdk\" 7\nRW 5 ZERO\n";
        let d = Descriptor::parse(text).unwrap();
        assert_eq!(d.parent, None);
        assert_eq!(d.extents[0].name, "disk one-s001.vmdk");
        assert_eq!((d.extents[1].kind, d.extents[1].offset), (ExtentKind::Flat, 7));
        assert_eq!((d.extents[2].kind, d.extents[2].sectors), (ExtentKind::Zero, 5));
        let child = b"# Disk DescriptorFile\nparentCID=12345678\nparentFileNameHint=\"base.vmdk\"\nRW 5 ZERO\n";
        assert_eq!(Descriptor::parse(child).unwrap().parent.as_deref(), Some("base.vmdk"));
        for bad in [
            "",
            "# Disk DescriptorFile\n",
            "# Disk DescriptorFile\nRW x FLAT \"a\"",
            "# Disk DescriptorFile\nRW 5 FLAT",
        ] {
            assert!(Descriptor::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
