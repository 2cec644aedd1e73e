//! The functions as C calls them: results, ownership, misuse.

#![allow(unsafe_code, reason = "the functions are called with valid pointers, as C calls them")]

use std::{
    ffi::{CStr, c_char},
    mem::MaybeUninit,
    ptr, thread,
};

use wirestate_c::{
    Slice,
    codec::*,
    config::*,
    machine::*,
    message::*,
    result::{ResultCode, wirestate_result_text},
    server::*,
    wakes::*,
};

const ECHO: u32 = ServerKind::Echo as u32;
const MESSAGE: u32 = ServerKind::Message as u32;
const FANOUT: u32 = ServerKind::Fanout as u32;

/// The pointer that `f` stores.
fn stored<T>(f: impl FnOnce(*mut *mut T) -> ResultCode) -> *mut T {
    let mut pointer = ptr::null_mut();
    assert_eq!(f(&raw mut pointer), ResultCode::Ok);
    assert!(!pointer.is_null());
    pointer
}

/// The text that `f` copies.
fn text(f: impl Fn(*mut c_char, usize) -> usize) -> String {
    let mut buffer = vec![1; f(ptr::null_mut(), 0) + 1];
    let len = f(buffer.as_mut_ptr(), buffer.len());
    assert_eq!(len + 1, buffer.len());
    unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_string_lossy().into_owned()
}

fn wakes() -> *mut Wakes {
    stored(|wakes| unsafe { wirestate_wakes_new(wakes) })
}

fn server(kind: u32, settings: &[(Setting, u64)]) -> *mut Server {
    let config = config(settings);
    let server =
        stored(|server| unsafe { wirestate_server_new(kind, config, server, ptr::null_mut(), 0) });
    unsafe { wirestate_config_free(config) };
    server
}

fn config(settings: &[(Setting, u64)]) -> *mut Config {
    let config = stored(|config| unsafe { wirestate_config_new(config) });
    for (setting, value) in settings {
        let code = unsafe { wirestate_config_set(config, *setting as u32, *value) };
        assert_eq!(code, ResultCode::Ok);
    }
    config
}

fn accept(server: *mut Server, wakes: *mut Wakes, token: u64) -> *mut Machine {
    stored(|machine| unsafe { wirestate_server_accept(server, wakes, token, 0, machine) })
}

fn next_wake(wakes: *mut Wakes) -> Option<u64> {
    let mut token = 0;
    unsafe { wirestate_wakes_next(wakes, &raw mut token) }.then_some(token)
}

fn handle(machine: *mut Machine, event: Event, value: u64) -> ResultCode {
    unsafe { wirestate_machine_handle(machine, 0, event as u32, value) }
}

fn wants(machine: *mut Machine) -> u32 {
    unsafe { wirestate_machine_wants(machine) }
}

fn receive(machine: *mut Machine, bytes: &[u8]) -> usize {
    unsafe { wirestate_machine_receive(machine, 0, bytes.as_ptr(), bytes.len()) }
}

fn settle(machine: *mut Machine) {
    while unsafe { wirestate_machine_poll_shared(machine, 0) } {}
}

fn collect(machine: *mut Machine) -> Vec<u8> {
    let mut buffer = vec![0; 100_000];
    let n = unsafe { wirestate_machine_collect(machine, 0, buffer.as_mut_ptr(), buffer.len()) };
    buffer.truncate(n);
    buffer
}

fn read_buf(machine: *mut Machine) -> (*mut u8, usize) {
    let mut len = 0;
    (unsafe { wirestate_machine_read_buf(machine, &raw mut len) }, len)
}

fn write_bufs(machine: *mut Machine) -> usize {
    let mut slices = [const { MaybeUninit::<Slice>::uninit() }; 4];
    unsafe { wirestate_machine_write_bufs(machine, slices.as_mut_ptr().cast(), slices.len()) }
}

fn label(machine: *mut Machine) -> String {
    text(|buffer, size| unsafe { wirestate_machine_label(machine, buffer, size) })
}

fn free(machine: *mut Machine) {
    unsafe { wirestate_machine_free(machine) };
}

fn free_all(server: *mut Server, wakes: *mut Wakes) {
    unsafe { wirestate_server_free(server) };
    unsafe { wirestate_wakes_free(wakes) };
}

