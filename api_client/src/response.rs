//! Reading an HTTP response.
//!
//! Does: status line, the headers that matter here (`Content-Length`), body; skips interim (1xx)
//! responses. Does not: know chunked encoding, which the server never uses.
//!
//! Invariant: reads exactly one response, and never more than [`RESPONSE_LENGTH_MAX`] bytes.

use std::io::Read;

use crate::error::ClientError;

/// The longest response that is accepted, headers included.
pub const RESPONSE_LENGTH_MAX: usize = 16 << 20;

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body, empty if there is none.
    pub body: Vec<u8>,
}

impl Response {
    /// Reads one response from `stream`.
    pub fn read(stream: &mut impl Read) -> Result<Response, ClientError> {
        let mut bytes = Vec::new();
        loop {
            let (head_length, status, body_length) = read_head(stream, &mut bytes)?;
            let total = head_length.saturating_add(body_length);
            if total > RESPONSE_LENGTH_MAX {
                return Err(ClientError::TooLong {
                    limit: RESPONSE_LENGTH_MAX,
                });
            }
            while bytes.len() < total {
                read_more(stream, &mut bytes)?;
            }
            let body = bytes[head_length..total].to_vec();
            bytes.drain(..total);
            if !(100..200).contains(&status) {
                return Ok(Response { status, body });
            }
        }
    }
}

/// Reads until `bytes` holds a whole head; its length, the status, and the length of the body.
fn read_head(
    stream: &mut impl Read,
    bytes: &mut Vec<u8>,
) -> Result<(usize, u16, usize), ClientError> {
    const END: &[u8] = b"\r\n\r\n";
    let length = loop {
        if let Some(at) = bytes.windows(END.len()).position(|window| window == END) {
            break at + END.len();
        }
        if bytes.len() > RESPONSE_LENGTH_MAX {
            return Err(ClientError::TooLong {
                limit: RESPONSE_LENGTH_MAX,
            });
        }
        read_more(stream, bytes)?;
    };
    let head = std::str::from_utf8(&bytes[..length])
        .map_err(|_| ClientError::Malformed("its head is not UTF-8"))?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let mut words = status_line.split(' ');
    if !words.next().unwrap_or_default().starts_with("HTTP/1.") {
        return Err(ClientError::Malformed("it does not start with HTTP/1"));
    }
    let status = words
        .next()
        .and_then(|word| word.parse::<u16>().ok())
        .filter(|status| (100..1000).contains(status))
        .ok_or(ClientError::Malformed("its status is no number"))?;
    let mut body_length = 0;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            body_length = value
                .trim()
                .parse()
                .map_err(|_| ClientError::Malformed("its Content-Length is no number"))?;
        }
    }
    Ok((length, status, body_length))
}

fn read_more(stream: &mut impl Read, bytes: &mut Vec<u8>) -> Result<(), ClientError> {
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Err(ClientError::Closed),
            Ok(length) => {
                bytes.extend_from_slice(&chunk[..length]);
                return Ok(());
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ClientError::Receive(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Response, ClientError> {
        Response::read(&mut text.as_bytes())
    }

    /// Gives one byte at a time, as a slow network might.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let length = usize::from(!self.0.is_empty());
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    #[test]
    fn bodies_are_read_whole() {
        let text = "HTTP/1.1 200 \r\nServer: x\r\ncontent-length: 5\r\n\r\nhello";
        let response = Response {
            status: 200,
            body: b"hello".to_vec(),
        };
        assert_eq!(read(text).unwrap(), response);
        assert_eq!(
            Response::read(&mut Trickle(text.as_bytes())).unwrap(),
            response
        );
    }

    #[test]
    fn no_content_has_no_body() {
        let response = read("HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        assert_eq!(
            response,
            Response {
                status: 204,
                body: Vec::new()
            }
        );
    }

    #[test]
    fn interim_responses_are_skipped() {
        let response = read("HTTP/1.1 100 \r\n\r\nHTTP/1.1 204 \r\n\r\n").unwrap();
        assert_eq!(response.status, 204);
    }

    #[test]
    fn bad_answers_are_refused() {
        assert!(matches!(read(""), Err(ClientError::Closed)));
        assert!(matches!(
            read("HTTP/1.1 200 \r\n"),
            Err(ClientError::Closed)
        ));
        let short = "HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\nhello";
        assert!(matches!(read(short), Err(ClientError::Closed)));
        assert!(matches!(
            read("SSH-2.0\r\n\r\n"),
            Err(ClientError::Malformed(_))
        ));
        assert!(matches!(
            read("HTTP/1.1 x\r\n\r\n"),
            Err(ClientError::Malformed(_))
        ));
        let long = "HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n";
        assert!(matches!(read(long), Err(ClientError::TooLong { .. })));
    }
}
