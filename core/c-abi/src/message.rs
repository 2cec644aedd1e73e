//! Requests and replies of message servers and clients.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use wirestate_core::{
    message::{
        ByteOrder, Handle, Message as CoreMessage, ReplyFuture,
        service::{Reply, Service},
    },
    shared::{Promise, Promised, promise},
};

use crate::{
    machine::{Machine, with},
    pointer::{self, Slice},
    result::{ResultCode, guard, numbered},
};

/// The order of the bytes of integers in a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ByteOrderKind {
    /// The order of this computer. Received messages never have it.
    Native = 0,
    /// The least significant byte first.
    Little = 1,
    /// The most significant byte first.
    Big = 2,
}

numbered!(ByteOrderKind: Native, Little, Big);

/// A message: type, encoding and content, which are not terminated by NUL.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Message {
    /// A `wirestate_byte_order`: the sender's.
    pub byte_order: u32,
    /// The type, in UTF-8. `text/json` is JSON; any other type is binary.
    pub content_type: Slice,
    /// The character set of a text, or `binary`. In UTF-8.
    pub content_encoding: Slice,
    /// The content.
    pub content: Slice,
}

impl Message {
    pub(crate) fn of(message: &CoreMessage<'_>) -> Self {
        Self {
            byte_order: byte_order(message.byteorder),
            content_type: message.content_type.as_bytes().into(),
            content_encoding: message.content_encoding.as_bytes().into(),
            content: (&*message.content).into(),
        }
    }
}

pub(crate) const fn byte_order(order: ByteOrder) -> u32 {
    match order {
        ByteOrder::Little => ByteOrderKind::Little as u32,
        ByteOrder::Big => ByteOrderKind::Big as u32,
    }
}

/// Borrows a message from C.
///
/// # Safety
/// See [the rules](crate#safety).
pub(crate) unsafe fn borrow<'a>(message: *const Message) -> Result<CoreMessage<'a>, ResultCode> {
    // SAFETY: the caller's pointer is valid.
    let message = unsafe { pointer::shared(message) }?;
    let Message { byte_order, content_type, content_encoding, content } = message;
    // SAFETY: the caller's pointer is valid.
    let content_type = unsafe { pointer::bytes(content_type.data, content_type.len) }?;
    // SAFETY: the caller's pointer is valid.
    let encoding = unsafe { pointer::bytes(content_encoding.data, content_encoding.len) }?;
    // SAFETY: the caller's pointer is valid.
    let content = unsafe { pointer::bytes(content.data, content.len) }?;
    let text = |bytes| str::from_utf8(bytes).map_err(|_| ResultCode::Value);
    Ok(CoreMessage {
        byteorder: match ByteOrderKind::of(*byte_order) {
            Some(ByteOrderKind::Native) => ByteOrder::NATIVE,
            Some(ByteOrderKind::Little) => ByteOrder::Little,
            Some(ByteOrderKind::Big) => ByteOrder::Big,
            None => return Err(ResultCode::Value),
        },
        content_type: text(content_type)?.into(),
        content_encoding: text(encoding)?.into(),
        content: content.into(),
    })
}

/// A message that has arrived: a request to a server, or a reply to a client. You own it.
#[derive(Debug)]
pub struct Incoming {
    message: CoreMessage<'static>,
    /// `None`: a reply, or a request that is answered.
    promise: Option<Promise<CoreMessage<'static>>>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(promise) = self.promise.take() {
            let _ = promise.fulfil(CoreMessage::error("the request was dropped"));
        }
    }
}

/// The requests of one connection that its program has not taken.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    queue: Arc<Mutex<VecDeque<Incoming>>>,
}

