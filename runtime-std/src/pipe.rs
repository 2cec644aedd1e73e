//! A pipe that a socket's bytes pass through.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};

/// A pipe between two sockets (pipe(7), splice(2)), of the size that the kernel gives it: 64 KiB, or less
/// where this user's pipes hold more than `/proc/sys/fs/pipe-user-pages-soft` allows.
#[derive(Debug)]
pub struct Pipe {
    from: OwnedFd,
    to: OwnedFd,
}

impl Pipe {
    /// A new one; `None` for want of descriptors.
    pub fn new() -> Option<Self> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        Some(Self { from, to })
    }

    /// Receives into the pipe up to `most` bytes, without blocking where `socket` does not block; 0 is the
    /// peer's FIN, and `None` says that the kernel can't do that with such a socket, or may not.
    ///
    /// # Errors
    /// The operating system's; [`WouldBlock`](io::ErrorKind::WouldBlock) where there is nothing, or the pipe
    /// is not empty.
    pub fn fill(&self, socket: &impl AsFd, most: usize) -> io::Result<Option<usize>> {
        match splice(socket, None, &self.to, None, most, SpliceFlags::NONBLOCK) {
            Ok(n) => Ok(Some(n)),
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends up to `most` bytes from the pipe, which has as many, without blocking where `socket` does not
    /// block. Where the peer is gone the process gets a SIGPIPE, which Rust's programs ignore unless they
    /// say otherwise: splice(2) can't be told to leave it away, as send(2) can.
    ///
    /// # Errors
    /// The operating system's; [`WouldBlock`](io::ErrorKind::WouldBlock) where there is no room.
    pub fn drain(&self, socket: &impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(&self.from, None, socket, None, most, SpliceFlags::NONBLOCK)?)
    }
}
