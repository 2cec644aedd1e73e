//! The floor: an echo server with one thread, epoll and one buffer. Its cost is nearly the
//! kernel's.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
};

use crate::measure::{
    process::{ANY_PORT, announce},
    socket::not_blocked,
};

/// The size of the buffer: the default of `echo::Config`.
pub(crate) const BUFFER: usize = 64 * 1024;

/// Echoes until it is killed.
pub(crate) fn serve() -> io::Result<()> {
    let listener = TcpListener::bind(ANY_PORT)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let listening = index(&listener);
    epoll::add(&epoll, &listener, data(listening), EventFlags::IN)?;
    announce(listener.local_addr()?)?;

    // Indexed by descriptor.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut buffer = vec![0; BUFFER];
    let mut events: Vec<Event> = Vec::with_capacity(1024);
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let index = usize::try_from(event.data.u64()).expect("a descriptor fits");
            if index == listening {
                accept(&listener, &epoll, &mut connections)?;
            } else if let Some(connection) = &mut connections[index] {
                match connection.echo(&mut buffer, &epoll) {
                    Ok(Next::Read) => {}
                    Ok(Next::Close) | Err(_) => connections[index] = None,
                }
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    epoll: &OwnedFd,
    connections: &mut Vec<Option<Connection>>,
) -> io::Result<()> {
    let (stream, _) = match listener.accept() {
        Ok(accepted) => accepted,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error),
    };
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let index = index(&stream);
    epoll::add(epoll, &stream, data(index), EventFlags::IN)?;
    if connections.len() <= index {
        connections.resize_with(index + 1, || None);
    }
    connections[index] = Some(Connection { stream, unsent: Vec::new() });
    Ok(())
}

struct Connection {
    stream: TcpStream,
    /// Bytes that the socket has not accepted yet. Reading is paused while there are any.
    unsent: Vec<u8>,
}

enum Next {
    Read,
    Close,
}

impl Connection {
    /// Does one read and one write.
    fn echo(&mut self, buffer: &mut [u8], epoll: &OwnedFd) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            let n = not_blocked(self.stream.write(&self.unsent))?.unwrap_or(0);
            self.unsent.drain(..n);
            if self.unsent.is_empty() {
                epoll::modify(epoll, &self.stream, data(index(&self.stream)), EventFlags::IN)?;
            }
            return Ok(Next::Read);
        }
        let n = match not_blocked(self.stream.read(buffer))? {
            None => return Ok(Next::Read),
            Some(0) => return Ok(Next::Close),
            Some(n) => n,
        };
        let written = not_blocked(self.stream.write(&buffer[..n]))?.unwrap_or(0);
        if written < n {
            self.unsent.extend_from_slice(&buffer[written..n]);
            epoll::modify(epoll, &self.stream, data(index(&self.stream)), EventFlags::OUT)?;
        }
        Ok(Next::Read)
    }
}

fn index(socket: &impl AsRawFd) -> usize {
    usize::try_from(socket.as_raw_fd()).expect("an open descriptor is not negative")
}

fn data(index: usize) -> EventData {
    EventData::new_u64(index as u64)
}
