//! The runtimes as every benchmark starts them.

use std::{io, num::NonZeroUsize, sync::Arc, thread};

/// tokio, with so many workers.
pub(crate) fn tokio(workers: NonZeroUsize) -> io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers.get()).enable_all().build()
}

/// An executor with so many workers beside the thread that accepts, as smol's own has it.
pub(crate) fn smol(workers: NonZeroUsize) -> io::Result<Arc<smol::Executor<'static>>> {
    let executor = Arc::new(smol::Executor::new());
    for _ in 0..workers.get() {
        let executor = Arc::clone(&executor);
        thread::Builder::new()
            .spawn(move || smol::block_on(executor.run(smol::future::pending::<()>())))?;
    }
    Ok(executor)
}
