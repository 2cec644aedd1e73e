//! Good and bad requests. The answers do not depend on the cut.

use std::time::Duration;

use proptest::prelude::*;
use wirestate_core::Machine as _;
use wirestate_testkit::script::{self, Op};

use crate::alone::{HOST, machine, server};

/// The status codes of the answers to `input` under many cuts, and whether the connection was
/// closed for a reason other than the peer's FIN.
fn answers(input: &[u8]) -> (Vec<u16>, bool) {
    // Each transcript is that of a new server.
    let fresh = || machine(&server());
    let transcript = if input.len() < 1000 {
        script::split_invariant(fresh, input)
    } else {
        script::play_out(&mut fresh(), &[Op::Receive(input.to_vec()), Op::Eof])
    };
    let step = 1 + input.len() / 500;
    let in_two = (1..input.len()).step_by(step).map(|cut| vec![cut, input.len() - cut]);
    for cut in in_two.chain([vec![1000; input.len().div_ceil(1000)]]) {
        let pieces = script::pieces(input, &cut).map(|piece| Op::Receive(piece.to_vec()));
        let ops: Vec<_> = pieces.chain([Op::Eof]).collect();
        assert_eq!(script::play_out(&mut fresh(), &ops), transcript, "cut into {cut:?}");
    }
    let text = String::from_utf8(transcript.output).unwrap();
    let codes: Vec<u16> = text
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|response| response[..3].parse().expect("a response begins with its code"))
        .collect();
    (codes, text.contains("\r\nConnection: close\r\n"))
}

#[test]
fn valid_requests_are_answered() {
    let with = |line: &str, fields: &str| format!("{line}\r\n{HOST}{fields}\r\n");
    for (input, codes, closed) in [
        (with("GET /healthz HTTP/1.1", ""), &[200][..], false),
        (with("HEAD / HTTP/1.1", ""), &[200], false),
        (with("GET /readyz?x=1 HTTP/1.1", ""), &[200], false),
        (with("GET /connections?format=html HTTP/1.1", ""), &[200], false),
        (with("GET /healthz HTTP/1.1", "Connection: close\r\n"), &[200], true),
        (with("GET /healthz HTTP/1.1", "Connection: x, Close\r\n"), &[200], true),
        (with("GET /healthz HTTP/1.1", "Content-Length: 0\r\n"), &[200], false),
        ("GET /healthz HTTP/1.0\r\n\r\n".into(), &[200], true),
        ("GET /healthz HTTP/1.1\nHost: localhost\n\n".into(), &[200], false),
        ("GET http://127.0.0.1:8000/healthz HTTP/1.1\r\nHost: x\r\n\r\n".into(), &[200], false),
        ("GET HTTP://localhost/healthz HTTP/1.1\r\nHost:\r\n\r\n".into(), &[200], false),
        (with("GET http://localhost HTTP/1.1", ""), &[200], false),
        (with("GET http://localhost?x HTTP/1.1", ""), &[200], false),
        (with("GET / HTTP/1.1", "Expect: 100-continue\r\n"), &[200], false),
        ("GET / HTTP/1.1\r\nHost: localhost:\r\n\r\n".into(), &[200], false),
        (with("\r\n\r\nGET /healthz HTTP/1.1", ""), &[200], false),
        (with("GET /healthz HTTP/1.1", "").repeat(5), &[200; 5], false),
        (
            with("GET /nowhere HTTP/1.1", "") + &with("HEAD /metrics HTTP/1.1", ""),
            &[404, 200],
            false,
        ),
        (
            with("GET /healthz HTTP/1.1", "") + "\r\n" + &with("GET /healthz HTTP/1.1", ""),
            &[200, 200],
            false,
        ),
        (
            // A head that cannot be valid is refused before it is complete, also behind another.
            with("GET /healthz HTTP/1.1", "") + "GET / HTTP/3.0\r\n",
            &[200, 505],
            true,
        ),
        (
            // Requests behind the last one are not answered.
            with("GET /healthz HTTP/1.1", "Connection: close\r\n") + &with("GET / HTTP/1.1", ""),
            &[200],
            true,
        ),
    ] {
        assert_eq!(answers(input.as_bytes()), (codes.to_vec(), closed), "{input}");
    }
}

