//! Wires that can be cut and mended: datagrams from one store to another's address and back.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// One wire; runs until dropped.
pub struct Relay {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// A wire to `server`, for one client.
    pub fn to(server: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = front.local_addr().unwrap();
        let (is_cut, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let client = Arc::new(Mutex::new(None));
        let pump = |from: &Arc<UdpSocket>, to: &Arc<UdpSocket>, is_front: bool| {
            from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let (from, to, client) = (Arc::clone(from), Arc::clone(to), Arc::clone(&client));
            let (is_cut, is_over) = (Arc::clone(&is_cut), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let mut packet = [0; 65_536];
                while !is_over.load(Ordering::Relaxed) {
                    let (length, sender) = match from.recv_from(&mut packet) {
                        Ok(received) => received,
                        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                        // Nobody listens at the other end just now.
                        Err(_) => continue,
                    };
                    if is_front {
                        *client.lock().unwrap() = Some(sender);
                    }
                    let target = if is_front { Some(server) } else { *client.lock().unwrap() };
                    if let Some(target) = target.filter(|_| !is_cut.load(Ordering::Relaxed)) {
                        // A lost packet is what a wire may do.
                        let _ = to.send_to(&packet[..length], target);
                    }
                }
            })
        };
        let threads = vec![pump(&front, &back, true), pump(&back, &front, false)];
        Self { address, is_cut, is_over, threads }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing gets through while it is cut.
    pub fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
