//! Unix sockets, which are files (unix(7)).

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::listening::BACKLOG;

/// Listens on `path`, without blocking.
///
/// A socket that is there already, and on which nobody answers, was left behind by a process that
/// was killed: it is removed.
///
/// # Errors
/// The operating system's; [`AddrInUse`](io::ErrorKind::AddrInUse) where somebody answers, or where
/// something else is in that place.
pub(crate) fn listen(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    // So that of two that start at once, neither takes the other's socket for one left behind.
    // Where the folder can't be locked, they are on their own.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = File::open(parent.unwrap_or(Path::new(".")));
    let _locked = folder.is_ok_and(|folder| folder.lock().is_ok());
    if is_left_behind(path)? {
        fs::remove_file(path)?;
    }
    let socket = new()?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::new(path)?;
    socket.listen(BACKLOG)?;
    Ok((socket.into(), file))
}

fn new() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether there is a socket on which nobody listens.
fn is_left_behind(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {
            let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            Ok(connect(path).is_err_and(refused))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => Ok(false),
    }
}

/// Connects to `path`. There is nothing to wait for: the kernel does it at once, or not at all
/// (`EAGAIN`, where the other's backlog is full).
///
/// # Errors
/// The operating system's (connect(2)).
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = new()?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// The file of a socket that listens, which is removed when this is dropped, unless another one has
/// taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// What it is, wherever it is (stat(2)).
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        // It is to be found also if the process goes elsewhere.
        let path = std::path::absolute(path)?;
        let there = fs::symlink_metadata(&path)?;
        Ok(Self { path, device: there.dev(), inode: there.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (self.device, self.inode));
        if is_ours {
            // What is left behind is removed by whoever listens there next.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("wirestate-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_socket_that_was_left_behind_is_removed_and_a_live_one_is_not() {
        let folder = Folder::new("left-behind");
        let path = folder.0.join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves it behind");

        let (socket, file) = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        drop((socket, file));
        assert!(!path.exists(), "removed at the end");
    }

    #[test]
    fn what_is_not_ours_stays() {
        let folder = Folder::new("not-ours");
        let path = folder.0.join("socket");
        fs::write(&path, "precious").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).unwrap(), b"precious");

        fs::remove_file(&path).unwrap();
        let ours = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists(), "another one has taken its place");
    }
}
