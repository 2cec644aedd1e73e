//! Detection of a server that is its own upstream.

use std::net::{IpAddr, SocketAddr};

use wirestate_core::runtime::{Address, unix_path};

use crate::{CommandError, CommandRuntime, server::Bound, systemd::SocketSelector};

/// Returns an error if `upstream`, a value of `flag`, is the server that listens on the addresses
/// `listen`. Such a server connects to itself until it is full. [`find`] resolves host names; this
/// function does not.
pub(super) fn check(
    flag: &str,
    upstream: &str,
    listen: impl IntoIterator<Item: AsRef<str>>,
) -> Result<(), String> {
    for listen in listen {
        let listen = listen.as_ref();
        let is_itself = match (upstream.parse(), listen.parse()) {
            (Ok(upstream), Ok(own)) => reaches(upstream, own),
            _ => unix_path(upstream).is_some_and(|path| unix_path(listen) == Some(path)),
        };
        if is_itself {
            return Err(format!("{flag} {upstream} is this server itself (--listen {listen})"));
        }
    }
    Ok(())
}

/// Returns an error if one of `upstreams` is the server that listens on `own`. Resolves host names,
/// which can take seconds.
pub(super) async fn find<R: CommandRuntime>(
    runtime: &R,
    upstreams: &[String],
    own: &[Bound],
) -> Result<(), CommandError> {
    for upstream in upstreams {
        let is_name = unix_path(upstream).is_none() && upstream.parse::<SocketAddr>().is_err();
        // With an inherited socket, only host names are checked: the proxy detects the other cases.
        let checked = |own: &&Bound| is_name || SocketSelector::parse(&own.configured).is_none();
        let own: Vec<_> = own.iter().filter(checked).flat_map(|own| &own.addresses).collect();
        if own.is_empty() {
            continue;
        }
        let addresses = addresses(runtime, upstream).await;
        let is_upstream = |own: &&Address| addresses.iter().any(|one| is_same(one, own));
        if let Some(address) = own.into_iter().find(is_upstream) {
            let (upstream, address) = (upstream.clone(), address.clone());
            return Err(CommandError::SelfUpstream { upstream, address });
        }
    }
    Ok(())
}

/// The addresses of `upstream`. There are none if its name cannot be resolved.
async fn addresses<R: CommandRuntime>(runtime: &R, upstream: &str) -> Vec<Address> {
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

/// Whether a connection to `upstream` reaches a socket that listens on `own`.
fn reaches(upstream: SocketAddr, own: SocketAddr) -> bool {
    // A connection to the unspecified address reaches this machine (ip(7)). A socket that listens
    // on the unspecified address accepts on all addresses of this machine. Only loopback addresses
    // are known here.
    let is_local = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let (from, to) = (upstream.ip().to_canonical(), own.ip().to_canonical());
    upstream.port() == own.port()
        && (from == to
            || from.is_unspecified() && is_local(to)
            || to.is_unspecified() && is_local(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_its_own_upstream_is_detected() {
        for (upstream, listen) in [
            ("127.0.0.1:9500", "127.0.0.1:9500"),
            ("127.0.0.1:9500", "0.0.0.0:9500"),
            ("0.0.0.0:9500", "127.0.0.1:9500"),
            ("[::1]:9500", "[::]:9500"),
            ("127.0.0.1:9500", "[::]:9500"),
            ("[::ffff:127.0.0.1]:9500", "127.0.0.1:9500"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            let error = check("--upstream", upstream, [listen]).unwrap_err();
            assert!(error.contains("is this server itself"), "{error}");
        }
        for (upstream, listen) in [
            ("127.0.0.1:9000", "127.0.0.1:9500"),
            ("127.0.0.2:9500", "127.0.0.1:9500"),
            ("127.0.0.1:9500", "127.0.0.1:0"),
            ("192.0.2.1:9500", "0.0.0.0:9500"),
            ("unix:/run/a.sock", "127.0.0.1:9500"),
            // Host names are resolved later.
            ("localhost:9500", "localhost:9500"),
        ] {
            assert_eq!(check("--upstream", upstream, [listen]), Ok(()), "{upstream} from {listen}");
        }
    }
}
