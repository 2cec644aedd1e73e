//! A pipe through which the kernel moves bytes between two sockets.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};

/// A pipe between two sockets (pipe(7), splice(2)). It has the kernel's default size: 64 KiB, or
/// less if this user's pipes exceed `/proc/sys/fs/pipe-user-pages-soft`.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    /// A new pipe; `None` if no descriptor is free.
    pub(crate) fn new() -> Option<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        Some(Self { reader, writer })
    }

    /// Receives up to `max` bytes from a non-blocking socket into the pipe, which must be empty. 0
    /// is the peer's FIN. `None`: the kernel cannot splice from this socket, and has received no
    /// byte.
    ///
    /// # Errors
    /// The operating system's; [`WouldBlock`](io::ErrorKind::WouldBlock) if the socket is empty.
    pub(crate) fn fill(&self, socket: &impl AsFd, max: usize) -> io::Result<Option<usize>> {
        use Errno as E;
        // The second round splices bytes that arrived between splice(2) and recv(2) of the first.
        for _ in 0..2 {
            match splice(socket, None, &self.writer, None, max, SpliceFlags::NONBLOCK) {
                Ok(n) if n > 0 => return Ok(Some(n)),
                Ok(_) | Err(E::AGAIN) => {}
                Err(
                    E::INVAL | E::NOSYS | E::PERM | E::ACCESS | E::OPNOTSUPP | E::NOMEM | E::FAULT,
                ) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
            // 0 or EAGAIN can also mean urgent data (tcp(7)). It stops splice(2), but not recv(2).
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            match recv(socket, &mut [0; 1][..], flags) {
                Ok((0, _)) => return Ok(Some(0)),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Sends as many of the `held` bytes in the pipe to a non-blocking socket as its send buffer
    /// has room for. Returns the number of bytes sent.
    ///
    /// If the connection is closed, the process gets a SIGPIPE, which a Rust program ignores by
    /// default. Unlike send(2), splice(2) has no flag to prevent it.
    ///
    /// # Errors
    /// The operating system's, even if some bytes were sent before it;
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if the send buffer is full.
    pub(crate) fn drain(&self, socket: &impl AsFd, held: usize) -> io::Result<usize> {
        let mut sent = 0;
        while sent < held {
            match splice(&self.reader, None, socket, None, held - sent, SpliceFlags::NONBLOCK) {
                // splice(2) hides an error that follows a partial transfer, and the kernel reports
                // each error once. So the loop ends only when splice(2) reports a full buffer or
                // sends nothing.
                Ok(n) if n > 0 => sent += n,
                Ok(_) => break,
                Err(Errno::AGAIN) if sent > 0 => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Write},
        net::{Shutdown, TcpListener, TcpStream},
        time::Duration,
    };

    use rustix::event::{PollFd, PollFlags, poll};
    use socket2::SockRef;

    use super::*;

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, peer)
    }

    fn await_input(socket: &TcpStream) {
        poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
    }

    #[test]
    fn bytes_pass_and_a_fin_differs_from_an_empty_socket() {
        let ((from, mut peer), (to, mut other)) = (connected(), connected());
        let pipe = Pipe::new().unwrap();
        assert_eq!(pipe.fill(&from, 100).unwrap_err().kind(), ErrorKind::WouldBlock);
        peer.write_all(b"hello").unwrap();
        await_input(&from);
        assert_eq!(pipe.fill(&from, 100).unwrap(), Some(5));
        assert_eq!(pipe.drain(&to, 5).unwrap(), 5);
        let mut hello = [0; 5];
        io::Read::read_exact(&mut other, &mut hello).unwrap();
        assert_eq!(&hello, b"hello");
        peer.shutdown(Shutdown::Write).unwrap();
        await_input(&from);
        assert_eq!(pipe.fill(&from, 100).unwrap(), Some(0));
    }

    #[test]
    fn urgent_data_is_neither_a_fin_nor_an_empty_socket() {
        for fin in [false, true] {
            let (from, mut peer) = connected();
            SockRef::from(&peer).send_out_of_band(b"!").unwrap();
            peer.write_all(b"behind").unwrap();
            if fin {
                peer.shutdown(Shutdown::Write).unwrap();
            }
            await_input(&from);
            assert_eq!(Pipe::new().unwrap().fill(&from, 100).unwrap(), None);
        }
    }

    #[test]
    fn a_directory_cannot_be_spliced_from() {
        let directory = std::fs::File::open("/").unwrap();
        assert_eq!(Pipe::new().unwrap().fill(&directory, 100).unwrap(), None);
    }

    #[test]
    fn bytes_without_room_in_the_send_buffer_stay_in_the_pipe() {
        let ((from, mut peer), (to, other)) = (connected(), connected());
        SockRef::from(&to).set_send_buffer_size(65_536).unwrap();
        let pipe = Pipe::new().unwrap();
        let mut held = 0;
        while held == 0 {
            peer.write_all(&vec![7; 65_536]).unwrap();
            await_input(&from);
            held = pipe.fill(&from, 65_536).unwrap().unwrap();
            held -= pipe.drain(&to, held).unwrap_or(0);
        }
        assert_eq!(pipe.drain(&to, held).unwrap_err().kind(), ErrorKind::WouldBlock);
        SockRef::from(&other).set_linger(Some(Duration::ZERO)).unwrap();
        drop(other);
        poll(&mut [PollFd::new(&to, PollFlags::OUT)], None).unwrap();
        assert_eq!(pipe.drain(&to, held).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
