//! Unix sockets: listening, connecting, replacing and removing the socket file (unix(7)).

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use wirestate_core::runtime::BACKLOG;

/// A non-blocking socket that listens on `path`. `@NAME` is a name in the abstract namespace
/// (unix(7)), which has no file.
///
/// A stale socket file is replaced: one to which no socket is bound, because its process was
/// killed. If several servers start at once, one of them succeeds, unless another program holds a
/// lock on the folder.
///
/// # Errors
/// The operating system's; [`AddrInUse`](io::ErrorKind::AddrInUse) if a socket is bound to the
/// file, whether it listens or not, or if the file is no socket.
pub(crate) fn listen(path: &Path) -> io::Result<(OwnedFd, Option<SocketFile>)> {
    let socket = new(Type::STREAM)?;
    let address = address(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            let _lock = lock_folder(path);
            // Another server may have replaced the file before this one had the lock.
            if !is_stale(path) {
                return Err(error);
            }
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let file = if is_abstract(path) { None } else { Some(SocketFile::new(path)?) };
    socket.listen(BACKLOG.into())?;
    Ok((socket.into(), file))
}

fn new(kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    // O_NONBLOCK (fcntl(2)): accept(2) returns at once, and so does connect(2) if the backlog is
    // full.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b"@")
}

fn address(path: &Path) -> io::Result<SockAddr> {
    match path.as_os_str().as_bytes() {
        [b'@', name @ ..] => SockAddr::unix(OsStr::from_bytes(&[b"\0", name].concat())),
        _ => SockAddr::unix(path),
    }
}

/// Whether `path` is a socket file to which no socket is bound.
///
/// A datagram socket tries to connect to it. Linux refuses with `EPROTOTYPE` if a stream socket is
/// bound, in any network namespace, and with `ECONNREFUSED` if none is. A stream socket would get
/// `ECONNREFUSED` even while the owner is bound but does not listen yet.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let connect = || new(Type::DGRAM)?.connect(&SockAddr::unix(path)?);
    is_socket
        && !is_abstract(path)
        && connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Locks the folder of `path` (flock(2)) against other servers that replace a file in it. `None` if
/// the lock is not free within 200 ms: a server holds it for less than 1 ms, but another program
/// can hold it for any time.
fn lock_folder(path: &Path) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = File::open(parent.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..LOCK_ATTEMPTS {
        if folder.try_lock().is_ok() {
            return Some(folder);
        }
        thread::sleep(LOCK_PAUSE);
    }
    None
}

/// Connects to `path`. The kernel connects at once, or refuses (`EAGAIN` if the backlog is full).
///
/// # Errors
/// The operating system's (connect(2)).
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = new(Type::STREAM)?;
    socket.connect(&address(path)?)?;
    Ok(socket.into())
}

/// The file of a listening socket. On drop, it removes the file, unless another file has replaced
/// it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Identifies the file, together with `inode` (stat(2)).
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        // Absolute, since the process may change its working directory.
        let path = std::path::absolute(path)?;
        let file = fs::symlink_metadata(&path)?;
        Ok(Self { path, device: file.dev(), inode: file.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode));
        if is_ours {
            // If this fails, the next server that listens on the path replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How often a server tries to lock a folder.
const LOCK_ATTEMPTS: u32 = 20;
/// The time between two attempts to lock a folder.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

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
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let folder = Folder::new("stale");
        let path = folder.0.join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library does not remove the file");

        let (socket, file) = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        drop((socket, file));
        assert!(!path.exists(), "the file is removed on drop");
    }

    #[test]
    fn a_socket_that_is_bound_and_does_not_listen_yet_is_not_replaced() {
        let folder = Folder::new("bound");
        for kind in [Type::STREAM, Type::SEQPACKET, Type::DGRAM] {
            let path = folder.0.join("socket");
            let bound = new(kind).unwrap();
            bound.bind(&SockAddr::unix(&path).unwrap()).unwrap();
            let refused = listen(&path).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{kind:?}: {refused}");
            if kind == Type::STREAM {
                bound.listen(1).unwrap();
                UnixStream::connect(&path).unwrap();
            }
            drop(bound);
            drop(listen(&path).unwrap());
        }
    }

    #[test]
    fn a_server_starts_although_another_program_locks_the_folder() {
        let folder = Folder::new("locked");
        let path = folder.0.join("socket");
        let locked = File::open(&folder.0).unwrap();
        locked.lock().unwrap();
        drop(listen(&path).unwrap());
        drop(UnixListener::bind(&path).unwrap());
        listen(&path).unwrap();
    }

    #[test]
    fn one_of_several_servers_that_start_at_once_replaces_a_stale_file() {
        let folder = Folder::new("at-once");
        for round in 0..50 {
            let path = folder.0.join(round.to_string());
            drop(UnixListener::bind(&path).unwrap());
            let barrier = std::sync::Barrier::new(4);
            let started: Vec<_> = thread::scope(|scope| {
                let start = || {
                    barrier.wait();
                    listen(&path)
                };
                let starting: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                starting.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let (listening, refused): (Vec<_>, Vec<_>) =
                started.into_iter().partition(Result::is_ok);
            assert_eq!(listening.len(), 1, "{listening:?}");
            for error in refused.into_iter().map(Result::unwrap_err) {
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
            }
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn a_file_of_another_program_is_not_removed() {
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
        assert!(path.exists(), "another socket has taken the path");
    }
}
