//! Resolves a `host:port` on a separate thread, so that the caller can stop waiting.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    task::{Poll, Waker},
};

use wirestate_core::shared::Lock;

use crate::start_thread;

/// The addresses of a `host:port`. An `IP:PORT` needs no thread.
///
/// # Errors
/// The address does not have this form, the name is unknown, or no thread could be started.
pub(crate) async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    match address.parse() {
        Ok(address) => Ok(vec![address]),
        Err(_) => resolve_on_thread(address.to_owned()).await,
    }
}

async fn resolve_on_thread(address: String) -> io::Result<Vec<SocketAddr>> {
    // The result, and the waker of the caller.
    let shared = Arc::new(Lock::new((None, None::<Waker>)));
    let on_thread = shared.clone();
    start_thread("resolver", move || {
        let addresses = look_up(&address);
        let waker = on_thread.with(|(result, waker)| {
            *result = Some(addresses);
            waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    })?;
    poll_fn(|cx| {
        shared.with(|(result, waker)| {
            if let Some(addresses) = result.take() {
                return Poll::Ready(addresses);
            }
            *waker = Some(cx.waker().clone());
            Poll::Pending
        })
    })
    .await
}

/// Resolves `address` by the system's resolver (getaddrinfo(3)). Blocks until it answers.
fn look_up(address: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}
