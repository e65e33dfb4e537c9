//! LUKS2: two copies of a binary header with a JSON document each, then key slots, then data.
//!
//! ```text
//! 0        4096       16384      32768            16 MiB
//! | binary | JSON     | second   | keys of slots  | data ...
//! |      first copy   | copy     |                |
//! ```
//!
//! Copies carry a sequence number and a checksum; the newest one that is whole counts. Numbers of 64 bits are strings in JSON.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::random;
use crate::hash::Hash;
use crate::header::{FormatOptions, KeyDigest, Luks, MAGIC, Segment, Slot, Version, VolumeKey};
use crate::kdf::Derivation;
use crate::luks1::text;
use crate::{LuksError, LuksErrorKind, Medium, Result, Zeroizing};

/// Bytes in front of the data of a new volume.
pub(crate) const DATA_OFFSET: u64 = 16 << 20;
/// The only cipher.
pub(crate) const CIPHER: &str = "aes-xts-plain64";
/// Bytes of the data's key in new volumes: AES-256.
const KEY_LEN: usize = 64;
const SECOND_MAGIC: &[u8; 6] = b"SKUL\xba\xbe";
/// Bytes of the binary header.
const BINARY: usize = 4096;
/// Lengths that a copy of the header may have; the second one starts behind the first.
const SIZES: [u64; 9] = [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];
/// Most key slots.
pub(crate) const MAX_SLOTS: u32 = 32;

/// The header as it is written back: what is not understood stays.
pub(crate) struct Document {
    pub(crate) json: Value,
    binary: Vec<u8>,
    size: u64,
    sequence: u64,
}

#[derive(Deserialize)]
struct Metadata {
    keyslots: BTreeMap<String, Value>,
    segments: BTreeMap<String, Value>,
    digests: BTreeMap<String, JsonDigest>,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    #[serde(deserialize_with = "number")]
    keyslots_size: u64,
    requirements: Option<Value>,
}

#[derive(Deserialize)]
struct JsonSlot {
    key_size: usize,
    area: Area,
    kdf: JsonKdf,
    af: Splitter,
}

