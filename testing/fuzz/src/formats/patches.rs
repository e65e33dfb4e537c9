//! A file as the input has it: its length and the pieces that are not zero, so that small inputs make large files.

use crate::{Input, Script};

/// Longest file.
const LONGEST: u64 = 4 << 20;

/// Reads a file.
pub(super) fn read(input: &mut Input<'_>) -> Vec<u8> {
    let len = u64::from(input.u32()) % (LONGEST + 1);
    let mut file = vec![0; len as usize];
    for _ in 0..input.u16() {
        if input.is_empty() {
            break;
        }
        let at = input.u32() as usize % (file.len() + 1);
        let piece = input.bytes();
        file[at..].iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
    }
    file
}

/// Writes a file.
pub(super) fn write(file: &[u8]) -> Script {
    const STEP: usize = 64;
    let mut pieces: Vec<(usize, Vec<u8>)> = Vec::new();
    for (n, chunk) in file.chunks(STEP).enumerate().filter(|(_, c)| c.iter().any(|b| *b != 0)) {
        match pieces.last_mut() {
            Some((at, data)) if *at + data.len() == n * STEP && data.len() < 60000 => data.extend_from_slice(chunk),
            _ => pieces.push((n * STEP, chunk.to_vec())),
        }
    }
    let s = Script::new().raw(&(file.len() as u32).to_le_bytes()).raw(&(pieces.len() as u16).to_le_bytes());
    pieces.iter().fold(s, |s, (at, data)| s.raw(&(*at as u32).to_le_bytes()).bytes(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back() {
        let mut file = vec![0; 100_000];
        file[70] = 1;
        file[99_999] = 2;
        file[50_000..50_300].fill(3);
        let written = write(&file).end();
        assert!(written.len() < 1000);
        assert_eq!(read(&mut Input::new(&written)), file);
    }
}
