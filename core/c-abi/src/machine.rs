//! Drives a machine: what it wants, what has happened, and why it ended.

use std::{
    ffi::c_char,
    fmt::Debug,
    io, mem, ptr,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use wirestate_core::{
    AnyReason, ConnectionError, Direction, Event as CoreEvent, Instant, Interest,
    Machine as CoreMachine, Outbound, Reason, Status,
    drive::{self, IoError, MAX_SLICES},
};

use crate::{
    config::NEVER,
    message::Messages,
    pointer::{self, Slice},
    result::{ResultCode, guard, numbered},
    wakes::Wakeable,
};

/// The machine has room for input: read from the socket.
pub const WANT_READ: u32 = 1;
/// The machine has output: write it.
pub const WANT_WRITE: u32 = 2;
/// All output was written: send a FIN (`shutdown(fd, SHUT_WR)`).
pub const WANT_FINISH: u32 = 4;
/// Report `WIRESTATE_EVENT_FINISHED`: the machine ends, and `wirestate_machine_must_reset` returns
/// true. So the close of the socket sends an RST.
pub const WANT_RESET: u32 = 8;
/// The machine has ended: close the socket, and free the machine.
pub const ENDED: u32 = 16;

/// Something that has happened to a connection, for `wirestate_machine_handle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// The value is the number of bytes that were received at the start of the read buffer: at
    /// least 1. Legal directly after `wirestate_machine_read_buf`.
    Read = 0,
    /// The peer has sent a FIN: a read has returned 0. Legal while the machine wants to read.
    Eof = 1,
    /// The value is the number of bytes that the socket has accepted from the start of the output:
    /// at least 1. Legal directly after `wirestate_machine_write_bufs`.
    Written = 2,
    /// The FIN or the RST was sent. Legal while the machine wants that.
    Finished = 3,
    /// A read has failed; the value is `errno`, but neither `EAGAIN` nor `EINTR`. Legal while the
    /// machine wants to read.
    ReadError = 4,
    /// A write or a FIN has failed; the value is `errno`, but neither `EAGAIN` nor `EINTR`. Legal
    /// once, until the FIN was sent, except while the machine wants a reset.
    WriteError = 5,
    /// The deadline of the machine has passed. The value is the number of bytes written that the
    /// peer has not acknowledged (`SIOCOUTQ` on Linux), or 0 if you do not know it: a write
    /// deadline then counts what the socket accepts as progress. Always legal; without effect
    /// before the deadline. Try to read first: input that arrived in time comes before a deadline.
    Timeout = 6,
    /// Ends the connection gracefully: pending output is sent, then a FIN. Always legal. To abort,
    /// free the machine.
    ShutDown = 7,
    /// The loop is about to wait, and a read would block: the machine returns an empty buffer to
    /// its server. Always legal; changes nothing else.
    Release = 8,
}

numbered!(
    Event: Read, Eof, Written, Finished, ReadError, WriteError, Timeout, ShutDown, Release
);

/// Whose fault an end was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FaultKind {
    /// The machine has no reason yet.
    Open = 0,
    /// Nobody's: a clean end.
    None = 1,
    /// The peer broke the protocol.
    Peer = 2,
    /// The peer hit a limit.
    Limit = 3,
    /// A deadline passed.
    Time = 4,
    /// The end was requested.
    Requested = 5,
    /// The connection was lost.
    Lost = 6,
    /// A bug of Wirestate.
    Bug = 7,
}

/// A machine of any kind.
pub(crate) type Driven = Box<dyn CoreMachine<Reason = AnyReason> + Send>;

/// One side of one connection, without the socket.
///
/// One thread at a time may use it. It may move to another thread; its wake-ups then stay in the
/// queue with which it was made.
pub struct Machine {
    driven: Driven,
    messages: Messages,
    wakeable: Arc<Wakeable>,
    waker: Waker,
    offer: Offer,
    /// The error of a failed read or write.
    failed: Option<ConnectionError>,
    /// Whether the FIN or RST was sent, or a write has failed.
    sends_no_more: bool,
    /// Whether the machine has ended by a reset.
    has_reset: bool,
    now: Instant,
}

