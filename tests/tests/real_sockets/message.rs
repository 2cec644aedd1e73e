//! Scenarios of the JSON-header protocol: `app-server` and `app-client`.

use std::{
    env,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::id,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use wirestate_command_line::search;
use wirestate_core::{
    Reason as _,
    message::{ByteOrder, DecodeError, Message},
};
use wirestate_testkit::message::{GOLDEN_CONTENT, GOLDEN_HEADER, bad_frames, frames, golden};

use crate::{
    process::{Server, TEST_TIMEOUT, TemporaryFile, command, eventually, run, text},
    status,
};

fn serve(binary: &str, flags: &[&str]) -> Server {
    Server::start_as(binary, "app-server", flags)
}

/// Reads the next frame.
fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut frame = vec![0; 2];
    stream.read_exact(&mut frame).unwrap();
    let length = usize::from(u16::from_be_bytes([frame[0], frame[1]]));
    frame.resize(2 + length, 0);
    stream.read_exact(&mut frame[2..]).unwrap();
    let header: serde_json::Value = serde_json::from_slice(&frame[2..]).unwrap();
    let content = usize::try_from(header["content-length"].as_u64().unwrap()).unwrap();
    frame.resize(2 + length + content, 0);
    stream.read_exact(&mut frame[2 + length..]).unwrap();
    frame
}

/// Reads to the FIN.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A frame with a JSON content, as the client of Real Python's tutorial writes it.
fn json(content: &str) -> Vec<u8> {
    let header = format!(
        "{{\"byteorder\": \"{}\", \"content-type\": \"text/json\", \
         \"content-encoding\": \"utf-8\", \"content-length\": {}}}",
        if ByteOrder::NATIVE == ByteOrder::Little { "little" } else { "big" },
        content.len()
    );
    let length = u16::try_from(header.len()).unwrap().to_be_bytes();
    [&length[..], header.as_bytes(), content.as_bytes()].concat()
}

fn result(result: &str) -> Vec<u8> {
    json(&format!("{{\"result\": \"{result}\"}}"))
}

/// The reply to the golden request from the built-in table.
pub(crate) fn golden_reply() -> Vec<u8> {
    result("Shaper of dreams, son of sleep.")
}

fn exchange(stream: &mut TcpStream) {
    stream.write_all(&golden()).unwrap();
    assert_eq!(receive(stream), golden_reply());
}