#[derive(Deserialize)]
struct Area {
    #[serde(rename = "type")]
    kind: String,
    #[serde(deserialize_with = "number")]
    offset: u64,
    #[serde(deserialize_with = "number")]
    size: u64,
    encryption: String,
    key_size: usize,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum JsonKdf {
    Pbkdf2 { hash: String, iterations: u32, salt: String },
    Argon2i { time: u32, memory: u32, cpus: u32, salt: String },
    Argon2id { time: u32, memory: u32, cpus: u32, salt: String },
}

#[derive(Deserialize)]
struct Splitter {
    #[serde(rename = "type")]
    kind: String,
    stripes: usize,
    hash: String,
}

#[derive(Deserialize)]
struct JsonSegment {
    #[serde(deserialize_with = "number")]
    offset: u64,
    size: String,
    #[serde(deserialize_with = "number")]
    iv_tweak: u64,
    encryption: String,
    sector_size: u32,
    integrity: Option<Value>,
}

#[derive(Deserialize)]
struct JsonDigest {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<String>,
    segments: Vec<String>,
    hash: String,
    iterations: u32,
    salt: String,
    digest: String,
}

/// Reads the newest copy of the header that is whole.
pub(crate) fn read(medium: &dyn Medium) -> Result<Luks> {
    let first = read_copy(medium, 0, MAGIC);
    let places: Vec<u64> = match &first {
        Ok(copy) => vec![copy.size],
        Err(_) => SIZES.to_vec(),
    };
    let mut second = Err(LuksError::new(LuksErrorKind::NotLuks, "no LUKS header"));
    for at in places {
        match read_copy(medium, at, SECOND_MAGIC) {
            Ok(copy) => {
                second = Ok(copy);
                break;
            }
            Err(e) if e.kind != LuksErrorKind::NotLuks => second = Err(e),
            Err(_) => {}
        }
    }
    let (document, warning) = match (first, second) {
        (Ok(a), Ok(b)) if b.sequence > a.sequence => {
            (b, Some("the first copy of the header is out of date".to_owned()))
        }
        (Ok(a), Ok(b)) if b.sequence < a.sequence => {
            (a, Some("the second copy of the header is out of date".to_owned()))
        }
        (Ok(a), Ok(_)) => (a, None),
        (Ok(a), Err(_)) => (a, Some("the second copy of the header is damaged".to_owned())),
        (Err(_), Ok(b)) => (b, Some("the first copy of the header is damaged".to_owned())),
        (Err(e), Err(second)) if e.kind == LuksErrorKind::NotLuks => {
            return Err(if second.kind == e.kind { e } else { second });
        }
        (Err(e), Err(_)) => return Err(e),
    };
    interpret(document, warning)
}

fn read_copy(medium: &dyn Medium, at: u64, magic: &[u8; 6]) -> Result<Document> {
    let host = |e| LuksError::host("read the LUKS header", e);
    let none = || LuksError::new(LuksErrorKind::NotLuks, "no LUKS header");
    if at + BINARY as u64 > medium.size() {
        return Err(none());
    }
    let mut binary = vec![0; BINARY];
    medium.read_at(&mut binary, at).map_err(host)?;
    if &binary[..6] != magic {
        return Err(none());
    }
    let be = |at: usize| u64::from_be_bytes(binary[at..at + 8].try_into().unwrap_or_default());
    let version = u16::from_be_bytes([binary[6], binary[7]]);
    if version != 2 {
        return Err(LuksError::unsupported(format!("version {version} of LUKS is not known here")));
    }
    let (size, sequence) = (be(8), be(16));
    // So that a header cannot be taken for one that lies elsewhere.
    if !SIZES.contains(&size) || be(256) != at || at + size > medium.size() {
        return Err(LuksError::damaged("its size or place cannot be"));
    }
    let algorithm = text(&binary[72..104]);
    if algorithm != "sha256" {
        return Err(LuksError::unsupported(format!("a checksum of the kind `{}`", algorithm.escape_debug())));
    }
    let mut rest = vec![0; size as usize - BINARY];
    medium.read_at(&mut rest, at + BINARY as u64).map_err(host)?;
    if checksum(&binary, &rest) != binary[448..480] {
        return Err(LuksError::damaged("its checksum is wrong"));
    }
    let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    let json = serde_json::from_slice(&rest[..end]).map_err(|e| LuksError::damaged(format!("its document: {e}")))?;
    Ok(Document { json, binary, size, sequence })
}

/// The hash of a copy with its checksum left out.
fn checksum(binary: &[u8], rest: &[u8]) -> [u8; 32] {
    let hash = Sha256::new();
    let hash = hash.chain_update(&binary[..448]).chain_update([0; 64]).chain_update(&binary[512..]);
    hash.chain_update(rest).finalize().into()
}

/// Makes sense of the document.
fn interpret(document: Document, warning: Option<String>) -> Result<Luks> {
    let meta = Metadata::deserialize(&document.json).map_err(|e| LuksError::damaged(format!("its document: {e}")))?;
    if let Some(Value::Object(o)) = &meta.config.requirements
        && let Some(wanted) = o.get("mandatory").and_then(Value::as_array).filter(|a| !a.is_empty())
    {
        let names: Vec<String> = wanted.iter().map(|v| v.to_string().escape_debug().to_string()).collect();
        return Err(LuksError::unsupported(format!("the volume demands {}", names.join(", "))));
    }
    let (segment_id, segment) = segment(&meta.segments)?;
    let mut digests = meta.digests.values().filter(|d| d.segments.iter().any(|s| s == segment_id));
    let (Some(digest), None) = (digests.next(), digests.next()) else {
        return Err(LuksError::damaged("not exactly one digest belongs to its data"));
    };
    if digest.kind != "pbkdf2" {
        return Err(LuksError::unsupported(format!("digests of the kind `{}`", digest.kind.escape_debug())));
    }
    if meta.keyslots.len() > MAX_SLOTS as usize {
        return Err(LuksError::damaged("more than 32 key slots"));
    }
    let mut slots = BTreeMap::new();
    for name in &digest.keyslots {
        let id: u32 = name
            .parse()
            .ok()
            .filter(|id| *id < MAX_SLOTS)
            .ok_or_else(|| LuksError::damaged("a key slot without number"))?;
        let value = meta.keyslots.get(name).ok_or_else(|| LuksError::damaged(format!("there is no key slot {id}")))?;
        slots.insert(id, slot(value)?);
    }
    let keys_end = (2 * document.size).checked_add(meta.config.keyslots_size);
    let outside =
        |s: &Slot| s.at < 2 * document.size || s.at.checked_add(s.area_len).is_none_or(|end| Some(end) > keys_end);
    if keys_end.is_none_or(|end| end > segment.offset) || slots.values().any(outside) {
        return Err(LuksError::damaged("keys and data overlap"));
    }
    let digest = KeyDigest {
        hash: Hash::parse(&digest.hash)?,
        iterations: digest.iterations,
        salt: bytes(&digest.salt)?,
        digest: bytes(&digest.digest)?,
    };
    let uuid = text(&document.binary[168..208]);
    Ok(Luks { version: Version::Two, uuid, segment, slots, digest, document: Some(document), warning })
}

fn segment(segments: &BTreeMap<String, Value>) -> Result<(&String, Segment)> {
    let mut all = segments.iter();
    let (Some((id, value)), None) = (all.next(), all.next()) else {
        return Err(LuksError::unsupported("a volume of several segments (one that is being re-encrypted?)"));
    };
    if value["type"] != "crypt" {
        return Err(LuksError::unsupported("a segment that is not encrypted"));
    }
    let s = JsonSegment::deserialize(value).map_err(|e| LuksError::damaged(format!("its segment: {e}")))?;
    if s.integrity.is_some() {
        return Err(LuksError::unsupported("volumes with integrity tags are not known here"));
    }
    cipher(&s.encryption)?;
    let size = match s.size.as_str() {
        "dynamic" => None,
        n => Some(n.parse().map_err(|_| LuksError::damaged("the size of its segment"))?),
    };
    Ok((id, Segment { offset: s.offset, size, sector: s.sector_size, tweak: s.iv_tweak }))
}

fn cipher(name: &str) -> Result<()> {
    if name == CIPHER {
        return Ok(());
    }
    let what = format!("the cipher `{}` is not known here, only {CIPHER}", name.escape_debug());
    Err(LuksError::unsupported(what))
}

fn slot(value: &Value) -> Result<Slot> {
    if value["type"] != "luks2" {
        return Err(LuksError::unsupported("a key slot of unknown kind"));
    }
    let s = JsonSlot::deserialize(value).map_err(|e| LuksError::damaged(format!("a key slot: {e}")))?;
    if s.area.kind != "raw" || s.af.kind != "luks1" {
        return Err(LuksError::unsupported("a key slot whose key is kept in an unknown way"));
    }
    cipher(&s.area.encryption)?;
    let derivation = match s.kdf {
        JsonKdf::Pbkdf2 { hash, iterations, salt } => {
            Derivation::Pbkdf2 { hash: Hash::parse(&hash)?, iterations, salt: bytes(&salt)? }
        }
        JsonKdf::Argon2i { time, memory, cpus, salt } => {
            Derivation::Argon2 { id: false, time, memory, lanes: cpus, salt: bytes(&salt)? }
        }
        JsonKdf::Argon2id { time, memory, cpus, salt } => {
            Derivation::Argon2 { id: true, time, memory, lanes: cpus, salt: bytes(&salt)? }
        }
    };
    Ok(Slot {
        key_len: s.key_size,
        derivation,
        stripes: s.af.stripes,
        hash: Hash::parse(&s.af.hash)?,
        at: s.area.offset,
        area_len: s.area.size,
        area_key_len: s.area.key_size,
    })
}

/// The JSON of a slot.
pub(crate) fn slot_json(slot: &Slot) -> Value {
    let kdf = match &slot.derivation {
        Derivation::Pbkdf2 { hash, iterations, salt } => {
            json!({ "type": "pbkdf2", "hash": hash.name(), "iterations": iterations, "salt": Base64::encode_string(salt) })
        }
        Derivation::Argon2 { id, time, memory, lanes, salt } => {
            let kind = if *id { "argon2id" } else { "argon2i" };
            json!({ "type": kind, "time": time, "memory": memory, "cpus": lanes, "salt": Base64::encode_string(salt) })
        }
    };
    json!({
        "type": "luks2",
        "key_size": slot.key_len,
        "af": { "type": "luks1", "stripes": slot.stripes, "hash": slot.hash.name() },
        "area": {
            "type": "raw",
            "offset": slot.at.to_string(),
            "size": slot.area_len.to_string(),
            "encryption": CIPHER,
            "key_size": slot.area_key_len,
        },
        "kdf": kdf,
    })
}

/// Makes a new volume.
pub(crate) fn format(medium: &dyn Medium, secret: &[u8], options: &FormatOptions) -> Result<Luks> {
    if medium.size() < DATA_OFFSET + u64::from(options.sector_size) {
        return Err(LuksError::unsupported("a volume takes 16 MiB for its header, and has no room for data behind it"));
    }
    if ![512, 1024, 2048, 4096].contains(&options.sector_size) || options.label.len() > 47 {
        return Err(LuksError::unsupported("sectors are of 512, 1024, 2048 or 4096 bytes, labels have up to 47"));
    }
    let mut key = Zeroizing::new(vec![0; KEY_LEN]);
    random(&mut key)?;
    let mut salt = [0; 32];
    random(&mut salt)?;
    let hash = Hash::Sha256;
    // The key is random: its digest needs no more than the least that the format allows.
    let mut digest = KeyDigest { hash, iterations: 1000, salt: salt.to_vec(), digest: vec![0; 32] };
    hash.pbkdf2(&key, &digest.salt, digest.iterations, &mut digest.digest);
    let size = SIZES[0];
    let json = json!({
        "keyslots": {},
        "tokens": {},
        "segments": { "0": {
            "type": "crypt",
            "offset": DATA_OFFSET.to_string(),
            "size": "dynamic",
            "iv_tweak": "0",
            "encryption": CIPHER,
            "sector_size": options.sector_size,
        } },
        "digests": { "0": {
            "type": "pbkdf2",
            "keyslots": [],
            "segments": ["0"],
            "hash": hash.name(),
            "iterations": digest.iterations,
            "salt": Base64::encode_string(&digest.salt),
            "digest": Base64::encode_string(&digest.digest),
        } },
        "config": {
            "json_size": (size - BINARY as u64).to_string(),
            "keyslots_size": (DATA_OFFSET - 2 * size).to_string(),
        },
    });
    let uuid = uuid()?;
    let mut binary = vec![0; BINARY];
    binary[6..8].copy_from_slice(&2u16.to_be_bytes());
    binary[8..16].copy_from_slice(&size.to_be_bytes());
    binary[24..24 + options.label.len()].copy_from_slice(options.label.as_bytes());
    binary[72..78].copy_from_slice(b"sha256");
    binary[168..168 + uuid.len()].copy_from_slice(uuid.as_bytes());
    let segment = Segment { offset: DATA_OFFSET, size: None, sector: options.sector_size, tweak: 0 };
    let document = Some(Document { json, binary, size, sequence: 0 });
    let mut luks =
        Luks { version: Version::Two, uuid, segment, slots: BTreeMap::new(), digest, document, warning: None };
    luks.add_key(medium, &VolumeKey { key, slot: 0 }, secret, options.kdf)?;
    Ok(luks)
}

/// Writes both copies, the first one completely before the second one: one of them is whole at any time.
pub(crate) fn write(document: &mut Document, medium: &dyn Medium) -> Result<()> {
    let host = |e| LuksError::host("write the LUKS header", e);
    let json = document.json.to_string();
    let room = document.size as usize - BINARY;
    // A zero byte ends the document.
    if json.len() >= room {
        return Err(LuksError::new(LuksErrorKind::Slot, "the header has no room for more"));
    }
    let mut rest = vec![0; room];
    rest[..json.len()].copy_from_slice(json.as_bytes());
    document.sequence += 1;
    for (at, magic) in [(0, MAGIC), (document.size, SECOND_MAGIC)] {
        let b = &mut document.binary;
        b[..6].copy_from_slice(magic);
        b[16..24].copy_from_slice(&document.sequence.to_be_bytes());
        random(&mut b[104..168])?;
        b[256..264].copy_from_slice(&at.to_be_bytes());
        b[448..512].fill(0);
        let sum = checksum(b, &rest);
        b[448..480].copy_from_slice(&sum);
        medium.write_at(&[&b[..], &rest].concat(), at).map_err(host)?;
        medium.flush().map_err(host)?;
    }
    Ok(())
}

/// Puts a slot into the document, or takes it out.
pub(crate) fn set_slot(document: &mut Document, id: u32, slot: Option<&Slot>) -> Result<()> {
    let name = id.to_string();
    let slots = document.json["keyslots"].as_object_mut().ok_or_else(|| LuksError::damaged("no key slots"))?;
    match slot {
        Some(slot) => _ = slots.insert(name.clone(), slot_json(slot)),
        None => _ = slots.remove(&name),
    }
    let empty = &mut Map::new();
    let digests = document.json["digests"].as_object_mut().unwrap_or(empty);
    for digest in digests.values_mut() {
        let ours = digest["segments"].as_array().is_some_and(|s| !s.is_empty());
        let Some(list) = digest["keyslots"].as_array_mut() else { continue };
        list.retain(|v| v != name.as_str());
        if ours && slot.is_some() {
            list.push(Value::String(name.clone()));
        }
    }
    // Tokens name the slots they open.
    if let Some(tokens) = document.json["tokens"].as_object_mut() {
        let lists = tokens.values_mut().filter_map(|t| t["keyslots"].as_array_mut());
        lists.for_each(|list| list.retain(|v| slot.is_some() || v != name.as_str()));
    }
    Ok(())
}

impl Document {
    /// Places of all key slots, also of those that are not ours: start and length.
    pub(crate) fn areas(&self) -> Vec<(u64, u64)> {
        let number = |v: &Value| v.as_str().and_then(|s| s.parse::<u64>().ok());
        let slots = self.json["keyslots"].as_object();
        let area = |s: &Value| Some((number(&s["area"]["offset"])?, number(&s["area"]["size"])?));
        slots.into_iter().flat_map(Map::values).filter_map(area).collect()
    }

    /// Numbers of all key slots.
    pub(crate) fn has_slot(&self, id: u32) -> bool {
        self.json["keyslots"].get(id.to_string()).is_some()
    }

    /// The range in which keys lie.
    pub(crate) fn keys(&self) -> (u64, u64) {
        let size = self.json["config"]["keyslots_size"].as_str().and_then(|s| s.parse::<u64>().ok()).unwrap_or(0);
        (2 * self.size, (2 * self.size).saturating_add(size))
    }
}

fn uuid() -> Result<String> {
    let mut b = [0; 16];
    random(&mut b)?;
    // RFC 9562 §5.4: version 4.
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

fn bytes(text: &str) -> Result<Vec<u8>> {
    if text.len() > 1024 {
        return Err(LuksError::damaged("a salt that is too long"));
    }
    Base64::decode_vec(text).map_err(|_| LuksError::damaged("a salt or digest that is no Base64"))
}

/// A number in a string.
fn number<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<u64, D::Error> {
    let text = String::deserialize(d)?;
    text.parse().map_err(|_| serde::de::Error::custom("not a number in a string"))
}
