//! Servers that listen on several addresses.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use crate::{
    process::{Server, TEST_TIMEOUT, command, eventually, is_listening, run, text},
    serve::{LOADED, Process, connect, converse},
    status,
    unix::Folder,
};

/// The addresses of the ready lines, in order.
fn addresses(log: &str) -> Vec<String> {
    let ready = log.lines().filter_map(|line| line.split_once("listening on "));
    ready.map(|(_, address)| address.split(' ').next().unwrap().to_owned()).collect()
}

pub(crate) fn several_addresses_have_one_limit_and_one_set_of_metrics(binary: &str) {
    let folder = Folder::new("several", binary);
    let unix = folder.address("echo");
    let flags = ["--listen", "127.0.0.1:0", "--listen", &unix];
    let mut by_flags = command(binary);
    by_flags.args(["echo-server", "--listen", "127.0.0.1:0"]).args(flags);
    let mut by_variable = command(binary);
    by_variable
        .arg("echo-server")
        .env("WIRESTATE_LISTEN", format!("127.0.0.1:0,127.0.0.1:0,{unix}"));
    for mut command in [by_flags, by_variable] {
        command.args(["--max-connections", "3", "--status", "127.0.0.1:0"]);
        let server = Server::start_command(command);
        eventually("each address is logged", || server.logged("listening on ") == 3);
        let listening = addresses(&server.log());
        assert_eq!(listening[2], unix);
        let mut streams = [connect(&listening[0]), connect(&listening[1])];
        let mut local = UnixStream::connect(folder.path("echo")).unwrap();
        local.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        for stream in &mut streams {
            converse(stream, "a", "a");
        }
        local.write_all(b"b").unwrap();
        local.read_exact(&mut [0]).unwrap();
        for address in &listening[..2] {
            assert_eq!(
                connect(address).read(&mut [0]).unwrap(),
                0,
                "the limit is for all addresses"
            );
        }
        let metrics = status::get(&server, "/metrics").1;
        for sample in [
            "wirestate_connections_open{server=\"echo-server\"} 3\n",
            "refused_total{server=\"echo-server\",reason=\"connections\"} 2\n",
        ] {
            assert!(metrics.contains(sample), "{sample} in {metrics}");
        }
        drop((streams, local));
        let log = server.stop();
        assert_eq!(log.matches("stopped connections=3 ").count(), 1, "{log}");
        assert!(!folder.path("echo").exists());
    }
}

pub(crate) fn the_same_address_twice_is_wrong_usage(binary: &str) {
    for command in ["echo-server", "app-server", "fanout-source", "fanout-server", "proxy"] {
        let twice = ["--listen", "127.0.0.1:7", "--listen", "[::1]:7", "--listen", "127.0.0.1:7"];
        let output = run(binary, &[&[command][..], &twice].concat());
        assert_eq!(output.status.code(), Some(2));
        let error = text(&output.stderr);
        assert!(error.contains("--listen 127.0.0.1:7 is given twice"), "{error}");
    }
    let name_and_address = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:1000000"];
    let output = run(binary, &[&["echo-server"][..], &name_and_address].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`1000000` is not a port"));
}

pub(crate) fn a_reload_adds_and_removes_an_address_while_the_others_listen(binary: &str) {
    let configuration = |listen: &[&str], prefix: &str| {
        format!(
            "[servers.a]\ncommand = \"echo-server\"\nlisten = {listen:?}\nprefix = \"{prefix}\"\n"
        )
    };
    let free = "127.0.0.1:0";
    let process = Process::start("listening", binary, &configuration(&[free, free], "0"), 2);
    let first = addresses(&process.server.log());
    let (address, is_over) = (&first[0], AtomicBool::new(false));
    let conversations = || {
        let mut count = 0;
        while !is_over.load(Relaxed) {
            let mut stream = connect(address);
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0; 2]).expect("the connection is served");
            count += 1;
        }
        count
    };
    thread::scope(|scope| {
        let client = scope.spawn(conversations);
        let mut open = connect(&first[1]);
        converse(&mut open, "x", "0x");
        for round in 1..=3 {
            let (added, prefix) = (process.folder.address(&format!("{round}")), round.to_string());
            let log = process.load(&configuration(&[free, &added], &prefix), LOADED);
            let path = process.folder.path(&prefix);
            eventually("it listens on the new address", || UnixStream::connect(&path).is_ok());
            assert_eq!(log.matches("listening on 127").count(), 0, "{log}");
            eventually("the old address is closed", || !is_listening(&first[1]));
            assert!(is_listening(address));
            let earlier = process.folder.path(&(round - 1).to_string());
            eventually("the file of the old address is removed", || !earlier.exists());
            converse(&mut connect(address), "x", &format!("{round}x"));
            converse(&mut open, "x", "0x");
        }
        is_over.store(true, Relaxed);
        assert!(client.join().unwrap() > 0);
        // One of two addresses with port 0 stays, and an address in use changes nothing.
        let log =
            process.load(&configuration(&[free, &first[0]], "9"), "configuration in use stays");
        assert!(log.contains(&format!("cannot listen on {}: ", first[0])), "{log}");
        converse(&mut connect(address), "x", "3x");
        converse(&mut open, "x", "0x");
    });
    let log = process.server.stop();
    assert_eq!(log.matches("stopped server=\"a\" ").count(), 1, "{log}");
    assert!(fs::read_dir(process.folder.path(".")).unwrap().count() == 1, "only the configuration");
}

/// A connection that is complete when its address is removed waits in the backlog, and is served.
pub(crate) fn no_connection_to_an_address_that_is_removed_fails(binary: &str) {
    let folder = Folder::new("backlog", binary);
    let (stays, goes) = (folder.address("stays"), folder.path("goes"));
    let configuration = |listen: &str| {
        format!("[servers.a]\ncommand = \"echo-server\"\nlisten = [\"{stays}\"{listen}]\n")
    };
    let both = configuration(&format!(", \"unix:{}\"", goes.display()));
    let process = Process::start("backlog-serve", binary, &both, 2);
    let (is_over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !is_over.load(Relaxed) {
                let Ok(mut stream) = UnixStream::connect(&goes) else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
                stream.write_all(b"x").expect("a connection that was made is served");
                assert_eq!(stream.read(&mut [0]).unwrap(), 1);
                served.fetch_add(1, Relaxed);
            }
        });
        for _ in 0..3 {
            let before = served.load(Relaxed);
            eventually("it is open", || client.is_finished() || served.load(Relaxed) > before);
            process.load(&configuration(""), LOADED);
            eventually("it is closed", || !goes.exists());
            process.load(&both, LOADED);
        }
        is_over.store(true, Relaxed);
        client.join().unwrap();
    });
    process.server.stop();
}
