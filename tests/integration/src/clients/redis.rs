//! Registers as keys of a redis server, by its protocol RESP 2.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::history::Value;
use super::load::{NoAnswer, PATIENCE, Request, Service, Values};
use crate::failure::{Failure, Outcome, While};

/// The longest line or string of an answer that is taken, in bytes.
const MOST_BYTES: u64 = 64 << 10;

/// A server.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Where it listens.
    pub address: SocketAddr,
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connection(BufReader<TcpStream>);

/// An answer.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    /// A status, an integer or a string.
    Text(String),
    /// A null.
    Nothing,
    /// An error that the server reports.
    Error(String),
}

impl Service for Redis {
    type Connection = Connection;

    const HAS_TRANSACTIONS: bool = false;

    fn clear(&self) -> Outcome<()> {
        match self.connect()?.call(&["FLUSHALL"])? {
            Reply::Text(_) => Ok(()),
            other => Err(Failure::new(format!("FLUSHALL: {other:?}"))),
        }
    }

    fn connect(&self) -> Outcome<Connection> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE).during(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufReader::new(stream)))
    }

    fn ask(connection: &mut Connection, request: &Request) -> Result<Values, NoAnswer> {
        let mut keys = request.reads.iter().chain(request.writes.keys());
        let key = *keys.next().expect("a request is for some register");
        assert!(keys.all(|other| *other == key), "one register at a time");
        let name = format!("register:{key}");
        let value = request.writes.get(&key).map(Value::to_string);
        let reads = request.reads.contains(&key);
        let reply = match &value {
            None => connection.call(&["GET", &name]),
            Some(value) if reads => connection.call(&["SET", &name, value, "GET"]),
            Some(value) => connection.call(&["SET", &name, value]),
        };
        let value = match reply.map_err(NoAnswer::Lost)? {
            Reply::Error(error) => return Err(NoAnswer::Refused(Failure::new(error))),
            _ if !reads => return Ok(Values::new()),
            Reply::Nothing => None,
            Reply::Text(text) => {
                let value = text.parse::<Value>();
                // It was done, whatever was there before.
                Some(value.during(&name).map_err(NoAnswer::Lost)?)
            }
        };
        Ok(Values::from([(key, value)]))
    }
}

impl Connection {
    fn call(&mut self, words: &[&str]) -> Outcome<Reply> {
        let mut bytes = format!("*{}\r\n", words.len());
        for word in words {
            bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(bytes.as_bytes())?;
        reply(&mut self.0)
    }
}

fn reply(from: &mut impl BufRead) -> Outcome<Reply> {
    let line = line(from)?;
    let wrong = || Failure::new(format!("this is no answer: {line:?}"));
    let (kind, rest) = line.split_at_checked(1).ok_or_else(wrong)?;
    match kind {
        "+" | ":" => Ok(Reply::Text(rest.to_owned())),
        "-" => Ok(Reply::Error(rest.to_owned())),
        "$" if rest == "-1" => Ok(Reply::Nothing),
        "$" => {
            let length: u64 = rest.parse().map_err(|_| wrong())?;
            if length > MOST_BYTES {
                return Err(wrong());
            }
            let mut bytes = vec![0; length as usize + 2];
            from.read_exact(&mut bytes)?;
            bytes.truncate(length as usize);
            let text = String::from_utf8(bytes);
            Ok(Reply::Text(text.map_err(|_| wrong())?))
        }
        _ => Err(wrong()),
    }
}

fn line(from: &mut impl BufRead) -> Outcome<String> {
    let mut line = String::new();
    from.by_ref().take(MOST_BYTES).read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.to_owned()),
        None => Err(Failure::new("the connection ended within an answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &str) -> Outcome<Reply> {
        reply(&mut bytes.as_bytes())
    }

    #[test]
    fn answers_of_each_kind() {
        let text = |text: &str| Reply::Text(text.to_owned());
        assert_eq!(parsed("+OK\r\n").expect("good"), text("OK"));
        assert_eq!(parsed(":12\r\n").expect("good"), text("12"));
        assert_eq!(parsed("$5\r\nab\r\nc\r\n").expect("good"), text("ab\r\nc"));
        assert_eq!(parsed("$0\r\n\r\n").expect("good"), text(""));
        assert_eq!(parsed("$-1\r\n").expect("good"), Reply::Nothing);
        let error = Reply::Error("ERR no".to_owned());
        assert_eq!(parsed("-ERR no\r\n").expect("good"), error);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bytes in [
            "",
            "+OK",
            "$5\r\nab",
            "$x\r\n",
            "$99999999\r\n",
            "*1\r\n",
            "\r\n",
        ] {
            assert!(parsed(bytes).is_err(), "{bytes:?}");
        }
    }
}
