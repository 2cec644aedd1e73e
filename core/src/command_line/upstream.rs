//! Addresses that a server connects to.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    vec::Vec,
};

use crate::runtime::unix_path;

/// What is wrong with `upstream` for a server that listens on `listen`: that it is this server,
/// which would connect to itself until it is full.
///
/// Names are looked up for that; one that can't be is nobody yet.
pub(super) fn check(upstream: &str, listen: &str) -> Result<(), String> {
    let addresses = |text: &str| text.to_socket_addrs().map_or(Vec::new(), Iterator::collect);
    let own: Vec<SocketAddr> = addresses(listen);
    let is_own = |upstream: SocketAddr| own.iter().any(|own| reaches(upstream, *own));
    let same_file = unix_path(upstream).is_some() && unix_path(upstream) == unix_path(listen);
    if same_file || addresses(upstream).into_iter().any(is_own) {
        return Err(format!("--upstream {upstream} is this server itself (--listen {listen})"));
    }
    Ok(())
}

/// Whether connecting to `upstream` reaches who listens on `own`.
fn reaches(upstream: SocketAddr, own: SocketAddr) -> bool {
    // Connecting to the unspecified address is connecting to this machine (ip(7)); listening on it is
    // listening on all of this machine's, of which the loopback ones are known here.
    let here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let (from, to) = (upstream.ip().to_canonical(), own.ip().to_canonical());
    upstream.port() == own.port()
        && (from == to || from.is_unspecified() && here(to) || to.is_unspecified() && here(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_its_own_upstream_is_found_out() {
        for (upstream, listen) in [
            ("127.0.0.1:9500", "127.0.0.1:9500"),
            ("127.0.0.1:9500", "0.0.0.0:9500"),
            ("0.0.0.0:9500", "127.0.0.1:9500"),
            ("[::1]:9500", "[::]:9500"),
            ("127.0.0.1:9500", "[::]:9500"),
            ("[::ffff:127.0.0.1]:9500", "127.0.0.1:9500"),
            ("localhost:9500", "127.0.0.1:9500"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            let wrong = check(upstream, listen).unwrap_err();
            assert!(wrong.contains("is this server itself"), "{wrong}");
        }
        for (upstream, listen) in [
            ("127.0.0.1:9000", "127.0.0.1:9500"),
            ("127.0.0.2:9500", "127.0.0.1:9500"),
            ("127.0.0.1:9500", "127.0.0.1:0"),
            ("192.0.2.1:9500", "0.0.0.0:9500"),
        ] {
            assert_eq!(check(upstream, listen), Ok(()), "{upstream} from {listen}");
        }
    }
}
