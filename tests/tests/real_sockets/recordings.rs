//! Scenarios of recordings: what a server has recorded replays, on any runtime.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use socket2::SockRef;

use crate::{
    access_log::Folder,
    command_line::BINARIES,
    process::{Server, eventually, run, text},
};

/// Sends `message` and a FIN, and reads to the end.
fn exchange(mut stream: TcpStream, message: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    let message = message.to_vec();
    let sending = std::thread::spawn(move || {
        writer.write_all(&message).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    sending.join().unwrap();
    reply
}

/// Gets the first byte of the echo, and resets the connection.
fn reset(mut stream: TcpStream) {
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// The recordings in a folder, sorted by name.
fn recordings(folder: &str) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> =
        files.map(|file| file.unwrap().path().to_str().unwrap().to_owned()).collect();
    paths.sort();
    paths
}

pub(crate) fn sessions_of_all_servers_replay_on_another_runtime(binary: &str) {
    let (outer, table) = (Folder::new(binary, "recorded"), r#"{"sky": "blue"}"#);
    let (folder, table_path) = (outer.path("made/recordings"), outer.path("table.json"));
    fs::write(&table_path, table).unwrap();
    let record = ["--record", &folder];
    let echo = Server::start(binary, &[&record[..], &["--prefix", "> ", "--chunk", "7"]].concat());
    let proxy = [&record[..], &["--upstream", &echo.address, "--send-proxy", "v1"]].concat();
    let proxy = Server::start_as(binary, "proxy", &proxy);
    assert_eq!(exchange(echo.connect(), b"hello"), b"> hello");
    assert!(exchange(proxy.connect(), &vec![b'x'; 100_000]).len() > 100_000);
    reset(proxy.connect());
    proxy.stop();
    let plan = "to-client.reset = { after = 3 }";
    let faulty = ["--upstream", &echo.address, "--faults", plan, "--seed", "7"];
    let faulty = Server::start_as(binary, "proxy", &[&record[..], &faulty].concat());
    let mut stream = faulty.connect();
    stream.write_all(b"hello").unwrap();
    assert!(stream.read_to_end(&mut Vec::new()).is_err(), "the plan resets the connection");
    faulty.stop();
    echo.stop();

    let app = [&record[..], &["--table", &table_path]].concat();
    let app = Server::start_as(binary, "app-server", &app);
    let output = run(binary, &["app-client", &app.address, "search", "sky"]);
    assert_eq!(text(&output.stdout), "blue\n");
    assert!(!exchange(app.connect(), b"\0\x02{}").is_empty());
    app.stop();

    let source = Server::start_as(
        binary,
        "fanout-source",
        &[&record[..], &["--size", "64", "--rate", "0", "--count", "3000"]].concat(),
    );
    let fanout = ["--upstream", &source.address, "--frame", "64", "--replay", "10"];
    let fanout = Server::start_as(binary, "fanout-server", &[&record[..], &fanout].concat());
    eventually("the messages are published", || fanout.logged("the upstream closed") > 0);
    let client = ["fanout-client", &fanout.address, "--frame", "64", "--count", "5"];
    assert!(run(binary, &client).status.success());
    // More messages arrive if the source is connected to again.
    let received = exchange(fanout.connect(), b"").len();
    assert!(received >= 640 && received.is_multiple_of(64), "{received}");
    fanout.stop();
    source.stop();

    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let other = BINARIES[(BINARIES.iter().position(|it| *it == binary).unwrap() + 1) % 3];
    let recordings = recordings(&folder);
    for machine in ["echo", "relay", "message", "source", "upstream", "subscriber"] {
        let name = format!("-{machine}-");
        assert!(recordings.iter().any(|path| path.contains(&name)), "{machine}: {recordings:?}");
    }
    for path in &recordings {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        let output = run(other, &["replay", path]);
        let (shown, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && error.is_empty(), "{path}: {error}\n{shown}");
        assert!(shown.contains("\nreplayed     the same output and end\n"), "{path}: {shown}");
        let sent = shown.contains("\nsent         0 bytes");
        assert_eq!(sent, path.contains("-upstream-"), "{path}: {shown}");
        let page = text(&run(other, &["replay", "--html", path]).stdout);
        let ended = shown.lines().find_map(|line| line.strip_prefix("ended        ")).unwrap();
        let (label, _) = ended.split_once(':').unwrap_or(("", ""));
        assert!(page.starts_with("<!"), "{path}: {page}");
        assert!(page.contains(&format!("[\"ended\",\"{label}")), "{label}: {page}");
        // What was sent is in the page, although not in the recording.
        assert!(!path.contains("-echo-1.") || page.contains("\"> hello\""), "{path}: {page}");
    }
    for path in recordings.iter().filter(|path| path.contains("-relay-")) {
        let output = run(other, &["replay", path, "--shrink"]);
        let (test, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && error.is_empty(), "{path}: {error}");
        assert!(test.contains("script::play_relay(&mut relay, &ops)"), "{path}: {test}");
    }
    // A subscriber's bytes are in the recording of the upstream.
    let is_subscriber = |path: &&String| path.contains("-subscriber-");
    let moved = outer.path("alone.wsr");
    fs::rename(recordings.iter().find(is_subscriber).unwrap(), &moved).unwrap();
    let output = run(other, &["replay", &moved]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("beside it do not have the messages"), "{error}");
    // A table that has changed gives other replies.
    fs::write(&table_path, table.replace("blue", "grey")).unwrap();
    let changed = recordings.iter().find(|path| path.contains("-message-1")).unwrap();
    let error = text(&run(other, &["replay", changed]).stderr);
    assert!(error.contains("the output differs: one of the "), "{error}");
    // The page has no byte that was not sent.
    let page = run(other, &["replay", "--html", changed]);
    assert_eq!(page.status.code(), Some(1));
    let page = text(&page.stdout);
    assert!(!page.contains("grey") && !page.contains("blue"), "{page}");
    assert!(page.contains("[\"replayed\",\"it differs at byte "), "{page}");
    let test = text(&run(other, &["replay", changed, "--shrink"]).stdout);
    assert!(test.contains("fn a_session_is_as_it_was_recorded() {"), "{test}");
    assert!(test.contains(r#"Table::from_json(b"{\"sky\": \"grey\"}")"#), "{test}");
}

pub(crate) fn a_recording_beyond_its_limit_stops_and_the_connection_goes_on(binary: &str) {
    let folder = Folder::new(binary, "limited");
    let path = folder.path("recordings");
    let flags = ["--record", &path, "--record-limit", "100KiB"];
    let server = Server::start(binary, &flags);
    let message = vec![b'x'; 1_000_000];
    assert_eq!(exchange(server.connect(), &message).len(), message.len());
    let log = server.stop();
    let stopped = format!("a recording in {path} has stopped: the limit of a recording is reached");
    assert!(log.contains(&stopped), "{log}");
    let recording = &recordings(&path)[0];
    assert!(fs::metadata(recording).unwrap().len() < 101 * 1024);
    let output = run(binary, &["replay", recording]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let expected = "recorded     the recording stopped early: the limit of a recording";
    assert!(shown.contains(expected), "{shown}");
    let replayed = "\nreplayed     the same output up to where the recording stops\n";
    assert!(shown.contains(replayed), "{shown}");

    // Without payloads, it shows what happened.
    let path = folder.path("lengths");
    let server = Server::start(binary, &["--record", &path, "--record-without-payloads"]);
    exchange(server.connect(), b"secret");
    server.stop();
    let recording = &recordings(&path)[0];
    assert!(!fs::read(recording).unwrap().windows(6).any(|part| part == b"secret"));
    let output = run(binary, &["replay", recording, "--events"]);
    assert!(text(&output.stdout).contains(" received 6 bytes\n"), "{}", text(&output.stdout));
    let error = text(&output.stderr);
    assert!(error.contains("no payloads, so it cannot be replayed beyond byte "), "{error}");
    assert_eq!(output.status.code(), Some(1));
}

pub(crate) fn only_sessions_that_end_in_an_error_are_kept_on_request(binary: &str) {
    let folder = Folder::new(binary, "errors");
    let path = folder.path("recordings");
    let server = Server::start(binary, &["--record", &path, "--record-sessions", "errors"]);
    assert_eq!(exchange(server.connect(), &vec![b'x'; 100_000]).len(), 100_000);
    reset(server.connect());
    let is_kept = || recordings(&path).iter().any(|name| name.contains("-echo-2."));
    eventually("the reset is recorded", is_kept);
    server.stop();
    let recordings = recordings(&path);
    assert_eq!(recordings.len(), 1, "{recordings:?}");
    // The recording of a process that was killed is cut.
    let bytes = fs::read(&recordings[0]).unwrap();
    fs::write(&recordings[0], &bytes[..bytes.len() - 20]).unwrap();
    let output = run(binary, &["replay", &recordings[0]]);
    let (shown, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(shown.contains("\nreplayed     the same output up to the mistake\n"), "{shown}");
    assert!(error.contains("the replay is the same up to a mistake at byte "), "{error}");
    assert!(error.contains(": the recording is cut\n"), "{error}");
}

pub(crate) fn a_folder_that_cannot_be_written_ends_the_start(binary: &str) {
    let folder = Folder::new(binary, "no-folder");
    let file = folder.path("file");
    fs::write(&file, "").unwrap();
    for server in ["echo-server", "fanout-source"] {
        let output = run(binary, &[server, "--listen", "127.0.0.1:0", "--record", &file]);
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        let expected = format!("cannot record in {file}: ");
        assert!(error.contains(&expected) && error.lines().count() == 1, "{error}");
    }
    // A check of a configuration does not create the folder.
    let (path, config) = (folder.path("recordings"), folder.path("config.toml"));
    let server = format!("[servers.a]\ncommand = \"proxy\"\nrecord = \"{path}\"\n");
    fs::write(&config, server).unwrap();
    let output = run(binary, &["serve", "--config", &config, "--check-config"]);
    assert!(output.status.success() && !Path::new(&path).exists(), "{}", text(&output.stderr));
    let output = run(binary, &["replay", &config]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains(&format!("{config}: at byte 0: this is no recording")), "{error}");
}