fn message(content: &[u8]) -> Message {
    Message {
        byte_order: ByteOrderKind::Little as u32,
        content_type: b"text/json"[..].into(),
        content_encoding: b"utf-8"[..].into(),
        content: content.into(),
    }
}

fn encode(message: &Message) -> Vec<u8> {
    let (mut frame, mut len) = (vec![0; 1000], 0);
    let code = unsafe { wirestate_encode(message, frame.as_mut_ptr(), frame.len(), &raw mut len) };
    assert_eq!(code, ResultCode::Ok);
    frame.truncate(len);
    frame
}

/// The content of a message, which is then kept.
fn content(incoming: *mut Incoming) -> Vec<u8> {
    let mut shown = MaybeUninit::uninit();
    let code = unsafe { wirestate_incoming_get(incoming, shown.as_mut_ptr()) };
    assert_eq!(code, ResultCode::Ok);
    let shown: Message = unsafe { shown.assume_init() };
    unsafe { std::slice::from_raw_parts(shown.content.data, shown.content.len) }.to_vec()
}

fn next_message(machine: *mut Machine) -> Option<*mut Incoming> {
    let incoming = unsafe { wirestate_machine_next_message(machine) };
    (!incoming.is_null()).then_some(incoming)
}

fn reply(incoming: *mut Incoming, content: &[u8]) -> ResultCode {
    unsafe { wirestate_incoming_reply(incoming, &message(content)) }
}

#[test]
fn an_echo_passes_bytes_without_a_copy_and_ends() {
    let (wakes, server) = (wakes(), server(ECHO, &[]));
    let machine = accept(server, wakes, 1);
    assert_eq!(wants(machine), WANT_READ);
    let (buffer, len) = read_buf(machine);
    assert!(len >= 5);
    unsafe { buffer.copy_from_nonoverlapping(b"hello".as_ptr(), 5) };
    assert_eq!(handle(machine, Event::Read, 5), ResultCode::Ok);
    let mut slice = MaybeUninit::<Slice>::uninit();
    assert_eq!(unsafe { wirestate_machine_write_bufs(machine, slice.as_mut_ptr(), 1) }, 1);
    let slice = unsafe { slice.assume_init() };
    assert_eq!(unsafe { std::slice::from_raw_parts(slice.data, slice.len) }, b"hello");
    assert_eq!(handle(machine, Event::Written, 5), ResultCode::Ok);
    assert_eq!(handle(machine, Event::Eof, 0), ResultCode::Ok);
    assert_eq!(wants(machine), WANT_FINISH);
    assert_eq!(label(machine), "", "there is no reason yet");
    assert_eq!(unsafe { wirestate_machine_fault(machine) }, FaultKind::Open);
    assert_eq!(handle(machine, Event::Finished, 0), ResultCode::Ok);
    assert_eq!(wants(machine), ENDED);
    assert_eq!(label(machine), "finished");
    assert_eq!(unsafe { wirestate_machine_fault(machine) }, FaultKind::None);
    assert!(!unsafe { wirestate_machine_must_reset(machine) });
    assert_eq!(unsafe { wirestate_machine_deadline(machine) }, NEVER);
    free(machine);
    free_all(server, wakes);
}

#[test]
fn an_illegal_event_is_an_error_and_changes_nothing() {
    let (wakes, server) = (wakes(), server(ECHO, &[]));
    let machine = accept(server, wakes, 1);
    for (event, value) in [
        (Event::Read, 1), // without a read buffer
        (Event::Written, 1),
        (Event::Finished, 0),
    ] {
        assert_eq!(handle(machine, event, value), ResultCode::State, "{event:?}");
    }
    let (_, len) = read_buf(machine);
    assert_eq!(handle(machine, Event::Read, len as u64 + 1), ResultCode::Length);
    assert_eq!(handle(machine, Event::Read, 1), ResultCode::State, "the offer has lapsed");
    read_buf(machine);
    assert_eq!(handle(machine, Event::Read, 0), ResultCode::Length);
    read_buf(machine);
    assert_eq!(handle(machine, Event::Written, 1), ResultCode::State);
    read_buf(machine);
    assert_eq!(wants(machine), WANT_READ);
    assert_eq!(handle(machine, Event::Read, 1), ResultCode::State, "another call came between");
    for errno in [libc_eagain(), u64::MAX] {
        assert_eq!(handle(machine, Event::ReadError, errno), ResultCode::Value);
    }
    assert_eq!(unsafe { wirestate_machine_handle(machine, 0, 9, 0) }, ResultCode::Value);
    assert_eq!(wants(machine), WANT_READ);

    assert_eq!(receive(machine, b"abc"), 3);
    assert_eq!(write_bufs(machine), 1);
    assert_eq!(handle(machine, Event::Written, 4), ResultCode::Length);
    assert_eq!(collect(machine), b"abc");
    assert_eq!(handle(machine, Event::Eof, 0), ResultCode::Ok);
    assert_eq!(handle(machine, Event::Eof, 0), ResultCode::State);
    assert_eq!(read_buf(machine), (ptr::null_mut(), 0));
    assert_eq!(handle(machine, Event::Finished, 0), ResultCode::Ok);
    assert_eq!(handle(machine, Event::WriteError, 104), ResultCode::State, "after the FIN");
    assert_eq!(handle(machine, Event::Finished, 0), ResultCode::State);
    for event in [Event::Timeout, Event::ShutDown, Event::Release] {
        assert_eq!(handle(machine, event, 0), ResultCode::Ok, "{event:?} is always legal");
    }
    assert_eq!(wants(machine), ENDED);
    free(machine);
    free_all(server, wakes);
}