impl Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

/// What the last call has offered. The next call ends it.
#[derive(Clone, Copy)]
pub(crate) enum Offer {
    None,
    Read(usize),
    Written(usize),
}

impl Machine {
    pub(crate) fn new(
        driven: Driven,
        messages: Messages,
        wakeable: Arc<Wakeable>,
        now: Instant,
    ) -> Self {
        Self {
            driven,
            messages,
            waker: wakeable.clone().into(),
            wakeable,
            offer: Offer::None,
            failed: None,
            sends_no_more: false,
            has_reset: false,
            now,
        }
    }

    pub(crate) fn messages_mut(&mut self) -> &mut Messages {
        &mut self.messages
    }

    fn wants(&self) -> u32 {
        let Interest { read, write } = self.driven.interest();
        let write = match write {
            Outbound::Flush => WANT_WRITE,
            Outbound::Finish if self.failed.is_none() => WANT_FINISH,
            // On a failed connection, a FIN would tell the peer that the output is complete.
            Outbound::Finish | Outbound::Reset => WANT_RESET,
            Outbound::Finished if !read => ENDED,
            Outbound::Idle | Outbound::Finished => 0,
        };
        if read { write | WANT_READ } else { write }
    }

    fn handle(&mut self, offer: Offer, event: u32, value: u64) -> Result<(), ResultCode> {
        let event = self.legal(offer, event, value)?;
        match event {
            CoreEvent::Error(direction, error) => {
                self.failed = Some(error);
                self.sends_no_more |= direction == Direction::Write;
            }
            CoreEvent::Finished => {
                self.sends_no_more = true;
                self.has_reset = self.wants() & WANT_RESET != 0;
            }
            CoreEvent::Read(_)
            | CoreEvent::Eof
            | CoreEvent::Written(_)
            | CoreEvent::Timeout { .. }
            | CoreEvent::ShutDown
            | CoreEvent::Release => {}
        }
        self.driven.handle(self.now, event);
        Ok(())
    }

    /// The event, if the table of [`wirestate_core::machine`] allows it.
    fn legal(&self, offer: Offer, event: u32, value: u64) -> Result<CoreEvent, ResultCode> {
        let interest = self.driven.interest();
        let only_if = |legal: bool, event| if legal { Ok(event) } else { Err(ResultCode::State) };
        let within = |offered| match usize::try_from(value) {
            Ok(n) if (1..=offered).contains(&n) => Ok(n),
            Ok(_) | Err(_) => Err(ResultCode::Length),
        };
        match Event::of(event).ok_or(ResultCode::Value)? {
            Event::Read => match offer {
                Offer::Read(offered) if interest.read => Ok(CoreEvent::Read(within(offered)?)),
                Offer::None | Offer::Read(_) | Offer::Written(_) => Err(ResultCode::State),
            },
            Event::Written => match offer {
                Offer::Written(offered) if interest.write == Outbound::Flush => {
                    Ok(CoreEvent::Written(within(offered)?))
                }
                Offer::None | Offer::Read(_) | Offer::Written(_) => Err(ResultCode::State),
            },
            Event::Eof => {
                // The kernel reports a reset only once: after a failed write, the end is no FIN.
                let failed = |error| CoreEvent::Error(Direction::Read, error);
                only_if(interest.read, self.failed.map_or(CoreEvent::Eof, failed))
            }
            Event::Finished => {
                let wanted = matches!(interest.write, Outbound::Finish | Outbound::Reset);
                only_if(wanted, CoreEvent::Finished)
            }
            Event::ReadError => {
                only_if(interest.read, CoreEvent::Error(Direction::Read, error(value)?))
            }
            Event::WriteError => {
                let open = !self.sends_no_more && !interest.is_done();
                let legal = open && interest.write != Outbound::Reset;
                only_if(legal, CoreEvent::Error(Direction::Write, error(value)?))
            }
            Event::Timeout => {
                let unacknowledged = usize::try_from(value).unwrap_or(usize::MAX);
                Ok(CoreEvent::Timeout { unacknowledged })
            }
            Event::ShutDown => Ok(CoreEvent::ShutDown),
            Event::Release => Ok(CoreEvent::Release),
        }
    }

