//! Calls to the cluster: any node will do, so a node that is down is passed over.

use crate::failure::Failure;
use docent_proto::convert;
use docent_proto::v1::docent_client::DocentClient;
use docent_types::{Error, Kind};
use std::fmt::Write as _;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// Pages of exports are larger than tonic's default of 4 MiB.
const MESSAGE_BYTES_MAX: usize = docent_types::limits::MESSAGE_BYTES_MAX;
/// On one machine or in one data centre a connection is made at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The generated client over one connection.
pub type Client = DocentClient<Channel>;

/// Whether a call may be sent again when nobody knows if it was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Reads, and writes that are the same when done twice.
    Safe,
    /// Everything else: the outcome is then reported as unknown.
    Never,
}

/// Nodes of one cluster, in the order in which they are asked.
pub struct Cluster {
    nodes: Vec<Node>,
    preferred: AtomicUsize,
    timeout: Duration,
}

struct Node {
    addr: String,
    endpoint: Endpoint,
    client: OnceCell<Client>,
}

impl Node {
    async fn client(&self) -> Result<Client, String> {
        let connect = || async {
            let channel = self.endpoint.connect().await.map_err(|error| root_cause(&error))?;
            Ok::<_, String>(
                DocentClient::new(channel)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
        };
        self.client.get_or_try_init(connect).await.cloned()
    }
}

impl Cluster {
    /// Addresses of nodes (`host:port` or `http://host:port`); connections are made when they are first needed.
    pub fn new(nodes: &[String], timeout: Duration) -> Result<Cluster, Failure> {
        if nodes.is_empty() {
            return Err(Failure::usage("no node is named").advise("name one with --node host:port or DOCENT_NODES"));
        }
        let node = |addr: &String| {
            let addr = addr.trim().trim_end_matches('/');
            let bare = addr.strip_prefix("http://").unwrap_or(addr);
            let bad = || {
                Failure::usage(format!("{addr:?} is not the address of a node"))
                    .advise("give the query address of a node as host:port, e.g. --node 127.0.0.1:7501")
            };
            if !bare.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
                return Err(bad());
            }
            let endpoint = Endpoint::from_shared(format!("http://{bare}"))
                .map_err(|_| bad())?
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .initial_connection_window_size(8 << 20)
                .initial_stream_window_size(4 << 20);
            Ok(Node { addr: bare.to_owned(), endpoint, client: OnceCell::new() })
        };
        let nodes = nodes.iter().map(node).collect::<Result<Vec<_>, _>>()?;
        Ok(Cluster { nodes, preferred: AtomicUsize::new(0), timeout })
    }

    /// The number of nodes it knows.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// How long one call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Calls the node that answered last, else the others in turn.
    pub async fn call<T, F, Fut>(&self, repeat: Repeat, call: F) -> Result<T, Error>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_from(self.preferred.load(Ordering::Relaxed), repeat, call).await
    }

    /// Calls node `first` (modulo their number), else the ones after it. An error of kind [`Kind::Unavailable`] means that nothing was
    /// done, as far as `repeat` allows to know.
    pub async fn call_from<T, F, Fut>(&self, first: usize, repeat: Repeat, call: F) -> Result<T, Error>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut answered = None;
        let mut down = Vec::new();
        for step in 0..self.nodes.len() {
            let at = first.wrapping_add(step) % self.nodes.len();
            let node = &self.nodes[at];
            let client = match node.client().await {
                Ok(client) => client,
                Err(why) => {
                    down.push((&node.addr, why));
                    continue;
                }
            };
            let why = match tokio::time::timeout(self.timeout, call(client)).await {
                Ok(Ok(response)) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => match answer(&status) {
                    Some(error) if error.kind.is_retryable() && error.kind != Kind::Overloaded => {
                        answered = Some(error);
                        continue;
                    }
                    Some(error) => return Err(error),
                    None => root_cause(&status),
                },
                Err(_) => format!("no answer within {} s", self.timeout.as_secs_f64()),
            };
            if repeat == Repeat::Never {
                let message = format!("the connection to {} broke before the answer came: {why}", node.addr);
                return Err(Error::new(Kind::Unknown, message));
            }
            down.push((&node.addr, why));
        }
        Err(answered.unwrap_or_else(|| unreachable(&down)))
    }
}

/// The field of an error made by [`unreachable`], by which [`failure`] knows it from an answer of a node.
const UNREACHABLE: &str = "node";

fn unreachable(down: &[(&String, String)]) -> Error {
    let mut message = "no node of the cluster answers:".to_owned();
    for (i, (addr, why)) in down.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(message, "{} {addr} ({why})", if i == 0 { "" } else { "," });
    }
    Error { field: Some(UNREACHABLE.to_owned()), ..Error::new(Kind::Unavailable, message) }
}

/// The failure of a command that needs `error`'s answer: an unreachable cluster is told from one that refuses.
pub fn failure(error: Error) -> Failure {
    if error.kind == Kind::Unavailable && error.field.as_deref() == Some(UNREACHABLE) {
        return Failure::unreachable(error.message).advise(
            "is it running? start a local one with `docent up`, or name a node with --node host:port or DOCENT_NODES",
        );
    }
    Failure::from(error)
}

/// The error that a node answered with; none where the transport failed.
pub fn answer(status: &Status) -> Option<Error> {
    use tonic::Code;
    // Refusals by tonic itself come from a live node too, and the same request would be refused by the others.
    let is_refusal = matches!(
        status.code(),
        Code::Unimplemented | Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted
    );
    let is_answer = is_refusal || status.metadata().contains_key(convert::error::KIND_KEY);
    is_answer.then(|| convert::error::from_status(status))
}

/// The innermost message: "tcp connect error" says less than "Connection refused (os error 111)".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_port_is_refused_as_usage() {
        for bad in ["localhost", ":7501", "127.0.0.1:x", "", "http://h"] {
            let failure = Cluster::new(&[bad.to_owned()], CONNECT_TIMEOUT).err().expect(bad);
            assert_eq!(failure.exit, crate::failure::Exit::Usage, "{bad}");
        }
        for good in ["localhost:7501", "http://10.0.0.1:80/", "[::1]:7501"] {
            assert!(Cluster::new(&[good.to_owned()], CONNECT_TIMEOUT).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_nodes_error_is_told_from_a_broken_connection() {
        let mut status = Status::unavailable("users/3 has no leader");
        assert_eq!(answer(&status), None);
        status.metadata_mut().insert("docent-error-kind", "unavailable".parse().unwrap());
        status.metadata_mut().insert("docent-retry-after-ms", "250".parse().unwrap());
        let error = answer(&status).unwrap();
        assert_eq!((error.kind, error.retry_after_ms), (Kind::Unavailable, Some(250)));
    }
}
