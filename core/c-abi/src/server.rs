//! Servers, and the machines of their connections.

use std::ffi::c_char;

use wirestate_core::{
    Erased, Instant, Reason, echo, fanout,
    message::{self, Client},
};

use crate::{
    config::{Config, with_config},
    machine::{Driven, Machine, instant},
    message::{Messages, Requests},
    pointer,
    result::{ResultCode, guard, numbered},
    wakes::Wakes,
};

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ServerKind {
    /// Sends back every byte that it receives, in order, also after the peer's FIN.
    Echo = 0,
    /// Answers requests: messages with a JSON header. Your program gives the replies.
    Message = 1,
    /// Sends the messages of one upstream to all subscribers.
    Fanout = 2,
}

numbered!(ServerKind: Echo, Message, Fanout);

/// What the connections of one server share: settings, buffers, budgets, the log of a fan-out.
///
/// Any thread may use it at any time.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Echo(echo::Server),
    Message(message::Server<Requests>),
    Fanout(fanout::Feed),
}

impl Server {
    fn new(kind: u32, config: &Config) -> Result<Self, String> {
        let text = |error: wirestate_core::ConfigError| error.to_string();
        let kind = match ServerKind::of(kind) {
            Some(ServerKind::Echo) => Kind::Echo(echo::Server::new(config.echo()?).map_err(text)?),
            Some(ServerKind::Message) => Kind::Message(
                message::Server::new(config.message()?, Requests::default()).map_err(text)?,
            ),
            Some(ServerKind::Fanout) => {
                Kind::Fanout(fanout::Feed::new(config.fanout()?).map_err(text)?)
            }
            None => return Err(format!("the kind {kind} of server is unknown")),
        };
        Ok(Self { kind })
    }

    fn accept(&self, wakes: &Wakes, token: u64, now: Instant) -> Machine {
        let (driven, messages) = match &self.kind {
            Kind::Echo(server) => (erase(server.machine(now)), Messages::None),
            Kind::Message(server) => {
                let mut connection = server.machine(now);
                let requests = connection.service_mut().clone_handle();
                (erase(connection), Messages::Requests(requests))
            }
            Kind::Fanout(feed) => (erase(fanout::Subscriber::new(feed, now)), Messages::None),
        };
        Machine::new(driven, messages, wakes.register(token), now)
    }
}

fn erase<M>(machine: M) -> Driven
where
    M: wirestate_core::Machine<Reason: Reason> + Send + 'static,
{
    Box::new(Erased(machine))
}

/// Makes a server of a `wirestate_server_kind`. `config` may be NULL, for the defaults.
///
/// `WIRESTATE_RESULT_CONFIG`: a setting cannot work. Up to `error_size` bytes of `error`, which may
/// be NULL, say which, terminated by NUL.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_server_new(
    kind: u32,
    config: *const Config,
    server: *mut *mut Server,
    error: *mut c_char,
    error_size: usize,
) -> ResultCode {
    ResultCode::of(guard(|| {
        let new = |config: &Config| Server::new(kind, config);
        // SAFETY: the caller's pointers are valid.
        let new = unsafe { with_config(config, error, error_size, new) }?;
        // SAFETY: the caller's pointer is valid.
        unsafe { pointer::store_new(server, new) }
    }))
}

/// Makes the machine of a connection that was accepted at `now`. For a fan-out it is a subscriber.
/// Free it before or after the server. Drive it at once.
///
/// `token` is what `wirestate_wakes_next` returns when the machine is woken.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_server_accept(
    server: *const Server,
    wakes: *const Wakes,
    token: u64,
    now: u64,
    machine: *mut *mut Machine,
) -> ResultCode {
    ResultCode::of(guard(|| {
        // SAFETY: the caller's pointer is valid.
        let server = unsafe { pointer::shared(server) }?;
        // SAFETY: the caller's pointer is valid.
        let wakes = unsafe { pointer::shared(wakes) }?;
        let new = server.accept(wakes, token, instant(now));
        // SAFETY: the caller's pointer is valid.
        unsafe { pointer::store_new(machine, new) }
    }))
}

/// Makes the machine of a connection that was made to the upstream of a fan-out server at `now`. It
/// receives messages for all subscribers.
///
/// To publish messages of your own, pass them to it with `wirestate_machine_receive`. One upstream
/// at a time: the messages of two would mix.
///
/// `WIRESTATE_RESULT_KIND`: the server is no fan-out server.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_upstream_new(
    server: *const Server,
    wakes: *const Wakes,
    token: u64,
    now: u64,
    machine: *mut *mut Machine,
) -> ResultCode {
    ResultCode::of(guard(|| {
        // SAFETY: the caller's pointer is valid.
        let server = unsafe { pointer::shared(server) }?;
        // SAFETY: the caller's pointer is valid.
        let wakes = unsafe { pointer::shared(wakes) }?;
        let Kind::Fanout(feed) = &server.kind else { return Err(ResultCode::Kind) };
        let now = instant(now);
        let upstream = erase(fanout::Upstream::new(feed, now));
        let new = Machine::new(upstream, Messages::None, wakes.register(token), now);
        // SAFETY: the caller's pointer is valid.
        unsafe { pointer::store_new(machine, new) }
    }))
}

/// Makes the machine of a connection that was made to a message server at `now`. `config` may be
/// NULL, for the defaults. `error`: as in `wirestate_server_new`.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_client_new(
    config: *const Config,
    wakes: *const Wakes,
    token: u64,
    now: u64,
    machine: *mut *mut Machine,
    error: *mut c_char,
    error_size: usize,
) -> ResultCode {
    ResultCode::of(guard(|| {
        // SAFETY: the caller's pointer is valid.
        let wakes = unsafe { pointer::shared(wakes) }?;
        let new = |config: &Config| {
            let config = config.client()?;
            let limit = config.max_in_flight.get();
            let new = Client::with_handle(config).map_err(|error| error.to_string())?;
            Ok((new, limit))
        };
        // SAFETY: the caller's pointers are valid.
        let ((client, handle), limit) = unsafe { with_config(config, error, error_size, new) }?;
        let messages = Messages::client(handle, limit);
        let new = Machine::new(erase(client), messages, wakes.register(token), instant(now));
        // SAFETY: the caller's pointer is valid.
        unsafe { pointer::store_new(machine, new) }
    }))
}

/// Frees a server. Its machines go on; a fan-out goes on while its machines exist. NULL is ignored.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_server_free(server: *mut Server) {
    let _ = guard(|| {
        // SAFETY: the caller gives the pointer back.
        drop(unsafe { pointer::take(server) });
        Ok(())
    });
}
