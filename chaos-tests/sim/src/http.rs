//! The least HTTP/1.1 that a client needs: one request a connection, a JSON body, and an answer that is read to its end.

use docent_runtime::net::Net;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its body; null where it is no JSON.
    pub body: Value,
}

/// Why there is none.
#[derive(Clone, Debug)]
pub struct NoAnswer {
    /// `refused`, `reset`, `timeout`.
    pub kind: &'static str,
    /// Whether the request surely never left.
    pub is_unsent: bool,
}

/// Asks `addr` and waits for the answer, at most `within`.
///
/// # Errors
/// Whatever kept an answer from coming.
pub async fn ask(
    net: &dyn Net,
    addr: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
    within: Duration,
) -> Result<Answer, NoAnswer> {
    let deadline = tokio::time::Instant::now() + within;
    let mut stream = match tokio::time::timeout_at(deadline, net.connect(addr)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return Err(NoAnswer { kind: "refused", is_unsent: true }),
        Err(_) => return Err(NoAnswer { kind: "timeout", is_unsent: true }),
    };
    let body = body.map_or_else(String::new, Value::to_string);
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    match tokio::time::timeout_at(deadline, exchange).await {
        Ok(Ok(bytes)) => parse(&bytes).ok_or(NoAnswer { kind: "reset", is_unsent: false }),
        Ok(Err(_)) => Err(NoAnswer { kind: "reset", is_unsent: false }),
        Err(_) => Err(NoAnswer { kind: "timeout", is_unsent: false }),
    }
}

/// The answer of these bytes; `None` where they are not all of one.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |name: &str| {
        let named = head.split("\r\n").filter_map(|line| line.split_once(':'));
        named.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    };
    let body = match header("content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => body.get(..length)?.to_vec(),
        None if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) => {
            chunked(body)?
        }
        None => body.to_vec(),
    };
    Some(Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

fn chunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line = bytes.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).ok()?.trim(), 16).ok()?;
        bytes = &bytes[line + 2..];
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_broke_off_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}";
        let answer = parse(whole).unwrap();
        assert_eq!((answer.status, answer.body["a"].as_u64()), (200, Some(1)));
        assert!(parse(&whole[..whole.len() - 1]).is_none());
        let chunks = b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n";
        assert_eq!(parse(chunks).unwrap().body[0], 1);
        assert!(parse(&chunks[..chunks.len() - 9]).is_none());
    }
}
