//! The machine's screen: its last picture and text as files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use visor_machine::{Machine, VncAddress, VncOptions, VncServer};

use super::keys::{Step, Typist};
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
    /// Let VNC clients see and use the machine: `unix:PATH` or `127.0.0.1:PORT`, then `,password=FILE` to ask for the password in
    /// the first line of a file.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_vnc)]
    pub(crate) vnc: Option<VncArg>,
    /// Use the keyboard by script, in the order given: `wait:TEXT` on the screen, `type:TEXT` (\n is Enter), `press:ctrl+alt+delete`,
    /// `sleep:2s`, `end` (switches the machine off).
    #[arg(long, value_name = "STEP")]
    pub(crate) keys: Vec<Step>,
}

/// Where and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VncArg {
    address: VncAddress,
    password: Option<PathBuf>,
}

/// What serves the screen while the machine runs.
#[derive(Default)]
pub(super) struct Attendants {
    _vnc: Option<VncServer>,
    _typist: Option<Typist>,
}

impl ScreenArgs {
    /// Whether the machine needs a screen.
    pub(super) fn wanted(&self) -> bool {
        self.display || self.screenshot.is_some() || self.vnc.is_some() || self.reads_text()
    }

    /// Whether text on the screen is to be read.
    pub(super) fn reads_text(&self) -> bool {
        self.screen_text.is_some() || !self.keys.is_empty()
    }

    /// Starts what serves the screen.
    pub(super) fn attend(&self, machine: &Arc<Machine>, tell: impl Fn(&str)) -> Result<Attendants, Failure> {
        let mut attendants = Attendants::default();
        let (Some(screen), Some(input)) = (machine.screen(), machine.input()) else { return Ok(attendants) };
        if let Some(vnc) = &self.vnc {
            let options = VncOptions { name: machine.name().into(), password: vnc.password()? };
            let server = VncServer::start(&vnc.address, options, screen.clone(), input.clone()).map_err(|e| {
                Failure::from(anyhow::Error::from(e)).hint("another program may use it; name another port or path")
            })?;
            tell(&format!("VNC clients connect to {}", server.address()));
            attendants._vnc = Some(server);
        }
        if !self.keys.is_empty() {
            let typist = {
                let machine = machine.clone();
                Typist::start(self.keys.clone(), screen, input, move || machine.stop())
            };
            attendants._typist = Some(typist.map_err(anyhow::Error::from)?);
        }
        Ok(attendants)
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

impl VncArg {
    /// The first line of the password file.
    fn password(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.password else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|e| {
            let what = format!("cannot read the password in {}", path.display());
            Failure::from(anyhow::Error::from(e).context(what))
                .hint("put the password into the first line of that file")
        })?;
        match text.lines().next() {
            Some(word) if !word.is_empty() => Ok(Some(word.to_owned())),
            _ => Err(Failure::new(format!("there is no password in {}", path.display()))
                .hint("put it into the first line; eight bytes count")),
        }
    }
}

fn parse_vnc(text: &str) -> Result<VncArg, String> {
    let (address, password) = match text.split_once(",password=") {
        Some((address, file)) if !file.is_empty() => (address, Some(PathBuf::from(file))),
        _ => (text, None),
    };
    Ok(VncArg { address: address.parse()?, password })
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
    fn vnc_addresses_may_name_a_password() {
        let arg = parse_vnc("unix:/tmp/a,b,password=/x").unwrap();
        assert_eq!((arg.address.to_string(), arg.password), ("unix:/tmp/a,b".into(), Some("/x".into())));
        assert_eq!(parse_vnc("127.0.0.1:5901").unwrap().password, None);
        assert!(parse_vnc("0.0.0.0:5901").unwrap_err().contains("tunnel"));
    }

    #[test]
    fn text_ends_with_its_last_line() {
        assert_eq!(text(None), "");
        assert_eq!(text(Some(vec![String::new(); 25])), "");
        assert_eq!(text(Some(vec!["a".into(), String::new(), " b".into(), String::new()])), "a\n\n b\n");
    }
}
