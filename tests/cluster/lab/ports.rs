//! Loopback ports that nobody else uses or will be given.
//!
//! Taken below the kernel's ephemeral range, so that no outgoing connection gets one meanwhile, and kept from other labs
//! by an abstract socket named after the port: no file, and gone with the process.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

/// A port that is held for this lab until it is dropped.
pub struct Port {
    number: u16,
    _held: UnixListener,
}

impl Port {
    /// The next free one, beginning at a place that differs between labs.
    pub fn free() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = (std::process::id() % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let number = FIRST + (start + step) % COUNT;
            let name = SocketAddr::from_abstract_name(format!("wsrep_sst_backup-lab-port-{number}"));
            let Ok(held) = UnixListener::bind_addr(&name.expect("a short name")) else { continue };
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _held: held };
            }
        }
        panic!("no loopback port is free between {FIRST} and {}", FIRST + COUNT);
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
