//! `tlsidecar top`: shows the devices with the most failures, connections or bytes.
//!
//! **Not here.** The requests (`admin_client.rs`), the counts (`sessions/top.rs`).

use hyper::Method;
use serde::Deserialize;
use serde_json::Value;

use super::admin_client::{AdminError, AdminPort, query};
use super::exit::Exit;
use super::flags::sessions::TopArgs;
use super::output::{fail, print};
use super::table::{Table, size};
use crate::runtime;

#[derive(Deserialize)]
struct Top {
    error_at_most: u64,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    count: u64,
}

/// Shows the table that the flags select.
#[must_use]
pub fn run(args: &TopArgs) -> Exit {
    let runtime = match runtime::of_a_command() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, Exit::Failed),
    };
    match runtime.block_on(shown(args)).map(print) {
        Ok(Ok(())) => Exit::Success,
        Ok(Err(error)) => fail(format_args!("cannot write the table: {error}"), Exit::Failed),
        Err(error) => fail(error, Exit::Failed),
    }
}

async fn shown(args: &TopArgs) -> Result<String, AdminError> {
    let TopArgs { admin, by, what, limit, json } = args;
    let keys = [("by", by.clone()), ("what", what.clone()), ("limit", limit.to_string())];
    let (port, path) = (AdminPort::of(admin)?, query("/top", &keys));
    if *json {
        return Ok(format!("{}\n", port.json::<Value>(Method::GET, &path).await?));
    }
    let top: Top = port.json(Method::GET, &path).await?;
    let mut table = Table::new(&[&what.to_uppercase(), &by.to_uppercase()]);
    for Entry { name, count } in top.entries {
        let count = if what == "bytes" { size(count) } else { count.to_string() };
        table.add([count, name]);
    }
    let error = match top.error_at_most {
        0 => String::new(),
        error => format!("each count may be too high by {error}\n"),
    };
    Ok(format!("{table}{error}"))
}