fn libc_eagain() -> u64 {
    11
}

#[test]
fn a_failed_connection_ends_by_a_reset() {
    let (wakes, server) = (wakes(), server(MESSAGE, &[]));
    let machine = accept(server, wakes, 1);
    assert!(!unsafe { wirestate_machine_must_reset(machine) });
    assert_eq!(handle(machine, Event::WriteError, 104), ResultCode::Ok);
    assert_eq!(wants(machine), ENDED);
    assert!(unsafe { wirestate_machine_must_reset(machine) });
    assert_eq!(label(machine), "reset");
    assert_eq!(unsafe { wirestate_machine_fault(machine) }, FaultKind::Lost);
    free(machine);
    free_all(server, wakes);
}

#[test]
fn a_connection_that_is_dropped_with_output_is_reset() {
    let (wakes, server) = (wakes(), server(ECHO, &[]));
    let machine = accept(server, wakes, 1);
    receive(machine, b"hello");
    assert!(unsafe { wirestate_machine_must_reset(machine) });
    assert_eq!(unsafe { wirestate_machine_queued(machine) }, 5);
    free(machine);
    free_all(server, wakes);
}

#[test]
fn replies_are_sent_in_the_order_of_the_requests_and_wake_the_machine() {
    let (wakes, server) = (wakes(), server(MESSAGE, &[]));
    let machine = accept(server, wakes, 7);
    for name in [b"1", b"2", b"3"] {
        receive(machine, &encode(&message(name)));
    }
    settle(machine);
    let requests: Vec<_> = std::iter::from_fn(|| next_message(machine)).collect();
    let contents: Vec<_> = requests.iter().map(|request| content(*request)).collect();
    assert_eq!(contents, [b"1", b"2", b"3"]);
    assert_eq!(next_wake(wakes), None);

    assert_eq!(reply(requests[1], b"two"), ResultCode::Ok);
    assert_eq!(next_wake(wakes), Some(7));
    assert_eq!(next_wake(wakes), None, "once");
    settle(machine);
    assert_eq!(collect(machine), b"", "the first reply is missing");
    assert_eq!(reply(requests[0], b"one"), ResultCode::Ok);
    settle(machine);
    let expected = [encode(&message(b"one")), encode(&message(b"two"))].concat();
    assert_eq!(collect(machine), expected);

    free(machine);
    while next_wake(wakes).is_some() {}
    assert_eq!(reply(requests[2], b"three"), ResultCode::Ok, "it is dropped");
    assert_eq!(next_wake(wakes), None, "a freed machine is not woken");
    free_all(server, wakes);
}

