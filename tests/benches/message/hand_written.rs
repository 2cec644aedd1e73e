//! The server that one would write by hand: a task per connection, an exact read of each part, JSON
//! values, a write per reply.

use std::{collections::BTreeMap, io, num::NonZeroUsize, sync::Arc};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    dialogue::table,
    process::{ANY_PORT, announce},
    runtimes,
};

/// On tokio, until it is killed.
pub(crate) fn tokio(workers: NonZeroUsize) -> io::Result<()> {
    runtimes::tokio(workers)?.block_on(async {
        let listener = TcpListener::bind(ANY_PORT).await?;
        announce(listener.local_addr()?)?;
        let table = Arc::new(table());
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream, Arc::clone(&table)));
        }
    })
}

/// Until the client closes.
async fn serve(mut stream: TcpStream, table: Arc<BTreeMap<String, String>>) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).await?;
        let mut header = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut header).await?;
        let header: Value = serde_json::from_slice(&header)?;
        let length = header["content-length"].as_u64().and_then(|n| usize::try_from(n).ok());
        let mut content = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
        stream.read_exact(&mut content).await?;
        let request: Value = serde_json::from_slice(&content)?;

        let result = match (request["action"].as_str(), request["value"].as_str()) {
            (Some("search"), Some(value)) => match table.get(value) {
                Some(entry) => entry.clone(),
                None => format!("No match for '{value}'."),
            },
            (action, _) => format!("Error: invalid action '{}'.", action.unwrap_or("None")),
        };
        let content = json!({ "result": result }).to_string();
        let header = json!({
            "byteorder": "little",
            "content-type": "text/json",
            "content-encoding": "utf-8",
            "content-length": content.len(),
        })
        .to_string();
        let length = u16::try_from(header.len()).expect("it is short");
        let reply = [&length.to_be_bytes()[..], header.as_bytes(), content.as_bytes()].concat();
        stream.write_all(&reply).await?;
    }
}
