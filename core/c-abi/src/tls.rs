//! TLS around a machine (feature `tls`).

use std::ffi::c_char;

use wirestate_core::{Erased, Instant};
use wirestate_tls::{
    Authorities, Client, Clients, Config, Identity, Server, client_config,
    rustls::pki_types::ServerName, server_config,
};

use crate::{
    config::refuse,
    machine::{Driven, Machine, at},
    pointer::{self, Slice},
    result::{ResultCode, guard},
};

/// TLS 1.2 and 1.3 of a server or a client: certificates, and what connections share.
///
/// Only in a library with the feature `tls`. Any thread may use it at any time.
#[derive(Debug)]
pub struct Tls {
    side: Side,
}

#[derive(Debug)]
enum Side {
    Server(Server),
    Client(Client),
}

impl Tls {
    fn server(chain: &[u8], key: &[u8], clients: &[u8]) -> Result<Self, String> {
        let identity = Identity::from_pem(chain, key).map_err(|error| error.to_string())?;
        let clients = match clients {
            [] => Clients::Anonymous,
            pem => Clients::MustAuthenticate(
                Authorities::from_pem(pem).map_err(|error| error.to_string())?,
            ),
        };
        let credentials =
            server_config(vec![identity], clients, &[]).map_err(|error| error.to_string())?;
        let server = Server::new(Config::default(), credentials);
        Ok(Self { side: Side::Server(server.map_err(|error| error.to_string())?) })
    }

    fn client(authorities: &[u8], name: &[u8]) -> Result<Self, String> {
        let authorities = Authorities::from_pem(authorities).map_err(|error| error.to_string())?;
        let name = String::from_utf8_lossy(name).into_owned();
        let Ok(name) = ServerName::try_from(name.clone()) else {
            return Err(format!("{name:?} is neither a host name nor an address"));
        };
        let credentials =
            client_config(authorities, None, &[]).map_err(|error| error.to_string())?;
        let client = Client::new(Config::default(), credentials, name);
        Ok(Self { side: Side::Client(client.map_err(|error| error.to_string())?) })
    }

    fn around(&self, inner: Driven, now: Instant) -> Driven {
        match &self.side {
            Side::Server(server) => Box::new(Erased(server.machine(inner, now))),
            Side::Client(client) => Box::new(Erased(client.machine(inner, now))),
        }
    }
}

/// Makes the TLS of a server: a chain of certificates, the server's first, and its private key, in
/// PEM. If `clients` is not empty, a client must present a certificate of one of these authorities.
///
/// `WIRESTATE_RESULT_CONFIG`: they cannot be used. `error` says why, as in `wirestate_server_new`.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_tls_server_new(
    chain: Slice,
    key: Slice,
    clients: Slice,
    tls: *mut *mut Tls,
    error: *mut c_char,
    error_size: usize,
) -> ResultCode {
    ResultCode::of(guard(|| {
        // SAFETY: the caller's pointer is valid.
        let chain = unsafe { pointer::bytes(chain.data, chain.len) }?;
        // SAFETY: the caller's pointer is valid.
        let key = unsafe { pointer::bytes(key.data, key.len) }?;
        // SAFETY: the caller's pointer is valid.
        let clients = unsafe { pointer::bytes(clients.data, clients.len) }?;
        let new = Tls::server(chain, key, clients);
        // SAFETY: the caller's pointer is valid.
        let new = new.map_err(|text| unsafe { refuse(&text, error, error_size) })?;
        // SAFETY: the caller's pointer is valid.
        unsafe { pointer::store_new(tls, new) }
    }))
}

/// Makes the TLS of a client: the authorities that it trusts, in PEM, and the name that the
/// server's certificate must have, a host name or an IP address. Errors are as in
/// `wirestate_tls_server_new`.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_tls_client_new(
    authorities: Slice,
    name: Slice,
    tls: *mut *mut Tls,
    error: *mut c_char,
    error_size: usize,
) -> ResultCode {
    ResultCode::of(guard(|| {
        // SAFETY: the caller's pointer is valid.
        let authorities = unsafe { pointer::bytes(authorities.data, authorities.len) }?;
        // SAFETY: the caller's pointer is valid.
        let name = unsafe { pointer::bytes(name.data, name.len) }?;
        let new = Tls::client(authorities, name);
        // SAFETY: the caller's pointer is valid.
        let new = new.map_err(|text| unsafe { refuse(&text, error, error_size) })?;
        // SAFETY: the caller's pointer is valid.
        unsafe { pointer::store_new(tls, new) }
    }))
}

/// Puts TLS around a machine that was just made: from now on it receives and sends ciphertext. Its
/// messages stay plaintext. Call it before the first turn. `tls` may be freed afterwards.
///
/// `WIRESTATE_RESULT_STATE`: the machine has ended.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_start_tls(
    machine: *mut Machine,
    tls: *const Tls,
    now: u64,
) -> ResultCode {
    // SAFETY: the caller's pointer is valid.
    let tls = match unsafe { pointer::shared(tls) } {
        Ok(tls) => tls,
        Err(code) => return code,
    };
    let call = |machine: &mut Machine, _| machine.wrap(|inner, now| tls.around(inner, now));
    // SAFETY: the caller's pointer is valid.
    ResultCode::of(unsafe { at(machine, now, call) }.and_then(|result| result))
}

/// Frees it. Machines go on. NULL is ignored.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_tls_free(tls: *mut Tls) {
    // SAFETY: the caller gives the pointer back.
    drop(unsafe { pointer::take(tls) });
}
