//! What a client sends, and what it makes of what it receives.

use std::{num::NonZeroUsize, time::Duration};

use wirestate_core::{
    Event, Instant, Machine,
    drive::deliver,
    nats::{
        Client, ClientReason, Config, Credentials, HeaderBlock, Incoming, InvalidSubject, Publish,
        RequestError, SendError, ServerErrorKind, Signer, StatusCode,
    },
};
use wirestate_testkit::script::collect;

use crate::INFO;

const NOW: Instant = Instant::EPOCH;

fn receive(client: &mut Client, text: &str) {
    deliver(client, &mut text.as_bytes(), NOW);
}

fn sent(client: &mut Client) -> String {
    String::from_utf8(collect(client, NOW)).unwrap()
}

fn take(client: &mut Client) -> Incoming {
    client.take_incoming(NOW).expect("something was received")
}

fn connected_with(config: Config, info: &str) -> Client {
    let mut client = Client::new(config, NOW).unwrap();
    receive(&mut client, info);
    receive(&mut client, "PONG\r\n");
    assert!(matches!(take(&mut client), Incoming::Connected));
    sent(&mut client);
    client
}

fn connected() -> Client {
    connected_with(Config::default(), INFO)
}

#[test]
fn connect_has_the_credentials() {
    let signer = Signer::new(|nonce| Ok(format!("signed-{nonce}")));
    let other = "\"name\":\"wirestate\",\"lang\":\"rust-wirestate\",\"version\":\"0.1.0\",\
                 \"protocol\":1,\"echo\":true,\"headers\":true,\"no_responders\":true";
    let begin = "\"verbose\":false,\"pedantic\":false,\"tls_required\":false";
    for (credentials, expected) in [
        (Credentials::None, ""),
        (
            Credentials::User { user: "u".into(), password: "p\"".into() },
            r#""user":"u","pass":"p\"","#,
        ),
        (Credentials::Token("t".into()), r#""auth_token":"t","#),
        (
            Credentials::Nkey { public_key: "UA".into(), signer: signer.clone() },
            r#""nkey":"UA","sig":"signed-n","#,
        ),
        (Credentials::Jwt { jwt: "j".into(), signer }, r#""jwt":"j","sig":"signed-n","#),
    ] {
        let debug = format!("{credentials:?}");
        assert!(!debug.contains("p\\\"") && !debug.contains("\"t\""), "a secret: {debug}");
        let config = Config::default().with_credentials(credentials);
        let mut client = Client::new(config, NOW).unwrap();
        assert!(!client.interest().read || sent(&mut client).is_empty());
        receive(&mut client, INFO);
        let expected = format!("CONNECT {{{begin},{expected}{other}}}\r\nPING\r\n");
        assert_eq!(sent(&mut client), expected);
    }
    let fails = Signer::new(|_| Err("no key".into()));
    let config =
        Config::default().with_credentials(Credentials::Jwt { jwt: String::new(), signer: fails });
    let mut client = Client::new(config, NOW).unwrap();
    receive(&mut client, INFO);
    client.handle(NOW, Event::Finished);
    assert_eq!(client.reason().unwrap().to_string(), "cannot sign the nonce: no key");
}

#[test]
fn nothing_is_sent_before_the_server_has_accepted_the_connection() {
    let mut client = Client::new(Config::default(), NOW).unwrap();
    let hello = Publish::new("a", "hello");
    assert_eq!(client.publish(&hello, NOW), Err(SendError::NotConnected));
    receive(&mut client, INFO);
    assert_eq!(client.publish(&hello, NOW), Err(SendError::NotConnected));
    assert_eq!(client.subscribe("a", None, NOW), Err(SendError::NotConnected));
    receive(&mut client, "PONG\r\n");
    assert_eq!(client.publish(&hello, NOW), Ok(()));
}

#[test]
fn each_operation_has_its_form() {
    let mut client = connected();
    let headers = {
        let mut headers = HeaderBlock::new();
        headers.push("A", "b").unwrap();
        headers
    };
    for message in [
        Publish::new("a", "xyz"),
        Publish::new("a", ""),
        Publish::new("a", "xyz").with_reply("r.s"),
        Publish::new("a", "xyz").with_headers(&headers),
        Publish::new("a", "").with_headers(&headers).with_reply("r"),
        Publish::new("a", "xyz").with_headers(&HeaderBlock::new()),
    ] {
        client.publish(&message, NOW).unwrap();
    }
    let expected = "PUB a 3\r\nxyz\r\nPUB a 0\r\n\r\nPUB a r.s 3\r\nxyz\r\n\
                    HPUB a 18 21\r\nNATS/1.0\r\nA: b\r\n\r\nxyz\r\n\
                    HPUB a r 18 18\r\nNATS/1.0\r\nA: b\r\n\r\n\r\nPUB a 3\r\nxyz\r\n";
    assert_eq!(sent(&mut client), expected);

    let one = client.subscribe("a.*", None, NOW).unwrap();
    let two = client.subscribe("b.>", Some("group"), NOW).unwrap();
    client.unsubscribe_after(one, 5, NOW).unwrap();
    client.unsubscribe(two, NOW).unwrap();
    client.unsubscribe(two, NOW).unwrap();
    let expected = "SUB a.* 1\r\nSUB b.> group 2\r\nUNSUB 1 5\r\nUNSUB 2\r\n";
    assert_eq!(sent(&mut client), expected);

    let flush = client.flush(NOW).unwrap();
    assert_eq!(sent(&mut client), "PING\r\n");
    receive(&mut client, "PONG\r\n");
    assert!(matches!(take(&mut client), Incoming::Flushed(id) if id == flush));
}

#[test]
fn what_cannot_be_sent_has_an_error_with_the_limit_and_the_figure_and_sends_nothing() {
    let mut client = connected();
    let mut headers = HeaderBlock::new();
    headers.push("A", "b").unwrap();
    let at_limit = Publish::new("a", vec![b'x'; 82]).with_headers(&headers);
    client.publish(&at_limit, NOW).unwrap();
    sent(&mut client);

    let long = "a".repeat(4050);
    let too_long = Publish::new("a", vec![b'x'; 83]).with_headers(&headers);
    let errors = [
        client.publish(&too_long, NOW).unwrap_err(),
        client.publish(&Publish::new("a b", ""), NOW).unwrap_err(),
        client.publish(&Publish::new("a", "").with_reply(""), NOW).unwrap_err(),
        client.publish(&Publish::new("a.>", ""), NOW).unwrap_err(),
        client.publish(&Publish::new(&long, ""), NOW).unwrap_err(),
        client.subscribe("a\r\nPUB b 0\r\n", None, NOW).unwrap_err(),
        client.subscribe("a", Some(""), NOW).unwrap_err(),
        client.request(&too_long, NOW).unwrap_err(),
    ];
    let texts = [
        "a message of 101B, above the server's limit of 100B",
        "a subject has byte 0x20 at 1",
        "a subject has an empty token",
        "a subject has a wildcard where none is allowed",
        "a line of 4.01KiB, above the limit of 4KiB",
        "a subject has byte 0x0d at 1",
        "a subject has an empty token",
        "a message of 101B, above the server's limit of 100B",
    ];
    assert_eq!(errors.each_ref().map(ToString::to_string), texts);
    assert!(matches!(&errors[1], SendError::Subject(InvalidSubject::Byte { .. })));
    assert_eq!(sent(&mut client), "");

    let mut client = connected_with(Config::default(), "INFO {}\r\n");
    assert_eq!(client.publish(&at_limit, NOW), Err(SendError::NoHeaders));
    assert_eq!(client.publish(&Publish::new("a", vec![0; 1 << 20]), NOW), Ok(()));
}

#[test]
fn pending_output_is_bounded() {
    let config = Config::default().with_max_pending(NonZeroUsize::new(1000).unwrap());
    let mut client = connected_with(config, INFO);
    let message = Publish::new("a", vec![b'x'; 90]);
    let mut published = 0;
    let error = loop {
        match client.publish(&message, NOW) {
            Ok(()) => published += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.to_string(), "1020B are pending, the limit is 1000B");
    assert_eq!((published, client.pending()), (10, 1020));
    assert!(matches!(client.flush(NOW), Err(SendError::Full { .. })));
    sent(&mut client);
    assert_eq!(client.publish(&message, NOW), Ok(()));
}

#[test]
fn a_payload_of_4_kib_is_not_copied() {
    let mut client = connected_with(Config::default(), "INFO {}\r\n");
    let payload = bytes::Bytes::from(vec![b'x'; 4096]);
    client.publish(&Publish::new("a", payload.clone()), NOW).unwrap();
    let mut owned = [const { bytes::Bytes::new() }; 8];
    let count = client.write_owned(&mut owned, usize::MAX);
    assert_eq!(count, 3);
    assert_eq!(owned[1].as_ptr(), payload.as_ptr());
}

#[test]
fn a_reply_reaches_its_request_and_a_late_one_is_dropped() {
    let config = Config::default()
        .with_inbox("_INBOX.me".to_owned())
        .with_max_requests(NonZeroUsize::new(3).unwrap());
    let mut client = connected_with(config, INFO);
    let ask = Publish::new("ask", "?");
    let requests: Vec<_> = (0..3).map(|_| client.request(&ask, NOW).unwrap()).collect();
    let busy = client.request(&ask, NOW).unwrap_err();
    assert_eq!(busy.to_string(), "3 requests have no reply, which is the limit");
    let expected = "SUB _INBOX.me.* 1\r\nPUB ask _INBOX.me.0 1\r\n?\r\n\
                    PUB ask _INBOX.me.1 1\r\n?\r\nPUB ask _INBOX.me.2 1\r\n?\r\n";
    assert_eq!(sent(&mut client), expected);

    let once = "MSG _INBOX.me.1 1 3\r\none\r\n";
    let others = "MSG _INBOX.me.1 1 5\r\nagain\r\nMSG _INBOX.me.x 1 0\r\n\r\n";
    receive(
        &mut client,
        &format!("{once}{others}HMSG _INBOX.me.0 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"),
    );
    let Incoming::Reply { request, reply: Ok(message) } = take(&mut client) else { panic!() };
    assert_eq!((request, message.payload()), (requests[1], &b"one"[..]));
    let Incoming::Reply { request, reply } = take(&mut client) else { panic!() };
    assert_eq!((request, reply.unwrap_err()), (requests[0], RequestError::NoResponders));

    let later = NOW + Duration::from_secs(5);
    client.handle(later, Event::Timeout { unacknowledged: 0 });
    let Some(Incoming::Reply { request, reply }) = client.take_incoming(later) else { panic!() };
    assert_eq!(request, requests[2]);
    assert_eq!(reply.unwrap_err().to_string(), "no reply within 5s");
    deliver(&mut client, &mut &b"MSG _INBOX.me.2 1 4\r\nlate\r\n"[..], later);
    assert!(client.take_incoming(later).is_none());

    let request = client.request(&ask, later).unwrap();
    client.cancel(request);
    deliver(&mut client, &mut &b"MSG _INBOX.me.3 1 4\r\nlate\r\n"[..], later);
    assert!(client.take_incoming(later).is_none());
}

#[test]
fn a_503_with_a_payload_is_a_reply_of_a_service() {
    let mut client = connected();
    client.request(&Publish::new("ask", "?"), NOW).unwrap();
    receive(&mut client, "HMSG _INBOX.S.7.0 1 16 19\r\nNATS/1.0 503\r\n\r\nsad\r\n");
    let Incoming::Reply { reply: Ok(message), .. } = take(&mut client) else { panic!() };
    assert_eq!(message.status(), Some(StatusCode::NO_RESPONDERS));
}

#[test]
fn a_message_has_its_parts() {
    let mut client = connected();
    let id = client.subscribe("a.>", None, NOW).unwrap();
    receive(
        &mut client,
        "HMSG a.b 1 r.s 45 48\r\nNATS/1.0 100 Idle Heartbeat\r\nNats-Last: 7\r\n\r\nxyz\r\n",
    );
    let Incoming::Message(message) = take(&mut client) else { panic!() };
    assert_eq!(message.subscription(), id);
    assert_eq!(message.subject(), "a.b");
    assert_eq!(message.reply().as_deref(), Some("r.s"));
    let headers = message.headers().unwrap();
    assert_eq!(headers.status(), Some(StatusCode::IDLE_HEARTBEAT));
    assert_eq!((headers.description(), headers.get("Nats-Last")), ("Idle Heartbeat", Some("7")));
    assert_eq!(message.payload(), b"xyz");
    assert_eq!(&*message.into_payload(), b"xyz");

    // Of a publisher that sends nonsense, which the server delivers.
    deliver(&mut client, &mut &b"HMSG a.\xff 1 4 6\r\nnopexy\r\n"[..], NOW);
    let Incoming::Message(message) = take(&mut client) else { panic!() };
    assert_eq!((&*message.subject(), message.subject_bytes()), ("a.\u{fffd}", &b"a.\xff"[..]));
    assert!(message.headers().is_err() && message.status().is_none());
    assert_eq!((message.header_bytes(), message.payload()), (&b"nope"[..], &b"xy"[..]));
    assert!(client.reason().is_none());
}

#[test]
fn a_subscription_ends_after_its_messages() {
    let mut client = connected();
    let id = client.subscribe("a", None, NOW).unwrap();
    let message = |client: &mut Client| {
        receive(client, "MSG a 1 0\r\n\r\n");
        client.take_incoming(NOW).is_some()
    };
    assert!(message(&mut client));
    client.unsubscribe_after(id, 3, NOW).unwrap();
    assert!(message(&mut client) && message(&mut client));
    assert!(!message(&mut client), "it has ended");

    let id = client.subscribe("b", None, NOW).unwrap();
    sent(&mut client);
    client.unsubscribe_after(id, 0, NOW).unwrap();
    assert_eq!(sent(&mut client), "UNSUB 2\r\n");
}

#[test]
fn changes_of_the_cluster_and_lame_duck_mode_are_reported_once() {
    let mut client = connected();
    let info = "INFO {\"server_id\":\"S\",\"connect_urls\":[\"a:1\",\"b:2\"]}\r\n";
    receive(&mut client, info);
    assert!(matches!(take(&mut client), Incoming::Servers));
    assert_eq!(client.info().connect_urls, ["a:1", "b:2"]);
    receive(&mut client, info);
    assert!(client.take_incoming(NOW).is_none());
    let info = info.replace("\"connect", "\"ldm\":true,\"connect");
    receive(&mut client, &info);
    receive(&mut client, &info);
    assert!(matches!(take(&mut client), Incoming::LameDuck));
    assert!(client.take_incoming(NOW).is_none());
}

#[test]
fn an_error_ends_the_connection_only_if_the_server_ends_it() {
    use ServerErrorKind::{
        AuthenticationExpired, InvalidSubject, MaxConnections, MaxPayload, MaxSubscriptions, Other,
        Protocol, PublishPermission, SlowConsumer, SubscribePermission, WrongPort,
    };
    for (text, kind, ends) in [
        ("User Authentication Revoked", AuthenticationExpired, true),
        ("maximum account active connections exceeded", MaxConnections, true),
        ("Slow Consumer", SlowConsumer, true),
        ("Maximum Payload Violation", MaxPayload, true),
        ("Unknown Protocol Operation", Protocol, true),
        ("attempted to connect to route port", WrongPort, true),
        ("Permissions Violation for Publish to \"x\"", PublishPermission, false),
        ("Permissions Violation for Subscription to \"x\"", SubscribePermission, false),
        ("Invalid Subject", InvalidSubject, false),
        ("maximum subscriptions exceeded", MaxSubscriptions, false),
        ("something new", Other, false),
    ] {
        let mut client = connected();
        receive(&mut client, &format!("-ERR '{text}'\r\n"));
        if ends {
            client.handle(NOW, Event::Finished);
            let Some(ClientReason::Refused(error)) = client.reason() else { panic!("{text}") };
            assert_eq!((error.kind, &*error.text), (kind, text));
        } else {
            let Incoming::Error(error) = take(&mut client) else { panic!("{text}") };
            assert_eq!((error.kind, &*error.text), (kind, text));
            assert!(client.reason().is_none());
        }
        assert_eq!(kind.ends_connection(), ends);
    }
}

#[test]
fn an_error_behind_messages_that_nobody_takes_is_found_at_the_end() {
    let mut client = connected();
    client.subscribe("a", None, NOW).unwrap();
    sent(&mut client);
    receive(&mut client, "MSG a 1 1\r\n0\r\nMSG a 1 1\r\n1\r\n-ERR 'Stale Connection'\r\n");
    client.handle(
        NOW,
        Event::Error(wirestate_core::Direction::Write, wirestate_core::ConnectionError::Reset),
    );
    let taken = std::iter::from_fn(|| client.take_incoming(NOW)).count();
    assert_eq!(taken, 2);
    assert_eq!(client.reason().unwrap().to_string(), "the server reported: Stale Connection");
    assert_eq!(
        client.publish(&Publish::new("a", ""), NOW).unwrap_err().to_string(),
        "the server reported: Stale Connection"
    );
}

#[test]
fn a_shutdown_sends_what_is_pending_and_a_fin() {
    let mut client = connected();
    client.publish(&Publish::new("a", "x"), NOW).unwrap();
    client.handle(NOW, Event::ShutDown);
    assert!(matches!(client.publish(&Publish::new("a", ""), NOW), Err(SendError::Ended(_))));
    assert_eq!(sent(&mut client), "PUB a 1\r\nx\r\n");
    client.handle(NOW, Event::Finished);
    assert!(client.interest().read, "it discards what the server still sends");
    receive(&mut client, "MSG a 1 1\r\n0\r\n");
    client.handle(NOW, Event::Eof);
    assert_eq!(client.reason(), Some(ClientReason::ShutDown));
}
