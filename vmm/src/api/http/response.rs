//! Writing HTTP responses.
//!
//! Does: status line, headers and body as bytes. Does not: send them.
//!
//! Invariant: every response but 204 says how long its body is, so that a client that keeps the
//! connection open knows where it ends. (This is why the HTTP library's own writer is not used; it
//! does not know status 409 either.)

use crate::api::{ApiError, Response};

/// The bytes that answer with `answer`.
pub(super) fn encode(answer: &Result<Response, ApiError>) -> Vec<u8> {
    let (status, body) = match answer {
        Ok(Response::Done) => (204, None),
        Ok(Response::ShutDown) => (200, Some(String::new())),
        Ok(Response::Ping(ping)) => json(ping),
        Ok(Response::Info(info)) => json(info),
        Ok(Response::Counters(counters)) => json(counters),
        Ok(Response::Device(device)) => json(device),
        Ok(Response::Ft(info)) => json(info),
        Err(error) => (error.status(), Some(json_text(&error.chain()))),
    };
    let mut head = format!(
        "HTTP/1.1 {status} {}\r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n",
        reason(status)
    );
    if let Some(body) = &body {
        if !body.is_empty() {
            head.push_str("Content-Type: application/json\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    head.push_str(body.as_deref().unwrap_or_default());
    head.into_bytes()
}

fn json(value: &impl serde::Serialize) -> (u16, Option<String>) {
    (200, Some(json_text(value)))
}

fn json_text(value: &impl serde::Serialize) -> String {
    // The types that are answered have string keys and no failing serialisers.
    serde_json::to_string(value).expect("a response is JSON")
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        409 => "Conflict",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_given() {
        let text = |answer| String::from_utf8(encode(&answer)).unwrap();
        let done = text(Ok(Response::Done));
        assert!(done.starts_with("HTTP/1.1 204 No Content\r\n"), "{done}");
        assert!(!done.contains("Content-Length"), "{done}");
        let down = text(Ok(Response::ShutDown));
        assert!(down.starts_with("HTTP/1.1 200 OK\r\n"), "{down}");
        assert!(down.contains("\r\nContent-Length: 0\r\n"), "{down}");
        let error = text(Err(ApiError::VmNotCreated));
        assert!(error.starts_with("HTTP/1.1 404 Not Found\r\n"), "{error}");
        assert!(
            error.ends_with(
                "\r\n\r\n[\"The API request failed\",\"no virtual machine has been created\"]"
            ),
            "{error}"
        );
    }
}
