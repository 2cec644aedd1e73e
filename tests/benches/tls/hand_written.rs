//! Hand-written servers on rustls, with the same buffer size as this project's.

use std::{io, net::SocketAddr, num::NonZeroUsize, sync::Arc, thread};

use wirestate_tls::rustls::ServerConfig;

use crate::measure::{
    process::{ANY_PORT, announce},
    runtimes,
};

/// Serves on tokio with tokio-rustls, with a task for each connection, until it is killed. Echoes,
/// or relays to `upstream`.
pub(crate) fn tokio(
    credentials: Arc<ServerConfig>,
    upstream: Option<SocketAddr>,
    workers: NonZeroUsize,
) -> io::Result<()> {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes},
        net::{TcpListener, TcpStream},
    };
    use tokio_rustls::{TlsAcceptor, server::TlsStream};

    async fn echo(mut stream: TlsStream<TcpStream>) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = stream.read(&mut buffer).await?;
            if n == 0 {
                return stream.shutdown().await;
            }
            stream.write_all(&buffer[..n]).await?;
            stream.flush().await?;
        }
    }

    async fn relay(mut client: TlsStream<TcpStream>, upstream: SocketAddr) -> io::Result<()> {
        let mut upstream = TcpStream::connect(upstream).await?;
        upstream.set_nodelay(true)?;
        copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await?;
        Ok(())
    }

    async fn serve(
        acceptor: TlsAcceptor,
        stream: TcpStream,
        upstream: Option<SocketAddr>,
    ) -> io::Result<()> {
        let stream = acceptor.accept(stream).await?;
        match upstream {
            None => echo(stream).await,
            Some(upstream) => relay(stream, upstream).await,
        }
    }

    let acceptor = TlsAcceptor::from(credentials);
    runtimes::tokio(workers)?.block_on(async {
        let listener = TcpListener::bind(ANY_PORT).await?;
        announce(listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(acceptor.clone(), stream, upstream));
        }
    })
}

/// Echoes with a thread for each connection and blocking calls until it is killed.
pub(crate) fn threads(credentials: &Arc<ServerConfig>) -> io::Result<()> {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use wirestate_tls::rustls::{ServerConnection, StreamOwned};

    fn echo(mut stream: StreamOwned<ServerConnection, TcpStream>) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                stream.conn.send_close_notify();
                return stream.flush();
            }
            stream.write_all(&buffer[..n])?;
            stream.flush()?;
        }
    }

    let listener = TcpListener::bind(ANY_PORT)?;
    announce(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let connection = ServerConnection::new(credentials.clone()).map_err(io::Error::other)?;
        let stream = StreamOwned::new(connection, stream);
        thread::Builder::new().spawn(move || echo(stream))?;
    }
}

/// The size of the buffer: the default of `echo::Config`.
const BUFFER: usize = 64 * 1024;
