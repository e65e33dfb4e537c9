//! Recipes: what goes into an image, by package and file.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{ImageError, ImageErrorKind};

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the image.
    pub name: String,
    /// The package that depends on the kernel's real package.
    pub kernel: String,
    /// Modules of the initial ramfs, without those they need.
    pub boot_modules: Vec<String>,
    /// Further modules of the root disk; what the kernel does not offer is left out.
    pub modules: Vec<String>,
    /// Packages, in order of precedence when two bring the same file.
    pub package: Vec<RecipePackage>,
}

/// A package and the files taken from it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipePackage {
    /// Name of the package.
    pub name: String,
    /// Paths without the leading slash. Shared libraries follow by themselves.
    pub files: Vec<String>,
    /// Files taken under another path, from and to. A package with such is unpacked apart, as its files may be those of
    /// another package too.
    #[serde(default)]
    pub renamed: BTreeMap<String, String>,
}

impl RecipePackage {
    /// All paths of this entry, those in the package and those in the image.
    fn paths(&self) -> impl Iterator<Item = &String> {
        self.files.iter().chain(self.renamed.iter().flat_map(|(from, to)| [from, to]))
    }
}

impl Recipe {
    /// The text of the recipe `tiny`.
    pub(crate) const TINY: &str = include_str!("../recipe.toml");

    /// Reads a recipe.
    ///
    /// # Errors
    /// `Format` when it is no TOML, lacks a key, has an unknown one, or a path that is absolute or climbs.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let recipe: Self = toml::from_str(text)
            .map_err(|e| ImageError::new(ImageErrorKind::Format, format!("the recipe is wrong: {e}")))?;
        for path in recipe.package.iter().flat_map(RecipePackage::paths) {
            if path.starts_with('/') || path.split('/').any(|c| matches!(c, "" | "." | "..")) {
                let words = format!("the recipe is wrong: path `{path}`");
                return Err(ImageError::new(ImageErrorKind::Format, words));
            }
        }
        Ok(recipe)
    }

    /// Is this package unpacked into a directory of its own?
    pub(crate) fn is_apart(&self, name: &str) -> bool {
        self.package.iter().any(|p| p.name == name && !p.renamed.is_empty())
    }

    /// Names of all packages that are asked for by name.
    pub(crate) fn package_names(&self) -> impl Iterator<Item = &str> {
        self.package.iter().map(|p| p.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_is_a_recipe() {
        let recipe = Recipe::parse(Recipe::TINY).unwrap();
        assert_eq!(recipe.name, "tiny");
        assert!(recipe.package_names().any(|n| n == "busybox-static"));
        assert!(!Recipe::TINY.contains("6.1."), "no kernel version in the recipe");
    }

    #[test]
    fn mistakes_are_found() {
        let base = "name='x'\nkernel='k'\nboot_modules=[]\nmodules=[]\n";
        assert!(Recipe::parse(&format!("{base}[[package]]\nname='a'\nfiles=['b/c']")).is_ok());
        for bad in ["/b", "b/../c", "b//c", ""] {
            assert!(Recipe::parse(&format!("{base}[[package]]\nname='a'\nfiles=['{bad}']")).is_err(), "{bad}");
            let renamed = format!("{base}[[package]]\nname='a'\nfiles=[]\nrenamed={{'x'='{bad}'}}");
            assert!(Recipe::parse(&renamed).is_err(), "{bad}");
        }
        assert!(Recipe::parse(&format!("typo=1\n{base}package=[]")).is_err());
        assert_eq!(Recipe::parse("name=").unwrap_err().kind(), ImageErrorKind::Format);
    }
}
