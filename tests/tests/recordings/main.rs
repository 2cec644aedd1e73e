//! Recordings of machines, their replay, and bad input.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod bad_input;
mod fanout;
mod machines;
mod mutations;
mod planted_bugs;
mod printed;
mod relay;
mod shrinking;
mod shrunk;
mod shrunk_relay;
mod told_apart;

use std::sync::{Arc, Mutex};

use wirestate_core::{
    Instant,
    record::{BlockSink, Ended, Header, Recordable, Recorded, Recorder, Recording, Replay, Stop},
};

/// The blocks of a recording, in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocks(Arc<Mutex<Vec<u8>>>);

impl BlockSink for Blocks {
    fn write(&mut self, block: Vec<u8>) -> Result<(), Stop> {
        self.0.lock().unwrap().extend(block);
        Ok(())
    }

    fn end(&mut self, block: Vec<u8>, _ended: Ended) {
        self.0.lock().unwrap().extend(block);
    }
}

impl Blocks {
    pub(crate) fn recorder(&self, now: Instant) -> Recorder {
        Recorder::new(&Header::new(now), Box::new(self.clone()))
    }

    /// The recording, once the machine was dropped.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

/// A machine that is recorded from the epoch on.
pub(crate) fn recorded<M: Recordable>(machine: M) -> (Recorded<M>, Blocks) {
    let blocks = Blocks::default();
    (Recorded::new(machine, Some(blocks.recorder(Instant::EPOCH))), blocks)
}

/// Replays a whole recording.
pub(crate) fn replay<M: Recordable>(bytes: &[u8], mut machine: M) -> Replay {
    let recording = Recording::read(bytes).unwrap();
    wirestate_core::record::replay(&mut machine, &recording)
}
