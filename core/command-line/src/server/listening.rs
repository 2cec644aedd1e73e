//! The addresses that a server listens on.

use std::io;

use wirestate_core::{
    runtime::{Address, unix_path},
    serve::Server,
};

use crate::{
    CommandError, CommandRuntime,
    systemd::{InheritedSockets, SocketSelector},
};

/// An address as configured, and the sockets that it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) configured: String,
    /// Several for a name, or for inherited sockets.
    pub(crate) addresses: Vec<Address>,
    /// The numbers of its inherited sockets.
    pub(super) inherited: Vec<usize>,
}

/// Returns an error if `listen` has an address twice.
pub(crate) fn check_listen(listen: &[String]) -> Result<(), String> {
    for (index, address) in listen.iter().enumerate() {
        if listen[..index].contains(address) && !is_free_socket(address) {
            return Err(format!("--listen {address} is given twice"));
        }
        let Some(port) = address.strip_prefix("0.0.0.0:") else { continue };
        let dual = format!("[::]:{port}");
        if !is_free_socket(address) && listen.contains(&dual) {
            return Err(format!(
                "--listen {dual} accepts IPv4 as well: leave out --listen {address}"
            ));
        }
    }
    Ok(())
}

/// Whether `address` stands for another socket each time: it has port 0, or is the next inherited
/// socket.
pub(crate) fn is_free_socket(address: &str) -> bool {
    let port = address.rsplit_once(':').map(|(_, port)| port.parse());
    let has_port_0 = unix_path(address).is_none() && port == Some(Ok(0_u16));
    has_port_0 || SocketSelector::parse(address) == Some(SocketSelector::Next)
}

/// Listens on the addresses `listen`. Without one, the server that is returned does not listen.
/// Inherited sockets are unused ones, or of those numbered `given_up`, from which they are taken.
///
/// # Errors
/// Listening on an address fails. The error names it.
pub(super) async fn bind<R: CommandRuntime>(
    runtime: &R,
    listen: &[String],
    sockets: &InheritedSockets,
    given_up: &mut Vec<usize>,
) -> Result<(Server<R>, Vec<Bound>), CommandError> {
    let (all, mut bound) = (Server::without_listener(runtime.clone()), Vec::new());
    for address in listen {
        let mut inherited = Vec::new();
        let server = match SocketSelector::parse(address) {
            None => runtime.bind(address).await,
            Some(selector) => sockets.take(selector, given_up).and_then(|taken| {
                let server = Server::without_listener(runtime.clone());
                taken.into_iter().try_fold(server, |server, (number, socket)| {
                    inherited.push(number);
                    Ok(server.with_listener(runtime.listen_inherited(socket)?))
                })
            }),
        };
        let failed = |error: io::Error| CommandError::Listen { address: address.to_owned(), error };
        let server = server.map_err(failed)?;
        let addresses = server.addresses().map_err(failed)?;
        bound.push(Bound { configured: address.to_owned(), addresses, inherited });
        all.listening().add(server);
    }
    Ok((all, bound))
}

/// All addresses of `bound`.
pub(super) fn addresses(bound: &[Bound]) -> Vec<Address> {
    bound.iter().flat_map(|bound| bound.addresses.iter().cloned()).collect()
}

/// Divides `bound` into those that `listen` has as well, and the others. What is left in `listen`
/// is new.
pub(super) fn keep(bound: &[Bound], listen: &mut Vec<String>) -> (Vec<Bound>, Vec<Bound>) {
    let is_kept = |bound: &Bound| {
        let position = listen.iter().position(|address| *address == bound.configured);
        position.map(|position| listen.remove(position)).is_some()
    };
    bound.iter().cloned().partition(is_kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_given_once_unless_it_stands_for_another_socket_each_time() {
        let check = |listen: &[&str]| {
            check_listen(&listen.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        for twice in ["127.0.0.1:7", "localhost:7", "unix:/run/a:0", "systemd:web"] {
            let error = format!("--listen {twice} is given twice");
            assert_eq!(check(&[twice, "[::1]:7", twice]), Err(error));
        }
        for twice in ["127.0.0.1:0", "localhost:00", "systemd"] {
            assert_eq!(check(&[twice, twice]), Ok(()));
        }
        let error = "--listen [::]:7 accepts IPv4 as well: leave out --listen 0.0.0.0:7";
        assert_eq!(check(&["0.0.0.0:7", "[::]:7"]), Err(error.into()));
        assert_eq!(check(&["0.0.0.0:0", "[::]:0"]), Ok(()));
        assert_eq!(check(&["0.0.0.0:7", "[::1]:7"]), Ok(()));
    }
}
