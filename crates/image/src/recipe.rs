//! Recipes: what goes into an image, by package and file.

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
        for path in recipe.package.iter().flat_map(|p| &p.files) {
            if path.starts_with('/') || path.split('/').any(|c| matches!(c, "" | "." | "..")) {
                let words = format!("the recipe is wrong: path `{path}`");
                return Err(ImageError::new(ImageErrorKind::Format, words));
            }
        }
        Ok(recipe)
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
        }
        assert!(Recipe::parse(&format!("typo=1\n{base}package=[]")).is_err());
        assert_eq!(Recipe::parse("name=").unwrap_err().kind(), ImageErrorKind::Format);
    }
}
