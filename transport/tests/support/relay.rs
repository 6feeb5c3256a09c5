//! A wire that can be cut: forwards packets between one client and a server until told to drop them.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Runs until dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    /// Every so many packets one is lost; zero: none.
    loss: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let address = front.local_addr().expect("bound");
        let (is_cut, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        for socket in [&front, &back] {
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        }
        let loss = Arc::new(AtomicU64::new(0));
        let client = Arc::new(std::sync::Mutex::new(None));
        let pump = |from: &Arc<UdpSocket>, to: &Arc<UdpSocket>, is_front: bool| {
            let (from, to, client) = (Arc::clone(from), Arc::clone(to), Arc::clone(&client));
            let (is_cut, is_over, loss) = (Arc::clone(&is_cut), Arc::clone(&is_over), Arc::clone(&loss));
            let mut number = 0_u64;
            thread::spawn(move || {
                let mut packet = [0; 65_536];
                while !is_over.load(Ordering::Relaxed) {
                    let (length, sender) = match from.recv_from(&mut packet) {
                        Ok(received) => received,
                        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                        Err(_) => continue,
                    };
                    if is_front {
                        *client.lock().expect("not poisoned") = Some(sender);
                    }
                    let target = if is_front { Some(server) } else { *client.lock().expect("not poisoned") };
                    number += 1;
                    if number.checked_rem(loss.load(Ordering::Relaxed)) == Some(0) {
                        continue;
                    }
                    if let Some(target) = target
                        && !is_cut.load(Ordering::Relaxed)
                    {
                        // A lost packet is what a wire may do.
                        let _ = to.send_to(&packet[..length], target);
                    }
                }
            })
        };
        let threads = vec![pump(&front, &back, true), pump(&back, &front, false)];
        Self { address, is_cut, is_over, loss, threads }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on every so many packets one is lost, in each direction.
    pub(crate) fn lose_one_in(&self, packets: u64) {
        self.loss.store(packets, Ordering::Relaxed);
    }

    /// From now on nothing gets through.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
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
