//! Text in pictures: characters of text modes as Unicode, and characters drawn with a known font.

mod cp437;
mod font;
mod read;

pub(crate) use font::{Font, find as find_font};
pub use read::console_text;

/// A row of characters of code page 437 as text, without trailing blanks.
pub(crate) fn line(characters: &[u8]) -> String {
    let text: String = characters.iter().map(|c| cp437::unicode(*c)).collect();
    text.trim_end().to_owned()
}