impl Requests {
    /// Another handle on the same queue.
    pub(crate) fn clone_handle(&self) -> Self {
        Self { queue: self.queue.clone() }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Incoming>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each connection has its own queue, so a clone is empty.
impl Clone for Requests {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Service for Requests {
    type Pending = Promised<CoreMessage<'static>>;

    fn call(&mut self, request: CoreMessage<'_>) -> Reply<Self::Pending> {
        let (promise, promised) = promise();
        let request = Incoming { message: request.into_owned(), promise: Some(promise) };
        self.queue().push_back(request);
        Reply::Pending(promised)
    }
}

/// What a machine has for its program, besides bytes.
#[derive(Debug)]
pub(crate) enum Messages {
    None,
    Requests(Requests),
    Client {
        handle: Handle,
        /// The requests whose replies were not taken, in their order.
        replies: VecDeque<ReplyFuture>,
        /// The most of these.
        limit: usize,
    },
}

impl Messages {
    pub(crate) fn client(handle: Handle, limit: usize) -> Self {
        Self::Client { handle, replies: VecDeque::new(), limit }
    }

    fn request(&mut self, request: &CoreMessage<'_>) -> Result<(), ResultCode> {
        let Self::Client { handle, replies, limit } = self else { return Err(ResultCode::Kind) };
        if replies.len() >= *limit {
            return Err(ResultCode::Busy);
        }
        request.header().encode(&mut Vec::new()).map_err(|_| ResultCode::Header)?;
        let mut reply = handle.request(request.clone().into_owned());
        // The first poll sends the request.
        match poll(&mut reply) {
            Poll::Ready(Err(_)) => Err(ResultCode::Ended),
            Poll::Ready(Ok(_)) | Poll::Pending => {
                replies.push_back(reply);
                Ok(())
            }
        }
    }

    fn next(&mut self) -> Option<Incoming> {
        match self {
            Self::None => None,
            Self::Requests(requests) => requests.queue().pop_front(),
            Self::Client { replies, .. } => match poll(replies.front_mut()?) {
                Poll::Pending => None,
                Poll::Ready(Ok(message)) => {
                    replies.pop_front();
                    Some(Incoming { message, promise: None })
                }
                Poll::Ready(Err(_)) => {
                    // The connection has ended: later requests have no reply either.
                    replies.clear();
                    None
                }
            },
        }
    }
}

/// The machine is driven and its messages are taken by the same loop, so nothing is woken.
fn poll(reply: &mut ReplyFuture) -> Poll<<ReplyFuture as Future>::Output> {
    Pin::new(reply).poll(&mut Context::from_waker(Waker::noop()))
}

/// Sends a request, which is copied. Drive the machine afterwards.
///
/// - `WIRESTATE_RESULT_KIND`: the machine is no client's.
/// - `WIRESTATE_RESULT_BUSY`: as many requests as `WIRESTATE_SETTING_MAX_IN_FLIGHT` have no reply,
///   or their replies were not taken.
/// - `WIRESTATE_RESULT_ENDED`: the connection accepts no more requests.
/// - `WIRESTATE_RESULT_HEADER`, `WIRESTATE_RESULT_VALUE`: the message cannot be sent.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_request(
    machine: *mut Machine,
    request: *const Message,
) -> ResultCode {
    // SAFETY: the caller's pointer is valid.
    let request = match unsafe { borrow(request) } {
        Ok(request) => request,
        Err(code) => return code,
    };
    let call = |machine: &mut Machine| machine.messages_mut().request(&request);
    // SAFETY: the caller's pointer is valid.
    ResultCode::of(unsafe { with(machine, call) }.and_then(|result| result))
}

/// Removes the next message that has arrived: a server's request, or a client's reply, in the order
/// of the requests. Returns NULL if there is none. You own it: reply to it, or free it.
///
/// Call it after you have driven a machine, until it returns NULL. When a client's machine has
/// ended, the requests that are left have no replies.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_machine_next_message(machine: *mut Machine) -> *mut Incoming {
    // SAFETY: the caller's pointer is valid.
    let next = unsafe { with(machine, |machine| machine.messages_mut().next()) };
    next.ok().flatten().map_or(std::ptr::null_mut(), |next| Box::into_raw(Box::new(next)))
}

/// Shows a message. The slices are valid until the message is freed or replied to.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_incoming_get(
    incoming: *const Incoming,
    message: *mut Message,
) -> ResultCode {
    // SAFETY: the caller's pointer is valid.
    let incoming = unsafe { pointer::shared(incoming) };
    ResultCode::of(incoming.and_then(|incoming| {
        // SAFETY: the caller's pointer is valid.
        unsafe { pointer::store(message, Message::of(&incoming.message)) }
    }))
}

/// Replies to a request, and frees it if the call succeeds. The reply is copied; it may consist of
/// slices of the request.
///
/// Replies are sent in the order of the requests, whatever the order of the calls. Any thread may
/// reply, also after the machine was freed: then the reply is dropped. The call wakes the machine
/// (`wirestate_wakes_next`). On another thread than the machine's, call `wirestate_wakes_interrupt`
/// next.
///
/// - `WIRESTATE_RESULT_KIND`: the message is a reply itself.
/// - `WIRESTATE_RESULT_HEADER`, `WIRESTATE_RESULT_VALUE`: the reply cannot be sent.
///
/// # Safety
/// See [the rules](crate#safety). If the call succeeds, `incoming` is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_incoming_reply(
    incoming: *mut Incoming,
    reply: *const Message,
) -> ResultCode {
    ResultCode::of(guard(|| {
        // SAFETY: the caller's pointer is valid.
        let request = unsafe { pointer::exclusive(incoming) }?;
        // SAFETY: the caller's pointer is valid.
        let reply = unsafe { borrow(reply) }?;
        reply.header().encode(&mut Vec::new()).map_err(|_| ResultCode::Header)?;
        let promise = request.promise.take().ok_or(ResultCode::Kind)?;
        // The connection may have ended.
        let _ = promise.fulfil(reply.into_owned());
        // SAFETY: the caller gives the pointer back, and `request` is not used any more.
        drop(unsafe { pointer::take(incoming) });
        Ok(())
    }))
}

/// Frees a message. A request without a reply is answered with an error. NULL is ignored.
///
/// # Safety
/// See [the rules](crate#safety).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wirestate_incoming_free(incoming: *mut Incoming) {
    let _ = guard(|| {
        // SAFETY: the caller gives the pointer back.
        drop(unsafe { pointer::take(incoming) });
        Ok(())
    });
}
