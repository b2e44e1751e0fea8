//! One connection to the API socket.
//!
//! Does: connect, send a request, return the answer's body. Does not: retry; a request that may
//! have had its effect is never sent twice.
//!
//! Invariant: a status outside 200–299 is an error, whatever its body is.

use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::error::ClientError;
use crate::response::Response;

/// The root of every endpoint's path.
const API_ROOT: &str = "/api/v1/";

/// How a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Changes nothing.
    Get,
    /// Changes something.
    Put,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
        }
    }
}

/// A connection over which requests go.
#[derive(Debug)]
pub struct Client<S = UnixStream> {
    stream: S,
}

impl Client<UnixStream> {
    /// Connects to the API socket at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Client { stream }),
            Err(source) => Err(ClientError::Connect {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Like [`Client::request`], with descriptors for the server (`SCM_RIGHTS`).
    pub fn request_with(
        &mut self,
        method: Method,
        endpoint: &str,
        body: Option<&str>,
        descriptors: &[RawFd],
    ) -> Result<Option<String>, ClientError> {
        let request = request_text(method, endpoint, body);
        let sent = if descriptors.is_empty() {
            0
        } else {
            let error = |error: vmm_sys_util::errno::Error| ClientError::Send(error.into());
            self.stream
                .send_with_fds(&[request.as_bytes()], descriptors)
                .map_err(error)?
        };
        self.finish(&request.as_bytes()[sent..])
    }
}

impl<S: Read + Write> Client<S> {
    /// A client over a connection that exists.
    pub fn over(stream: S) -> Self {
        Client { stream }
    }

    /// Sends a request to `endpoint` ("vm.info") and returns the answer's body, if it has one.
    pub fn request(
        &mut self,
        method: Method,
        endpoint: &str,
        body: Option<&str>,
    ) -> Result<Option<String>, ClientError> {
        self.finish(request_text(method, endpoint, body).as_bytes())
    }

    /// Sends the rest of a request, and returns the answer's body.
    fn finish(&mut self, rest: &[u8]) -> Result<Option<String>, ClientError> {
        self.stream.write_all(rest).map_err(ClientError::Send)?;
        let response = Response::read(&mut self.stream)?;
        if !(200..300).contains(&response.status) {
            let messages = messages(&response.body);
            return Err(ClientError::Refused {
                status: response.status,
                messages,
            });
        }
        if response.body.is_empty() {
            return Ok(None);
        }
        match String::from_utf8(response.body) {
            Ok(body) => Ok(Some(body)),
            Err(_) => Err(ClientError::Malformed("its body is not UTF-8")),
        }
    }
}

fn request_text(method: Method, endpoint: &str, body: Option<&str>) -> String {
    let mut request = format!(
        "{} {API_ROOT}{endpoint} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n",
        method.name()
    );
    if let Some(body) = body {
        let length = body.len();
        request.push_str("Content-Type: application/json\r\n");
        request.push_str(&format!("Content-Length: {length}\r\n\r\n{body}"));
    } else {
        request.push_str("\r\n");
    }
    request
}

/// The messages in an error's body: a JSON array of strings, or else the text as it is.
fn messages(body: &[u8]) -> Vec<String> {
    if let Ok(messages) = serde_json::from_slice(body) {
        return messages;
    }
    let text = String::from_utf8_lossy(body);
    if text.trim().is_empty() {
        Vec::new()
    } else {
        vec![text.trim().to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A connection whose other side has already said everything.
    struct Script {
        answer: Cursor<Vec<u8>>,
        sent: Vec<u8>,
    }

    impl Script {
        fn new(answer: &str) -> Self {
            Script {
                answer: Cursor::new(answer.as_bytes().to_vec()),
                sent: Vec::new(),
            }
        }
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.answer.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.sent.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn requests_are_well_formed() {
        let mut client = Client::over(Script::new(
            "HTTP/1.1 204 \r\n\r\nHTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}",
        ));
        let answer = client
            .request(Method::Put, "vm.create", Some("{\"é\":1}"))
            .unwrap();
        assert_eq!(answer, None);
        let sent = String::from_utf8(client.stream.sent.clone()).unwrap();
        assert!(
            sent.starts_with("PUT /api/v1/vm.create HTTP/1.1\r\n"),
            "{sent}"
        );
        assert!(sent.contains("\r\nContent-Length: 8\r\n"), "{sent}");
        assert!(sent.ends_with("\r\n\r\n{\"é\":1}"), "{sent}");
    }

    #[test]
    fn errors_carry_the_servers_words() {
        let mut client = Client::over(Script::new(
            "HTTP/1.1 500 \r\nContent-Length: 18\r\n\r\n[\"outer\", \"inner\"]",
        ));
        let error = client.request(Method::Put, "vm.boot", None).unwrap_err();
        assert_eq!(
            error.chain(),
            ["the server answered with status 500", "outer", "inner"]
        );
        let mut client = Client::over(Script::new(
            "HTTP/1.1 400 \r\nContent-Length: 5\r\n\r\nno!\r\n",
        ));
        let error = client.request(Method::Get, "vm.info", None).unwrap_err();
        assert_eq!(
            error.chain(),
            ["the server answered with status 400", "no!"]
        );
    }

    #[test]
    fn a_missing_socket_is_explained() {
        let error = Client::connect(Path::new("/nonexistent/api.sock")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/api.sock"));
        assert_eq!(error.chain().len(), 2);
    }
}
