//! Hand-written echo servers: on each runtime a task or thread per connection, which reads into its
//! own buffer and writes all of it.

use std::{
    io::{self, Read, Write},
    num::NonZeroUsize,
    thread,
};

use crate::{
    floor::BUFFER,
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

    async fn echo(mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = stream.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..n]).await?;
        }
    }

    runtimes::tokio(workers)?.block_on(async {
        let listener = TcpListener::bind(ANY_PORT).await?;
        announce(listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(echo(stream));
        }
    })
}

/// Serves on smol until it is killed.
pub(crate) fn smol(workers: NonZeroUsize) -> io::Result<()> {
    use smol::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    async fn echo(mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = stream.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..n]).await?;
        }
    }

    runtimes::smol(workers, |executor| async move {
        let listener = TcpListener::bind(ANY_PORT).await?;
        announce(listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            executor.spawn(echo(stream)).detach();
        }
    })
}

/// Serves with a thread per connection and blocking calls until it is killed.
pub(crate) fn threads() -> io::Result<()> {
    use std::net::{TcpListener, TcpStream};

    fn echo(mut stream: &TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..n])?;
        }
    }

    let listener = TcpListener::bind(ANY_PORT)?;
    announce(listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        thread::Builder::new().spawn(move || echo(&stream))?;
    }
}