    fn poll_shared(&mut self) -> bool {
        self.driven.poll_shared(self.now, &mut Context::from_waker(&self.waker))
    }

    fn must_reset(&self) -> bool {
        let pending = self.wants() & (WANT_WRITE | WANT_RESET) != 0;
        pending || self.failed.is_some() || self.has_reset
    }

    /// Puts another machine around this one.
    #[cfg(feature = "tls")]
    pub(crate) fn wrap(
        &mut self,
        f: impl FnOnce(Driven, Instant) -> Driven,
    ) -> Result<(), ResultCode> {
        if self.sends_no_more || self.failed.is_some() || self.wants() & ENDED != 0 {
            return Err(ResultCode::State);
        }
        let inner = mem::replace(&mut self.driven, Box::new(Panicked { has_reset: false }));
        self.driven = f(inner, self.now);
        Ok(())
    }

    /// Replaces the machine, which has panicked.
    fn replace_panicked(&mut self) {
        let panicked = mem::replace(&mut self.driven, Box::new(Panicked { has_reset: false }));
        let messages = mem::replace(&mut self.messages, Messages::None);
        let _ = guard(|| {
            drop((panicked, messages));
            Ok(())
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.wakeable.free();
    }
}

/// Takes the place of a machine that has panicked: it wants a reset.
#[derive(Debug)]
struct Panicked {
    has_reset: bool,
}

/// A call of the machine has panicked.
#[derive(Clone, Debug)]
struct PanicReason;

impl std::fmt::Display for PanicReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the machine has panicked")
    }
}

impl Reason for PanicReason {
    fn label(&self) -> &'static str {
        "panicked"
    }

    fn fault(&self) -> wirestate_core::Fault {
        wirestate_core::Fault::Bug
    }
}

impl CoreMachine for Panicked {
    type Reason = AnyReason;

    fn interest(&self) -> Interest {
        let reset = Interest { read: false, write: Outbound::Reset };
        if self.has_reset { Interest::DONE } else { reset }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        &mut []
    }

    fn write_bufs<'a>(&'a self, _: &mut [&'a [u8]]) -> usize {
        0
    }

    fn handle(&mut self, _: Instant, event: CoreEvent) {
        self.has_reset |= event == CoreEvent::Finished;
    }

    fn status(&self) -> Status {
        Status { state: "panicked", ..Status::default() }
    }

    fn reason(&self) -> Option<AnyReason> {
        Some(AnyReason::of(&PanicReason))
    }
}

/// The time `nanos` nanoseconds after the epoch of the loop.
pub(crate) fn instant(nanos: u64) -> Instant {
    Instant::from_epoch(Duration::from_nanos(nanos))
}

/// The error of a socket, by its number. `EAGAIN` and `EINTR` are none.
fn error(errno: u64) -> Result<ConnectionError, ResultCode> {
    let errno = i32::try_from(errno).map_err(|_| ResultCode::Value)?;
    let error = io::Error::from_raw_os_error(errno);
    if error.kind() == io::ErrorKind::WouldBlock {
        return Err(ResultCode::Value);
    }
    match IoError::from(error) {
        IoError::Connection(error) => Ok(error),
        IoError::Interrupted => Err(ResultCode::Value),
    }
}

