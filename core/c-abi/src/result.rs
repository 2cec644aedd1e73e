//! Result codes.

use std::{
    ffi::{CStr, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// What a call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ResultCode {
    /// The call has succeeded.
    Ok = 0,
    /// A pointer that is required is NULL.
    Null = -1,
    /// The machine does not want this event in its state: see the table of events. Nothing has
    /// changed.
    State = -2,
    /// More bytes than the last read buffer or output had, or none at all. Nothing has changed.
    Length = -3,
    /// A value that cannot be: an unknown constant, or a text that is not UTF-8.
    Value = -4,
    /// A setting that cannot work. The text says which, with its limit.
    Config = -5,
    /// The object is of another kind: an upstream needs a fan-out server, a request a client.
    Kind = -6,
    /// As many requests as the limit wait for replies, or their replies were not taken.
    Busy = -7,
    /// The connection has ended, or accepts no more requests.
    Ended = -8,
    /// The buffer is too small. Nothing was written; the required size is returned.
    Buffer = -9,
    /// The header of the message would be longer than 65,535 bytes.
    Header = -10,
    /// The input is not a message. The decoder has the text.
    Malformed = -11,
    /// A bug in Wirestate: the call has panicked, and printed where to standard error. The machine
    /// now wants a reset.
    Panic = -12,
}

impl ResultCode {
    /// `result` as a code.
    pub(crate) fn of(result: Result<(), Self>) -> Self {
        result.err().unwrap_or(Self::Ok)
    }

    const fn text(code: i32) -> &'static CStr {
        match code {
            0 => c"success",
            -1 => c"a required pointer is null",
            -2 => c"the machine does not want this event in its state",
            -3 => c"more bytes than were offered, or none",
            -4 => c"an unknown constant, or a text that is not UTF-8",
            -5 => c"a setting that cannot work",
            -6 => c"an object of another kind",
            -7 => c"too many requests wait for replies",
            -8 => c"the connection has ended",
            -9 => c"the buffer is too small",
            -10 => c"the header of the message is too long",
            -11 => c"the input is not a message",
            -12 => c"a bug: the call has panicked",
            _ => c"an unknown result code",
        }
    }
}

/// Returns the text of a result code: static, in English, and terminated by NUL.
#[unsafe(no_mangle)]
pub extern "C" fn wirestate_result_text(code: i32) -> *const c_char {
    ResultCode::text(code).as_ptr()
}

/// Calls `f`. A panic becomes [`ResultCode::Panic`].
pub(crate) fn guard<T>(f: impl FnOnce() -> Result<T, ResultCode>) -> Result<T, ResultCode> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|payload| {
        // The payload's drop could panic as well.
        std::mem::forget(payload);
        Err(ResultCode::Panic)
    })
}

/// Defines `of` for an enum that C passes as a number: the constant with that number.
macro_rules! numbered {
    ($type:ident: $($constant:ident),+ $(,)?) => {
        impl $type {
            pub(crate) fn of(number: impl Into<u64>) -> Option<Self> {
                let number = number.into();
                [$(Self::$constant),+].into_iter().find(|known| *known as u64 == number)
            }
        }
    };
}
pub(crate) use numbered;
