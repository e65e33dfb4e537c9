//! The contract between whatever sends and takes Ethernet frames: guest network devices, switches, address translators.
//!
//! A frame travels by a call of [`FrameSink::frame`] and is never kept by the caller; who wants to keep it copies it. Large TCP
//! segments travel whole, with what virtio 1.2 §5.1.6 calls segmentation offload described by [`Offload`]: who cannot take them
//! says so ([`Accepts`]), and the sender splits them and fills in checksums.
//!
//! Beside the contract stand the pure functions that every party needs: [`checksum`], [`headers`], [`offload`], [`whole`] frames, and a
//! [`cable`] between two ports in memory.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cable;
pub mod checksum;
pub mod headers;
pub mod offload;
pub mod whole;

mod filter;
mod policy;

pub use filter::FrameFilter;
pub use policy::{AllowAll, Direction, FlowKey, FlowPolicy, Protocol, ProtocolError, Reason, Verdict};

/// Most bytes of a frame: an IPv4 or IPv6 packet of 65535 bytes, Ethernet header and one VLAN tag.
pub const MAX_FRAME: usize = 65535 + 14 + 4;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// True for group addresses, broadcast among them (IEEE 802-2014 §8.2).
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl std::fmt::Display for MacAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// As text, `52:54:00:12:34:56`.
impl serde::Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From text.
impl<'de> serde::Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is no Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an Ethernet address is six hexadecimal numbers with colons between, such as 52:54:00:12:34:56")]
pub struct MacAddrError;

impl std::str::FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for b in &mut bytes {
            let part = parts.next().ok_or(MacAddrError)?;
            if part.len() > 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(MacAddrError);
            }
            *b = u8::from_str_radix(part, 16).map_err(|_| MacAddrError)?;
        }
        if parts.next().is_some() { Err(MacAddrError) } else { Ok(MacAddr(bytes)) }
    }
}

/// What is still to be done to a frame before it may go onto a real wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The transport checksum is not filled in: sum from byte `.0` of the frame to its end, store at byte `.0 + .1`; the field
    /// holds the pseudo-header's sum.
    pub checksum: Option<(u16, u16)>,
    /// The checksum has been verified or cannot be wrong, since the frame never left this host.
    pub trusted: bool,
    /// The frame holds several segments. [`Offload::checksum`] is set then too, or treated as if it were.
    pub segments: Option<Segments>,
}

/// A frame of several segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Which protocol.
    pub kind: SegmentKind,
    /// Most payload bytes of each segment, at least 1.
    pub size: u16,
}

/// Protocol of a [`Segments`] frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// One Ethernet frame without preamble and frame check sequence.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// From the destination address on; 14 to [`MAX_FRAME`] bytes. Whoever takes frames checks the length again.
    pub data: &'a [u8],
    /// What is still to be done.
    pub offload: Offload,
}