/// Calls `f` with the machine. If it panics, the machine is replaced by one that wants a reset.
/// What the last call has offered is passed to `f`, and ends.
///
/// # Safety
/// See [the rules](crate#safety).
unsafe fn with_offer<T>(
    machine: *mut Machine,
    f: impl FnOnce(&mut Machine, Offer) -> T,
) -> Result<T, ResultCode> {
    // SAFETY: the caller's pointer is valid.
    let machine = unsafe { pointer::exclusive(machine) }?;
    let offer = mem::replace(&mut machine.offer, Offer::None);
    let result = guard(|| Ok(f(machine, offer)));
    if result.is_err() {
        machine.replace_panicked();
    }
    result
}

/// As [`with_offer`], for calls that have no use for the offer.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn with<T>(
    machine: *mut Machine,
    f: impl FnOnce(&mut Machine) -> T,
) -> Result<T, ResultCode> {
    // SAFETY: the caller's pointer is valid.
    unsafe { with_offer(machine, |machine, _| f(machine)) }
}

/// As [`with`], for a call at the time `now`.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn at<T>(
    machine: *mut Machine,
    now: u64,
    f: impl FnOnce(&mut Machine, Offer) -> T,
) -> Result<T, ResultCode> {
    let call = |machine: &mut Machine, offer| {
        machine.now = machine.now.max(instant(now));
        f(machine, offer)
    };
    // SAFETY: the caller's pointer is valid.
    unsafe { with_offer(machine, call) }
}

/// What the machine wants now: a set of `WIRESTATE_WANT_READ` and so on, or `WIRESTATE_ENDED`. 0:
/// nothing until it is woken or its deadline passes.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_wants(machine: *mut Machine) -> u32 {
    // SAFETY: the caller's pointer is valid.
    match unsafe { with(machine, |machine| machine.wants()) } {
        Ok(wants) => wants,
        Err(ResultCode::Null) => ENDED,
        Err(_) => WANT_RESET,
    }
}

/// Returns the buffer to receive into, at least one byte, and stores its length. NULL if the
/// machine does not want to read.
///
/// It is valid until the next call with this machine, which is
/// `wirestate_machine_handle(..., WIRESTATE_EVENT_READ, n)` if bytes have arrived.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_read_buf(
    machine: *mut Machine,
    len: *mut usize,
) -> *mut u8 {
    let call = |machine: &mut Machine| {
        if !machine.driven.interest().read {
            return (ptr::null_mut(), 0);
        }
        let buffer = machine.driven.read_buf();
        let (data, len) = (buffer.as_mut_ptr(), buffer.len());
        machine.offer = Offer::Read(len);
        (data, len)
    };
    // SAFETY: the caller's pointer is valid.
    let (data, offered) = unsafe { with(machine, call) }.unwrap_or((ptr::null_mut(), 0));
    // SAFETY: the caller's pointer is valid.
    match unsafe { pointer::store(len, offered) } {
        Ok(()) => data,
        Err(_) => ptr::null_mut(),
    }
}

/// Stores the next output as up to `max` slices, in order, and returns their number. 0 if the
/// machine has no output. More than 64 slices are never stored.
///
/// They are valid until the next call with this machine, which is
/// `wirestate_machine_handle(..., WIRESTATE_EVENT_WRITTEN, n)` if the socket has accepted bytes.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_write_bufs(
    machine: *mut Machine,
    slices: *mut Slice,
    max: usize,
) -> usize {
    let max = if slices.is_null() { 0 } else { max.min(MAX_SLICES) };
    let call = |machine: &mut Machine| {
        if machine.driven.interest().write != Outbound::Flush || max == 0 {
            return 0;
        }
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = machine.driven.write_bufs(&mut bufs[..max]);
        for (index, buf) in bufs[..count].iter().enumerate() {
            // SAFETY: the caller's array has `max` elements.
            let slice = unsafe { slices.add(index) };
            // SAFETY: the caller's array is writable.
            unsafe { slice.write((*buf).into()) };
        }
        machine.offer = Offer::Written(bufs[..count].iter().map(|buf| buf.len()).sum());
        count
    };
    // SAFETY: the caller's pointer is valid.
    unsafe { with(machine, call) }.unwrap_or(0)
}