#[test]
fn a_request_that_is_freed_is_answered_with_an_error() {
    let (wakes, server) = (wakes(), server(MESSAGE, &[]));
    let machine = accept(server, wakes, 1);
    receive(machine, &encode(&message(b"1")));
    unsafe { wirestate_incoming_free(next_message(machine).unwrap()) };
    settle(machine);
    assert!(collect(machine).ends_with(br#"{"result": "Error: the request was dropped"}"#));
    free(machine);
    free_all(server, wakes);
}

#[test]
fn a_client_and_a_server_exchange_messages() {
    let (wakes, server) = (wakes(), server(MESSAGE, &[]));
    let config = config(&[(Setting::MaxInFlight, 2)]);
    let client = stored(|client| unsafe {
        wirestate_client_new(config, wakes, 2, 0, client, ptr::null_mut(), 0)
    });
    unsafe { wirestate_config_free(config) };
    let machine = accept(server, wakes, 1);
    let request = |content: &[u8]| unsafe { wirestate_machine_request(client, &message(content)) };
    assert_eq!(request(b"a"), ResultCode::Ok);
    assert_eq!(request(b"b"), ResultCode::Ok);
    assert_eq!(request(b"c"), ResultCode::Busy);
    settle(client);
    receive(machine, &collect(client));
    while let Some(incoming) = next_message(machine) {
        let upper = content(incoming).to_ascii_uppercase();
        assert_eq!(reply(incoming, &upper), ResultCode::Ok);
    }
    settle(machine);
    receive(client, &collect(machine));
    let first = next_message(client).unwrap();
    assert_eq!(content(first), b"A");
    assert_eq!(reply(first, b"x"), ResultCode::Kind, "a reply has no reply, and is not freed");
    unsafe { wirestate_incoming_free(first) };
    assert_eq!(request(b"c"), ResultCode::Ok);
    settle(client);
    assert_eq!(handle(client, Event::ReadError, 104), ResultCode::Ok);
    let second = next_message(client).unwrap();
    assert_eq!(content(second), b"B");
    unsafe { wirestate_incoming_free(second) };
    assert_eq!(next_message(client), None);
    assert_eq!(request(b"d"), ResultCode::Ended);
    let code = { unsafe { wirestate_machine_request(machine, &message(b"x")) } };
    assert_eq!(code, ResultCode::Kind, "a server sends no requests");
    free(client);
    free(machine);
    free_all(server, wakes);
}

#[test]
fn a_fan_out_wakes_the_subscribers_of_another_loop() {
    let settings = [(Setting::Framing, Framing::Delimited as u64), (Setting::MessageSize, 100)];
    let (ours, theirs, server) = (wakes(), wakes(), server(FANOUT, &settings));
    let upstream = stored(|it| unsafe { wirestate_upstream_new(server, ours, 1, 0, it) });
    let (one, two) = (accept(server, ours, 2), accept(server, theirs, 3));
    for machine in [upstream, one, two] {
        settle(machine);
    }
    let interrupt = |wakes| unsafe { wirestate_wakes_interrupt(wakes) };
    assert!(!interrupt(theirs));
    assert_eq!(receive(upstream, b"one\ntw"), 6);
    assert_eq!((next_wake(ours), next_wake(ours)), (Some(2), None));
    assert!(interrupt(theirs), "another thread would sleep");
    assert!(!interrupt(theirs), "once");
    assert_eq!(next_wake(theirs), Some(3));
    for machine in [one, two] {
        settle(machine);
        assert_eq!(collect(machine), b"one\n");
    }
    assert_eq!(unsafe { wirestate_machine_lag(one) }, 0);
    free_all(server, ours);
    for machine in [upstream, one, two] {
        free(machine);
    }
    unsafe { wirestate_wakes_free(theirs) };
}

#[test]
fn a_server_and_its_queues_are_shared_by_threads() {
    let (wakes, server) = (wakes() as usize, server(MESSAGE, &[]) as usize);
    thread::scope(|scope| {
        for token in 0..4 {
            scope.spawn(move || {
                let machine = accept(server as *mut Server, wakes as *mut Wakes, token);
                for round in 0..20_u8 {
                    receive(machine, &encode(&message(&[b'a' + round])));
                    settle(machine);
                    let request = next_message(machine).unwrap() as usize;
                    let answer = move || reply(request as *mut Incoming, b"yes");
                    assert_eq!(thread::spawn(answer).join().unwrap(), ResultCode::Ok);
                    settle(machine);
                    assert!(collect(machine).ends_with(b"yes"));
                }
                free(machine);
            });
        }
    });
    assert_eq!(next_wake(wakes as *mut Wakes), None);
    free_all(server as *mut Server, wakes as *mut Wakes);
}

#[test]
fn a_setting_that_cannot_work_is_an_error_with_its_name() {
    let error = |kind: u32, settings: &[(Setting, u64)]| {
        let config = config(settings);
        let error = text(|buffer, size| {
            let mut server = ptr::null_mut();
            let code = unsafe { wirestate_server_new(kind, config, &raw mut server, buffer, size) };
            assert_eq!(code, ResultCode::Config);
            assert!(server.is_null());
            // The length of the text: the call does not return it.
            if buffer.is_null() { 199 } else { size - 1 }
        });
        unsafe { wirestate_config_free(config) };
        error
    };
    assert_eq!(error(ECHO, &[(Setting::IdleTimeout, 0)]), "idle_timeout must be non-zero");
    assert_eq!(error(ECHO, &[(Setting::BufferSize, 0)]), "buffer_size must be non-zero");
    assert_eq!(
        error(MESSAGE, &[(Setting::MaxHeader, 1 << 16)]),
        "max_header is 65536, which is \
        too large"
    );
    assert_eq!(error(ECHO, &[(Setting::Window, 1)]), "window is not a setting of an echo server");
    assert_eq!(error(FANOUT, &[(Setting::Framing, 4)]), "framing is 4, which is unknown");
    assert_eq!(
        error(FANOUT, &[(Setting::Window, 1000)]),
        "window is 1000, but must be at least 1024"
    );
    assert_eq!(error(9, &[]), "the kind 9 of server is unknown");
    let config = config(&[(Setting::IdleTimeout, NEVER)]);
    assert_eq!(unsafe { wirestate_config_set(config, 999, 0) }, ResultCode::Value);
    unsafe { wirestate_config_free(config) };
}

#[test]
fn messages_are_decoded_alike_however_they_are_cut() {
    let frames = [encode(&message(br#"{"a": 1}"#)), encode(&message(b""))].concat();
    assert!(frames.starts_with(b"\0f{\"byteorder\": \"little\", \"content-type\": \"text/json\""));
    for size in 1..=frames.len() {
        let decoder = stored(|decoder| unsafe { wirestate_decoder_new(1000, 1000, decoder) });
        let (mut lengths, mut content, mut ends) = (Vec::new(), Vec::new(), 0);
        for mut input in frames.chunks(size) {
            loop {
                let mut found = MaybeUninit::<Decoded>::uninit();
                let code = unsafe {
                    wirestate_decoder_decode(
                        decoder,
                        input.as_ptr(),
                        input.len(),
                        found.as_mut_ptr(),
                    )
                };
                assert_eq!(code, ResultCode::Ok);
                let found = unsafe { found.assume_init() };
                input = &input[found.consumed..];
                match found.kind {
                    0 => break,
                    1 => lengths.push(found.content_length),
                    2 => {
                        let Slice { data, len } = found.message.content;
                        content.extend(unsafe { std::slice::from_raw_parts(data, len) });
                    }
                    3 => ends += 1,
                    kind => panic!("{kind} is not a kind"),
                }
            }
        }
        assert_eq!((&lengths[..], &content[..], ends), (&[8, 0][..], &br#"{"a": 1}"#[..], 2));
        assert_eq!(unsafe { wirestate_decoder_finish(decoder) }, ResultCode::Ok);
        unsafe { wirestate_decoder_free(decoder) };
    }
}

#[test]
fn what_is_not_a_message_is_an_error_with_limit_and_figure() {
    let decoder = stored(|decoder| unsafe { wirestate_decoder_new(1000, 1000, decoder) });
    let mut found = MaybeUninit::<Decoded>::uninit();
    let input = b"\xff\xff";
    for _ in 0..2 {
        let code = unsafe {
            wirestate_decoder_decode(decoder, input.as_ptr(), input.len(), found.as_mut_ptr())
        };
        assert_eq!(code, ResultCode::Malformed);
    }
    assert_eq!(unsafe { wirestate_decoder_finish(decoder) }, ResultCode::Malformed);
    let error = text(|buffer, size| unsafe { wirestate_decoder_error(decoder, buffer, size) });
    assert_eq!(error, "a header of 65535 bytes, more than the limit of 1000");
    unsafe { wirestate_decoder_free(decoder) };

    let long = vec![b'a'; 70_000];
    let message = |content_type: &[u8], byte_order| Message {
        content_type: content_type.into(),
        byte_order,
        ..message(b"x")
    };
    let mut len = 0;
    let mut encode = |message: Message, buffer: &mut [u8]| unsafe {
        wirestate_encode(&raw const message, buffer.as_mut_ptr(), buffer.len(), &raw mut len)
    };
    assert_eq!(encode(message(&long, 0), &mut []), ResultCode::Header);
    assert_eq!(encode(message(b"\xff", 0), &mut []), ResultCode::Value);
    assert_eq!(encode(message(b"a", 3), &mut []), ResultCode::Value);
    let mut buffer = [7; 50];
    assert_eq!(encode(message(b"a", 1), &mut buffer), ResultCode::Buffer);
    assert_eq!(buffer, [7; 50], "nothing was written");
    assert!(len > 50, "the size that is needed");
}

#[test]
fn a_text_that_does_not_fit_is_cut_and_terminated() {
    let (wakes, server) = (wakes(), server(ECHO, &[]));
    let machine = accept(server, wakes, 1);
    handle(machine, Event::ReadError, 104);
    let mut buffer = *b"......";
    let len = unsafe { wirestate_machine_label(machine, buffer.as_mut_ptr().cast(), 4) };
    assert_eq!((len, &buffer), (5, b"res\0.."));
    free(machine);
    free_all(server, wakes);
}

#[test]
fn null_pointers_are_errors() {
    use ptr::null_mut as null;
    unsafe {
        assert_eq!(wirestate_wakes_new(ptr::null_mut()), ResultCode::Null);
        assert!(!wirestate_wakes_next(ptr::null(), ptr::null_mut()));
        assert!(!wirestate_wakes_interrupt(ptr::null()));
        assert_eq!(wirestate_config_set(null(), 1, 1), ResultCode::Null);
        assert_eq!(
            wirestate_server_new(ECHO, ptr::null(), ptr::null_mut(), null(), 0),
            ResultCode::Null
        );
        let mut machine: *mut Machine = ptr::null_mut();
        let code = wirestate_server_accept(ptr::null(), ptr::null(), 0, 0, &raw mut machine);
        assert_eq!(code, ResultCode::Null);
        assert_eq!(wirestate_machine_wants(null()), ENDED);
        assert!(wirestate_machine_read_buf(null(), ptr::null_mut()).is_null());
        assert_eq!(wirestate_machine_write_bufs(null(), ptr::null_mut(), 4), 0);
        assert_eq!(wirestate_machine_handle(null(), 0, 0, 0), ResultCode::Null);
        assert!(!wirestate_machine_poll_shared(null(), 0));
        assert_eq!(wirestate_machine_deadline(null()), NEVER);
        assert_eq!(wirestate_machine_receive(null(), 0, ptr::null(), 5), 0);
        assert_eq!(wirestate_machine_collect(null(), 0, ptr::null_mut(), 5), 0);
        assert!(!wirestate_machine_must_reset(null()));
        assert_eq!(wirestate_machine_reason(null(), null(), 9), 0);
        assert_eq!(wirestate_machine_fault(null()), FaultKind::Open);
        assert_eq!(wirestate_machine_request(null(), ptr::null()), ResultCode::Null);
        assert!(wirestate_machine_next_message(null()).is_null());
        assert_eq!(wirestate_incoming_reply(null(), ptr::null()), ResultCode::Null);
        assert_eq!(
            wirestate_encode(ptr::null(), ptr::null_mut(), 0, ptr::null_mut()),
            ResultCode::Null
        );
        assert_eq!(
            wirestate_decoder_decode(null(), ptr::null(), 0, ptr::null_mut()),
            ResultCode::Null
        );
        wirestate_machine_free(null());
        wirestate_server_free(null());
        wirestate_wakes_free(null());
        wirestate_config_free(null());
        wirestate_incoming_free(null());
        wirestate_decoder_free(null());
    }
}

#[test]
fn every_result_has_a_text() {
    for code in -12..=0 {
        let text = unsafe { CStr::from_ptr(wirestate_result_text(code)) };
        assert_ne!(text, c"an unknown result code");
    }
    assert_eq!(unsafe { CStr::from_ptr(wirestate_result_text(1)) }, c"an unknown result code");
}

#[test]
fn memory_for_a_host_without_malloc() {
    use wirestate_c::memory::{wirestate_alloc, wirestate_free};
    let memory = wirestate_alloc(100);
    assert!(!memory.is_null() && (memory as usize).is_multiple_of(16));
    unsafe { memory.write_bytes(1, 100) };
    unsafe { wirestate_free(memory, 100) };
    assert!(wirestate_alloc(0).is_null());
    assert!(wirestate_alloc(usize::MAX).is_null());
}
