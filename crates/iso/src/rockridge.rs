//! Rock Ridge (IEEE P1282): POSIX names, modes and links in the system use fields of directory records (SUSP, IEEE P1281).
//!
//! ```text
//! SP begins   CE goes on at block, offset, length   ST ends   PX mode   NM name   SL link   CL directory elsewhere   RE moved away
//! ```

use std::io::{Read, Seek};

use crate::BLOCK;
use crate::error::IsoError;
use crate::reader::{Source, le32};

/// Most continuations of a record.
const CONTINUATIONS: usize = 16;
/// Most bytes of a name or of a link's target.
const NAME_LIMIT: usize = 4096;

/// What the fields of a record say.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) mode: Option<u32>,
    pub(crate) link: Option<String>,
    /// Block of the directory that this entry stands for.
    pub(crate) child: Option<u32>,
    /// The directory was moved here only to keep the tree flat; it is shown in its own place.
    pub(crate) moved: bool,
}

/// Bytes to skip in each system use area, if the root's own record says that there are fields at all.
pub(crate) fn detect(system_use: &[u8]) -> Option<usize> {
    // SP, 7 bytes, version 1, BE EF.
    matches!(system_use, [b'S', b'P', 7, 1, 0xbe, 0xef, ..]).then(|| usize::from(system_use[6]))
}

/// The fields in `area` and its continuations.
pub(crate) fn fields<R: Read + Seek>(area: &[u8], source: &mut Source<R>) -> Result<Fields, IsoError> {
    let mut found = Fields::default();
    let mut link = Link::default();
    let mut area = area.to_vec();
    for _ in 0..=CONTINUATIONS {
        let Some((block, offset, len)) = scan(&area, &mut found, &mut link) else { break };
        let at = u64::from(block) * BLOCK + u64::from(offset);
        let len = (len as usize).min(BLOCK as usize);
        if at + len as u64 > source.size() {
            return Err(IsoError::corrupt(format!("a directory record goes on at byte {at}, beyond the image")));
        }
        area = source.bytes(at, len)?;
    }
    found.link = link.seen.then_some(link.target);
    Ok(found)
}

#[derive(Default)]
struct Link {
    seen: bool,
    target: String,
    /// The last component goes on in the next field.
    open: bool,
}

/// Reads one area; gives where it goes on.
fn scan(area: &[u8], found: &mut Fields, link: &mut Link) -> Option<(u32, u32, u32)> {
    let mut next = None;
    let mut rest = area;
    while let [a, b, len, _version, ..] = *rest {
        let len = usize::from(len);
        if len < 4 || len > rest.len() {
            break;
        }
        let (field, after) = rest.split_at(len);
        let body = &field[4..];
        match [a, b] {
            [b'S', b'T'] => break,
            [b'C', b'E'] if body.len() >= 24 => next = Some((le32(body, 0), le32(body, 8), le32(body, 16))),
            [b'P', b'X'] if body.len() >= 4 => found.mode = Some(le32(body, 0)),
            [b'R', b'E'] => found.moved = true,
            [b'C', b'L'] if body.len() >= 4 => found.child = Some(le32(body, 0)),
            // Flags 1: goes on in the next; 2 and 4: the names . and .. of the directory itself.
            [b'N', b'M'] if body.first().is_some_and(|f| f & 6 == 0) => {
                let name = found.name.get_or_insert_default();
                let room = NAME_LIMIT.saturating_sub(name.len());
                name.extend(body[1..].iter().take(room));
            }
            [b'S', b'L'] if !body.is_empty() => target(&body[1..], link),
            _ => {}
        }
        rest = after;
    }
    next
}

/// Components of a link: flags (1 goes on, 2 ".", 4 "..", 8 "/"), length, text.
fn target(mut components: &[u8], link: &mut Link) {
    link.seen = true;
    while let [flags, len, ..] = *components {
        let end = 2 + usize::from(len);
        if end > components.len() || link.target.len() + end > NAME_LIMIT {
            return;
        }
        let text = String::from_utf8_lossy(&components[2..end]);
        if !link.open && !link.target.is_empty() && !link.target.ends_with('/') {
            link.target.push('/');
        }
        match flags & 0x0e {
            0x02 => link.target.push('.'),
            0x04 => link.target.push_str(".."),
            0x08 => link.target.push('/'),
            _ => link.target.push_str(&text),
        }
        link.open = flags & 1 != 0;
        components = &components[end..];
    }
}
