//! Arrows point down: a crate depends only on crates of lower layers, and unsafe code lives only in named crates.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use crate::shell::root;

/// Same-layer dependencies that the house allows, each with its reason in ARCHITECTURE.md.
const SIDEWAYS: &[(&str, &str)] = &[
    ("visor-fpu", "visor-x86"),
    ("visor-engine-soft", "visor-apic"),
    ("visor-virtio", "visor-pci"),
    ("visor-virtio", "visor-storage"),
    ("visor-iommu", "visor-pci"),
    ("visor-display", "visor-pci"),
    ("visor-storage", "visor-pci"),
    ("visor-nic", "visor-pci"),
    ("visor-image", "visor-guest"),
    ("visor-host-net", "visor-nat"),
    ("visor-pool", "visor-disk"),
];

/// Crates that may hold unsafe code; every other one forbids it.
const UNSAFE: &[&str] =
    &["memory", "fpu", "engine-soft", "engine-kvm", "guest", "cli", "host-net", "uring", "oracle", "guests"];

#[derive(Deserialize)]
struct Manifest {
    package: Package,
    #[serde(default)]
    dependencies: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
struct Metadata {
    visor: Option<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    layer: u32,
}

/// Adds a line to `faults` for each broken rule.
pub(crate) fn check(faults: &mut Vec<String>) -> anyhow::Result<()> {
    let mut crates = Vec::new();
    for group in ["crates", "testing"] {
        for entry in std::fs::read_dir(root().join(group))? {
            let dir = entry?.path();
            if dir.join("Cargo.toml").is_file() {
                crates.push((read(&dir)?, dir));
            }
        }
    }
    let layer_of: BTreeMap<&str, u32> = crates
        .iter()
        .filter_map(|(m, _)| Some((m.package.name.as_str(), m.package.metadata.visor.as_ref()?.layer)))
        .collect();
    for (manifest, dir) in &crates {
        let name = manifest.package.name.as_str();
        let Some(layer) = layer_of.get(name) else {
            faults.push(format!("{}: no [package.metadata.visor] layer", dir.display()));
            continue;
        };
        for dependency in manifest.dependencies.keys().filter_map(|d| layer_of.get_key_value(d.as_str())) {
            let allowed = dependency.1 < layer || SIDEWAYS.contains(&(name, dependency.0));
            if !allowed {
                faults.push(format!("{name} (layer {layer}) depends on {} (layer {})", dependency.0, dependency.1));
            }
        }
        check_unsafe(dir, faults)?;
    }
    Ok(())
}

fn read(dir: &Path) -> anyhow::Result<Manifest> {
    let path = dir.join("Cargo.toml");
    let text = std::fs::read_to_string(&path)?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}

fn check_unsafe(dir: &Path, faults: &mut Vec<String>) -> anyhow::Result<()> {
    let short = dir.file_name().unwrap_or_default().to_string_lossy();
    let main = ["src/lib.rs", "src/main.rs"].map(|f| dir.join(f)).into_iter().find(|f| f.is_file());
    let Some(main) = main else { return Ok(()) };
    let forbids = std::fs::read_to_string(&main)?.contains("#![forbid(unsafe_code)]");
    if !forbids && !UNSAFE.contains(&short.as_ref()) {
        faults.push(format!("{}: no #![forbid(unsafe_code)]", main.display()));
    }
    Ok(())
}
