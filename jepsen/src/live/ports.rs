//! Loopback ports for processes that bind them later, and again after a restart.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::{Deref, Range};

/// Below what systems give to outgoing connections: nobody is put on one of these by chance.
const CANDIDATES: Range<u16> = 20_000..32_000;

/// Loopback ports that no other holder of [`Ports`] on this machine is given while this one lives.
#[derive(Debug)]
pub struct Ports {
    ports: Vec<u16>,
    /// One locked file for each port. The operating system frees them with the process, however it ends.
    _locks: Vec<File>,
}

impl Ports {
    /// So many ports that nobody listens on.
    ///
    /// # Errors
    /// The directory for temporary files takes no file, or `AddrNotAvailable` where there are not so many.
    pub fn reserve(count: usize) -> io::Result<Self> {
        let dir = std::env::temp_dir().join("millrace-ports");
        fs::create_dir_all(&dir)?;
        let (mut ports, mut locks) = (Vec::new(), Vec::new());
        // Processes that begin at different places seldom meet at a lock.
        let turn = std::process::id() as usize * 61 % CANDIDATES.len();
        for port in CANDIDATES.cycle().skip(turn).take(CANDIDATES.len()) {
            if ports.len() == count {
                break;
            }
            let file = File::options()
                .create(true)
                .append(true)
                .open(dir.join(port.to_string()))?;
            if file.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                ports.push(port);
                locks.push(file);
            }
        }
        if ports.len() < count {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        Ok(Self { ports, _locks: locks })
    }
}

impl Deref for Ports {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        &self.ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_given_a_port_twice_while_it_is_held() {
        let first = Ports::reserve(40).unwrap();
        let second = Ports::reserve(40).unwrap();
        assert!(first.iter().all(|port| !second.contains(port)));
    }

    #[test]
    fn a_port_with_a_listener_is_passed_over() {
        let held = Ports::reserve(1).unwrap();
        let port = held[0];
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        drop(held);
        let others = Ports::reserve(40).unwrap();
        assert!(!others.contains(&port));
    }
}