/// Reports a `wirestate_event` with its value; 0 where it has none. It may change what every other
/// function returns.
///
/// `now` is the time in nanoseconds since an epoch of your choice, of a clock that does not go
/// backwards (`CLOCK_MONOTONIC`): the same for all machines that share a server.
///
/// - `WIRESTATE_RESULT_STATE`, `WIRESTATE_RESULT_LENGTH`, `WIRESTATE_RESULT_VALUE`: the event is
///   illegal. The machine has not seen it. It is a bug of your loop.
/// - `WIRESTATE_RESULT_PANIC`: the machine wants a reset.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_handle(
    machine: *mut Machine,
    now: u64,
    event: u32,
    value: u64,
) -> ResultCode {
    let call = |machine: &mut Machine, offer| machine.handle(offer, event, value);
    // SAFETY: the caller's pointer is valid.
    ResultCode::of(unsafe { at(machine, now, call) }.and_then(|result| result))
}

/// Lets the machine read what it shares with others: a fan-out's log, replies to requests. Returns
/// true if that changed the machine. Call it at the start of every turn, and wait only after it has
/// returned false: from then on the machine's token enters the queue of wake-ups.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_poll_shared(machine: *mut Machine, now: u64) -> bool {
    // SAFETY: the caller's pointer is valid.
    match unsafe { at(machine, now, |machine, _| machine.poll_shared()) } {
        Ok(changed) => changed,
        Err(code) => code == ResultCode::Panic,
    }
}

/// The machine's deadline, on the clock of `now`: report `WIRESTATE_EVENT_TIMEOUT` then.
/// `WIRESTATE_NEVER`: it has none. Every other call may change it.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_deadline(machine: *mut Machine) -> u64 {
    // SAFETY: the caller's pointer is valid.
    let deadline = unsafe { with(machine, |machine| machine.driven.poll_timeout()) };
    deadline
        .ok()
        .flatten()
        .map_or(NEVER, |deadline| u64::try_from(deadline.since_epoch().as_nanos()).unwrap_or(NEVER))
}

/// Copies received bytes into the machine, instead of `wirestate_machine_read_buf` and
/// `WIRESTATE_EVENT_READ`. Returns how many bytes it has accepted: fewer than `len` if the machine
/// wants to read no more for now. Keep the rest, and read no more from the socket: pass it once the
/// machine wants to read again.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_receive(
    machine: *mut Machine,
    now: u64,
    data: *const u8,
    len: usize,
) -> usize {
    // SAFETY: the caller's pointer is valid.
    let Ok(mut input) = (unsafe { pointer::bytes(data, len) }) else { return 0 };
    let call = |machine: &mut Machine, _| {
        drive::deliver(&mut machine.driven, &mut input, machine.now);
        len - input.len()
    };
    // SAFETY: the caller's pointer is valid.
    unsafe { at(machine, now, call) }.unwrap_or(0)
}

/// Copies output to your buffer, instead of `wirestate_machine_write_bufs` and
/// `WIRESTATE_EVENT_WRITTEN`. Returns the number of bytes: fewer than `len` if the machine has no
/// more for now. They count as written: you must send them, in order, before a FIN.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_collect(
    machine: *mut Machine,
    now: u64,
    buffer: *mut u8,
    len: usize,
) -> usize {
    // SAFETY: the caller's pointer is valid.
    let Ok(output) = (unsafe { pointer::bytes_mut(buffer, len) }) else { return 0 };
    let call =
        |machine: &mut Machine, _| drive::collect_into(&mut machine.driven, output, machine.now);
    // SAFETY: the caller's pointer is valid.
    unsafe { at(machine, now, call) }.unwrap_or(0)
}

