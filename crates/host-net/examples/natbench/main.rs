//! Measures translators: how much CPU they take for what a guest sends and receives.
//!
//! The guest is a small TCP that makes frames from memory ([`guest`]); far ends are another process ([`server`]). The translator
//! runs in this process with nothing in between, or behind a stream of frames as other programs offer it ([`link`]): this one
//! again, passt, and QEMU's user network. CPU is that of the translator's thread or processes; in this process the guest's is
//! among it.
//!
//! `natbench compare [SECONDS ROUNDS [ONLY]]` runs everything; it wants a network namespace of its own, in which it makes addresses.

mod contender;
mod guest;
mod link;
mod server;
mod smol;
mod tests;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["compare"] => tests::compare(1.0, 3, ""),
        ["compare", seconds, rounds] => compare(seconds, rounds, ""),
        ["compare", seconds, rounds, only] => compare(seconds, rounds, only),
        ["server"] => server::run(),
        ["stream", fd, mtu] => contender::stream(fd.parse().expect("a descriptor"), mtu.parse().expect("bytes")),
        _ => {
            eprintln!("natbench compare [SECONDS ROUNDS [ONLY]]");
            std::process::exit(2);
        }
    }
}

fn compare(seconds: &str, rounds: &str, only: &str) {
    tests::compare(seconds.parse().expect("seconds"), rounds.parse().expect("a number"), only);
}
