//! SIGINT and SIGTERM of clients that report: the first one ends the command, the second one ends
//! the process.

use core::{
    ffi::c_int,
    future::poll_fn,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    task::{Poll, Waker},
    time::Duration,
};
use std::{
    future::Future,
    io::{self, Read},
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::Arc,
    thread,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    low_level::{emulate_default_handler, pipe},
};
use wirestate_core::shared::{Lock, Shared};

use crate::{CommandError, standard_error::STANDARD_ERROR};

/// Help on signals, for clients that report: each signal, and what happens.
pub(super) const HELP: [(&str, &str); 1] = [(
    "SIGINT, SIGTERM",
    "The client ends, and reports what was done so far. Then the process ends by that signal: its \
     exit status in a shell is 130 or 143. A second signal ends the process at once",
)];

/// Handles SIGINT and SIGTERM from now on. The returned future returns the first one. The second
/// one ends the process, even if the runtime is stuck.
///
/// Signals within 100 ms count as one: timeout(1) sends its signal twice. A thread waits for the
/// first one.
pub(super) fn interrupted() -> Result<impl Future<Output = c_int>, CommandError> {
    let ends_process = Arc::new(AtomicBool::new(false));
    let signal = Arc::new(AtomicUsize::new(0));
    let waker = Shared::new(Lock::new(None::<Waker>));
    let mut receiver = register(&ends_process, &signal).map_err(CommandError::Signals)?;
    let shared_waker = waker.clone();
    let wait = move || {
        if receiver.read_exact(&mut [0]).is_ok() {
            if let Some(waker) = shared_waker.with(Option::take) {
                waker.wake();
            }
            thread::sleep(SAME_SIGNAL);
            ends_process.store(true, SeqCst);
        }
    };
    let thread = thread::Builder::new().name("signals".into());
    thread.spawn(wait).map_err(CommandError::Signals)?;
    Ok(poll_fn(move |cx| {
        waker.with(|waker| *waker = Some(cx.waker().clone()));
        match signal.load(SeqCst) {
            0 => Poll::Pending,
            signal => Poll::Ready(signal.try_into().unwrap_or(SIGTERM)),
        }
    }))
}

/// Handles both signals: they set `signal` and send a byte to the returned socket. Once
/// `ends_process` is set, they end the process.
fn register(ends_process: &Arc<AtomicBool>, signal: &Arc<AtomicUsize>) -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    for number in [SIGINT, SIGTERM] {
        flag::register_conditional_default(number, ends_process.clone())?;
        flag::register_usize(number, signal.clone(), number.unsigned_abs() as usize)?;
        pipe::register(number, sender.try_clone()?)?;
    }
    Ok(receiver)
}

/// Ends the process by `signal`, so that a shell sees what has happened. Lines for standard error
/// are written first.
pub(super) fn end_process(signal: c_int) -> ExitCode {
    STANDARD_ERROR.flush();
    // Does not return for these signals.
    let _ = emulate_default_handler(signal);
    ExitCode::FAILURE
}

/// A signal within this time after the first one is not a second signal.
const SAME_SIGNAL: Duration = Duration::from_millis(100);
