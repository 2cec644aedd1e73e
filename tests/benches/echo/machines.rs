//! This project's servers: the echo machine with its defaults.

use std::{
    env,
    fs::File,
    io::{self, Write as _},
    process,
    sync::mpsc::{Sender, channel},
    thread,
};

use wirestate_core::{
    Runtime, echo,
    record::{BlockSink, Ended, Header, Recorded, Recorder, Stop},
    serve::Server,
};

use crate::measure::runtimes::ProjectServer;

/// The echo server.
pub(crate) struct Echo;

impl ProjectServer for Echo {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let echo = echo::Server::default();
        Server::new(runtime, listener).serve(|_, now| echo.machine(now)).await;
        Ok(())
    }
}

/// The echo server, which records all its connections in one file.
pub(crate) struct RecordedEcho;

impl ProjectServer for RecordedEcho {
    async fn serve<R: Runtime>(self, runtime: R, listener: R::Listener) -> io::Result<()> {
        let path = env::temp_dir().join(format!("wirestate-bench-{}", process::id()));
        let mut file = File::create(&path)?;
        std::fs::remove_file(path)?;
        let (blocks, queue) = channel::<Vec<u8>>();
        thread::spawn(move || {
            let mut room = MAX_RECORDED;
            for block in queue {
                room = room.saturating_sub(block.len());
                if room == 0 || file.write_all(&block).is_err() {
                    break;
                }
            }
        });
        let echo = echo::Server::default();
        let machine = |_: &_, now| {
            let recorder = Recorder::new(&Header::new(now), Box::new(Blocks(blocks.clone())));
            Recorded::new(echo.machine(now), Some(recorder))
        };
        Server::new(runtime, listener).serve(machine).await;
        Ok(())
    }
}

/// Sends blocks to the thread that writes them.
#[derive(Debug)]
struct Blocks(Sender<Vec<u8>>);

impl BlockSink for Blocks {
    fn write(&mut self, block: Vec<u8>) -> Result<(), Stop> {
        self.0.send(block).map_err(|_| Stop::TotalLimit)
    }

    fn end(&mut self, block: Vec<u8>, _ended: Ended) {
        let _ = self.0.send(block);
    }
}

/// The most bytes of all recordings.
const MAX_RECORDED: usize = 1 << 30;
