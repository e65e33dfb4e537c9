//! The machine's screen: its last picture and text as files.

use std::path::{Path, PathBuf};

use visor_machine::Machine;

use crate::report::Failure;

/// What is wished of the screen.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct ScreenArgs {
    /// Give the machine a screen (a standard VGA); the options below do so too.
    #[arg(long)]
    pub(crate) display: bool,
    /// When the machine ends, write the last picture of its screen to this PNG file.
    #[arg(long, value_name = "FILE.png")]
    pub(crate) screenshot: Option<PathBuf>,
    /// When the machine ends, write the text on its screen to this file; empty if the picture is not a text console.
    #[arg(long, value_name = "FILE.txt")]
    pub(crate) screen_text: Option<PathBuf>,
}

impl ScreenArgs {
    /// Whether the machine needs a screen.
    pub(super) fn wanted(&self) -> bool {
        self.display || self.screenshot.is_some() || self.screen_text.is_some()
    }

    /// Whether text on the screen is to be read.
    pub(super) fn reads_text(&self) -> bool {
        self.screen_text.is_some()
    }

    /// Writes the files.
    pub(super) fn write(&self, machine: &Machine) -> Result<(), Failure> {
        let Some(screen) = machine.screen() else { return Ok(()) };
        if let Some(path) = &self.screenshot {
            let file = visor_machine::png(&screen.picture()).map_err(|e| cannot(path, e))?;
            std::fs::write(path, file).map_err(|e| cannot(path, e))?;
        }
        if let Some(path) = &self.screen_text {
            std::fs::write(path, text(screen.text())).map_err(|e| cannot(path, e))?;
        }
        Ok(())
    }
}

/// The rows as lines; blank ones at the end are left out.
fn text(rows: Option<Vec<String>>) -> String {
    let text: String = rows.unwrap_or_default().iter().flat_map(|row| [row, "\n"]).collect();
    let end = text.trim_end().len();
    if end == 0 { String::new() } else { format!("{}\n", &text[..end]) }
}

fn cannot(path: &Path, e: std::io::Error) -> Failure {
    let what = format!("cannot write the picture of the screen to {}", path.display());
    Failure::from(anyhow::Error::from(e).context(what)).hint("name a file in a directory that exists and is yours")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_with_its_last_line() {
        assert_eq!(text(None), "");
        assert_eq!(text(Some(vec![String::new(); 25])), "");
        assert_eq!(text(Some(vec!["a".into(), String::new(), " b".into(), String::new()])), "a\n\n b\n");
    }
}