#[test]
fn invalid_requests_are_refused_by_code() {
    let with = |line: &str, fields: &str| format!("{line}\r\n{HOST}{fields}\r\n").into_bytes();
    let long = "x".repeat(9000);
    let many = "A: b\r\n".repeat(65);
    for (input, code, closed) in [
        // Unknown pages and methods: the connection continues.
        (with("GET /nowhere HTTP/1.1", ""), 404, false),
        (with("GET /metrics/ HTTP/1.1", ""), 404, false),
        (with("GET /%6detrics HTTP/1.1", ""), 404, false),
        (with("GET //healthz HTTP/1.1", ""), 404, false),
        (with("GET /connections?format=xml HTTP/1.1", ""), 404, false),
        (with("POST / HTTP/1.1", ""), 405, false),
        (with("DELETE /connections HTTP/1.1", ""), 405, false),
        (with("get / HTTP/1.1", ""), 405, false),
        (with("POST /nowhere HTTP/1.1", ""), 405, false),
        (with("OPTIONS * HTTP/1.1", ""), 405, false),
        (with("CONNECT localhost:80 HTTP/1.1", ""), 405, false),
        (with("GET * HTTP/1.1", ""), 404, false),
        (with("GET ?x HTTP/1.1", ""), 404, false),
        // Other hosts.
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_vec(), 421, false),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n".to_vec(), 421, false),
        (b"GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n".to_vec(), 421, true),
        (with("GET http://evil.example/ HTTP/1.1", ""), 421, false),
        // Requests with content: the connection is closed, since the next request is not searched
        // for.
        (with("GET / HTTP/1.1", "Content-Length: 5\r\n"), 413, true),
        (with("GET / HTTP/1.1", "Transfer-Encoding: chunked\r\n"), 413, true),
        (with("POST / HTTP/1.1", "Content-Length: 5\r\n"), 405, true),
        (with("PUT / HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 5\r\n"), 405, true),
        (with("GET / HTTP/1.1", "Content-Length: 99999999999999999999999\r\n"), 413, true),
        (with("GET / HTTP/1.1", "Content-Length: -1\r\n"), 400, true),
        (with("GET / HTTP/1.1", "Content-Length: 0x1\r\n"), 400, true),
        (with("GET / HTTP/1.1", "Content-Length:\r\n"), 400, true),
        (with("GET / HTTP/1.1", "Content-Length: 1\r\nContent-Length: 2\r\n"), 400, true),
        (with("GET / HTTP/1.1", "Content-Length: 1, 2\r\n"), 400, true),
        (with("GET / HTTP/1.1", "Content-Length: 1\r\nTransfer-Encoding: x\r\n"), 400, true),
        // Not requests.
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400, true),
        (b"\x00".to_vec(), 400, true),
        (b" GET / HTTP/1.1\r\n\r\n".to_vec(), 400, true),
        (b" HEAD / HTTP/1.1\r\n\r\n".to_vec(), 400, true),
        (b"\r\r\nHEAD / HTTP/1.1\r\n\r\n".to_vec(), 400, true),
        (b"\r\nHEAD / HTTP/1.1\r\n\r\n".to_vec(), 400, true),
        (b"\r\n\x05\x01\x00".to_vec(), 400, true),
        (b"GET /\r\n\r\n".to_vec(), 400, true),
        (b"GET\r\n\r\n".to_vec(), 400, true),
        (b"GET / FTP/1.1\r\n\r\n".to_vec(), 400, true),
        (b"GET / HTTP/1.1 \r\n\r\n".to_vec(), 400, true),
        (b"GET  / HTTP/1.1\r\n\r\n".to_vec(), 400, true),
        (b"GET / HTTP/11\r\n\r\n".to_vec(), 400, true),
        (b"G(T / HTTP/1.1\r\n\r\n".to_vec(), 400, true),
        (b"GET /\x7f HTTP/1.1\r\n\r\n".to_vec(), 400, true),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400, true),
        (with("GET / HTTP/1.1", "Host: localhost\r\n"), 400, true),
        (b"GET / HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n\r\n".to_vec(), 400, true),
        (b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n".to_vec(), 400, true),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n".to_vec(), 400, true),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_vec(), 400, true),
        (b"GET / HTTP/1.1\r\nHost: localhost, localhost\r\n\r\n".to_vec(), 400, true),
        (b"GET / HTTP/1.1\r\nHost: localhost/\r\n\r\n".to_vec(), 400, true),
        (b"GET / HTTP/1.1\r\nHost: me@localhost\r\n\r\n".to_vec(), 400, true),
        (b"GET / HTTP/1.1\r\nHost: localhost:x\r\n\r\n".to_vec(), 400, true),
        (with("GET http:///healthz HTTP/1.1", ""), 400, true),
        (with("GET http://me@localhost/ HTTP/1.1", ""), 400, true),
        (b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n".to_vec(), 400, true),
        (with("GET / HTTP/1.1", "No colon\r\n"), 400, true),
        (with("GET / HTTP/1.1", "Space : before\r\n"), 400, true),
        (with("GET / HTTP/1.1", " folded\r\n"), 400, true),
        (with("GET / HTTP/1.1", "A: \x01\r\n"), 400, true),
        (with("GET / HTTP/1.1", "A: b\rc\r\n"), 400, true),
        // Other versions of HTTP.
        (b"GET / HTTP/2.0\r\n\r\n".to_vec(), 505, true),
        (b"GET / HTTP/1.2\r\n\r\n".to_vec(), 505, true),
        (b"GET / HTTP/0.9\r\n\r\n".to_vec(), 505, true),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505, true),
        // Too long.
        (with("GET / HTTP/1.1", &format!("A: {long}\r\n")), 431, true),
        (with(&format!("GET /{long} HTTP/1.1"), ""), 431, true),
        (with("GET / HTTP/1.1", &many), 431, true),
        (long.clone().into_bytes(), 431, true),
        ("\r\n".repeat(5000).into_bytes(), 431, true),
    ] {
        let shown = String::from_utf8_lossy(&input[..input.len().min(100)]).into_owned();
        assert_eq!(answers(&input), (vec![code], closed), "{shown:?}");
    }
}