pub(crate) fn the_golden_request_is_answered_byte_for_byte(binary: &str) {
    let server = serve(binary, &[]);
    let mut stream = server.connect();
    stream.write_all(&golden()).unwrap();
    assert_eq!(text(&receive(&mut stream)), text(&golden_reply()));
    stream.write_all(&json(r#"{"action": "search", "value": "it's"}"#)).unwrap();
    assert_eq!(text(&receive(&mut stream)), text(&result("No match for 'it's'.")));
    stream.write_all(&json(r#"{"action": "dance", "value": 1}"#)).unwrap();
    assert_eq!(text(&receive(&mut stream)), text(&result("Error: invalid action 'dance'.")));
    stream.write_all(&frames([&Message::binary(&b"\xff\0 and more"[..])])).unwrap();
    let reply = receive(&mut stream);
    assert!(reply.ends_with(b"First 10 bytes of request: \xff\0 and mor"));
    let mut expected = Vec::new();
    let bytes = &b"First 10 bytes of request: \xff\0 and mor"[..];
    let content_type = "binary/custom-server-binary-type";
    Message::new(content_type, "binary", bytes).encode(&mut expected).unwrap();
    assert_eq!(reply, expected);
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&mut stream).is_empty(), "the connection stays open until the client's FIN");
    let log = server.stop();
    assert!(log.contains("connections=1 "), "{log}");
}

pub(crate) fn pipelined_requests_in_any_chunks_are_answered_in_order(binary: &str) {
    let server = serve(binary, &[]);
    let requests: Vec<Vec<u8>> =
        (0..300).map(|i| frames([&search::request("search", &format!("number {i}"))])).collect();
    let expected: Vec<u8> =
        (0..300).flat_map(|i| result(&format!("No match for 'number {i}'."))).collect();
    for size in [usize::MAX, 1000, 147, 3] {
        let mut stream = server.connect();
        for piece in requests.concat().chunks(size) {
            stream.write_all(piece).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(text(&rest(&mut stream)), text(&expected), "in pieces of {size} bytes");
    }
    // A frame that arrives slowly.
    let mut stream = server.connect();
    for byte in golden() {
        stream.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(receive(&mut stream), golden_reply());
}

pub(crate) fn one_shot_closes_after_the_first_reply(binary: &str) {
    let server = serve(binary, &["--one-shot"]);
    let mut stream = server.connect();
    stream.write_all(&golden().repeat(3)).unwrap();
    assert_eq!(rest(&mut stream), golden_reply(), "one reply, and then a FIN");
    let output = run(binary, &["app-client", &server.address, "search", "morpheus"]);
    assert_eq!(text(&output.stdout), "Shaper of dreams, son of sleep.\n");
    assert_eq!(output.status.code(), Some(0));
}

pub(crate) fn a_table_from_a_file_is_searched(binary: &str) {
    let content =
        "{\"größe\": \"wie groß \u{1f436}\", \"quote\": \"say \\\"hi\\\"\", \"\": \"nothing\"}";
    let table = TemporaryFile::new(&format!("{binary}-table.json"), content.as_bytes());
    let server = serve(binary, &["--table", table.path()]);
    for (value, entry) in
        [("größe", "wie groß \u{1f436}"), ("quote", "say \"hi\""), ("", "nothing")]
    {
        let output = run(binary, &["app-client", &server.address, "search", value]);
        assert_eq!(text(&output.stdout), format!("{entry}\n"), "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(0));
    }
    assert_fails(binary, &server.address, &[], "the table has no entry for `morpheus`");
    // The reply does not escape characters beyond ASCII.
    let mut stream = server.connect();
    stream.write_all(&json(r#"{"action": "search", "value": "gr\u00f6\u00dfe"}"#)).unwrap();
    assert!(receive(&mut stream).ends_with("\"wie groß \u{1f436}\"}".as_bytes()));
}

pub(crate) fn an_error_names_the_invalid_table(binary: &str) {
    let absent = env::temp_dir().join(format!("wirestate-{}-absent.json", id()));
    let bad: Vec<TemporaryFile> = [&b"[]"[..], b"{\"a\": 1}", b"{\"a\"", b"", b"\xff", b"{} {}"]
        .iter()
        .enumerate()
        .map(|(i, content)| TemporaryFile::new(&format!("{binary}-bad-{i}.json"), content))
        .collect();
    let paths = bad.iter().map(TemporaryFile::path).chain([absent.to_str().unwrap()]);
    for path in paths {
        let output = run(binary, &["app-server", "--listen", "127.0.0.1:0", "--table", path]);
        let output_text = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{output_text}");
        assert_eq!(output_text.lines().count(), 1, "{output_text}");
        assert!(output_text.contains(&format!("cannot read the table {path}: ")), "{output_text}");
        assert!(output.stdout.is_empty());
    }
}

pub(crate) fn text_may_be_in_the_character_set_that_is_named(binary: &str) {
    let server = serve(binary, &[]);
    let mut stream = server.connect();
    let request = r#"{"action": "search", "value": "🐶"}"#;
    let little: Vec<u8> = request.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = request.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let marked = [&b"\xff\xfe"[..], &little].concat();
    for (encoding, byteorder, content) in [
        ("utf-16", ByteOrder::Big, marked),
        ("utf-16", ByteOrder::Little, little.clone()),
        ("utf-16", ByteOrder::Big, big.clone()),
        ("utf-16-le", ByteOrder::Big, little),
        ("utf-16-be", ByteOrder::Little, big),
        ("utf-8", ByteOrder::Big, request.as_bytes().to_vec()),
    ] {
        let content_encoding = encoding.into();
        let request = Message { byteorder, content_encoding, ..Message::json(content) };
        stream.write_all(&frames([&request])).unwrap();
        let expected = result("A dog: four legs, one nose, no questions.");
        assert_eq!(text(&receive(&mut stream)), text(&expected), "{encoding} {byteorder:?}");
    }
    // Content that is not text is an application error, not one of the connection.
    for (encoding, error) in [
        ("klingon", r#"the character set \"klingon\" is unknown"#),
        ("utf-8", "the content is not utf-8"),
    ] {
        let request = Message { content_encoding: encoding.into(), ..Message::json(&b"\xff"[..]) };
        stream.write_all(&frames([&request])).unwrap();
        let reply = receive(&mut stream);
        assert_eq!(text(&reply), text(&result(&format!("Error: {error}"))));
    }
    exchange(&mut stream);
}

/// With these inputs, the tutorial's server hangs or resets.
pub(crate) fn a_reply_is_not_lost_to_invalid_bytes_after_its_request(binary: &str) {
    let server = serve(binary, &[]);
    let mut stream = server.connect();
    stream.write_all(&frames([&Message::binary(""), &Message::json("")])).unwrap();
    assert!(receive(&mut stream).ends_with(b"First 10 bytes of request: "));
    let reply = receive(&mut stream);
    assert!(text(&reply).contains("Error: the content is wrong: EOF"), "{}", text(&reply));
    stream.write_all(&[&golden()[..], b"\xff\xffand more"].concat()).unwrap();
    assert_eq!(receive(&mut stream), golden_reply());
    let error_reply = rest(&mut stream);
    assert!(text(&error_reply).contains("a header of 65535 bytes, more than the limit of 4096"));
}

/// With each known bad input, the connection gets an error reply and is closed. A healthy
/// connection is not affected, and memory does not grow.
pub(crate) fn an_invalid_frame_gets_an_error_reply_and_closes_one_connection(binary: &str) {
    let server = serve(binary, &["-q"]);
    let mut healthy = server.connect();
    // Each of three rounds sends a third of the inputs.
    let mut before = None;
    for round in 0..3 {
        for (i, bad) in bad_frames().into_iter().enumerate().skip(round).step_by(3) {
            let mut stream = server.connect();
            stream.write_all(&bad.bytes).unwrap();
            if bad.error.label() == "truncated" {
                stream.shutdown(Shutdown::Write).unwrap();
            }
            let error_reply = text(&rest(&mut stream));
            assert_eq!(
                error_reply.matches("\"byteorder\"").count(),
                bad.frames_before + 1,
                "{}",
                bad.name
            );
            let error = error_reply.split_once(r#"{"result": "Error: "#);
            let (_, error) = error.unwrap_or_else(|| panic!("{}: {error_reply}", bad.name));
            let expected = match &bad.error {
                // The text of JSON errors is tested elsewhere.
                DecodeError::Header(_) => "the header",
                error @ (DecodeError::EmptyHeader
                | DecodeError::HeaderTooLong { .. }
                | DecodeError::ContentTooLong { .. }
                | DecodeError::Truncated { .. }
                | _) => &error.to_string(),
            };
            assert!(error.starts_with(expected), "{}: {error}", bad.name);
            if i % 20 == 0 {
                exchange(&mut healthy);
            }
        }
        let resident = server.resident();
        let before = before.get_or_insert(resident);
        assert!(resident < *before + 4096, "{before} KiB, then {resident} in round {round}");
    }
    exchange(&mut healthy);
    drop(healthy);
    let log = server.stop();
    assert!(!log.contains("panicked"), "{log}");
}

/// The error reply has 106 bytes before its content.
pub(crate) fn an_invalid_length_gets_the_documented_error(binary: &str) {
    let server = serve(binary, &[]);
    let mut stream = server.connect();
    stream.write_all(b"\0\x16{\"content-length\": -1}").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let error_reply = r#"{"result": "Error: the header's \"content-length\" is -1 where "#;
    let error_reply = format!("{error_reply}a whole number of bytes below 2^64 is expected\"}}");
    assert_eq!(text(&rest(&mut stream)[106..]), error_reply);
}

pub(crate) fn requests_are_counted_in_the_metrics(binary: &str) {
    let server = serve(binary, &["--status", "127.0.0.1:0"]);
    let mut stream = server.connect();
    exchange(&mut stream);
    exchange(&mut stream);
    let (_, metrics) = status::get(&server, "/metrics");
    assert!(
        metrics.lines().any(|line| line == "wirestate_requests_total{server=\"app-server\"} 2"),
        "{metrics}"
    );
}

/// The client sends 1 MiB after the invalid frame before it reads.
pub(crate) fn an_error_reply_arrives_despite_1_mib_after_the_invalid_frame(binary: &str) {
    let server = serve(binary, &[]);
    let input = [&[0; 2][..], &vec![b' '; 1 << 20]].concat();
    for _ in 0..20 {
        let mut stream = server.connect();
        for piece in input.chunks(1000) {
            stream.write_all(piece).unwrap();
        }
        let error_reply = text(&rest(&mut stream));
        assert!(error_reply.contains("Error: a header of 0 bytes"), "{error_reply}");
    }
    let log = server.stop();
    assert_eq!(log.matches(r#"reason="empty_header""#).count(), 20, "{log}");
}

pub(crate) fn memory_grows_with_received_bytes_not_with_declared_lengths(binary: &str) {
    // In addition to its buffer, a connection allocates a sixteenth of the longest content, at most
    // 1 MiB.
    for (limit, declared, allocated) in [("1MiB", "1000000", 64), ("1GiB", "1000000000", 1024)] {
        let server = serve(binary, &["-q", "--max-content", limit]);
        exchange(&mut server.connect());
        let header = GOLDEN_HEADER.replace("41", declared);
        let length = u16::try_from(header.len()).unwrap().to_be_bytes();
        let incomplete = [&length[..], header.as_bytes(), &[b' '; 1000]].concat();
        let before = server.resident();
        let mut crowd: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
        for stream in &mut crowd {
            stream.write_all(&incomplete).unwrap();
        }
        thread::sleep(Duration::from_millis(300));
        exchange(&mut server.connect());
        // In addition, each connection has a buffer, and on std a thread.
        let resident = server.resident();
        assert!(
            resident < before + 100 * (allocated + 128),
            "{limit}: {before} KiB, then {resident}"
        );
    }
}

/// Many connections send a large content incompletely, and stay open.
pub(crate) fn the_contents_of_all_connections_share_max_memory(binary: &str) {
    let server = serve(binary, &["--max-memory", "8MiB", "-q", "--status", "127.0.0.1:0"]);
    let mut healthy = server.connect();
    exchange(&mut healthy);
    let header = GOLDEN_HEADER.replace("41", "1000000");
    let length = u16::try_from(header.len()).unwrap().to_be_bytes();
    let incomplete = [&length[..], header.as_bytes(), &vec![b' '; 900_000]].concat();
    let before = server.resident();
    let mut crowd: Vec<TcpStream> = (0..40).map(|_| server.connect()).collect();
    for stream in &mut crowd {
        stream.write_all(&incomplete).unwrap();
    }
    // Nine of these contents fit into the 8 MiB. The other connections are refused.
    let mut error_replies = Vec::new();
    eventually("the others are refused", || {
        crowd.retain_mut(|stream| {
            stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
            let is_answered = stream.peek(&mut [0]).is_ok();
            if is_answered {
                stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
                error_replies.push(text(&rest(stream)));
            }
            !is_answered
        });
        crowd.len() <= 9
    });
    assert!(!crowd.is_empty(), "all are refused");
    for error_reply in &error_replies {
        assert!(error_reply.contains("Error: no memory for a frame or reply: "), "{error_reply}");
        assert!(error_reply.contains("of 8388608 are reserved"), "{error_reply}");
    }
    let resident = server.resident();
    // In addition, each connection has had a buffer.
    assert!(resident < before + 2 * 8 * 1024 + 40 * 64, "{before} KiB, then {resident}");
    exchange(&mut healthy);
    drop(crowd);
    let large = frames([&Message::binary(vec![b'x'; 1 << 20])]);
    eventually("the memory is free again", || {
        let mut stream = server.connect();
        stream.write_all(&large).is_ok() && text(&receive(&mut stream)).contains("xxxxxxxxxx")
    });
}

pub(crate) fn limits_are_flags(binary: &str) {
    let server = serve(binary, &["--max-header", "128", "--max-content", "40"]);
    let error_reply = |frame: &[u8]| {
        let mut stream = server.connect();
        stream.write_all(frame).unwrap();
        text(&rest(&mut stream))
    };
    assert!(error_reply(&golden()).contains("a content of 41 bytes, more than the limit of 40"));
    assert!(error_reply(&[0, 129]).contains("a header of 129 bytes, more than the limit of 128"));
    let server = serve(binary, &["--max-header", "65535"]);
    let mut stream = server.connect();
    let header = format!("{GOLDEN_HEADER:65535}");
    stream
        .write_all(&[b"\xff\xff", header.as_bytes(), GOLDEN_CONTENT.as_bytes()].concat())
        .unwrap();
    assert_eq!(receive(&mut stream), golden_reply());
    for (flag, value) in [
        ("--max-header", "65536"),
        ("--max-header", "0"),
        ("--max-header", "many"),
        ("--max-content", "-1"),
        ("--max-memory", "0"),
        ("--max-memory", "1000000"), // less than one content
        ("--idle-timeout", "0"),
    ] {
        let output = run(binary, &["app-server", flag, value]);
        assert_eq!(output.status.code(), Some(2), "{flag} {value}: {}", text(&output.stderr));
    }
}

pub(crate) fn an_idle_connection_is_closed_by_a_fin(binary: &str) {
    let server = serve(binary, &["--idle-timeout", "300ms"]);
    let mut stream = server.connect();
    let mut last_request = Instant::now();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(100));
        last_request = Instant::now();
        exchange(&mut stream);
    }
    assert!(rest(&mut stream).is_empty());
    assert!(last_request.elapsed() >= Duration::from_millis(300), "{:?}", last_request.elapsed());
    let log = server.stop();
    assert!(log.contains(r#"reason="idle_timeout""#), "{log}");
}

pub(crate) fn sigterm_answers_requests_that_have_begun_to_arrive(binary: &str) {
    let server = serve(binary, &[]);
    let (mut idle, mut busy) = (server.connect(), server.connect());
    exchange(&mut idle);
    exchange(&mut busy);
    busy.write_all(&golden()[..100]).unwrap();
    thread::sleep(Duration::from_millis(100));
    server.signal(Signal::TERM);
    assert!(rest(&mut idle).is_empty(), "a FIN, because no output is pending");
    eventually("no connection is accepted", || TcpStream::connect(&server.address).is_err());
    busy.write_all(&golden()[100..]).unwrap();
    assert_eq!(rest(&mut busy), golden_reply());
    drop((idle, busy));
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drained=2 aborted=0"), "{log}");
}

pub(crate) fn a_client_shows_the_result(binary: &str) {
    let server = serve(binary, &["-v"]);
    for (action, value, shown) in [
        ("search", "morpheus", "Shaper of dreams, son of sleep.\n"),
        ("search", "🐶", "A dog: four legs, one nose, no questions.\n"),
        ("shout", "it", "First 10 bytes of request: shoutit\n"),
        ("", "", "First 10 bytes of request: \n"),
    ] {
        let output = run(binary, &["app-client", &server.address, action, value]);
        assert_eq!(text(&output.stdout), shown);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    }
    let log = server.stop();
    assert_eq!(log.matches(r#"reason="finished""#).count(), 4, "the client closes cleanly: {log}");
}

/// Asserts that `app-client` exits with 1, with `expected` in its only line on standard error.
fn assert_fails(binary: &str, address: &str, flags: &[&str], expected: &str) {
    let began = Instant::now();
    let words = [&["app-client", address, "search", "morpheus"], flags].concat();
    let output = run(binary, &words);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(address) && error.contains(expected), "{error}");
    assert!(began.elapsed() < TEST_TIMEOUT, "{:?}", began.elapsed());
}

/// The behaviour of a server after it has read the request.
type Answer = fn(TcpStream);

pub(crate) fn a_client_reports_in_one_line_why_there_is_no_result(binary: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answers: [(Answer, &[&str], &str); 10] = [
        (
            drop,
            &[],
            "the server closed the connection before it replied (requests not answered: 1)",
        ),
        (
            |stream| {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            },
            &[],
            "connection reset by peer",
        ),
        (
            |mut stream| {
                let _ = stream.read(&mut [0; 8]); // until the client gives up
            },
            &["--timeout", "200ms"],
            "no whole reply within 200ms",
        ),
        (
            |mut stream| {
                // Sends a byte every 20 ms, but never a complete reply.
                let header = GOLDEN_HEADER.replace("41", "1000000");
                let length = u16::try_from(header.len()).unwrap().to_be_bytes();
                let mut trickle = [&length[..], header.as_bytes()].concat();
                while stream.write_all(&trickle).is_ok() {
                    trickle = b" ".to_vec();
                    thread::sleep(Duration::from_millis(20));
                }
            },
            &["--timeout", "500ms"],
            "no whole reply within 500ms",
        ),
        (
            |mut stream| stream.write_all(&result("Error: not today")).unwrap(),
            &[],
            "the server reports an error: not today",
        ),
        (
            |mut stream| stream.write_all(&golden_reply()[..120]).unwrap(),
            &[],
            "the input ended after 120 of a frame's ",
        ),
        (
            |mut stream| {
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
                let _ = stream.read(&mut [0; 8]);
            },
            &[],
            "a header of 18516 bytes, more than the limit of 4096",
        ),
        (
            |mut stream| {
                let header = GOLDEN_HEADER.replace("41", "4000000000000");
                let length = u16::try_from(header.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], header.as_bytes()].concat()).unwrap();
                let _ = stream.read(&mut [0; 8]);
            },
            &[],
            "a content of 4000000000000 bytes, more than the limit of 1048576",
        ),
        (
            |mut stream| stream.write_all(&golden_reply()).unwrap(),
            &["--max-content", "10"],
            "a content of 45 bytes, more than the limit of 10",
        ),
        (
            |mut stream| stream.write_all(&json("{}")).unwrap(),
            &[],
            "the reply has no field \"result\"",
        ),
    ];
    let serving = thread::spawn(move || {
        for (answer, _, _) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            let expected = frames([&search::request("search", "morpheus")]);
            assert_eq!(receive(&mut stream), expected);
            answer(stream);
        }
    });
    for (_, flags, expected) in answers {
        assert_fails(binary, &address, flags, expected);
    }
    serving.join().unwrap();
    // The port has no listener.
    assert_fails(binary, &address, &["--retry-for", "0s"], "Connection refused");
    // The port has a listener with a full backlog.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    silent.listen(0).unwrap();
    let address = silent.local_addr().unwrap().as_socket().unwrap();
    let _full = TcpStream::connect(address).unwrap();
    let address = address.to_string();
    assert_fails(binary, &address, &["--timeout", "300ms"], "no whole reply within 300ms");
    assert_fails(binary, &address, &["--connect-timeout", "300ms"], "no answer within 300ms");
}

pub(crate) fn a_client_with_a_closed_standard_output_exits_with_0(binary: &str) {
    let server = serve(binary, &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut client = command(binary);
    client.args(["app-client", &server.address, "search", "morpheus"]).stdout(writer);
    let output = client.output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}
