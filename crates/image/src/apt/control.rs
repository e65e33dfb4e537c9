//! The text apt prints about packages (deb822(5)).

use serde::{Deserialize, Serialize};

/// A package as the lists describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Size of the package file in bytes.
    pub(crate) size: u64,
    /// SHA-256 of the package file, hexadecimal.
    pub(crate) sha256: String,
    /// Part of the archive it belongs to, for example `libs`.
    #[serde(skip)]
    pub(crate) section: String,
    /// Names of needed packages; of alternatives only the first.
    #[serde(skip)]
    pub(crate) depends: Vec<String>,
}

/// Reads paragraphs as `apt-cache show` prints them; one that lacks a name, version, size or hash is left out.
pub(crate) fn parse_packages(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(parse_paragraph).collect()
}

fn parse_paragraph(text: &str) -> Option<Package> {
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let depends = ["Pre-Depends", "Depends"].iter().filter_map(|n| field(n)).flat_map(parse_depends).collect();
    let sha256 = field("SHA256")?.to_ascii_lowercase();
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(Package {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        size: field("Size")?.parse().ok()?,
        sha256,
        section: field("Section").unwrap_or_default().to_owned(),
        depends,
    })
}

fn parse_depends(text: &str) -> Vec<String> {
    let first = |alternatives: &str| {
        let name = alternatives.split('|').next()?.split('(').next()?.trim();
        let name = name.split(':').next()?;
        (!name.is_empty()).then(|| name.to_owned())
    };
    text.split(',').filter_map(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_become_packages() {
        let hash = "0123456789abcdef".repeat(4);
        let text = format!(
            "Package: curl\nVersion: 7.88.1-10+deb12u5\nSection: web\nDepends: libc6 (>= 2.34), libcurl4:any (= 7), a | b\n\
             Pre-Depends: pre\nSize: 315764\nSHA256: {hash}\nDescription: x\n more: y\n\n\
             Package: broken\nVersion: 1\nSize: x\nSHA256: {hash}\n\nPackage: nohash\nVersion: 1\nSize: 2\n"
        );
        let packages = parse_packages(&text);
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].section, "web");
        assert_eq!(packages[0].depends, ["pre", "libc6", "libcurl4", "a"]);
        assert_eq!((packages[0].size, packages[0].sha256.as_str()), (315_764, hash.as_str()));
        assert!(parse_packages("").is_empty());
    }
}
