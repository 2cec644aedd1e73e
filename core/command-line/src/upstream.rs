//! Addresses that a server connects to.

use std::net::{IpAddr, SocketAddr};

use wirestate_core::{
    runtime::{Address, unix_path},
    serve::Server,
    shared::{Lock, Shared},
    shutdown::ShutdownHandle,
};

use crate::{Failure, Host, server, systemd::Passed};

/// Returns an error if `upstream` is this server, which listens on `listen`: it would connect to
/// itself until it is full. Compares addresses as they are written; names are looked up later.
pub(super) fn check(upstream: &str, listen: &str) -> Result<(), String> {
    let is_itself = match (upstream.parse(), listen.parse()) {
        (Ok(upstream), Ok(own)) => reaches(upstream, own),
        _ => unix_path(upstream).is_some_and(|path| unix_path(listen) == Some(path)),
    };
    if is_itself {
        return Err(format!("--upstream {upstream} is this server itself (--listen {listen})"));
    }
    Ok(())
}

/// Checks in the background whether an upstream is the server itself, and stops the server if so.
/// It looks up names, which can take long.
pub(super) struct SelfCheck {
    found: Shared<Lock<Option<Failure>>>,
}

impl SelfCheck {
    pub(super) fn start<R: Host>(
        runtime: &R,
        upstreams: &[String],
        listen: &str,
        server: &Server<R>,
        stop: &ShutdownHandle,
    ) -> Result<Self, Failure> {
        let own = server::addresses(server)?;
        let found = Shared::new(Lock::new(None));
        // With a socket that was passed, only names are checked: the proxy detects the other cases.
        let is_passed = Passed::parse(listen).is_some();
        let is_name = |upstream: &&String| {
            unix_path(upstream).is_none() && upstream.parse::<SocketAddr>().is_err()
        };
        for upstream in upstreams.iter().filter(|upstream| !is_passed || is_name(upstream)) {
            let (other, upstream, own) = (runtime.clone(), upstream.clone(), own.clone());
            let (found, stop) = (found.clone(), stop.clone());
            let check = async move {
                let addresses = addresses(&other, &upstream).await;
                let is_upstream = |own: &Address| addresses.iter().any(|one| is_same(one, own));
                if let Some(address) = own.into_iter().find(is_upstream) {
                    found.with(|found| *found = Some(Failure::Itself { upstream, address }));
                    stop.abort();
                }
            };
            runtime.spawn(check).map_err(Failure::Spawn)?;
        }
        Ok(Self { found })
    }

    /// The result, once the server has ended.
    pub(super) fn verdict(self) -> Result<(), Failure> {
        self.found.with(Option::take).map_or(Ok(()), Err)
    }
}

/// The addresses of `upstream`; none if it is a name that can't be looked up.
async fn addresses<R: Host>(runtime: &R, upstream: &str) -> Vec<Address> {
    if let Some(path) = unix_path(upstream) {
        return vec![Address::Unix(path.to_owned())];
    }
    let resolved = runtime.resolve(upstream).await.unwrap_or_default();
    resolved.into_iter().map(Address::Ip).collect()
}

fn is_same(upstream: &Address, own: &Address) -> bool {
    match (upstream, own) {
        (Address::Ip(upstream), Address::Ip(own)) => reaches(*upstream, *own),
        (Address::Unix(upstream), Address::Unix(own)) => upstream == own,
        (Address::Ip(_), Address::Unix(_)) | (Address::Unix(_), Address::Ip(_)) => false,
    }
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
            ("unix:/run/a.sock", "127.0.0.1:9500"),
            // Names are looked up later.
            ("localhost:9500", "localhost:9500"),
        ] {
            assert_eq!(check(upstream, listen), Ok(()), "{upstream} from {listen}");
        }
    }
}
