//! What people install, with one thread and otherwise as it comes.

use std::{
    env,
    fs::{self, File},
    io::{self, Seek, Write},
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio, id},
};

use crate::process::{ANY_PORT, announce};

/// Where a program is, if it is installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    // Debian installs a server where not everyone's path leads.
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// nginx's module that relays TCP, where distributions have it.
pub(crate) fn stream_module() -> Option<&'static Path> {
    let modules = [
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "/usr/lib64/nginx/modules/ngx_stream_module.so",
    ];
    modules.into_iter().map(Path::new).find(|module| module.is_file())
}

/// Becomes nginx: this process keeps its core and its death signal. The port is announced before
/// anybody listens on it.
pub(crate) fn nginx(upstream: SocketAddr) -> io::Result<()> {
    let module = stream_module().ok_or(io::ErrorKind::NotFound)?.display();
    let address = announced()?;
    let configuration = format!(
        "load_module {module};
        daemon off; master_process off; pid /dev/null; error_log /dev/null crit;
        events {{ worker_connections 20000; }}
        stream {{ server {{
            listen {address} backlog=4096;
            proxy_pass {upstream}; proxy_timeout 600s; proxy_connect_timeout 10s;
        }} }}\n"
    );
    let mut command = Command::new(program("nginx").ok_or(io::ErrorKind::NotFound)?);
    become_it(command.args(["-e", "stderr", "-c", "/dev/stdin"]), &configuration)
}

/// Becomes `HAProxy`, likewise.
pub(crate) fn haproxy(upstream: SocketAddr) -> io::Result<()> {
    let address = announced()?;
    let configuration = format!(
        "global
            maxconn 9000
            nbthread 1
        defaults
            mode tcp
            timeout connect 10s
            timeout client 600s
            timeout server 600s
        listen relay
            bind {address} backlog 4096
            server upstream {upstream}\n"
    );
    let mut command = Command::new(program("haproxy").ok_or(io::ErrorKind::NotFound)?);
    become_it(command.args(["-db", "-f", "/dev/stdin"]), &configuration)
}

/// Neither tells which port it was given, so one is chosen that is free now.
fn announced() -> io::Result<SocketAddr> {
    let address = TcpListener::bind(ANY_PORT)?.local_addr()?;
    announce(address)?;
    Ok(address)
}

/// The configuration is its standard input: a file without a name, of which nothing is left.
fn become_it(command: &mut Command, configuration: &str) -> io::Result<()> {
    let path = env::temp_dir().join(format!("wirestate-bench-proxy-{}", id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(path)?;
    file.write_all(configuration.as_bytes())?;
    file.rewind()?;
    Err(command.stdin(file).stdout(Stdio::null()).stderr(Stdio::null()).exec())
}
