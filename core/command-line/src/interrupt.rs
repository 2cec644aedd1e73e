//! SIGINT and SIGTERM of clients that report: the first one ends the command, the second one ends
//! the process.

use core::ffi::c_int;
use std::{
    future::{Future, poll_fn},
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    low_level::{emulate_default_handler, pipe},
};
use wirestate_core::drive::{Clock, Source};

use crate::{
    CommandError, CommandRuntime,
    signals::{SAME_SIGNAL, has_threads, set_on_thread},
    standard_error::STANDARD_ERROR,
};

/// Help on signals, for clients that report: each signal, and what happens.
pub(super) const HELP: [(&str, &str); 1] = [(
    "SIGINT, SIGTERM",
    "The client ends, and reports what was done so far. Then the process ends by that signal: its \
     exit status in a shell is 130 or 143; if connections have failed, it is 1. A second signal \
     ends the process at once",
)];

/// Handles SIGINT and SIGTERM from now on. The returned future returns the first one. The second
/// one ends the process.
///
/// Signals within 100 ms count as one: timeout(1) sends its signal twice. As for servers
/// ([`handle_signals`](crate::signals::handle_signals)), a process with a single thread needs no
/// second one.
pub(super) fn interrupted<R: CommandRuntime>(
    runtime: &R,
) -> Result<impl Future<Output = c_int> + use<R>, CommandError> {
    let ends_process = Arc::new(AtomicBool::new(false));
    let number = Arc::new(AtomicUsize::new(0));
    let register = || {
        let (receiver, sender) = UnixStream::pair()?;
        for signal in SIGNALS {
            flag::register_conditional_default(signal, ends_process.clone())?;
            flag::register_usize(signal, number.clone(), signal.unsigned_abs() as usize)?;
            pipe::register(signal, sender.try_clone()?)?;
        }
        if has_threads() {
            set_on_thread(&SIGNALS, ends_process.clone())?;
        }
        runtime.adopt(receiver)
    };
    let mut receiver = register().map_err(CommandError::Signals)?;
    let runtime = runtime.clone();
    Ok(async move {
        let _ = poll_fn(|cx| receiver.poll_read(cx, &mut [0])).await;
        let mut clock = runtime.clock();
        let until = clock.now() + SAME_SIGNAL;
        let set = async move {
            poll_fn(|cx| clock.poll_until(cx, until)).await;
            ends_process.store(true, SeqCst);
        };
        // Without the task, a second signal does not end the process.
        let _ = runtime.spawn(set);
        number.load(SeqCst).try_into().unwrap_or(SIGTERM)
    })
}

/// Ends the process by `signal`, so that a shell sees what has happened. Lines for standard error
/// are written first.
pub(super) fn end_process(signal: c_int) -> ExitCode {
    STANDARD_ERROR.flush();
    // Does not return for these signals.
    let _ = emulate_default_handler(signal);
    ExitCode::FAILURE
}

const SIGNALS: [c_int; 2] = [SIGINT, SIGTERM];
