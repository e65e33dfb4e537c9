//! The Internet checksum (RFC 1071).

/// The ones' complement sum of `data` as big-endian 16-bit words, the last byte padded with zero. Not inverted.
pub fn sum(data: &[u8]) -> u16 {
    // RFC 1071 §2(B): the sum does not depend on the byte order, so it is taken in the host's and swapped at the end. Sums of
    // 32-bit words in 64 bits cannot overflow below 16 GiB of data.
    let mut total = 0u64;
    let mut words = data.chunks_exact(4);
    for w in &mut words {
        total += u64::from(u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
    }
    let mut last = [0; 4];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_le_bytes(last));
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    (total as u16).swap_bytes()
}

/// The sum of two sums.
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// The sum of the pseudo-header of a transport packet of `len` bytes (RFC 9293 §3.1, RFC 8200 §8.1). `addresses` are the source's
/// and the destination's as they stand in the IP header.
pub fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> u16 {
    let len = len as u32;
    add(sum(addresses), add(add(u16::from(protocol), (len >> 16) as u16), len as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sums() {
        // RFC 1071 §3.
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[0x12]), 0x1200);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xff; 65536]), 0xffff);
        assert_eq!(add(0xffff, 1), 1);
        // Any split at an even place gives the same.
        let data: Vec<u8> = (0..999u32).map(|i| (i * 37) as u8).collect();
        for cut in [2, 4, 6, 500, 998] {
            assert_eq!(add(sum(&data[..cut]), sum(&data[cut..])), sum(&data), "{cut}");
        }
    }
}
