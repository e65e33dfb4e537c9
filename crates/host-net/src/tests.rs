//! Sockets against the kernel's loopback.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use visor_nat::{Batch, DATAGRAM_HEADROOM, DATAGRAM_MAX, Event, Host, SocketId, Token, Undelivered};
use visor_net::{NetPort, Protocol};

use crate::{HostSockets, Nat, Resolvers};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits for news.
fn events(host: &mut HostSockets) -> Vec<Event> {
    let end = Instant::now() + LIMIT;
    loop {
        let mut list = Vec::new();
        host.events(&mut list);
        if !list.is_empty() || Instant::now() > end {
            return list;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A connection of `host` and its far end.
fn pair(host: &mut HostSockets) -> (SocketId, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = host.tcp_connect(Token(7), listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    match host.tcp_connected(socket) {
        // Mostly a connection within one host is there at once, and nobody is woken for it.
        Ok(()) => {
            let mut news = Vec::new();
            host.events(&mut news);
            assert!(news.is_empty());
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::WouldBlock);
            assert!(events(host).iter().any(|e| e.token == Token(7) && e.writable));
            host.tcp_connected(socket).unwrap();
        }
    }
    (socket, far)
}

/// Looks until there is something.
fn peek(host: &mut HostSockets, socket: SocketId, offset: usize, into: &mut [u8]) -> usize {
    let end = Instant::now() + LIMIT;
    loop {
        match host.tcp_peek(socket, offset, into) {
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result.unwrap(),
        }
    }
}

fn peeks(mut host: HostSockets) {
    let (socket, mut far) = pair(&mut host);
    let data: Vec<u8> = (0..60_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    far.write_all(&data).unwrap();
    // Less than the kernel takes before anything is consumed.
    let mut buffer = vec![0; 25_000];
    let mut seen = 0;
    while seen < data.len() {
        let n = peek(&mut host, socket, seen, &mut buffer);
        assert!(buffer[..n] == data[seen..seen + n]);
        seen += n;
    }
    assert_eq!(host.tcp_peek(socket, seen, &mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    // Back to the start, as when something was lost; then part of it is thrown away.
    let n = peek(&mut host, socket, 0, &mut buffer[..100]);
    assert!(buffer[..n] == data[..n]);
    host.tcp_consume(socket, 40_000).unwrap();
    let n = peek(&mut host, socket, 10_000, &mut buffer[..1000]);
    assert!(buffer[..n] == data[50_000..50_000 + n]);
    far.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(peek(&mut host, socket, 20_000, &mut buffer), 0, "the end");
    host.tcp_consume(socket, 20_000).unwrap();
    host.close(socket);
    assert_eq!(far.read(&mut buffer).unwrap(), 0, "closed in order");
}

#[test]
fn looking_with_and_without_the_kernels_offset() {
    peeks(HostSockets::new(Resolvers::fixed(Vec::new())).unwrap());
    let mut host = HostSockets::new(Resolvers::fixed(Vec::new())).unwrap();
    host.without_peek_offset();
    peeks(host);
}

#[test]
fn room_shrinks_and_comes_back() {
    let mut host = HostSockets::new(Resolvers::fixed(Vec::new())).unwrap();
    let (socket, mut far) = pair(&mut host);
    let before = host.tcp_room(socket);
    assert!(before > 10_000);
    let chunk = vec![5; 64 << 10];
    let mut sent = 0;
    loop {
        match host.tcp_send(socket, &chunk) {
            Ok(n) => sent += n,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    assert!(host.tcp_room(socket) < before && sent >= before);
    host.wake_on_room(socket);
    host.events(&mut Vec::new());
    let mut got = vec![0; sent];
    far.read_exact(&mut got).unwrap();
    host.wake_on_room(socket);
    assert!(events(&mut host).iter().any(|e| e.writable));
    assert!(host.tcp_room(socket) > 10_000);
    drop(far);
    // The far end went with nothing unread: an end, and then a reset for what is sent to it.
    let end = Instant::now() + LIMIT;
    while host.tcp_send(socket, b"x").is_ok() {
        assert!(Instant::now() < end);
    }
}

#[test]
fn refusals_and_resets() {
    let mut host = HostSockets::new(Resolvers::fixed(Vec::new())).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = host.tcp_connect(Token(1), free).unwrap();
    assert!(events(&mut host)[0].hangup);
    assert_eq!(host.tcp_connected(socket).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    host.close(socket);
    let (socket, mut far) = pair(&mut host);
    host.tcp_abort(socket);
    assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn datagrams_and_what_became_of_them() {
    let mut host = HostSockets::new(Resolvers::fixed(Vec::new())).unwrap();
    let buffers = (0..4).map(|_| vec![0; DATAGRAM_HEADROOM + DATAGRAM_MAX].into_boxed_slice()).collect();
    let mut batch = Batch { buffers, received: Vec::new() };
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let far = match UdpSocket::bind(any) {
            Ok(far) => far,
            Err(e) if any.starts_with('[') && e.kind() == ErrorKind::AddrNotAvailable => continue,
            Err(e) => panic!("{e}"),
        };
        let to = far.local_addr().unwrap();
        let socket = host.datagram_open(Token(3), Protocol::Udp, to.is_ipv6()).unwrap();
        host.datagram_send(socket, to, b"question").unwrap();
        let mut buffer = [0; 100];
        let (n, from) = far.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..n], from.port()), (&b"question"[..], host.local_address(socket).unwrap().port()));
        for n in 0..6u8 {
            far.send_to(&[n], from).unwrap();
        }
        events(&mut host);
        let mut got = Vec::new();
        while got.len() < 6 {
            host.datagram_receive(socket, &mut batch).unwrap();
            assert!(batch.received.iter().all(|r| *r == (1, to)));
            got.extend(batch.buffers[..batch.received.len()].iter().map(|b| b[DATAGRAM_HEADROOM]));
        }
        assert_eq!(got, [0, 1, 2, 3, 4, 5]);
        // By one call, and each by itself.
        host.datagrams_send(socket, to, &[7; 1000], 100).unwrap();
        assert!((0..10).all(|_| far.recv_from(&mut [0; 200]).unwrap().0 == 100));
        host.datagrams_send(socket, to, b"onetwosix", 3).unwrap();
        let three: Vec<Vec<u8>> =
            (0..3).map(|_| far.recv_from(&mut buffer).map(|(n, _)| buffer[..n].to_vec()).unwrap()).collect();
        assert_eq!(three, [b"one", b"two", b"six"]);
        drop(far);
        assert_eq!(host.datagram_error(socket), None);
        host.datagram_send(socket, to, b"anybody?").unwrap();
        assert!(events(&mut host).iter().any(|e| e.readable));
        host.datagram_receive(socket, &mut batch).unwrap();
        assert_eq!(host.datagram_error(socket), Some((to, Undelivered::Port)));
        assert_eq!(host.datagram_error(socket), None);
        host.close(socket);
    }
}

#[test]
fn listeners_exclude_each_other_and_accept() {
    let mut host = HostSockets::new(Resolvers::fixed(Vec::new())).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let (listener, bound) = host.listen(Token(9), Protocol::Tcp, any).unwrap();
    assert_eq!(host.listen(Token(10), Protocol::Tcp, bound).unwrap_err().kind(), ErrorKind::AddrInUse);
    let mut far = TcpStream::connect(bound).unwrap();
    assert!(events(&mut host).iter().any(|e| e.token == Token(9) && e.readable));
    let (socket, peer) = host.accept(listener).unwrap();
    assert_eq!(peer, far.local_addr().unwrap());
    assert_eq!(host.accept(listener).unwrap_err().kind(), ErrorKind::WouldBlock);
    far.write_all(b"early").unwrap();
    host.watch(socket, Token(11));
    assert!(events(&mut host).iter().any(|e| e.token == Token(11)));
    assert_eq!(peek(&mut host, socket, 0, &mut [0; 9]), 5);
    let wrong = "192.0.2.200:80".parse().unwrap();
    assert_eq!(host.listen(Token(12), Protocol::Udp, wrong).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
}

#[test]
fn dropping_closes_everything() {
    let mut host = HostSockets::new(Resolvers::fixed(Vec::new())).unwrap();
    let (_, mut far) = pair(&mut host);
    drop(host);
    assert_eq!(far.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_owner_is_woken_once_for_each_look() {
    let (nat, mut port) = Nat::with_resolvers(visor_nat::NatConfig::default(), Resolvers::fixed(Vec::new())).unwrap();
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    port.on_ready(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    assert_eq!(woken.load(Ordering::SeqCst), 1, "something may have happened before");
    nat.with(|_, _| ());
    assert_eq!(woken.load(Ordering::SeqCst), 1, "it has not looked since");
    let mut none = |_: visor_net::Frame<'_>| visor_net::Sent::Yes;
    assert_eq!(port.receive(&mut none), 0);
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    let guest = "10.0.2.15:53".parse().unwrap();
    let bind = "127.0.0.1:0".parse().unwrap();
    let forward = nat.with(|engine, _| engine.add_forward(Protocol::Udp, bind, guest)).unwrap();
    assert_eq!((port.receive(&mut none), woken.load(Ordering::SeqCst)), (0, 2));
    listener.send_to(b"x", forward.bind).unwrap();
    let end = Instant::now() + LIMIT;
    while woken.load(Ordering::SeqCst) < 3 {
        assert!(Instant::now() < end, "nobody was woken");
        std::thread::sleep(Duration::from_millis(1));
    }
    let bad = visor_nat::NatConfig { mtu: 100, ..visor_nat::NatConfig::default() };
    assert_eq!(Nat::open(bad).err().map(|e| e.kind()), Some(ErrorKind::InvalidInput));
}
