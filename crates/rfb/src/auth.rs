//! VNC authentication (RFC 6143 §7.2.2): the client encrypts a challenge with the password.

use des::Des;
use des::cipher::{BlockEncrypt, KeyInit};

/// Whether `response` is `challenge` encrypted with `password`, of which eight bytes count.
pub(crate) fn accepts(password: &[u8], challenge: &[u8; 16], response: &[u8]) -> bool {
    let expected = encrypt(password, challenge);
    let differs = expected.iter().zip(response).fold(0, |d, (a, b)| d | (a ^ b));
    response.len() == 16 && differs == 0
}

/// DES in electronic-codebook mode; the bits of each byte of the key are mirrored.
pub(crate) fn encrypt(password: &[u8], challenge: &[u8; 16]) -> [u8; 16] {
    let mut key = [0; 8];
    key.iter_mut().zip(password).for_each(|(k, p)| *k = p.reverse_bits());
    let cipher = Des::new(&key.into());
    let mut out = *challenge;
    for half in out.chunks_exact_mut(8) {
        let mut block = des::cipher::Block::<Des>::clone_from_slice(half);
        cipher.encrypt_block(&mut block);
        half.copy_from_slice(&block);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_as_clients_compute_it() {
        // DES of zeroes under the mirrored "password".
        let challenge = [0; 16];
        let good = encrypt(b"password", &challenge);
        assert_eq!(good[..8], good[8..]);
        assert!(accepts(b"password", &challenge, &good));
        assert!(accepts(b"password and more", &challenge, &good), "eight bytes count");
        assert!(!accepts(b"passwore", &challenge, &good));
        assert!(!accepts(b"password", &challenge, &good[..15]));
        assert!(!accepts(b"", &challenge, &good));
    }

    #[test]
    fn the_cipher_is_des() {
        // FIPS 81's example: key 0123456789ABCDEF, "Now is t".
        let key = [0x01u8, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef].map(u8::reverse_bits);
        let out = encrypt(&key, b"Now is tNow is t");
        assert_eq!(out[..8], [0x3f, 0xa4, 0x0e, 0x8a, 0x98, 0x4d, 0x48, 0x15]);
    }
}
