//! The handshake alone, for a socket with TLS.

use core::task::Context;

use bytes::Bytes;
use wirestate_core::{Event, Fault, Instant, Interest, Machine, Outbound, Reason, Status};

/// The inner machine of a handshake alone: it neither reads nor writes.
#[derive(Debug, Default)]
pub struct Handshake {
    has_ended: bool,
}

/// A handshake has ended. The reason of [`Tls`](crate::Tls) says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lost in the TLS handshake")]
pub struct HandshakeLost;

impl Reason for HandshakeLost {
    fn label(&self) -> &'static str {
        "tls_handshake_lost"
    }

    fn fault(&self) -> Fault {
        Fault::Lost
    }
}

#[deny(clippy::missing_trait_methods, reason = "all of them are meant")]
impl Machine for Handshake {
    type Reason = HandshakeLost;

    fn interest(&self) -> Interest {
        let write = if self.has_ended { Outbound::Finished } else { Outbound::Idle };
        Interest { read: false, write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        &mut []
    }

    fn write_bufs<'a>(&'a self, _out: &mut [&'a [u8]]) -> usize {
        0
    }

    fn write_owned(&self, _out: &mut [Bytes], _max: usize) -> usize {
        0
    }

    fn handle(&mut self, _now: Instant, event: Event) {
        match event {
            Event::Error(..) | Event::Finished | Event::ShutDown => self.has_ended = true,
            Event::Read(_)
            | Event::Eof
            | Event::Written(_)
            | Event::Timeout { .. }
            | Event::Release => {}
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_shared(&mut self, _now: Instant, _cx: &mut Context<'_>) -> bool {
        false
    }

    fn work(&self) -> u64 {
        0
    }

    fn status(&self) -> Status {
        Status::default()
    }

    fn reason(&self) -> Option<HandshakeLost> {
        self.has_ended.then_some(HandshakeLost)
    }
}
