//! Which pair of queues a received frame goes to: the one on which the guest last sent a frame of the same connection
//! (automatic receive steering, virtio 1.2 §5.1.6.5.5).

use visor_net::headers::Headers;

const BUCKETS: usize = 1024;

/// The pair of each connection, by a hash that is the same in both directions.
pub(super) struct Steering {
    /// Pairs in use, at least 1.
    pub(super) pairs: u16,
    buckets: Box<[u8; BUCKETS]>,
}

impl Default for Steering {
    fn default() -> Self {
        Steering { pairs: 1, buckets: Box::new([0; BUCKETS]) }
    }
}

impl Steering {
    /// The guest has sent `frame` on `pair`.
    pub(super) fn sent(&mut self, frame: &[u8], pair: u16) {
        if self.pairs > 1
            && let Some(b) = bucket(frame)
        {
            self.buckets[b] = pair as u8;
        }
    }

    /// The pair for a frame to the guest.
    pub(super) fn pair_of(&self, frame: &[u8]) -> usize {
        if self.pairs < 2 {
            return 0;
        }
        let pair = bucket(frame).map_or(0, |b| usize::from(self.buckets[b]));
        if pair < usize::from(self.pairs) { pair } else { 0 }
    }
}

fn bucket(frame: &[u8]) -> Option<usize> {
    let h = Headers::parse(frame)?;
    let (from, to) = h.addresses(frame).split_at_checked(if h.v6 { 16 } else { 4 })?;
    let ports = h.ports(frame).filter(|_| !h.fragmented).map_or(0, |(a, b)| u32::from(a ^ b));
    let fold = |a: &[u8]| a.chunks_exact(4).fold(0, |x, c| x ^ u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    let mixed = (fold(from) ^ fold(to) ^ ports << 8 ^ u32::from(h.protocol)).wrapping_mul(0x9e37_79b1);
    Some((mixed >> 22) as usize % BUCKETS)
}