impl<'a> Frame<'a> {
    /// A finished frame.
    pub fn plain(data: &'a [u8]) -> Self {
        Frame { data, offload: Offload::default() }
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Taken.
    Yes,
    /// No room now; [`NetPort::on_ready`] tells when to try again. Whoever cannot wait drops the frame.
    Full,
    /// Refused for good: malformed, or not allowed. Counted where it was refused.
    Dropped,
}

/// Takes frames.
pub trait FrameSink {
    /// Offers one frame.
    fn frame(&mut self, frame: Frame<'_>) -> Sent;
}

impl<F: FnMut(Frame<'_>) -> Sent> FrameSink for F {
    fn frame(&mut self, frame: Frame<'_>) -> Sent {
        self(frame)
    }
}

/// What a receiver takes undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// Frames with [`Offload::checksum`].
    pub checksum: bool,
    /// Frames with [`Segments`] of TCP over IPv4.
    pub tcp4: bool,
    /// Frames with [`Segments`] of TCP over IPv6.
    pub tcp6: bool,
}

/// Called when a port has frames or room again. It may be called from any thread with locks held, so it must only wake somebody.
pub type Notify = std::sync::Arc<dyn Fn() + Send + Sync>;

/// What a port that stands around another one leaves to that one: everything of [`NetPort`] but `send` and `receive`.
#[macro_export]
macro_rules! leave_to {
    ($self:ident => $inner:expr) => {
        fn set_accepts(&mut $self, accepts: $crate::Accepts) {
            ($inner).set_accepts(accepts);
        }

        fn peer_accepts(&$self) -> $crate::Accepts {
            ($inner).peer_accepts()
        }

        fn on_ready(&mut $self, notify: $crate::Notify) {
            ($inner).on_ready(notify);
        }

        fn link_up(&$self) -> bool {
            ($inner).link_up()
        }

        fn mtu(&$self) -> u16 {
            ($inner).mtu()
        }

        fn collects(&$self) -> bool {
            ($inner).collects()
        }

        fn ring_in(&mut $self, delay: std::time::Duration) -> bool {
            ($inner).ring_in(delay)
        }
    };
}

impl<P: NetPort + ?Sized> NetPort for Box<P> {
    fn send(&mut self, frame: Frame<'_>) -> Sent {
        (**self).send(frame)
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        (**self).receive(sink)
    }

    leave_to!(self => **self);
}

/// One end of a cable: what a network device plugs into, and what a switch has many of. Neither call blocks.
pub trait NetPort: Send {
    /// Sends a frame to the other end.
    fn send(&mut self, frame: Frame<'_>) -> Sent;

    /// Hands what has come from the other end to `sink`, oldest first, until there is no more or `sink` is full (that frame stays
    /// and is offered again). Gives the number of frames taken.
    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize;

    /// What this end takes undone when it receives; the other end may then send it.
    fn set_accepts(&mut self, accepts: Accepts);

    /// What the other end takes undone when we send.
    fn peer_accepts(&self) -> Accepts;

    /// Says who is told when frames have come, or when there is room after [`Sent::Full`].
    fn on_ready(&mut self, notify: Notify);

    /// True while the cable is plugged in at the other end.
    fn link_up(&self) -> bool {
        true
    }

    /// Most bytes of an IP packet in one unsegmented frame.
    fn mtu(&self) -> u16 {
        1500
    }

    /// True while frames that were sent wait for more of their kind, to go on together. The port rings soon (well under a
    /// millisecond), and whoever has more to send may leave it lying until then.
    fn collects(&self) -> bool {
        false
    }

    /// Has the port ring when `delay` has passed, or earlier. False if it has no clock, and the caller must do now what it would have
    /// put off.
    fn ring_in(&mut self, _delay: std::time::Duration) -> bool {
        false
    }
}

/// What network devices are plugged into: a translator for one guest, a switch for many, another process.
pub trait Network: Send + Sync {
    /// For people, such as `nat`.
    fn name(&self) -> &str;

    /// A port for a guest called `guest` whose device has the address `mac`.
    ///
    /// # Errors
    /// What the host says against it.
    fn plug(&self, guest: &str, mac: MacAddr) -> std::io::Result<Box<dyn NetPort>>;
}

/// What has passed a network device or a port, seen from the device or the guest behind the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// Frames sent, of several segments counted as one.
    pub sent: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Frames that were not sent: malformed, refused, or no room.
    pub sent_dropped: u64,
    /// Frames received.
    pub received: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Frames that were not received: filtered, no buffer, or no driver.
    pub received_dropped: u64,
}

/// The host's hold on a guest's network device; usable from any thread.
pub trait Nic: Send + Sync {
    /// Moves frames between the port and the guest. To be called after the wake-up that the device was given, from a thread that
    /// holds no lock; bounded in time: it wakes again if there is more.
    fn pump(&self);

    /// What has passed.
    fn traffic(&self) -> Traffic;

    /// The address that the device uses now.
    fn mac(&self) -> MacAddr;

    /// Pulls out the cable or plugs it in again.
    fn set_link(&self, up: bool);
}

#[cfg(test)]
mod tests;
