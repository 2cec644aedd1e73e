//! nginx and `HAProxy`, with one thread and otherwise default settings.

use std::{
    env,
    fs::{self, File},
    io::{self, Seek, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio, id},
};

use crate::measure::process::{announce_a_free_port, program};

/// The path of nginx's module for TCP, if it is installed.
pub(crate) fn stream_module() -> Option<&'static Path> {
    let modules = [
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "/usr/lib64/nginx/modules/ngx_stream_module.so",
    ];
    modules.into_iter().map(Path::new).find(|module| module.is_file())
}

/// Replaces this process by nginx. The process keeps its core and its parent-death signal.
pub(crate) fn nginx(upstream: SocketAddr) -> io::Result<()> {
    let module = stream_module().ok_or(io::ErrorKind::NotFound)?.display();
    let address = announce_a_free_port()?;
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
    exec_with(command.args(["-e", "stderr", "-c", "/dev/stdin"]), &configuration)
}

/// Replaces this process by `HAProxy`. The process keeps its core and its parent-death signal.
pub(crate) fn haproxy(upstream: SocketAddr) -> io::Result<()> {
    let address = announce_a_free_port()?;
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
    exec_with(command.args(["-db", "-f", "/dev/stdin"]), &configuration)
}

/// Replaces this process by `command`. Its standard input is the configuration, in a file that is
/// removed already.
fn exec_with(command: &mut Command, configuration: &str) -> io::Result<()> {
    let path = env::temp_dir().join(format!("wirestate-bench-proxy-{}", id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(path)?;
    file.write_all(configuration.as_bytes())?;
    file.rewind()?;
    Err(command.stdin(file).stdout(Stdio::null()).stderr(Stdio::null()).exec())
}
