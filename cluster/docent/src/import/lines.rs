//! Lines of a file of any size in bounded memory: LF or CRLF, an optional byte order mark, UTF-8.

use crate::import::row::Reason;
use std::collections::VecDeque;
use std::io::{BufRead, Read};

/// Bytes of one line: an adjacency list of half a million items still fits; a binary file does not fill the memory.
pub const LINE_BYTES_MAX: usize = 8 << 20;

/// One line without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// Its bytes; cut where `is_too_long`.
    pub bytes: Vec<u8>,
    /// Longer than [`LINE_BYTES_MAX`]; the rest was skipped.
    pub is_too_long: bool,
}

impl Line {
    /// The text, or why it is none.
    pub fn text(&self) -> Result<&str, Reason> {
        if self.is_too_long {
            return Err(Reason::of_line(format!("the line is longer than {LINE_BYTES_MAX} bytes")));
        }
        std::str::from_utf8(&self.bytes)
            .map_err(|error| Reason::of_line(format!("invalid UTF-8 at byte {} of the line", error.valid_up_to() + 1)))
    }

    /// Nothing but white space.
    pub fn is_blank(&self) -> bool {
        self.bytes.iter().all(u8::is_ascii_whitespace)
    }
}

/// An iterator over lines that can take some back.
pub struct Lines {
    input: Box<dyn BufRead + Send>,
    number: u64,
    consumed: u64,
    returned: VecDeque<Line>,
}

impl Lines {
    /// Lines of `input`.
    pub fn new(input: Box<dyn BufRead + Send>) -> Lines {
        Lines { input, number: 0, consumed: 0, returned: VecDeque::new() }
    }

    /// Bytes read so far.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Puts lines back, to be read again in their order.
    pub fn give_back(&mut self, lines: impl DoubleEndedIterator<Item = Line>) {
        for line in lines.rev() {
            self.returned.push_front(line);
        }
    }

    /// The next line.
    pub fn next_line(&mut self) -> std::io::Result<Option<Line>> {
        if let Some(line) = self.returned.pop_front() {
            return Ok(Some(line));
        }
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut self.input).take(LINE_BYTES_MAX as u64 + 2).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.consumed += read as u64;
        self.number += 1;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        } else if read > LINE_BYTES_MAX {
            self.skip_line()?;
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if self.number == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        let is_too_long = bytes.len() > LINE_BYTES_MAX;
        if is_too_long {
            bytes.truncate(64);
        }
        Ok(Some(Line { number: self.number, bytes, is_too_long }))
    }

    fn skip_line(&mut self) -> std::io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            let end = buffer.iter().position(|&b| b == b'\n');
            let used = end.map_or(buffer.len(), |at| at + 1);
            self.input.consume(used);
            self.consumed += used as u64;
            if end.is_some() || used == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn lines(bytes: &[u8]) -> Vec<Line> {
        let mut lines = Lines::new(Box::new(Cursor::new(bytes.to_vec())));
        let all: Vec<Line> = std::iter::from_fn(|| lines.next_line().unwrap()).collect();
        assert_eq!(lines.consumed(), bytes.len() as u64);
        all
    }

    #[test]
    fn line_ends_and_the_byte_order_mark_are_not_content() {
        let got: Vec<Vec<u8>> = lines(b"\xef\xbb\xbfa\r\n\nb\rc\nlast").into_iter().map(|line| line.bytes).collect();
        assert_eq!(got, [&b"a"[..], b"", b"b\rc", b"last"]);
        assert_eq!(lines(b"a\n").len(), 1);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn bad_bytes_are_named_by_line_and_byte() {
        let got = lines(b"ok\nab\xff\n");
        assert!(got[0].text().is_ok());
        let reason = got[1].text().unwrap_err();
        assert!(reason.message.contains("invalid UTF-8 at byte 3"), "{reason}");
    }

    #[test]
    fn an_endless_line_is_skipped_not_held() {
        let mut bytes = vec![b'x'; LINE_BYTES_MAX + 100_000];
        bytes.extend_from_slice(b"\nnext\n");
        let got = lines(&bytes);
        assert!(got[0].is_too_long && got[0].bytes.len() == 64);
        assert_eq!((got[1].number, got[1].bytes.as_slice(), got.len()), (2, &b"next"[..], 2));
        let exact = vec![b'x'; LINE_BYTES_MAX];
        assert!(!lines(&exact)[0].is_too_long);
    }
}