fn answer(request: &[u8]) -> String {
    let transcript =
        script::play_out(&mut machine(&server()), &[Op::Receive(request.to_vec()), Op::Eof]);
    String::from_utf8(transcript.output).unwrap()
}

#[test]
fn a_refused_method_is_answered_with_the_allowed_ones() {
    for line in ["POST /", "POST /nowhere", "OPTIONS *", "get /"] {
        let text = answer(format!("{line} HTTP/1.1\r\n{HOST}\r\n").as_bytes());
        assert!(text.contains("\r\nAllow: GET, HEAD\r\n"), "{line}: {text}");
    }
}

/// RFC 9110, section 9.3.2.
#[test]
fn no_answer_to_a_head_request_has_content_not_even_a_refusal() {
    let long = "x".repeat(9000);
    for request in [
        "HEAD / HTTP/1.1\r\n\r\n".into(),
        "\r\nHEAD / HTTP/1.1\r\nNo colon\r\n\r\n".into(),
        "HEAD / HTTP/3.0\r\n\r\n".into(),
        format!("HEAD / HTTP/1.1\r\nA: {long}\r\n\r\n"),
        format!("HEAD / HTTP/1.1\r\n{HOST}Content-Length: 5\r\n\r\n"),
    ] {
        let text = answer(request.as_bytes());
        assert!(text.starts_with("HTTP/1.1 ") && !text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.ends_with("\r\n\r\n"), "{text}");
    }
    let begun = [Op::Receive(b"HEAD / HTTP/1.1\r\n".to_vec()), Op::Timeout];
    let late = script::play_out(&mut machine(&server()), &begun).output;
    assert!(late.starts_with(b"HTTP/1.1 408 ") && late.ends_with(b"\r\n\r\n"));
}

