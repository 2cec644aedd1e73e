//! A server that publishes to a stream: without a listener, with credentials, and while the stream
//! is away. The scenarios around real servers of NATS are in `nats_cluster`.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    process::{Server, TemporaryFile, command, eventually},
    status::get,
};

/// An address at which nothing listens.
fn nowhere() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

pub(crate) fn a_server_that_only_publishes_is_ready_at_once_and_ends_when_it_is_asked(
    binary: &str,
) {
    let address = nowhere();
    let toml = format!(
        "status = '127.0.0.1:0'\n[servers.a]\ncommand = 'fanout-server'\nupstream = '{}'\n\
         publish = 'nats://user:s3cr3t@{address}/a.b?max-age=1h'\n\
         [servers.b]\ncommand = 'fanout-server'\npublish = 'nats://s3cr3t@{address}/b'\n",
        nowhere()
    );
    let file = TemporaryFile::new(&format!("{binary}-publishing.toml"), toml.as_bytes());
    let mut serve = command(binary);
    serve.args(["serve", "--config", file.path()]);
    let server = Server::start_command(serve);
    eventually("both are ready", || server.logged("ready to publish to") == 2);
    let log = server.log();
    for (name, address) in [("a", format!("{address}/a.b")), ("b", format!("{address}/b"))] {
        let ready = format!("ready to publish to nats://{address} server=\"{name}\"");
        assert!(log.contains(&ready), "{ready}: {log}");
    }
    assert_eq!(get(&server, "/readyz").0, 200);
    eventually("the failed attempt is shown", || get(&server, "/").1.contains("away for "));
    let (_, page) = get(&server, "/");
    for expected in [
        "\"state\": \"running\"",
        "\"role\": \"publishes to\"",
        &format!("\"address\": \"nats://{address}/a.b\""),
        "\"up\": false",
        "Connection refused",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    let (_, metrics) = get(&server, "/metrics");
    assert!(metrics.contains("wirestate_publish_up{server=\"a\"} 0"), "{metrics}");
    let begun = Instant::now();
    server.signal(Signal::TERM);
    let (status, log) = server.wait();
    assert!(status.success() && begun.elapsed() < Duration::from_secs(5), "{log}");
    assert!(!format!("{log}{page}{metrics}").contains("s3cr3t"), "{log}{page}{metrics}");
}

pub(crate) fn a_source_is_not_dialled_before_the_lease_is_held_unless_messages_may_be_skipped(
    binary: &str,
) {
    let stream = format!("nats://{}/feed", nowhere());
    let start = |policy: &str| {
        let source = TcpListener::bind("127.0.0.1:0").unwrap();
        source.set_nonblocking(true).unwrap();
        let upstream = source.local_addr().unwrap().to_string();
        let flags = ["--upstream", &upstream, "--publish", &stream, "--publish-on-lag", policy];
        (Server::start_as(binary, "fanout-server", &flags), source)
    };
    let (block, held) = start("block");
    let (skip, read) = start("skip");
    eventually("the source is dialled", || read.accept().is_ok());
    eventually("the stream is dialled again", || block.logged("the next attempt") > 2);
    assert!(held.accept().is_err(), "{}", block.log());
    block.stop();
    skip.stop();
}

/// A server of NATS that accepts only the JWT `new`.
fn serve(listener: &TcpListener) {
    for socket in listener.incoming().flatten() {
        thread::spawn(move || answer(socket));
    }
}

fn answer(mut socket: TcpStream) -> std::io::Result<()> {
    socket.write_all(b"INFO {\"server_id\":\"S\",\"nonce\":\"n\",\"headers\":true}\r\n")?;
    for line in BufReader::new(socket.try_clone()?).lines() {
        let line = line?;
        if line.starts_with("CONNECT") && !line.contains("\"jwt\":\"new\"") {
            return socket.write_all(b"-ERR 'Authorization Violation'\r\n");
        }
        if line == "PING" {
            socket.write_all(b"PONG\r\n")?;
        }
    }
    Ok(())
}

pub(crate) fn credentials_of_a_stream_are_loaded_again(binary: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("nats://{}/feed", listener.local_addr().unwrap());
    thread::spawn(move || serve(&listener));
    // The seed is that of the NATS manual.
    let creds = |jwt: &str| {
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\
             -----BEGIN USER NKEY SEED-----\n\
             SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY\n\
             ------END USER NKEY SEED------\n"
        )
    };
    let file = TemporaryFile::new(&format!("{binary}.creds"), creds("old").as_bytes());
    let flags = ["--upstream", &upstream, "--nats-creds", file.path()];
    let server = Server::start_as(binary, "fanout-server", &flags);
    eventually("it is refused", || server.logged("Authorization Violation") > 0);
    std::fs::write(file.path(), "no credentials").unwrap();
    server.signal(Signal::HUP);
    eventually("the file is wrong", || server.logged("the configuration in use stays") > 0);
    assert!(server.log().contains("no section \"NATS USER JWT\""), "{}", server.log());
    std::fs::write(file.path(), creds("new")).unwrap();
    server.signal(Signal::HUP);
    eventually("they are loaded", || server.logged("credentials for NATS loaded again") > 0);
    eventually("it is connected", || server.logged(" connected address=") > 0);
    let log = server.stop();
    assert!(!log.contains("SUACSSL3"), "{log}");
}
