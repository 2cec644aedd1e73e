//! nginx and `HAProxy` as processes, each on a free port of loopback.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::process::{TEST_TIMEOUT, eventually, is_listening};

/// The paths at which distributions install nginx's module for TCP.
const MODULES: [&str; 3] = [
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "/usr/lib64/nginx/modules/ngx_stream_module.so",
    "/usr/share/nginx/modules/ngx_stream_module.so",
];

/// The command of a server. Debian installs servers in a folder that is not in every PATH.
fn server(name: &str) -> Command {
    let path = Path::new("/usr/sbin").join(name);
    if path.is_file() { Command::new(path) } else { Command::new(name) }
}

/// An address on which no socket listens.
pub(crate) fn closed_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// An nginx process, killed when it is dropped.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) address: String,
    folder: PathBuf,
}

impl Nginx {
    /// Starts nginx with one `server`: `listen` are options of its address, `directives` its other
    /// directives. Prints a line and returns `None` if it is not installed.
    pub(crate) fn start(listen: &str, directives: &str) -> Option<Self> {
        let module = MODULES.into_iter().find(|module| fs::exists(module).unwrap_or(false));
        let is_installed = server("nginx").arg("-v").stderr(Stdio::null()).status().is_ok();
        let Some(module) = module.filter(|_| is_installed) else {
            eprintln!("NOT TESTED: nginx or its stream module is absent");
            assert!(std::env::var_os("CI").is_none(), "CI installs nginx and libnginx-mod-stream");
            return None;
        };
        let address = closed_port();
        let name = format!("wirestate-{}-{address}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let configuration = format!(
            "load_module {module};
            daemon off; master_process off; pid {0}/pid; error_log {0}/error.log;
            events {{}}
            stream {{ server {{ listen {address} {listen}; {directives} }} }}",
            folder.display()
        );
        fs::write(folder.join("nginx.conf"), configuration).unwrap();
        let child = server("nginx")
            .arg("-p")
            .arg(&folder)
            .args(["-e", "stderr", "-c", "nginx.conf"])
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        let nginx = Self { child, address, folder };
        eventually("nginx listens", || is_listening(&nginx.address));
        Some(nginx)
    }

    /// Starts nginx in front of `upstream`, with further `directives`.
    pub(crate) fn in_front_of(upstream: &str, directives: &str) -> Option<Self> {
        let timeouts = "proxy_timeout 600s; proxy_connect_timeout 10s;";
        Self::start("", &format!("proxy_pass {upstream}; {timeouts} {directives}"))
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("nginx listens");
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// An `HAProxy` process, killed when it is dropped.
pub(crate) struct HaProxy {
    child: Child,
    pub(crate) address: String,
    configuration: PathBuf,
}

impl HaProxy {
    /// Starts `HAProxy` with one `listen` section: `bind` are options of its address, `directives`
    /// its other lines. Prints a line and returns `None` if it is not installed.
    pub(crate) fn start(bind: &str, directives: &str) -> Option<Self> {
        if server("haproxy").arg("-v").stdout(Stdio::null()).status().is_err() {
            eprintln!("NOT TESTED: haproxy is absent");
            assert!(std::env::var_os("CI").is_none(), "CI installs haproxy");
            return None;
        }
        let address = closed_port();
        let name = format!("wirestate-haproxy-{}-{address}", std::process::id());
        let configuration = std::env::temp_dir().join(name);
        let section = format!(
            "listen it\n bind {address} {bind}\n timeout connect 10s\n timeout client 600s\n \
             timeout server 600s\n {directives}\n"
        );
        fs::write(&configuration, section).unwrap();
        let child = server("haproxy")
            .args(["-q", "-db", "-f"])
            .arg(&configuration)
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy starts");
        let haproxy = Self { child, address, configuration };
        eventually("haproxy listens", || is_listening(&haproxy.address));
        Some(haproxy)
    }

    /// Starts `HAProxy` in front of `upstream`. `options` make it send PROXY headers.
    pub(crate) fn in_front_of(upstream: &str, options: &str) -> Option<Self> {
        Self::start("", &format!("unique-id-format client-%cp\n server it {upstream} {options}"))
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.configuration);
    }
}
