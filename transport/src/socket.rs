//! The socket as QUIC is shown it.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

/// What the system hands over of datagrams that it has joined is no longer than the longest datagram.
const JOINED_MAX: usize = 1 << 16;

/// A socket that says how many datagrams of the largest size may come joined to one. The one inside names the number of the smallest
/// (64 on Linux), whatever their size; QUIC would keep room for so many of the largest, 32 times over: 13 MB where 2 do.
#[derive(Debug)]
pub(crate) struct Joining {
    inner: Arc<dyn AsyncUdpSocket>,
    segments: usize,
}

impl Joining {
    /// `datagram_max`: the largest datagram that is received, in bytes.
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, datagram_max: u16) -> Self {
        let segments = JOINED_MAX.div_ceil(usize::from(datagram_max)).min(inner.max_receive_segments());
        Self { inner, segments }
    }
}

impl AsyncUdpSocket for Joining {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        received: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(context, buffers, received)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.segments
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use quinn::{Runtime, TokioRuntime};

    use super::*;

    #[test]
    fn there_is_room_for_whatever_comes_joined() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        let _inside = runtime.enter();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let inner = TokioRuntime.wrap_udp_socket(socket).expect("a socket");
        let joined_at_most = inner.max_receive_segments();
        for size in [1200_u16, 1452, 6500, u16::MAX] {
            let socket = Joining::new(Arc::clone(&inner), size);
            let room = socket.max_receive_segments() * usize::from(size);
            assert!(room >= JOINED_MAX.min(joined_at_most * usize::from(size)), "{size}: {room} bytes");
            assert!(room < JOINED_MAX + usize::from(size));
        }
    }
}
