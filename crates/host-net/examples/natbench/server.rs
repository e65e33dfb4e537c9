//! The far ends: ports that swallow, pour, close at once, and echo.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::thread;

/// Swallows what it gets.
pub(crate) const SINK: u16 = 5001;
/// Pours without end.
pub(crate) const SOURCE: u16 = 5002;
/// Closes what it accepts.
pub(crate) const CLOSE: u16 = 5003;
/// Keeps what it accepts, and does nothing.
pub(crate) const KEEP: u16 = 5005;
/// Sends datagrams back.
pub(crate) const ECHO: u16 = 5004;

/// Serves until it is killed.
pub(crate) fn run() {
    visor_host_net::raise_open_files();
    serve(SINK, |mut s| {
        let mut buffer = vec![0; 1 << 20];
        while matches!(s.read(&mut buffer), Ok(1..)) {}
    });
    serve(SOURCE, |mut s| {
        let buffer = vec![0x5a; 1 << 20];
        while s.write_all(&buffer).is_ok() {}
    });
    let close = TcpListener::bind(("0.0.0.0", CLOSE)).expect("a port");
    thread::spawn(move || close.incoming().for_each(drop));
    let keep = TcpListener::bind(("0.0.0.0", KEEP)).expect("a port");
    thread::spawn(move || keep.incoming().collect::<Vec<_>>());
    let udp = UdpSocket::bind(("0.0.0.0", ECHO)).expect("a port");
    println!("ready");
    let mut buffer = [0; 65536];
    while let Ok((n, from)) = udp.recv_from(&mut buffer) {
        let _ = udp.send_to(&buffer[..n], from);
    }
}

fn serve(port: u16, act: impl Fn(std::net::TcpStream) + Copy + Send + 'static) {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("a port");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || act(stream));
        }
    });
}
