//! TLS around the machines of C: a client and a server exchange messages through ciphertext.

#![cfg(feature = "tls")]
#![allow(unsafe_code, reason = "the functions are called with valid pointers, as C calls them")]
#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{ffi::c_char, ptr};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use wirestate_c::{Slice, machine::*, message::*, result::ResultCode, server::*, tls::*, wakes::*};

const NONE: &[u8] = &[];

fn stored<T>(f: impl FnOnce(*mut *mut T) -> ResultCode) -> *mut T {
    let mut pointer = ptr::null_mut();
    assert_eq!(f(&raw mut pointer), ResultCode::Ok);
    pointer
}

fn server_tls(chain: &str, key: &str) -> *mut Tls {
    let [chain, key] = [chain, key].map(|pem| Slice::from(pem.as_bytes()));
    stored(|tls| unsafe {
        wirestate_tls_server_new(chain, key, NONE.into(), tls, ptr::null_mut(), 0)
    })
}

fn client_tls(authorities: &str, name: &str) -> *mut Tls {
    let [authorities, name] = [authorities, name].map(|text| Slice::from(text.as_bytes()));
    stored(|tls| unsafe { wirestate_tls_client_new(authorities, name, tls, ptr::null_mut(), 0) })
}

/// Passes the output of each machine to the other, a few bytes at a time, until none has more.
fn exchange(machines: [*mut Machine; 2]) -> Vec<u8> {
    let (mut all, mut moved) = (Vec::new(), true);
    while moved {
        moved = false;
        for [from, to] in [machines, [machines[1], machines[0]]] {
            while unsafe { wirestate_machine_poll_shared(from, 0) } {}
            let mut buffer = [0; 7];
            let n =
                unsafe { wirestate_machine_collect(from, 0, buffer.as_mut_ptr(), buffer.len()) };
            let accepted = unsafe { wirestate_machine_receive(to, 0, buffer.as_ptr(), n) };
            assert!(accepted == n || unsafe { wirestate_machine_wants(to) } & WANT_READ == 0);
            all.extend_from_slice(&buffer[..n]);
            moved |= n > 0;
        }
    }
    all
}

fn label(machine: *mut Machine) -> String {
    let mut buffer = [0_u8; 64];
    let n = unsafe { wirestate_machine_label(machine, buffer.as_mut_ptr().cast(), buffer.len()) };
    str::from_utf8(&buffer[..n]).unwrap().to_owned()
}

struct Pair {
    wakes: *mut Wakes,
    server: *mut Server,
    machines: [*mut Machine; 2],
}

/// A client's machine and a server's, with TLS around both.
fn pair(client: *mut Tls, server: *mut Tls) -> Pair {
    let wakes = stored(|wakes| unsafe { wirestate_wakes_new(wakes) });
    let messages = stored(|server| unsafe {
        wirestate_server_new(ServerKind::Message as u32, ptr::null(), server, ptr::null_mut(), 0)
    });
    let asks = stored(|machine| unsafe {
        wirestate_client_new(ptr::null(), wakes, 1, 0, machine, ptr::null_mut(), 0)
    });
    let answers =
        stored(|machine| unsafe { wirestate_server_accept(messages, wakes, 2, 0, machine) });
    for (machine, tls) in [(asks, client), (answers, server)] {
        let code = unsafe { wirestate_machine_start_tls(machine, tls, 0) };
        assert_eq!(code, ResultCode::Ok);
        unsafe { wirestate_tls_free(tls) };
    }
    Pair { wakes, server: messages, machines: [asks, answers] }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for machine in self.machines {
            unsafe { wirestate_machine_free(machine) };
        }
        unsafe { wirestate_server_free(self.server) };
        unsafe { wirestate_wakes_free(self.wakes) };
    }
}

fn message(content: &[u8]) -> Message {
    Message {
        byte_order: 0,
        content_type: b"text/json"[..].into(),
        content_encoding: b"utf-8"[..].into(),
        content: content.into(),
    }
}

#[test]
fn messages_pass_through_tls() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let server = server_tls(&cert.pem(), &signing_key.serialize_pem());
    let pair = pair(client_tls(&cert.pem(), "localhost"), server);
    let [asks, answers] = pair.machines;
    assert_eq!(unsafe { wirestate_machine_request(asks, &message(b"secret")) }, ResultCode::Ok);
    let mut sent = exchange(pair.machines);
    let request = unsafe { wirestate_machine_next_message(answers) };
    assert!(!request.is_null(), "{} {}", label(asks), label(answers));
    assert_eq!(unsafe { wirestate_incoming_reply(request, &message(b"secret")) }, ResultCode::Ok);
    sent.extend(exchange(pair.machines));
    let reply = unsafe { wirestate_machine_next_message(asks) };
    assert!(!reply.is_null());
    unsafe { wirestate_incoming_free(reply) };
    assert!(!sent.windows(6).any(|bytes| bytes == b"secret"), "it is encrypted");
}

#[test]
fn a_certificate_for_another_name_ends_the_connection_with_a_reason() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let server = server_tls(&cert.pem(), &signing_key.serialize_pem());
    let pair = pair(client_tls(&cert.pem(), "example.org"), server);
    let [asks, _] = pair.machines;
    assert_eq!(unsafe { wirestate_machine_request(asks, &message(b"secret")) }, ResultCode::Ok);
    exchange(pair.machines);
    let state = unsafe { wirestate_machine_wants(asks) };
    assert_ne!(state & WANT_FINISH, 0, "after the alert");
    unsafe { wirestate_machine_handle(asks, 0, Event::Finished as u32, 0) };
    unsafe { wirestate_machine_handle(asks, 0, Event::Eof as u32, 0) };
    assert_eq!(label(asks), "tls_certificate_wrong_name");
}

#[test]
fn certificates_that_cannot_be_used_are_an_error_with_a_text() {
    let CertifiedKey { cert, .. } = generate_simple_self_signed(["a".to_owned()]).unwrap();
    let CertifiedKey { signing_key, .. } = generate_simple_self_signed(["a".to_owned()]).unwrap();
    let (chain, key) = (cert.pem(), signing_key.serialize_pem());
    let error = |chain: &str, key: &str| {
        let (mut tls, mut text) = (ptr::null_mut(), [0_u8; 100]);
        let [chain, key] = [chain, key].map(|pem| Slice::from(pem.as_bytes()));
        let error = text.as_mut_ptr().cast::<c_char>();
        let code = unsafe {
            wirestate_tls_server_new(chain, key, NONE.into(), &raw mut tls, error, text.len())
        };
        assert_eq!((code, tls), (ResultCode::Config, ptr::null_mut()));
        let len = text.iter().position(|byte| *byte == 0).unwrap();
        str::from_utf8(&text[..len]).unwrap().to_owned()
    };
    assert_eq!(error(&chain, &key), "the private key belongs to another certificate");
    assert_eq!(error("", &key), "there is no certificate (`-----BEGIN CERTIFICATE-----`)");
}
