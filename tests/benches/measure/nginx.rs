//! nginx's `stream`, with one thread and otherwise default settings.

use std::{io, net::SocketAddr, path::Path, process::Command};

use super::process::{announce_a_free_port, exec_with, program};

/// Whether nginx and its module for TCP are installed.
pub(crate) fn is_installed() -> bool {
    program("nginx").is_some() && stream_module().is_some()
}

fn stream_module() -> Option<&'static Path> {
    let modules = [
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "/usr/lib64/nginx/modules/ngx_stream_module.so",
    ];
    modules.into_iter().map(Path::new).find(|module| module.is_file())
}

/// Replaces this process by nginx, which relays to `upstream`. `ssl` are the directives for TLS,
/// if it ends TLS. The process keeps its core and its parent-death signal.
pub(crate) fn exec(upstream: SocketAddr, ssl: Option<&str>) -> io::Result<()> {
    let module = stream_module().ok_or(io::ErrorKind::NotFound)?.display();
    let address = announce_a_free_port()?;
    let (parameter, directives) = ssl.map_or(("", ""), |directives| ("ssl", directives));
    let configuration = format!(
        "load_module {module};
        daemon off; master_process off; pid /dev/null; error_log /dev/null crit;
        events {{ worker_connections 20000; }}
        stream {{ server {{
            listen {address} {parameter} backlog=4096; {directives}
            proxy_pass {upstream}; proxy_timeout 600s; proxy_connect_timeout 10s;
        }} }}\n"
    );
    let mut command = Command::new(program("nginx").ok_or(io::ErrorKind::NotFound)?);
    exec_with(command.args(["-e", "stderr", "-c", "/dev/stdin"]), &configuration)
}
