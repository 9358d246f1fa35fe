//! The network seam over turmoil: its streams, and between them what [`Links`] says.

use crate::links::{Links, Machine, Way};
use docent_runtime::net::{Listen, Net, Socket};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use turmoil::net::{TcpListener, TcpStream};

/// Bytes of one read.
const CHUNK_BYTES: usize = 64 << 10;
/// A refusal takes a round trip.
const REFUSED_AFTER: Duration = Duration::from_millis(2);

/// The network as one host has it.
#[derive(Clone)]
pub struct SimNet {
    here: IpAddr,
    links: Links,
}

impl SimNet {
    /// Of the host with this address.
    pub fn new(here: IpAddr, links: Links) -> SimNet {
        SimNet { here, links }
    }

    async fn open(self, addr: String) -> io::Result<Box<dyn Socket>> {
        let there: SocketAddr = addr.parse().map_err(|_| io::Error::other(format!("{addr} is no address")))?;
        let (out, back) = ((self.here, there.ip()), (there.ip(), self.here));
        std::future::poll_fn(|cx| {
            // Both, so that either wakes.
            let passes = self.links.passes(out, cx.waker()) & self.links.passes(back, cx.waker());
            if passes { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        tokio::time::sleep(self.links.lateness(out) + self.links.lateness(back)).await; // simulated: the delay that is the fault
        if self.links.machine(there.ip()) != Machine::Up {
            tokio::time::sleep(REFUSED_AFTER).await; // simulated: what a refusal takes on the wire
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let stream = TcpStream::connect(there).await?;
        Ok(Box::new(Linked::new(stream, self.links.clone(), self.here, there)))
    }
}

impl Net for SimNet {
    fn listen(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn Listen>>> {
        let (net, addr) = (self.clone(), addr.to_owned());
        async move {
            let asked: SocketAddr = addr.parse().map_err(|_| io::Error::other(format!("{addr} is no address")))?;
            let listener = TcpListener::bind(("0.0.0.0", asked.port())).await?;
            let at = SocketAddr::new(net.here, listener.local_addr()?.port());
            Ok(Box::new(Door { listener, at, links: net.links }) as Box<dyn Listen>)
        }
        .boxed()
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn Socket>>> {
        self.clone().open(addr.to_owned()).boxed()
    }
}

struct Door {
    listener: TcpListener,
    at: SocketAddr,
    links: Links,
}

impl Listen for Door {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Socket>, SocketAddr)>> {
        async {
            let (stream, from) = self.listener.accept().await?;
            let linked = Linked::new(stream, self.links.clone(), self.at.ip(), from);
            Ok((Box::new(linked) as Box<dyn Socket>, from))
        }
        .boxed()
    }
}

/// A stream whose incoming bytes wait for their link.
struct Linked {
    stream: TcpStream,
    links: Links,
    incoming: Way,
    /// Ports here and there, for the trace.
    ports: (u16, u16),
    age: u64,
    /// Bytes that came and are late, or that were not read yet.
    held: Vec<u8>,
    late: Option<Pin<Box<Sleep>>>,
}

impl Linked {
    fn new(stream: TcpStream, links: Links, here: IpAddr, there: SocketAddr) -> Linked {
        let incoming = (there.ip(), here);
        let ports = (stream.local_addr().map_or(0, |addr| addr.port()), there.port());
        let age = links.age(incoming);
        Linked { stream, links, incoming, ports, age, held: Vec::new(), late: None }
    }

    fn check(&self) -> io::Result<()> {
        if self.links.age(self.incoming) == self.age { Ok(()) } else { Err(io::ErrorKind::ConnectionReset.into()) }
    }
}

impl AsyncRead for Linked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        if !self.links.passes(self.incoming, cx.waker()) {
            return Poll::Pending;
        }
        if self.held.is_empty() {
            let mut chunk = vec![0; CHUNK_BYTES.min(buf.remaining().max(1))];
            let mut into = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into))?;
            let came = into.filled().len();
            chunk.truncate(came);
            if came == 0 {
                return Poll::Ready(Ok(()));
            }
            self.held = chunk;
            let late = self.links.lateness(self.incoming);
            self.late = (!late.is_zero()).then(|| Box::pin(tokio::time::sleep(late))); // simulated: the delay that is the fault
        }
        if let Some(late) = &mut self.late {
            ready!(late.as_mut().poll(cx));
            self.late = None;
        }
        let count = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Linked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        let (to, from) = self.incoming;
        let hash = blake3::hash(&buf[..written]).to_hex();
        let at = turmoil::sim_elapsed().unwrap_or_default();
        let (here, there) = self.ports;
        self.links.trace().note(at, "sent", format_args!("{from}:{here} {to}:{there} {written} bytes {}", &hash[..12]));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
