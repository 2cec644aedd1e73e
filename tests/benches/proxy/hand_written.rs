//! Hand-written proxies, with the same buffer size as this project's.

use std::{io, net::SocketAddr, num::NonZeroUsize, thread};

use crate::{
    floor::BUFFER,
    measure::{
        process::{ANY_PORT, announce},
        runtimes,
    },
};

/// Relays on tokio, with a task for each connection, until it is killed.
pub(crate) fn tokio(upstream: SocketAddr, workers: NonZeroUsize) -> io::Result<()> {
    use tokio::{
        io::copy_bidirectional_with_sizes,
        net::{TcpListener, TcpStream},
    };

    async fn relay(mut client: TcpStream, upstream: SocketAddr) -> io::Result<(u64, u64)> {
        let mut upstream = TcpStream::connect(upstream).await?;
        client.set_nodelay(true)?;
        upstream.set_nodelay(true)?;
        copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await
    }

    runtimes::tokio(workers)?.block_on(async {
        let listener = TcpListener::bind(ANY_PORT).await?;
        announce(listener.local_addr()?)?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(relay(client, upstream));
        }
    })
}

/// Relays with blocking calls, with a thread for each direction of a connection, until it is
/// killed.
pub(crate) fn threads(upstream: SocketAddr) -> io::Result<()> {
    use std::{
        io::{Read, Write},
        net::{Shutdown, TcpListener, TcpStream},
        sync::Arc,
    };

    fn relay(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = from.read(&mut buffer)?;
            if n == 0 {
                return to.shutdown(Shutdown::Write);
            }
            to.write_all(&buffer[..n])?;
        }
    }

    let listener = TcpListener::bind(ANY_PORT)?;
    announce(listener.local_addr()?)?;
    for client in listener.incoming() {
        let pair = Arc::new((client?, TcpStream::connect(upstream)?));
        pair.0.set_nodelay(true)?;
        pair.1.set_nodelay(true)?;
        let reverse = Arc::clone(&pair);
        thread::Builder::new().spawn(move || relay(&pair.0, &pair.1))?;
        thread::Builder::new().spawn(move || relay(&reverse.1, &reverse.0))?;
    }
    Ok(())
}