/// Whether the socket must be closed by an RST (set `SO_LINGER` to 0, then close it): output is
/// pending, the machine wants or wanted a reset, or a read or write has failed. A FIN would tell
/// the peer that the output is complete. Ask before you close a socket, at any time.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_must_reset(machine: *mut Machine) -> bool {
    // SAFETY: the caller's pointer is valid.
    match unsafe { with(machine, |machine| machine.must_reset()) } {
        Ok(must_reset) => must_reset,
        Err(code) => code == ResultCode::Panic,
    }
}

/// Copies the name of the machine's state to `buffer`, terminated by NUL, as far as it fits into
/// `size` bytes. Returns the length of the whole text, as `snprintf(3)` does.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_state(
    machine: *mut Machine,
    buffer: *mut c_char,
    size: usize,
) -> usize {
    // SAFETY: the caller's pointer is valid.
    let status = unsafe { with(machine, |machine| machine.driven.status()) }.unwrap_or_default();
    // SAFETY: the caller's pointer is valid.
    unsafe { pointer::store_text(status.state, buffer, size) }
}

/// Bytes of pending output.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_queued(machine: *mut Machine) -> usize {
    // SAFETY: the caller's pointer is valid.
    unsafe { with(machine, |machine| machine.driven.status().queued) }.unwrap_or(0)
}

/// How many messages a subscriber lags behind; 0 for other machines.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_lag(machine: *mut Machine) -> u64 {
    // SAFETY: the caller's pointer is valid.
    unsafe { with(machine, |machine| machine.driven.status().lag) }.unwrap_or(0)
}

/// Copies why the machine ended, a sentence with limits and figures, as `wirestate_machine_state`
/// does. Empty while there is no reason. A reason never changes.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_reason(
    machine: *mut Machine,
    buffer: *mut c_char,
    size: usize,
) -> usize {
    // SAFETY: the caller's pointer is valid.
    let reason = unsafe { reason(machine) };
    let text = reason.map(|reason| reason.to_string()).unwrap_or_default();
    // SAFETY: the caller's pointer is valid.
    unsafe { pointer::store_text(&text, buffer, size) }
}

/// Copies the short name of the reason, without figures, for a metric, as
/// `wirestate_machine_reason` does.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_label(
    machine: *mut Machine,
    buffer: *mut c_char,
    size: usize,
) -> usize {
    // SAFETY: the caller's pointer is valid.
    let label = unsafe { reason(machine) }.map_or("", |reason| reason.label());
    // SAFETY: the caller's pointer is valid.
    unsafe { pointer::store_text(label, buffer, size) }
}

/// Whose fault the end was.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_fault(machine: *mut Machine) -> FaultKind {
    use wirestate_core::Fault;
    // SAFETY: the caller's pointer is valid.
    match unsafe { reason(machine) }.map(|reason| reason.fault()) {
        None => FaultKind::Open,
        Some(Fault::None) => FaultKind::None,
        Some(Fault::Peer) => FaultKind::Peer,
        Some(Fault::Limit) => FaultKind::Limit,
        Some(Fault::Time) => FaultKind::Time,
        Some(Fault::Requested) => FaultKind::Requested,
        Some(Fault::Lost) => FaultKind::Lost,
        Some(Fault::Bug) => FaultKind::Bug,
    }
}

/// Frees the machine, in any state. Its requests that you hold stay valid. Its token does not enter
/// the queue of wake-ups any more, and leaves it. NULL is ignored.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_free(machine: *mut Machine) {
    let _ = guard(|| {
        // SAFETY: the caller gives the pointer back.
        drop(unsafe { pointer::take(machine) });
        Ok(())
    });
}

