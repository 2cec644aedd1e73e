//! A hand-written fan-out: a broadcast channel, a task per subscriber, a write per message.

use std::{io, net::SocketAddr, num::NonZeroUsize};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::broadcast,
};

use crate::{
    measure::{
        process::{ANY_PORT, announce},
        runtimes,
    },
    protocol::MESSAGE,
};

/// Serves on tokio until it is killed.
pub(crate) fn tokio(upstream: SocketAddr, workers: NonZeroUsize) -> io::Result<()> {
    runtimes::tokio(workers)?.block_on(async {
        let listener = TcpListener::bind(ANY_PORT).await?;
        announce(listener.local_addr()?)?;
        let (sender, _) = broadcast::channel(WINDOW);
        tokio::spawn(publish(TcpStream::connect(upstream).await?, sender.clone()));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(subscribe(stream, sender.subscribe()));
        }
    })
}

async fn publish(upstream: TcpStream, sender: broadcast::Sender<Bytes>) -> io::Result<()> {
    let mut upstream = BufReader::new(upstream);
    loop {
        let mut message = vec![0; MESSAGE];
        upstream.read_exact(&mut message).await?;
        // Fails while there is no subscriber.
        drop(sender.send(message.into()));
    }
}

/// Disconnects a subscriber that falls a window behind.
async fn subscribe(
    mut stream: TcpStream,
    mut messages: broadcast::Receiver<Bytes>,
) -> io::Result<()> {
    while let Ok(message) = messages.recv().await {
        stream.write_all(&message).await?;
    }
    Ok(())
}

/// The most messages that a subscriber may be behind.
const WINDOW: usize = 16 * 1024;
