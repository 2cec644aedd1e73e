//! Hand-written servers: a task or thread per connection, `read_exact` for each part of a frame,
//! JSON values, a write per reply.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    num::NonZeroUsize,
    sync::Arc,
    thread,
};

use serde_json::{Value, json};

use crate::{
    dialogue::table,
    measure::{
        process::{ANY_PORT, announce},
        runtimes,
    },
};

/// Serves on tokio until it is killed.
pub(crate) fn tokio(workers: NonZeroUsize) -> io::Result<()> {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    async fn serve(mut stream: TcpStream, table: Arc<Table>) -> io::Result<()> {
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length).await?;
            let mut header = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut header).await?;
            let mut content = vec![0; content_length(&header)?];
            stream.read_exact(&mut content).await?;
            stream.write_all(&answer(&table, &content)?).await?;
        }
    }

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

/// Serves with a thread per connection and blocking calls until it is killed.
pub(crate) fn threads() -> io::Result<()> {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    fn serve(mut stream: &TcpStream, table: &Table) -> io::Result<()> {
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut header = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut header)?;
            let mut content = vec![0; content_length(&header)?];
            stream.read_exact(&mut content)?;
            stream.write_all(&answer(table, &content)?)?;
        }
    }

    let listener = TcpListener::bind(ANY_PORT)?;
    announce(listener.local_addr()?)?;
    let table = Arc::new(table());
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let table = Arc::clone(&table);
        thread::Builder::new().spawn(move || serve(&stream, &table))?;
    }
}

type Table = BTreeMap<String, String>;

fn content_length(header: &[u8]) -> io::Result<usize> {
    let header: Value = serde_json::from_slice(header)?;
    let length = header["content-length"].as_u64().and_then(|length| length.try_into().ok());
    length.ok_or_else(|| ErrorKind::InvalidData.into())
}

/// The frame of the reply.
fn answer(table: &Table, content: &[u8]) -> io::Result<Vec<u8>> {
    let request: Value = serde_json::from_slice(content)?;
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
    let length = u16::try_from(header.len()).expect("the header is short");
    Ok([&length.to_be_bytes()[..], header.as_bytes(), content.as_bytes()].concat())
}