/// A head of 8 KiB is accepted, one byte more is not.
#[test]
fn the_limit_of_a_head_is_exact() {
    let of = |len: usize| {
        let rest = format!("GET /healthz HTTP/1.1\r\n{HOST}A: \r\n\r\n").len();
        format!("GET /healthz HTTP/1.1\r\n{HOST}A: {}\r\n\r\n", "x".repeat(len - rest))
    };
    assert_eq!(answers(of(8192).as_bytes()).0, [200]);
    assert_eq!(answers(of(8193).as_bytes()).0, [431]);
    let two = of(8192) + &of(8192);
    assert_eq!(answers(two.as_bytes()).0, [200, 200]);
}

#[test]
fn the_limit_of_fields_is_exact() {
    let of = |fields: usize| {
        let others = "A: b\r\n".repeat(fields - 1);
        answer(format!("GET /healthz HTTP/1.1\r\n{HOST}{others}\r\n").as_bytes())
    };
    assert!(of(64).starts_with("HTTP/1.1 200 "), "{}", of(64));
    assert!(of(65).starts_with("HTTP/1.1 431 "), "{}", of(65));
}

#[test]
fn a_head_has_5_s_from_its_first_byte_and_an_idle_connection_30_s() {
    let half = [Op::Advance(Duration::from_secs(20)), Op::Receive(b"GET / HT".to_vec())];
    for (begin, millis) in [(&half[..], 5000), (&[], 30_000)] {
        let state_after = |millis| {
            let mut machine = machine(&server());
            let wait = [Op::Advance(Duration::from_millis(millis)), Op::SpuriousTimeout];
            script::play(&mut machine, &[begin, &wait].concat());
            machine.status().state
        };
        assert_eq!(state_after(millis - 1), state_after(0));
        assert_ne!(state_after(millis), state_after(0), "after {millis} ms");
    }
}

/// Parts of good and bad requests.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let texts = [
        "GET ",
        "HEAD ",
        "POST ",
        "PRI * HTTP/2.0",
        "/",
        "/healthz",
        "/connections?format=json",
        "http://localhost/readyz",
        " HTTP/1.1\r\n",
        " HTTP/1.0\n",
        " HTTP/9.9\r\n",
        "Host: localhost\r\n",
        "Host: evil\r\n",
        "Accept: application/json\r\n",
        "Connection: close\r\n",
        "Content-Length: 3\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "\n",
        "\r",
        ":",
        " ",
        "\t",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ];
    prop_oneof![
        20 => prop::sample::select(texts.map(|text| text.as_bytes().to_vec()).to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
        1 => (1..3000_usize).prop_map(|len| vec![b'x'; len]),
    ]
}

proptest! {
    /// The answers to any input do not depend on the cut.
    #[test]
    fn the_answers_do_not_depend_on_how_the_input_was_cut(
        fragments in prop::collection::vec(fragment(), 1..20),
        size in 1..50_usize,
    ) {
        let input = fragments.concat();
        let play = |sizes: &[usize]| {
            let pieces = script::pieces(&input, sizes).map(|piece| Op::Receive(piece.to_vec()));
            let ops: Vec<_> = pieces.chain([Op::Eof]).collect();
            script::play_out(&mut machine(&server()), &ops)
        };
        let whole = play(&script::whole(input.len()));
        prop_assert_eq!(&play(&vec![size; input.len().div_ceil(size)]), &whole);
        if input.len() < 500 {
            prop_assert_eq!(&play(&script::byte_by_byte(input.len())), &whole);
        }
    }
}
