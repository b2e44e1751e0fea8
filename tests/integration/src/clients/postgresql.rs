//! Registers as rows of a PostgreSQL table; a request is a transaction.
//!
//! Every row is locked before it is read or written, in the order of the keys, and all locks are
//! held to the end. So transactions are strictly serializable though the isolation level is
//! PostgreSQL's usual one.

use std::net::SocketAddr;
use std::time::Duration;

use postgres::{Client, Config, NoTls};

use super::history::{Key, Value};
use super::load::{NoAnswer, PATIENCE, Request, Service, Values};
use crate::failure::{Failure, Outcome, While};

/// A server, whose user `postgres` needs no password.
#[derive(Clone, Debug)]
pub struct PostgreSql {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many registers there are.
    pub keys: u32,
}

impl Service for PostgreSql {
    type Connection = Client;

    const HAS_TRANSACTIONS: bool = true;

    fn clear(&self) -> Outcome<()> {
        let statements = format!(
            "DROP TABLE IF EXISTS registers;
             CREATE TABLE registers (key bigint PRIMARY KEY, value bigint);
             INSERT INTO registers SELECT generate_series(0, {}), NULL;",
            i64::from(self.keys) - 1
        );
        let mut client = self.connect()?;
        client
            .batch_execute(&statements)
            .during("making the registers")
    }

    fn connect(&self) -> Outcome<Client> {
        let mut config = Config::new();
        config
            .hostaddr(self.address.ip())
            .port(self.address.port())
            .user("postgres")
            .dbname("postgres")
            .connect_timeout(PATIENCE)
            .tcp_user_timeout(PATIENCE)
            .keepalives_idle(Duration::from_secs(2))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(5);
        config.connect(NoTls).during(self.address)
    }

    fn ask(client: &mut Client, request: &Request) -> Result<Values, NoAnswer> {
        transaction(client, request).map_err(|error| {
            let failure = Failure::new(error.to_string());
            // What the server itself says ends a transaction without effect. But if it says that
            // it is going down (class 57), the last word may be of another moment.
            match error.code() {
                Some(state) if !state.code().starts_with("57") => NoAnswer::Refused(failure),
                _ => NoAnswer::Lost(failure),
            }
        })
    }
}

fn transaction(client: &mut Client, request: &Request) -> Result<Values, postgres::Error> {
    let keys = request.reads.iter().chain(request.writes.keys());
    let keys: Vec<i64> = keys.map(|key| i64::from(*key)).collect();
    let lock = if request.writes.is_empty() {
        "FOR SHARE"
    } else {
        "FOR UPDATE"
    };
    let select =
        format!("SELECT key, value FROM registers WHERE key = ANY($1) ORDER BY key {lock}");
    let mut transaction = client.transaction()?;
    let mut values = Values::new();
    for row in transaction.query(&select, &[&keys])? {
        let (key, value): (i64, Option<i64>) = (row.get(0), row.get(1));
        let key = key as Key;
        if request.reads.contains(&key) {
            values.insert(key, value.map(|value| value as Value));
        }
    }
    for (key, value) in &request.writes {
        transaction.execute(
            "UPDATE registers SET value = $2 WHERE key = $1",
            &[&i64::from(*key), &(*value as i64)],
        )?;
    }
    transaction.commit()?;
    Ok(values)
}