/// Why the machine ended.
///
/// # Safety
/// See [the rules](crate#safety).
unsafe fn reason(machine: *mut Machine) -> Option<AnyReason> {
    // SAFETY: the caller's pointer is valid.
    unsafe { with(machine, |machine| machine.driven.reason()) }.ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::wakes::Wakes;

    /// Always wants the same. Records its events, or panics at them and when it is dropped.
    struct Probe {
        interest: Interest,
        events: Option<Arc<Mutex<Vec<CoreEvent>>>>,
        buffer: [u8; 8],
    }

    impl CoreMachine for Probe {
        type Reason = AnyReason;

        fn interest(&self) -> Interest {
            self.interest
        }

        fn read_buf(&mut self) -> &mut [u8] {
            &mut self.buffer
        }

        fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
            out[0] = &self.buffer;
            1
        }

        fn handle(&mut self, _: Instant, event: CoreEvent) {
            let events = self.events.as_ref().expect("planted");
            events.lock().unwrap().push(event);
        }

        fn reason(&self) -> Option<AnyReason> {
            None
        }
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            assert!(self.events.is_some(), "planted");
        }
    }

    fn machine(write: Outbound, events: Option<Arc<Mutex<Vec<CoreEvent>>>>) -> *mut Machine {
        let interest = Interest { read: true, write };
        let driven = Box::new(Probe { interest, events, buffer: [0; 8] });
        let wakeable = Wakes::default().register(1);
        let machine = Machine::new(driven, Messages::None, wakeable, Instant::EPOCH);
        Box::into_raw(Box::new(machine))
    }

    fn handle(machine: *mut Machine, event: Event, value: u64) -> ResultCode {
        // SAFETY: the pointer is valid.
        unsafe { wirestate_machine_handle(machine, 0, event as u32, value) }
    }

    fn wants(machine: *mut Machine) -> u32 {
        // SAFETY: the pointer is valid.
        unsafe { wirestate_machine_wants(machine) }
    }

    #[test]
    fn a_panic_ends_the_machine_with_a_reset_and_nothing_else() {
        let machine = machine(Outbound::Idle, None);
        let mut len = 0;
        // SAFETY: the pointers are valid.
        unsafe { wirestate_machine_read_buf(machine, &raw mut len) };
        assert_eq!(handle(machine, Event::Read, 1), ResultCode::Panic);
        assert_eq!(wants(machine), WANT_RESET);
        assert_eq!(handle(machine, Event::Eof, 0), ResultCode::State);
        assert_eq!(handle(machine, Event::Finished, 0), ResultCode::Ok);
        assert_eq!(wants(machine), ENDED);
        // SAFETY: the pointer is valid.
        assert!(unsafe { wirestate_machine_must_reset(machine) });
        // SAFETY: the pointer is valid.
        assert_eq!(unsafe { wirestate_machine_fault(machine) }, FaultKind::Bug);
        // SAFETY: it is not used again.
        unsafe { wirestate_machine_free(machine) };
    }

    #[test]
    fn after_a_failed_call_there_is_no_fin_in_either_direction() {
        let events = Arc::new(Mutex::new(Vec::new()));
        let machine = machine(Outbound::Finish, Some(events.clone()));
        assert_eq!(wants(machine), WANT_READ | WANT_FINISH);
        assert_eq!(handle(machine, Event::WriteError, 5), ResultCode::Ok);
        assert_eq!(handle(machine, Event::WriteError, 5), ResultCode::State, "once");
        assert_eq!(wants(machine), WANT_READ | WANT_RESET);
        assert_eq!(handle(machine, Event::Eof, 0), ResultCode::Ok);
        let error = ConnectionError::Other { errno: 5 };
        let failed = [Direction::Write, Direction::Read].map(|it| CoreEvent::Error(it, error));
        assert_eq!(*events.lock().unwrap(), failed);
        // SAFETY: it is not used again.
        unsafe { wirestate_machine_free(machine) };
    }

    #[test]
    fn time_does_not_go_backwards() {
        let machine = machine(Outbound::Idle, Some(Arc::default()));
        for now in [7, 3] {
            // SAFETY: the pointer is valid.
            unsafe { wirestate_machine_poll_shared(machine, now) };
            // SAFETY: the pointer is valid, and nothing else uses the machine.
            assert_eq!(unsafe { &*machine }.now, instant(7));
        }
        // SAFETY: it is not used again.
        unsafe { wirestate_machine_free(machine) };
    }
}
