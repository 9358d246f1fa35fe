//! The network seam: streams between addresses, and the machine's own TCP behind it. A simulation brings another.

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// One connection: bytes in order, both ways.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Takes connections at one address.
pub trait Listen: Send + Sync + 'static {
    /// The address, with the port that was given where 0 was asked for.
    ///
    /// # Errors
    /// What the operating system says.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next connection and where it comes from. May be dropped and called again.
    ///
    /// # Errors
    /// What the operating system says; the listener goes on.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Socket>, SocketAddr)>>;
}

/// A network. Small messages are sent at once.
pub trait Net: Send + Sync + 'static {
    /// Listens at `addr`, an IP address and a port.
    ///
    /// # Errors
    /// `AddrInUse`, and what else the operating system says.
    fn listen(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn Listen>>>;

    /// Connects to `addr`, `host:port`. Bounded by the caller.
    ///
    /// # Errors
    /// What the operating system says.
    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn Socket>>>;
}

/// TCP of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Net for Tcp {
    fn listen(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn Listen>>> {
        let bound = TcpListener::bind(addr.to_owned());
        bound.map_ok(|listener| Box::new(listener) as Box<dyn Listen>).boxed()
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn Socket>>> {
        TcpStream::connect(addr.to_owned()).map(|socket| at_once(socket?)).boxed()
    }
}

impl Listen for TcpListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Socket>, SocketAddr)>> {
        let accepted = async {
            let (socket, from) = TcpListener::accept(self).await?;
            Ok((at_once(socket)?, from))
        };
        accepted.boxed()
    }
}

/// Without this p99 of a small call is 44 ms, on whichever side it is missing.
fn at_once(socket: TcpStream) -> io::Result<Box<dyn Socket>> {
    socket.set_nodelay(true)?;
    Ok(Box::new(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_sent_arrives_on_the_other_side() {
        let mut listener = Tcp.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), Tcp.connect(&addr.to_string()));
        let ((mut there, _), mut here) = (accepted.unwrap(), connected.unwrap());
        here.write_all(b"hello").await.unwrap();
        let mut bytes = [0; 5];
        there.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
        assert_eq!(Tcp.listen(&addr.to_string()).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    }
}
