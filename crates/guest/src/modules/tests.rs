//! Order, patterns and the text form.

use super::*;

const TEXT: &str = "# comment\n\
    virtio v.ko - \nvirtio_ring r.ko virtio\nvirtio-blk b.ko virtio,virtio_ring virtio:d00000002v*\n\
    xfs x.ko libcrc32c fs-xfs\nlibcrc32c c.ko -\nloop_a a.ko loop_b\nloop_b b.ko loop_a\nrubbish\n";

#[test]
fn needs_come_first_and_once() {
    let table = Table::parse(TEXT);
    assert_eq!(table.load_order("virtio-blk").unwrap(), ["virtio", "virtio_ring", "virtio_blk"]);
    assert_eq!(table.load_order("nothing"), Err(OrderError::Unknown("nothing".into())));
    assert_eq!(table.load_order("loop_a"), Err(OrderError::Circle("loop_a".into())));
}

#[test]
fn devices_and_requests_find_their_module() {
    let table = Table::parse(TEXT);
    assert_eq!(table.matching("virtio:d00000002v00001AF4"), ["virtio_blk"]);
    assert_eq!(table.matching("fs-xfs"), ["xfs"]);
    assert!(table.matching("fs-ext4").is_empty());
}

#[test]
fn text_survives_a_round_trip() {
    let table = Table::parse(TEXT);
    assert_eq!(Table::parse(&table.to_text()), table);
    assert_eq!(table.modules.len(), 7);
}

#[test]
fn patterns_match_like_fnmatch() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("a*b*c", "aXbYbZc", true),
        ("a*b*c", "aXbYbZ", false),
        ("pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00", true),
        ("pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00008086d00001237sv00001AF4sd00001100bc06sc00i00", false),
        ("a[0-3]?", "a2x", true),
        ("a[!0-3]?", "a2x", false),
        ("a[", "a[", false),
        ("?", "", false),
    ] {
        assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
    }
    // Many stars against a long text: must not explode.
    assert!(!glob("*a".repeat(30).as_bytes(), &[b'a'; 29]));
    assert!(!glob(b"*a*a*a*a*a*a*a*a*a*b", &[b'a'; 5000]));
}
