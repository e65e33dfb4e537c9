use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::cable::cable;
use crate::checksum::{add, pseudo, sum};
use crate::headers::Headers;
use crate::offload::adapt;

#[test]
fn addresses() {
    assert_eq!(MacAddr([0x52, 0x54, 0, 0xab, 1, 2]).to_string(), "52:54:00:ab:01:02");
    assert_eq!("52:54:0:AB:01:02".parse(), Ok(MacAddr([0x52, 0x54, 0, 0xab, 1, 2])));
    for bad in ["", "52:54:00:ab:01", "52:54:00:ab:01:02:03", "52:54:00:ab:01:zz", "52:54:00:ab:01:123", "+1:2:3:4:5:6"]
    {
        assert_eq!(bad.parse::<MacAddr>(), Err(MacAddrError), "{bad}");
    }
    assert!(MacAddr::BROADCAST.is_multicast() && !MacAddr([0x52, 0, 0, 0, 0, 0]).is_multicast());
}

/// A frame of a TCP segment with `payload`; flags FIN, PSH, ACK, CWR.
fn tcp(v6: bool, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![2; 12];
    let len = 32 + payload.len();
    if v6 {
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        f.extend((len as u16).to_be_bytes());
        f.extend([6, 64]);
        f.extend([0x11; 32]);
    } else {
        f.extend([8, 0, 0x45, 0]);
        f.extend((len as u16 + 20).to_be_bytes());
        f.extend([0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
    }
    f.extend([0x1f, 0x90, 0, 80, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 1, 0x80, 0x99, 1, 0, 0, 0, 0, 0]);
    f.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    f.extend(payload);
    f
}

fn whole(kind: SegmentKind, size: u16) -> Offload {
    let start = if kind == SegmentKind::Tcp6 { 54 } else { 34 };
    Offload { checksum: Some((start, 16)), trusted: false, segments: Some(Segments { kind, size }) }
}

fn collect(data: &[u8], offload: Offload, accepts: Accepts) -> (Sent, Vec<(Vec<u8>, Offload)>) {
    let mut got = Vec::new();
    let sent = adapt(Frame { data, offload }, accepts, &mut |f| {
        got.push((f.data.to_vec(), f.offload));
        Sent::Yes
    });
    (sent, got)
}

fn checksum_holds(f: &[u8]) -> bool {
    let h = Headers::parse(f).unwrap();
    let tcp = &f[h.transport..];
    let ip = h.v6 || sum(&f[14..h.transport]) == 0xffff;
    ip && add(pseudo(h.addresses(f), 6, tcp.len()), sum(tcp)) == 0xffff
}

#[test]
fn segments_are_cut_as_a_card_does() {
    for (v6, kind) in [(false, SegmentKind::Tcp4), (true, SegmentKind::Tcp6)] {
        let payload: Vec<u8> = (0..4000u32).map(|i| i as u8).collect();
        let data = tcp(v6, &payload);
        let (sent, got) = collect(&data, whole(kind, 1448), Accepts::default());
        assert_eq!((sent, got.len()), (Sent::Yes, 3));
        let mut joined: Vec<u8> = Vec::new();
        for (i, (f, o)) in got.iter().enumerate() {
            assert!(checksum_holds(f) && o.trusted && o.checksum.is_none() && o.segments.is_none());
            let h = Headers::parse(f).unwrap();
            let t = &f[h.transport..];
            assert_eq!(u32::from_be_bytes([t[4], t[5], t[6], t[7]]), 0xffff_ff00u32.wrapping_add(i as u32 * 1448));
            assert_eq!(t[13], [0x90, 0x10, 0x19][i], "CWR on the first, FIN and PSH on the last");
            if !v6 {
                assert_eq!(u16::from_be_bytes([f[18], f[19]]), 0xffffu16.wrapping_add(i as u16), "identification");
                assert_eq!(usize::from(u16::from_be_bytes([f[16], f[17]])), f.len() - 14);
            }
            joined.extend_from_slice(&f[h.tcp_payload(f).unwrap()..]);
        }
        assert_eq!(joined, payload);
        let (_, got) = collect(&data, whole(kind, 1448), Accepts { checksum: true, ..Accepts::default() });
        let (mut f, o): (Vec<u8>, Offload) = got[1].clone();
        offload::fill(&mut f, o.checksum.unwrap());
        assert!(checksum_holds(&f), "left undone for who can do it");
        let (_, got) = collect(&data, whole(kind, 1448), Accepts::ALL);
        assert_eq!(got, [(data, whole(kind, 1448))], "undivided for who takes it");
    }
}

#[test]
fn a_checksum_is_filled_in() {
    let mut f = tcp(false, b"hello");
    let start = pseudo(&f[26..34], 6, f.len() - 34);
    f[50..52].copy_from_slice(&start.to_be_bytes());
    let ip = !sum(&f[14..34]);
    f[24..26].copy_from_slice(&ip.to_be_bytes());
    let o = Offload { checksum: Some((34, 16)), ..Offload::default() };
    let (_, got) = collect(&f, o, Accepts::default());
    assert!(checksum_holds(&got[0].0));
    assert_eq!(collect(&f, o, Accepts::ALL).1, [(f, o)]);
}

#[test]
fn what_contradicts_itself_is_dropped() {
    let f = tcp(false, &[0; 100]);
    let drop = |data: &[u8], o: Offload| assert_eq!(collect(data, o, Accepts::ALL), (Sent::Dropped, vec![]));
    drop(&f[..13], Offload::default());
    drop(&vec![0; MAX_FRAME + 1], Offload::default());
    for place in [(0, 0), (f.len() as u16, 0), (34, 65535), (34, f.len() as u16 - 35), (65535, 65535)] {
        drop(&f, Offload { checksum: Some(place), ..Offload::default() });
    }
    drop(&f, whole(SegmentKind::Tcp4, 0));
    drop(&f, whole(SegmentKind::Tcp4, 7));
    drop(&f, Offload { checksum: None, ..whole(SegmentKind::Tcp6, 100) });
    drop(&f[..60], Offload { checksum: None, ..whole(SegmentKind::Tcp4, 100) });
    let (sent, got) = collect(&f, whole(SegmentKind::Tcp4, 8), Accepts::default());
    assert_eq!((sent, got.len()), (Sent::Yes, 13));
}

#[test]
fn a_cable_is_bounded_and_tells() {
    let (mut a, mut b) = cable(1500);
    let told = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    for (i, end) in [&mut a, &mut b].into_iter().enumerate() {
        let told = told.clone();
        end.on_ready(Arc::new(move || {
            told[i].fetch_add(1, Ordering::SeqCst);
        }));
    }
    let count = |i: usize| told[i].load(Ordering::SeqCst);
    let mut sent = 0;
    while a.send(Frame::plain(&[1; 1000])) == Sent::Yes {
        sent += 1;
    }
    assert!(sent > 100 && count(1) == 1, "told once, when the first came");
    assert_eq!(b.receive(&mut |_: Frame<'_>| Sent::Full), 0);
    assert_eq!(count(0), 0);
    let mut left = 1;
    let taken = b.receive(&mut |_: Frame<'_>| {
        if left == 0 {
            return Sent::Full;
        }
        left -= 1;
        Sent::Yes
    });
    assert_eq!((taken, count(0)), (1, 1), "there is room again");
    assert_eq!(a.send(Frame::plain(&[1; 1000])), Sent::Yes);
    assert_eq!(b.receive(&mut |_: Frame<'_>| Sent::Yes), sent);
    assert!(b.link_up());
    drop(a);
    assert!(!b.link_up() && count(1) > 1);
    assert_eq!(b.send(Frame::plain(&[1; 60])), Sent::Dropped);
}

#[test]
fn a_cable_adapts_to_the_receiver() {
    let (mut a, mut b) = cable(1500);
    let data = tcp(false, &[7; 3000]);
    let frame = Frame { data: &data, offload: whole(SegmentKind::Tcp4, 1000) };
    a.send(frame);
    b.set_accepts(Accepts::ALL);
    assert_eq!(a.peer_accepts(), Accepts::ALL);
    a.send(frame);
    let mut sizes = Vec::new();
    b.receive(&mut |f: Frame<'_>| {
        sizes.push(f.data.len());
        Sent::Yes
    });
    assert_eq!(sizes, [1066, 1066, 1066, 3066]);
}
